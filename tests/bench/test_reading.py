"""bench.readers: what became of files, counted, and nothing of what they say."""

from __future__ import annotations

import json
from pathlib import Path

from bench.readers import Tally
from tests.clinic.fhir_examples.resources import FORMS, NAME, bundle, patient
from tests.clinic.test_phenopacket import packet

FILES: dict[str, object] = {
    "one.json": bundle(patient(), FORMS["Observation R4"][0]),
    "two.json": bundle(patient(), patient(id="p2")),
    "packet.json": packet(),
    "profile.json": {"resourceType": "ValueSet", "name": NAME},
    "settings.json": {"name": NAME},
}


def test_files_are_counted_by_type_and_reason(tmp_path: Path) -> None:
    tally = Tally("some")
    for name, content in FILES.items():
        path = tmp_path / name
        path.write_text(json.dumps(content), encoding="utf-8")
        tally.take(path)
    (tmp_path / "broken.json").write_text('{"resourceType": "Bundle", ', encoding="utf-8")
    tally.take(tmp_path / "broken.json")
    assert tally.read == {"Bundle": 1, "phenopacket": 1}
    assert tally.refused["There is more than one Patient."] == {"Bundle": 1}
    assert sum(counts.total() for counts in tally.refused.values()) == 2
    assert (tally.other, tally.broken.total()) == (2, 0)
    assert NAME not in "\n".join(tally.lines())
