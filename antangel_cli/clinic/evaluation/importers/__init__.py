"""Importers: one file per published data set -> cases with `gold`. The user brings the file; nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from antangel_cli.clinic.evaluation.importers.ddxplus import read_ddxplus
from antangel_cli.clinic.evaluation.importers.healthbench import read_healthbench
from antangel_cli.clinic.evaluation.importers.medmcqa import read_medmcqa
from antangel_cli.clinic.evaluation.importers.medqa import read_medqa

Beside = Callable[[str], str]
"""The text of a file in the same folder, by name."""
Importer = Callable[[Iterable[str], Beside], Iterator[dict[str, Any] | None]]
"""The lines of a file, and what lies beside it -> a case, or None for an entry that makes none."""

IMPORTERS: dict[str, Importer] = {
    "ddxplus": read_ddxplus,
    "healthbench": read_healthbench,
    "medmcqa": read_medmcqa,
    "medqa": read_medqa,
}

LOST = {
    "ddxplus": "What a patient was not asked or did not have is not told; the severity of a disease is no urgency.",
    "healthbench": "Rubrics are kept in gold and not scored: they need a grader. Only what the user wrote is told.",
    "medmcqa": "The options are the question, the right one is the gold name; entries with several are left out.",
    "medqa": "The options are the question, and the right one is the gold name, also where it is no diagnosis.",
}
"""What an import loses, in one line."""
