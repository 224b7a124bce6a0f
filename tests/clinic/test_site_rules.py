"""A site's own rules: the example of docs/rules.md works, what is wrong is refused, and nothing is ever lowered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.red_flags import add_site_rules, own_rules, rules
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.rules import rules_provenance
from tests.cli.test_diagnose import run
from tests.clinic.cases import EXAMPLES, checked, make_case, prose

EXAMPLE = EXAMPLES / "site-rules.toml"
GOOD = """version = "1"
[[rule]]
id = "site.a"
urgency = "soon"
concern = { en = "a", zh = "甲" }
when = [ { en = "green tongue" } ]
"""


@pytest.fixture(autouse=True)
def _without() -> Iterator[None]:
    yield
    add_site_rules(None)


def use(tmp_path: Path, text: str) -> None:
    place = tmp_path / "site.toml"
    place.write_text(text, encoding="utf-8")
    add_site_rules(str(place))


def flags(case: Case) -> list[str]:
    return [hit.rule.id for hit in checked(case).red_flags]


def test_the_example_fires_in_both_languages_and_by_value() -> None:
    add_site_rules(str(EXAMPLE))
    assert flags(prose("Bitten on the foot by a viper.")) == ["site.snake_season"]
    assert flags(make_case(language="zh", chief_complaint="被蛇咬伤")) == ["site.snake_season"]
    assert flags(prose("Was not bitten by a snake.")) == []
    adult = {"age": {"value": 50}, "sex_at_birth": "male"}
    labs = [{"name": "potassium", "value": 5.9, "unit": "mmol/L"}]
    case = make_case(patient=adult, history=[{"text": "dialysis for years"}], labs=labs)
    assert "site.dialysis_potassium" in flags(case)
    assert "site.dialysis_potassium" not in flags(make_case(patient=adult, labs=labs))


def test_the_example_in_the_documents_is_one_that_works(tmp_path: Path) -> None:
    text = (EXAMPLES.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    block = text.partition("is one that works:\n")[2].partition("\n- ")[0]
    use(tmp_path, dedent(block))
    assert flags(prose("Bitten on the foot by a viper.")) == ["site.snake_season"]


def test_results_say_whose_rules_counted() -> None:
    assert rules_provenance()["site"] is None
    add_site_rules(str(EXAMPLE))
    site = rules_provenance()["site"]
    assert site["version"] == "2026-11 ward example"
    assert len(site["hash"]) == 64


def test_own_rules_stay_before_them_and_none_goes() -> None:
    add_site_rules(str(EXAMPLE))
    assert rules()[: len(own_rules())] == own_rules()
    assert [rule.id for rule in rules()[len(own_rules()) :]] == ["site.snake_season", "site.dialysis_potassium"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("urgency", ["self_care", "routine", "emergency"])
def test_a_site_raises_and_never_lowers(tmp_path: Path, path: Path, urgency: str) -> None:
    """A rule that fires on every case, with the lowest urgency there is and with the highest."""
    case = prose(path.read_text(encoding="utf-8"))
    before = checked(case)
    use(tmp_path, GOOD.replace('urgency = "soon"', f'urgency = "{urgency}"').replace("green tongue", "[a-z0-9]"))
    after = checked(case)
    assert {hit.rule.id for hit in after.red_flags} == {hit.rule.id for hit in before.red_flags} | {"site.a"}
    wanted = max(filter(None, (before.urgency_floor, urgency)), key=ORDER.index)
    assert after.urgency_floor == wanted


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('id = "site.a"', 'id = "a"'), "does not begin with `site.`"),
        (('id = "site.a"', 'id = "acute_coronary"'), "does not begin with `site.`"),
        (('"soon"', '"undetermined"'), "rule 1 urgency is wrong"),
        (('en = "green tongue"', 'measured = ["potassium above 6"]'), "write it like"),
        (('en = "green tongue"', 'measured = ["unobtainium >= 6"]'), "no quantity of this tool"),
        (('{ en = "green tongue" }', "{ past = true }"), "neither words nor values"),
        (('"green tongue"', '"(a+)+"'), "repeats without end"),
        (('"green tongue"', '"x?"'), "matches an empty text"),
        (('"green tongue"', '"Green"'), "capital letters"),
        (('"green tongue"', '"("'), "no regular expression"),
        (("when =", "unless = true\nwhen ="), "Extra inputs"),
        (('version = "1"', ""), "version is wrong"),
        (('[[rule]]\nid = "site.a"', "[[rule]]"), "rule 1 id is wrong"),
        (("when =", "min_age = 9.0\nmax_age = 3.0\nwhen ="), "ages out of order"),
        (("[[rule]]", "[[rule"), "no TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_refused_by_place(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(InputError) as error:
        use(tmp_path, GOOD.replace(*change))
    assert fault in error.value.message
    assert error.value.place == str(tmp_path / "site.toml")
    assert flags(prose("green tongue")) == []


def test_one_id_twice_a_relative_path_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another rule has"):
        use(tmp_path, GOOD + GOOD.removeprefix('version = "1"\n'))
    with pytest.raises(InputError, match="relative"):
        add_site_rules("site.toml")
    with pytest.raises(InputError, match="cannot be read"):
        add_site_rules(str(tmp_path / "none.toml"))


def test_the_setting_reaches_the_command_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "case.txt"
    place.write_text("Bitten on the foot by a viper.", encoding="utf-8")
    monkeypatch.setenv("ANTANGEL_SITE_RULES", str(EXAMPLE))
    record = json.loads(run("validate", str(place), "--json").stdout)
    assert "site.snake_season" in json.dumps(record)
    monkeypatch.delenv("ANTANGEL_SITE_RULES")
    assert "site.snake_season" not in run("validate", str(place), "--json").stdout


def test_a_wrong_setting_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "case.txt"
    place.write_text("cough", encoding="utf-8")
    monkeypatch.setenv("ANTANGEL_SITE_RULES", "relative.toml")
    result = run("validate", str(place))
    assert result.exit_code == 3
    assert "relative" in result.stderr
