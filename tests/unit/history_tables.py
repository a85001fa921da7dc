"""People drawn as the tables of a study, without a build: for tests of the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from rwe.analyse.read import StudyTables
from rwe.config import Workspace, init_workspace
from rwe.history.inputs import ledger_of
from rwe.history.ledger import Ledger
from rwe.study import Study
from rwe.survival.data import no_changes
from tests.integration.cohort_nights import Person, write_study

KEY = "0123456789abcdef"


def tables(
    persons: Iterable[Person],
    *,
    excluded: Mapping[str, str] | None = None,
    changes: Iterable[tuple[str, str, int, float]] = (),
) -> StudyTables:
    """The tables that a build of these persons' records gives. `changes`: patient, covariate, day, value."""
    people = sorted(persons, key=lambda p: p.name)
    survival = pd.DataFrame(
        {
            "patient_id": [p.name for p in people],
            "site": [p.site for p in people],
            "time_days": [p.seen if p.died is None else p.died for p in people],
            "is_event": [p.died is not None for p in people],
            "start_day": pd.Series([p.start for p in people], dtype=float),
            "salvage_start_day": pd.Series([None] * len(people), dtype=float),
            "progression_day": pd.Series([None] * len(people), dtype=float),
            "end_reason": ["death" if p.died is not None else "last_activity" for p in people],
        }
    )
    drawn = pd.DataFrame(list(changes), columns=["patient_id", "covariate", "day", "value"])
    gone = excluded or {}
    return StudyTables(
        survival=survival,
        covariates=pd.DataFrame({"age": [2020.0 - p.born for p in people]}, index=survival.index),
        changes=drawn.astype({"day": int, "value": float}) if len(drawn) else no_changes(),
        toxicity=pd.DataFrame(columns=["patient_id", "toxicity", "day", "grade"]),
        intercurrent=pd.DataFrame(columns=["patient_id", "event", "day"]),
        copies=pd.DataFrame(columns=["patient_id", "day", "copies"]),
        expansion=pd.DataFrame(columns=["patient_id", "peak_copies"]),
        response=pd.DataFrame(columns=["patient_id", "status", "from_day", "until_day", "is_relapse"]),
        attrition=[],
        runs=[],
        quality=[],
        resources={s: {"Patient": 1} for s in {p.site for p in people}},
        quarantined={},
        last_updated={},
        data_cutoff=date(2022, 1, 1),
        content_sha256="c" * 64,
        excluded=pd.DataFrame({"patient_id": list(gone), "step": list(gone.values())}),
    )


def ledger(persons: Iterable[Person], refresh: str = "r1", **drawn: object) -> Ledger:
    """The ledger of a refresh of these persons."""
    return ledger_of(tables(persons, **drawn), refresh, KEY)  # type: ignore[arg-type]


class Nights:
    """A workspace whose nights are drawn: what `analyse` reads is what `now` holds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace: Workspace = init_workspace(folder / "workspace", folder / "pseudonyms.key")
        self.study: Study = write_study(self.workspace.studies)
        self.workspace.private.mkdir(mode=0o700)
        self.now: StudyTables | None = None
        monkeypatch.setattr("rwe.analyse.refresh.study_tables", lambda *_, **__: self.now)

    def asking(self, **changes: object) -> None:
        """The study with other fields from now on."""
        self.study = write_study(self.workspace.studies, **changes)
