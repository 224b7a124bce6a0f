"""The table of docs/performance.md, made from bench/results/speed.json: `python -m bench.table`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.place import RESULTS, ROOT

PAGE, RESULT = ROOT / "docs" / "performance.md", RESULTS / "speed.json"
# Cores at work beside the comparison that spoil it.
BUSY = 0.2

MARKS = ("<!-- table -->\n", "<!-- end of table -->\n")


def render(result: dict[str, Any]) -> str:
    """Machine, rates, targets, settings and routing, as Markdown."""
    parts = (_machine(result), _rates(result), _targets(result), _bandwidth(result), _peer(result), _routing(result))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def write(result: dict[str, Any], page: Path = PAGE) -> None:
    """Puts the table in its place on the page."""
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text(before + MARKS[0] + render(result) + MARKS[1] + after, encoding="utf-8")


def _machine(result: dict[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    flags = ", ".join(machine["flags"])
    yield f"{machine['processor']}, {machine['cores']} cores ({flags}), {result['threads']} threads."
    yield f"{result['rounds']} rounds on {result['date'][:10]}, commit {result['commit']}."
    busy = max(result["busy_cores_before"], result["busy_cores_after"])
    yield f"Besides the comparison, {busy:.2f} cores were busy before or after it."
    if busy > BUSY:
        yield "**The machine was too busy: these figures compare nothing.**"


def _rates(result: dict[str, Any]) -> Iterator[str]:
    """A row for each measure and contender; the peer's own ratio is empty."""
    yield "| measure | engine | tokens/s p20 | p50 | p80 | times llama.cpp p20 | p50 | p80 |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for measure, figures in result["measures"].items():
        for name, rate in figures["tokens_per_s"].items():
            times = figures["times_peer"].get(name)
            cells = [f"{rate[cut]:.1f}" for cut in ("p20", "p50", "p80")]
            cells += [f"{times[cut]:.2f}" if times else "" for cut in ("p20", "p50", "p80")]
            yield f"| {measure} | {name} | {' | '.join(cells)} |"


def _targets(result: dict[str, Any]) -> Iterator[str]:
    yield "| target | of | reached | met |"
    yield "|---|---|---:|---|"
    for target in result["targets"]:
        reached = f"{target['reached']:.0%}" if "bandwidth" in target["wanted"] else f"{target['reached']:.2f}"
        yield f"| {target['wanted']} | {target['measure']} | {reached} | {'yes' if target['met'] else 'no'} |"


def _bandwidth(result: dict[str, Any]) -> Iterator[str]:
    rate = result["bandwidth_gb_per_s"]
    yield f"Bandwidth: {rate['p20']:.1f} / {rate['p50']:.1f} / {rate['p80']:.1f} GB/s (p20 / p50 / p80)."
    for name, share in result["decode_share_of_bandwidth"].items():
        megabytes = result["contenders"][name]["bytes_per_token"] / 1e6
        yield f"{name} reads {megabytes:.0f} MB of weights a token: {share['p50']:.0%} of the bandwidth at batch 1."


def _peer(result: dict[str, Any]) -> Iterator[str]:
    peer = next(about for about in result["contenders"].values() if "system_info" in about)
    yield f"llama-cpp-python {peer['llama_cpp_python']} (ggml {peer['ggml_commit']}). Its own account of the machine:"
    yield f"`{peer['system_info'].strip(' |')}`"
    yield ""
    yield "Its settings as tried before, in tokens/s; of each measure the one in bold competed."
    yield ""
    yield f"| settings | {' | '.join(result['measures'])} |"
    yield "|---|" + "---:|" * len(result["measures"])
    for tried in result["peer_settings_tried"]:
        rates = [_tried(result, tried["settings"], *each) for each in tried["tokens_per_s"].items()]
        yield f"| {tried['settings']} | {' | '.join(rates)} |"


def _tried(result: dict[str, Any], settings: str, measure: str, rate: float) -> str:
    return f"**{rate:.1f}**" if result["peer_settings"][measure] == settings else f"{rate:.1f}"


def _routing(result: dict[str, Any]) -> Iterator[str]:
    yield f"| distinct experts of {result['shape']['num_experts']} in a layer | {' | '.join(result['measures'])} |"
    yield "|---|" + "---:|" * len(result["measures"])
    for name, about in result["contenders"].items():
        hit = [f"{about['distinct_experts_per_layer'][measure]:.1f}" for measure in result["measures"]]
        yield f"| {name} | {' | '.join(hit)} |"


def main() -> None:
    write(json.loads(RESULT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
