"""What is read, what is refused, and that a refusal never repeats the input."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.readers import detect, read_case
from antangel_cli.clinic.readers.intake import clean, take_in
from antangel_cli.clinic.readers.keys import edits, nearest
from antangel_cli.clinic.readers.prose import language_of
from tests.clinic.cases import EXAMPLES, make_case

SECRET = "Zyxwvut"
"""A word that stands for a patient's."""

LAB = '{"schema": "antangel.case/1", "id": "a", "labs": [{"name": "x", "value": VALUE}]}'


def refusal(data: bytes | str | dict[str, Any], name: str | None = None, input_format: str = "auto") -> InputError:
    """The error an input is refused with."""
    if isinstance(data, dict):
        data = json.dumps({"schema": "antangel.case/1", "id": "t", **data})
    with pytest.raises(InputError) as caught:
        read_case(data.encode() if isinstance(data, str) else data, name, input_format)
    return caught.value


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_examples_are_cases(path: Any) -> None:
    case = read_case(path.read_bytes(), path.name)
    assert case.id == path.stem
    assert case.chinese == path.stem.endswith("-zh")
    assert 15 < len(facts(case)) < 40


def test_cases_jsonl_holds_the_examples() -> None:
    lines = [json.loads(line) for line in (EXAMPLES / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.json")}
    assert {line["id"]: line for line in lines} == files


@pytest.mark.parametrize(
    ("name", "says", "place"),
    [
        ("not-a-case.json", "schema is missing", "schema"),
        ("unknown-key.json", 'no key "finding"', None),
        ("identifier.json", "identifies the patient", "patient.birth_date"),
        ("broken.json", "line 5, column 3", None),
        ("empty.txt", "empty", None),
    ],
)
def test_bad_examples(name: str, says: str, place: str | None) -> None:
    error = refusal((EXAMPLES / "bad" / name).read_bytes(), name)
    assert says in error.message
    assert error.remedy
    assert error.place == (f"{name}: {place}" if place else name)


def test_every_bad_example_is_tested() -> None:
    assert {p.name for p in (EXAMPLES / "bad").iterdir()} == {
        "not-a-case.json", "unknown-key.json", "identifier.json", "broken.json", "empty.txt",
    }  # fmt: skip


def test_unknown_key_near_a_known_one_is_named() -> None:
    error = refusal((EXAMPLES / "bad" / "unknown-key.json").read_bytes())
    assert error.remedy == 'Did you mean "findings"?'


@pytest.mark.parametrize("size", [(1 << 20) + 1, 2 << 20])
def test_too_large(size: int) -> None:
    assert f"{size:,} bytes" in refusal(b"a" * size).message


def test_largest_is_read() -> None:
    assert len(read_case(b"a" * (1 << 20), None).narrative or "") == 1 << 20


@pytest.mark.parametrize("data", [b"", b"  \n\t ", b"\xef\xbb\xbf", "\u200b\u200b".encode(), b"\x00\x00"])
def test_empty(data: bytes) -> None:
    error = refusal(data)
    assert "empty" in error.message
    assert "antangel schema case" in error.remedy


def test_no_utf8() -> None:
    assert "byte 3" in refusal(b"abc\xff").message


@pytest.mark.parametrize(
    ("text", "name", "format"),
    [
        ('{"a": 1}', None, "case"),
        ("  [1]", "x.txt", "case"),
        ('"hello"', "x.json", "case"),
        ('"hello"', "X.JSON", "case"),
        ('{"resourceType": "Patient"}', None, "fhir"),
        ('{"resourceType": "Patient"}\n{"resourceType": "Condition"}', None, "fhir"),
        ('{"schema": "antangel.case/1", "resourceType": 1}', None, "case"),
        ('{"subject": {}, "phenotypicFeatures": []}', None, "phenopacket"),
        ('{"proband": {}, "meta_data": {}}', None, "phenopacket"),
        ("{broken", "x.txt", "refused"),
        ("hello", "x.txt", "text"),
        ("hello", None, "text"),
    ],
)
def test_detection(text: str, name: str | None, format: str) -> None:
    intake = take_in(text.encode())
    if format == "refused":
        with pytest.raises(InputError, match="no valid JSON"):
            detect(intake, name)
    else:
        assert detect(intake, name) == format


def test_detection_refuses_unknown_formats() -> None:
    with pytest.raises(InputError, match="not known"):
        detect(take_in(b"x"), None, "hl7")


@pytest.mark.parametrize("data", ["{", "[1, 2", "hello"])
def test_json_that_does_not_parse_is_never_text(data: str) -> None:
    assert "no valid JSON" in refusal(data, "case.json").message


def test_text_that_looks_like_json_can_be_read_as_text() -> None:
    assert read_case(b"{curly} cough", None, "text").narrative == "{curly} cough"


@pytest.mark.parametrize("text", ["[1, 2]", '"x"', "3", "null", "true"])
def test_no_object(text: str) -> None:
    assert "one JSON object" in refusal(text, "x.json").message


def test_duplicate_keys() -> None:
    text = '{"schema": "antangel.case/1", "id": "a", "patient": {"region": "x", "region": "Zyxwvut"}}'
    error = refusal(text)
    assert "repeats" in error.message
    assert SECRET not in str(error)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_nan(value: str) -> None:
    text = LAB.replace("VALUE", value)
    assert "NaN" in refusal(text).message


@pytest.mark.parametrize("digits", [400, 5000])
def test_number_with_too_many_digits(digits: int) -> None:
    text = LAB.replace("VALUE", "9" * digits)
    assert refusal(text).remedy


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_bomb(opening: str) -> None:
    assert "levels deep" in refusal(opening * 100_000, "x.json").message


def test_brackets_inside_text_are_no_nesting() -> None:
    assert make_case(narrative="[" * 100 + '\\"' + "{" * 100).narrative


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("name", "Leave"), ("birth_date", "age"), ("birthDate", "age"), ("dob", "age"), ("MRN", "Leave"), ("address", "Leave"),
        ("phone", "Leave"), ("姓名", "Leave"), ("身份证号", "Leave"), ("email", "Leave"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", [True, False])
def test_identifiers(key: str, hint: str, inside: bool) -> None:
    content = {key: SECRET}
    error = refusal({"patient": content} if inside else content)
    assert "identifies" in error.message
    assert hint in error.remedy
    assert SECRET not in str(error)


def test_the_place_of_an_identifier_names_no_key_that_is_not_known() -> None:
    document = {"schema": "antangel.case/1", "labs": [{"Mrs Zyx coughs": {"ssn": "1"}}]}
    with pytest.raises(InputError) as caught:
        read_case(json.dumps(document).encode(), None)
    assert caught.value.place == "labs[0].key 1.ssn"


def test_names_of_measurements_and_reports_are_no_identifiers() -> None:
    case = make_case(vitals=[{"name": "pulse", "value": 70}], imaging=[{"name": "ECG", "text": "normal"}])
    assert case.vitals[0].name == "pulse"


def test_extensions_are_ignored_everywhere() -> None:
    case = make_case(x_mine={"name": SECRET, "deep": [1]}, findings=[{"text": "cough", "x_seen_by": SECRET}])
    assert SECRET not in case.model_dump_json()


@pytest.mark.parametrize("place", ["top", "patient", "findings"])
def test_unknown_key_is_not_echoed(place: str) -> None:
    content: dict[str, Any] = {"chief_complaint": "cough"}
    if place == "top":
        content["Zyxwvut has a cough"] = "x"
    elif place == "patient":
        content["patient"] = {"sex_at_birth": "male", SECRET: 1}
    else:
        content["findings"] = [{"text": "cough", SECRET: "x"}]
    error = refusal(content)
    assert SECRET not in str(error)
    assert "Key " in error.message


@pytest.mark.parametrize(
    ("place", "key", "named", "known"),
    [
        ("", "sex", "sex", "patient.sex_at_birth"),
        ("", "age", "age", "patient.age"),
        ("", "Weight", "weight", "patient.weight_kg"),
        ("", "meds", "meds", "medications"),
        ("", "med", "med", "medications"),
        ("", "vital-signs", "vital_signs", "vitals"),
        ("", "HPI", "hpi", "narrative"),
        ("", "symptoms", "symptoms", "findings"),
        ("", "主诉", "主诉", "chief_complaint"),
        ("patient", "sex", "sex", "sex_at_birth"),
        ("patient", "gender", "gender", "sex_at_birth"),
        ("patient", "height", "height", "height_cm"),
        ("patient", "pregnant", "pregnant", "pregnancy"),
        ("allergies", "allergen", "allergen", "substance"),
        ("labs", "result", "result", "value"),
    ],
)
def test_what_people_call_a_key_is_answered_with_its_name(place: str, key: str, named: str, known: str) -> None:
    rows: dict[str, Any] = {"allergies": [{key: 1}], "labs": [{"name": "Na", key: 1}], "patient": {key: 1}}
    error = refusal({place: rows[place]} if place else {key: 1})
    assert error.message == f'There is no key "{named}".'
    assert error.remedy == f'Did you mean "{known}"?'


@pytest.mark.parametrize("key", ["s", "Jo", "Meds Jones", "sex with Jones", "weightJones", "patientJones"])
def test_a_key_that_is_more_than_a_short_form_is_not_echoed(key: str) -> None:
    error = refusal({key: 1})
    assert key.lower() not in str(error).lower().split()
    assert "Jones" not in str(error)
    assert error.message == "Key 3 is not known."


def test_a_date_of_birth_is_answered_with_the_age() -> None:
    for content in ({"dob": "1958-01-02"}, {"patient": {"DOB": "1958-01-02"}}, {"patient": {"出生日期": "1958-01-02"}}):
        assert "patient.age" in refusal(content).remedy


@pytest.mark.parametrize(("given", "read"), [({}, "case-1"), ({"id": "mine"}, "mine")])
def test_a_case_without_an_id_gets_one(given: dict[str, str], read: str) -> None:
    data = json.dumps({"schema": "antangel.case/1", "chief_complaint": "cough", **given}).encode()
    assert read_case(data, None).id == read
    assert read_case(data, None, redact=True).id == read


def test_an_id_that_is_none_is_refused() -> None:
    assert refusal({"id": None}).place == "id"


def test_unknown_key_is_named_by_position() -> None:
    error = refusal({"patient": {"sex_at_birth": "male", "x_a": 1, SECRET: 1}})
    assert error.message.startswith("Key 3 ")
    assert error.place == "patient"


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ({"id": "a b"}, "id", "1 to 64"),
        ({"id": "a" * 65}, "id", "1 to 64"),
        ({"patient": {"age": {"value": "58"}}}, "patient.age.value", "a number"),
        ({"patient": {"age": {"value": -1}}}, "patient.age.value", "at least 0"),
        ({"patient": {"age": {"value": 3, "unit": SECRET}}}, "patient.age.unit", "'mo'"),
        ({"patient": SECRET}, "patient", "an object"),
        ({"findings": SECRET}, "findings", "a list"),
        ({"findings": [SECRET]}, "findings[0]", "an object"),
        ({"findings": [{"text": ""}]}, "findings[0].text", "Fill"),
        ({"findings": [{"text": 5}]}, "findings[0].text", "text in quotes"),
        ({"labs": [{"name": "x", "value": [SECRET]}]}, "labs[0].value", "a number"),
        ({"labs": [{"value": 3}]}, "labs[0].name", "Add it"),
        ({"no_known_allergies": SECRET}, "no_known_allergies", "true, false"),
        ({"setting": SECRET}, "setting", "'ed'"),
    ],
)
def test_problems_say_where_and_what_to_do(content: dict[str, Any], place: str, says: str) -> None:
    error = refusal(content)
    assert error.place == place
    assert says in error.remedy
    assert SECRET not in str(error)


@pytest.mark.parametrize("schema", [None, "antangel.case/2", SECRET, 3])
def test_schema_is_required(schema: object) -> None:
    content = {"id": "t"} if schema is None else {"id": "t", "schema": schema}
    error = refusal(json.dumps(content))
    assert error.place == "schema"
    assert SECRET not in str(error)


def test_fhir_is_no_case() -> None:
    assert "fhir" in refusal('{"resourceType": "Bundle"}', None, "case").remedy


@pytest.mark.parametrize("escape", ["\\u200b", "\\b"])
def test_keys_that_only_hidden_characters_tell_apart_are_refused(escape: str) -> None:
    text = '{"schema": "antangel.case/1", "id": "a", "question": "x", "ques' + escape + 'tion": "Zyxwvut"}'
    assert "repeats" in refusal(text).message


def test_invisible_characters_are_dropped_and_counted() -> None:
    text = "co\u200bugh\x00 \u202efever\U000e0041\U000e0042 chills"
    case = read_case(text.encode(), None)
    assert case.narrative == "cough fever chills"
    assert {w["code"]: w["count"] for w in case._input_warnings} == {
        "dropped_zero_width": 1, "dropped_control": 1, "dropped_bidi": 1, "dropped_tag": 2,
    }  # fmt: skip


def test_invisible_characters_behind_json_escapes_are_dropped_too() -> None:
    case = make_case(narrative="co\u200bugh \u202e fever \ud800")
    assert case.narrative == "cough  fever ?"
    assert [w["code"] for w in case._input_warnings] == ["dropped_bidi", "dropped_zero_width"]


def test_nfc() -> None:
    assert read_case("Ménière".encode(), None).narrative == "Ménière"


def test_line_ends() -> None:
    assert read_case(b"a\r\nb\rc", None).narrative == "a\nb\nc"


@given(st.text())
def test_clean_is_done_once(text: str) -> None:
    once, _ = clean(text)
    again, dropped = clean(once)
    assert again == once
    assert not dropped


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(read_case(data, None), Case)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("58岁男性，胸痛2小时", "zh"),
        ("chest pain", "en"),
        ("BP 120/80，患者CRP 200 mg/L 发热咳嗽", "zh"),
        ("123", "en"),
        ("chest pain 胸痛 for 2 hours", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_text_case_has_the_given_id() -> None:
    assert read_case(b"cough", None, case_id="line-7").id == "line-7"


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("ab", "ba", 2)]
)
def test_edits(a: str, b: str, distance: int) -> None:
    assert edits(a, b) == edits(b, a) == distance


def test_short_words_are_not_taken_for_slips() -> None:
    assert nearest("Ann", ["age", "id"]) is None
    assert nearest("agе", ["age", "id"]) == "age"


def test_nothing_shows_a_patients_words(caplog: pytest.LogCaptureFixture) -> None:
    case = make_case(chief_complaint=SECRET, findings=[{"text": SECRET}], labs=[{"name": SECRET, "value": SECRET}])
    logging.getLogger().warning("%r %s %r %r", case, case, case.findings, facts(case))
    assert SECRET not in caplog.text


def test_tracebacks_show_no_patients_words() -> None:
    data = json.dumps({"schema": "antangel.case/1", "id": "t", "patient": {"region": [SECRET]}}).encode()
    with pytest.raises(InputError) as caught:
        read_case(data, None)
    shown = traceback.format_exception(caught.value)
    assert SECRET not in "".join(shown)
