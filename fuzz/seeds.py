"""Valid documents to start from: the examples of the repository and of the tests, and a few of our own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "antangel_cli" / "clinic" / "samples"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def cases() -> tuple[Any, ...]:
    """The example cases, and those with gold."""
    lines = (ROOT / "examples" / "eval-small.jsonl").read_text(encoding="utf-8").splitlines()
    samples = (_json(SAMPLES / f"case.{language}.json") for language in ("en", "zh"))
    return (*map(json.loads, lines), *samples)


@cache
def results() -> tuple[Any, ...]:
    """The sample results."""
    return tuple(_json(SAMPLES / f"result.{language}.json") for language in ("en", "zh"))


@cache
def answers() -> tuple[Any, ...]:
    """What a model might answer."""
    return tuple(result["result"] for result in results())


@cache
def bundles() -> tuple[Any, ...]:
    """FHIR: a short history in the form of a Synthea export, a resource of every type that is read, a Bundle of R5."""
    from tests.clinic.fhir_examples.resources import FORMS, bundle
    from tests.clinic.fhir_examples.synthea import history

    whole, forms = history(years=1, visits=2), [document for document, _ in FORMS.values()]
    return (whole, whole, {**whole, "type": "searchset"}, bundle(*forms), *forms, _R5)


_R5 = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {
            "fullUrl": "urn:uuid:1",
            "resource": {"resourceType": "Patient", "id": "1", "gender": "female", "birthDate": "1980-02"},
        },
        {
            "resource": {
                "resourceType": "MedicationStatement",
                "status": "recorded",
                "subject": {"reference": "urn:uuid:1"},
                "medication": {"concept": {"text": "warfarin"}},
                "effectiveDateTime": "2024-01-02",
            }
        },
        {
            "resource": {
                "resourceType": "Observation",
                "status": "final",
                "subject": {"reference": "urn:uuid:1"},
                "code": {"coding": [{"system": "http://loinc.org", "code": "2823-3", "display": "Potassium"}]},
                "valueQuantity": {"value": 6.1, "unit": "mmol/L"},
                "effectiveDateTime": "2024-01-02T08:00:00+08:00",
            }
        },
        {
            "resource": {
                "resourceType": "FamilyMemberHistory",
                "status": "completed",
                "patient": {"reference": "urn:uuid:1"},
                "relationship": {"text": "father"},
                "condition": [{"code": {"text": "stroke"}, "contributedToDeath": True}],
            }
        },
    ],
}

PACKETS = (
    {
        "id": "packet",
        "subject": {"id": "s", "sex": "FEMALE", "timeAtLastEncounter": {"age": {"iso8601duration": "P38Y7M"}}},
        "phenotypicFeatures": [
            {"type": {"id": "HP:0001945", "label": "Fever"}, "onset": {"age": {"iso8601duration": "P38Y"}}},
            {
                "type": {"id": "HP:0002315", "label": "Headache"},
                "excluded": True,
                "severity": {"id": "HP:0012828", "label": "Severe"},
            },
        ],
        "measurements": [
            {
                "assay": {"id": "LOINC:2823-3", "label": "Potassium"},
                "value": {"quantity": {"unit": {"id": "UCUM:mmol/L", "label": "mmol/L"}, "value": 5.9}},
                "timeObserved": {"timestamp": "2024-01-02T00:00:00Z"},
            }
        ],
        "diseases": [{"term": {"id": "MONDO:0005148", "label": "type 2 diabetes"}, "excluded": False}],
        "medicalActions": [{"treatment": {"agent": {"id": "CHEBI:6801", "label": "metformin"}}}],
        "metaData": {
            "created": "2024-01-02T00:00:00Z",
            "createdBy": "x",
            "phenopacketSchemaVersion": "2.0",
            "resources": [],
        },
    },
)

CONDITIONS = {
    "Bronchite": {"condition_name": "Bronchite", "cond-name-eng": "Bronchitis", "icd10-id": "j20", "severity": 4}
}
EVIDENCES = {
    "E_1": {"name": "E_1", "question_en": "Do you cough?", "is_antecedent": False, "default_value": 0, "value_meaning": {}},
    "E_2": {"name": "E_2", "question_en": "Where?", "is_antecedent": True, "default_value": "V_0", "value_meaning": {"V_1": {"en": "chest"}}},
}  # fmt: skip
PATIENTS = (
    "AGE,DIFFERENTIAL_DIAGNOSIS,SEX,PATHOLOGY,EVIDENCES,INITIAL_EVIDENCE\n"
    "31,\"[['Bronchite', 0.8]]\",F,Bronchite,\"['E_1', 'E_2_@_V_1']\",E_1\n"
)
ENTRIES = (
    {"prompt_id": "a-1", "prompt": [{"role": "user", "content": "fever"}], "rubrics": [{"criterion": "x", "points": 1, "tags": []}]},
    {"question": "Which?", "options": {"A": "Gout", "B": "Sprain"}, "answer": "Gout", "answer_idx": "A"},
    {"id": "m-1", "question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2, "choice_type": "single"},
)  # fmt: skip
