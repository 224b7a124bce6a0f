"""What the help of each command begins with: lines to copy, and what each is for."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("antangel diagnose case.json", "a differential for one case"),
        ('echo "..." | antangel ask -', "one question"),
        ("antangel batch cases.jsonl -o out.jsonl", "many cases"),
    ),
    "chat": (
        ("antangel chat", "a conversation; nothing of it is kept"),
        ("antangel chat --case case.json", "about one case, whose checks are shown first"),
        ("antangel chat --session ward-3", "kept in a session; opened again by the same line"),
    ),
    "ask": (
        ('echo "What confirms gout?" | antangel ask -', "one question; not seen in ps or in the shell's history"),
        ('antangel ask "Summarise this letter." - < letter.txt', "a question about text from a file"),
    ),
    "diagnose": (
        ("antangel diagnose case.json", "the page, in the terminal"),
        ("antangel diagnose - < letter.txt", "free text, from stdin"),
        ("antangel diagnose bundle.json --redact --format md -o page.md", "a FHIR bundle with a name in it"),
        ("antangel diagnose case.json --samples 5", "five answers, and how far they agree"),
        ("antangel diagnose case.json --json --fail-on urgent", "for a script: exit 10 if urgent or above"),
    ),
    "batch": (
        ("antangel batch cases.jsonl -o out.jsonl", "one result a line, in the order of the cases"),
        ("antangel batch cases.jsonl --dry-run -q", "read and check every line; no model"),
        ("antangel batch cases.jsonl -o out.jsonl --resume", "go on after a crash or Ctrl-C"),
        ("cat cases.jsonl | antangel batch | jq -r .urgency_final", "in a pipe"),
    ),
    "eval": (
        ("antangel eval cases.jsonl", "top-1, top-3, triage, citations, with intervals"),
        ("antangel eval cases.jsonl --json -o before.json", "keep what was answered"),
        ("antangel eval cases.jsonl --against before.json", "every case whose answer changed; exit 6 if any"),
    ),
    "validate": (
        ("antangel validate case.json", "what was understood, and what the checks say"),
        ("antangel validate *.json --json", "the same for programs, a record a line"),
    ),
    "schema": (
        ("antangel schema case --example > case.json", "a filled case to start from"),
        ("antangel schema result", "what diagnose --json writes, as a JSON Schema"),
    ),
    "about": (("antangel about", "what it is and is not, and where files lie"),),
    "doctor": (
        ("antangel doctor", "this machine: kernels chosen and refused, and why"),
        ("antangel doctor /path/to/model", "and a model: counted, planned and tested"),
    ),
    "pack": (
        ("antangel pack /path/to/AntAngelMed -o antangelmed.pack", "a checkpoint made ready to run"),
        ("antangel pack --check antangelmed.pack", "is every byte as it was written"),
    ),
    "bench": (
        ("antangel bench --new 32", "the configured model: prefill, decode, memory"),
        ("antangel bench --shape flash --ram 8GiB", "random weights of AntAngelMed's shape, in 8 GiB"),
    ),
    "plan": (
        ("antangel plan /path/to/AntAngelMed", "does it fit here, and how fast; reads no weight"),
        ("antangel plan antangelmed.pack --ram 64GiB --gpu 24GB", "and on another machine"),
    ),
    "report": (("antangel report result.json -o complaint.zip", "what a complaint needs, without the case"),),
    "config": (("antangel config show", "every setting, and where it comes from"),),
    "config show": (("antangel config show", "every setting, and where it comes from"),),
    "config path": (("antangel config path", "the files that are read, in order"),),
    "audit": (("antangel audit verify", "is the log as it was written; exit 6 if not"),),
    "audit show": (("antangel audit show --last 5", "the last five answers, as hashes and codes"),),
    "audit verify": (("antangel audit verify", "is the log as it was written; exit 6 if not"),),
}
"""By command: what to type, and what comes of it."""
