"""The model card as a page: card.json and training.json beside the checkpoint -> README.md (called by nano.evaluate)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PAGE = """\
# nano: the demonstration model of antangel

**A demonstration, not medical knowledge.** A BailingMoeV2 model of {parameters:.1f} million parameters, trained by us on made-up text about
{conditions} conditions. It exists so that everything in antangel can be run and measured. Nobody should act on what it says.

## How it was made

`python -m nano.train` on cases written from `nano/knowledge` (in English and Chinese; structured, narrative and terse), then
`python -m nano.export`: {steps} steps, {tokens:.1f} million tokens, {minutes:.0f} minutes on the CPU. Expert load is balanced by the selection bias alone. Loss is on
answers only; the MTP layer was trained along for the last part. The run was adjusted as it went (docs/decisions/0002).

Held out are other seeds and sentence frames that training never uses; the words for each finding are shared. So the figures say how well the made-up
world was learnt, and nothing about patients.

## What it reaches (`python -m nano.evaluate`)

| held-out cases | English | Chinese | aim |
|---|---|---|---|
| top-1 | {en[top1]:.1%} | {zh[top1]:.1%} | 60 % |
| top-3 | {en[top3]:.1%} | {zh[top3]:.1%} | 85 % |
| naive Bayes handed the recorded findings, top-1 | {en[naive_bayes_top1]:.1%} | {zh[naive_bayes_top1]:.1%} | |
| naive Bayes, top-3 | {en[naive_bayes_top3]:.1%} | {zh[naive_bayes_top3]:.1%} | |
| whole answers | {en[whole_answers]:.1%} | {zh[whole_answers]:.1%} | |
| perplexity of reasoning and answer | {en[perplexity]:.3f} | {zh[perplexity]:.3f} | |
| cases | {en[cases]} | {zh[cases]} | |

Chance top-1 is {chance:.2%}. MTP drafts that match the greedy token: {mtp:.1%} (aim 60 %).

| expert load (even: {even:.2%}) | busiest | idlest |
|---|---|---|
{loads}

| least-recently-used cache | hit rate |
|---|---|
{lru}

Routing is traced over greedy decoding, one case at a time. Figures: card.json.
"""


def render(card: dict[str, Any], training: dict[str, Any]) -> str:
    """The page from the measured figures and what training recorded of itself."""
    load = card["expert_load"]
    return _PAGE.format(
        parameters=training["parameters"] / 1e6,
        conditions=round(1 / card["chance_top1"]),
        steps=training["steps"],
        tokens=training["tokens"] / 1e6,
        minutes=training["minutes"],
        en=card["held_out"]["en"],
        zh=card["held_out"]["zh"],
        chance=card["chance_top1"],
        mtp=card["mtp_draft_match"],
        even=next(iter(load.values()))["even"],
        loads="\n".join(f"| {name} | {row['busiest']:.2%} | {row['idlest']:.2%} |" for name, row in load.items()),
        lru="\n".join(f"| {name} | {rate:.1%} |" for name, rate in card["lru_hit_rate"].items()),
    )


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write card.json and the page beside the checkpoint."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render(card, training), encoding="utf-8")
