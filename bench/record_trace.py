"""The routing of the demonstration model over the invented example cases: `python -m bench.record_trace`.

Every case of examples/cases.jsonl is diagnosed in English and in Chinese, one after another, as `antangel diagnose`
does it: its prompt, sampled reasoning, and an answer under the schema. Writes bench/traces/nano-cases.jsonl.gz.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.readers import read_case
from antangel_cli.load import RuntimeModel, open_model
from antangel_cli.settings import Settings
from runtime import ModelConfig
from runtime.experts.trace import TraceWriter

ROOT = Path(__file__).resolve().parent.parent
TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"
LANGUAGES = ("en", "zh")


def cases() -> Iterator[Case]:
    """The example cases, each in both languages."""
    for line in (ROOT / "examples" / "cases.jsonl").read_bytes().splitlines():
        case = read_case(line, "case.json", "case")
        for language in LANGUAGES:
            yield case.model_copy(update={"language": language})


def record(path: Path) -> dict[str, int]:
    """Diagnose every case with the demonstration model; how many steps ended how."""
    model = open_model(Settings(), lambda done, total: None)
    assert isinstance(model, RuntimeModel)
    engine = model._engine
    statuses: dict[str, int] = {}
    config = ModelConfig.from_directory(ROOT / "nano" / "checkpoint")
    with TraceWriter.of_model(path, config) as trace:
        engine.watch_routing(trace)
        for case in cases():
            status = str(diagnose(case, DiagnoseOptions(), model)["status"])
            statuses[status] = statuses.get(status, 0) + 1
        engine.watch_routing(None)
    model.close()
    return statuses


def compress(source: Path, place: Path) -> None:
    """The same bytes for the same trace, wherever and whenever it is made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_suffix(".new")
    with aside.open("wb") as file:
        file.write(gzip.compress(source.read_bytes(), 9, mtime=0))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(place)


def main() -> None:
    """Record and compress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=TRACE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.jsonl"
        statuses = record(plain)
        compress(plain, options.output)
    print(json.dumps({"trace": str(options.output), "bytes": options.output.stat().st_size, "cases": statuses}))


if __name__ == "__main__":
    main()
