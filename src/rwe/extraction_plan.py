"""What the studies need of a hospital, together: the codes of index events, the types, the codes observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rwe.codes import Code
from rwe.config import Site
from rwe.errors import StudyError, UsageError
from rwe.harvest import Token
from rwe.landing import StudyReference
from rwe.study import Study

#: Pulled whole for every patient of the cohort, whatever the studies ask.
WHOLE_TYPES = (
    "Encounter",
    "Condition",
    "Procedure",
    "MedicationAdministration",
    "MedicationRequest",
    "MedicationDispense",
    "MedicationStatement",
)
CODES_A_REQUEST = 50


@dataclass(frozen=True)
class ExtractionPlan:
    """What several studies need, together: (system, code) pairs in a stable order.

    `index_codes` holds, by the resource type that may carry an index event, the codes to find it by.
    """

    index_codes: Mapping[str, tuple[Token, ...]]
    observation_codes: tuple[Token, ...]
    studies: tuple[StudyReference, ...]


def plan_extraction(studies: Sequence[Study]) -> ExtractionPlan:
    """The union of what the studies need.

    Raises UsageError without a study, and StudyError if a code list to search by has a code with a star:
    a server finds codes, not the beginnings of codes.
    """
    if not studies:
        raise UsageError("no study says what to extract", advice="put a study file into studies/")
    index: dict[str, dict[Token, None]] = {}
    observed: dict[Token, None] = {}
    for study in studies:
        event = study.protocol.index_event
        for source in event.sources:
            index.setdefault(source, {}).update(dict.fromkeys(_tokens(study, event.codelist)))
        for name in study.protocol.observation_codelists():
            observed.update(dict.fromkeys(_tokens(study, name)))
    return ExtractionPlan(
        index_codes={source: tuple(codes) for source, codes in index.items()},
        observation_codes=tuple(observed),
        studies=tuple(StudyReference(s.name, s.protocol_sha256) for s in studies),
    )


def _tokens(study: Study, codelist: str) -> list[Token]:
    codes: tuple[Code, ...] = study.codes(codelist)
    for code in codes:
        if code.is_prefix:
            raise StudyError(
                f"code list {codelist} has {code.code}*, and servers cannot be asked for beginnings of codes",
                where=study.name,
                advice="list the codes one by one",
            )
    return [(c.system, c.code) for c in codes]


def types_to_read(plan: ExtractionPlan, site: Site) -> tuple[str, ...]:
    """The resource types that an extraction lands, where the server offers them."""
    observed = ("Observation",) if plan.observation_codes else ()
    consent = ("Consent",) if site.consent == "required" else ()
    return ("Patient", *WHOLE_TYPES, "Medication", *observed, *consent)
