"""A study under one changed rule of its tables, as a study of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from rwe.errors import StudyError
from rwe.study.files import Study
from rwe.study.grid import CensoringChange, GapChange, TableChange, TiersChange, UndatedDeathChange


def variant_of(study: Study, change: TableChange, number: int, *, last_common_day: date | None) -> Study:
    """The study with one rule changed, under a name that no study file can have (`NAME#number`).

    `last_common_day` is the cut-off where neither the change nor the protocol names one. Raises StudyError
    where it is needed and None.
    """
    part, values = _changed(study, change, last_common_day)
    protocol = study.protocol
    section = getattr(protocol, part).model_copy(update=values)
    return replace(
        study, protocol=protocol.model_copy(update={"name": f"{protocol.name}#{number}", part: section})
    )


def _changed(study: Study, change: TableChange, last_common_day: date | None) -> tuple[str, dict[str, Any]]:
    match change:
        case TiersChange():
            return "exposure", {"tiers": change.value}
        case GapChange():
            return "exposure", {"gap_days": change.value}
        case UndatedDeathChange():
            return "outcome", {"death_without_date": change.value}
        case CensoringChange():
            day = change.data_cutoff or study.protocol.censoring.data_cutoff or last_common_day
            if change.value == "data_cutoff" and day is None:
                raise StudyError(
                    "there is no day to censor at", where=f"study {study.name}", advice="name a data_cutoff"
                )
            return "censoring", {"rule": change.value, "data_cutoff": day}
