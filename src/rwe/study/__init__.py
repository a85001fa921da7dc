"""The protocol of a study, as its file says it.

A study file is a target-trial protocol: who is eligible, when time zero is, which strategies are compared,
what ends follow-up, which covariates are adjusted for, which analyses are asked for. Nothing in `rwe` knows
a drug or a disease: a second study is a second file. `load_study` reads a file and its code lists;
every mistake in them is a `StudyError` that names the field.

All windows and days are whole days relative to the index event (day 0), both ends inclusive.
"""

from rwe.study.analyses import Analysis, AnalysisName
from rwe.study.files import (
    CODELIST_COLUMNS,
    Codelist,
    Study,
    find_study,
    load_codelist,
    load_studies,
    load_study,
    study_schema,
)
from rwe.study.parts import (
    AgeCovariate,
    AgeCriterion,
    CalendarCovariate,
    CartCopies,
    Censoring,
    ControlStrategy,
    Covariate,
    Criterion,
    DiseaseStatus,
    EventCriterion,
    EvidenceTier,
    Exposure,
    IndexEvent,
    IndexSource,
    IntercurrentEvent,
    ObservationCovariate,
    Outcome,
    PeriodCriterion,
    PlausibleRange,
    SexCovariate,
    StatusCovariate,
    Strategies,
    Toxicity,
    TreatedStrategy,
    ValueCriterion,
    Washout,
    Window,
)
from rwe.study.protocol import RESERVED_NAMES, Protocol

__all__ = [
    "CODELIST_COLUMNS",
    "RESERVED_NAMES",
    "AgeCovariate",
    "AgeCriterion",
    "Analysis",
    "AnalysisName",
    "CalendarCovariate",
    "CartCopies",
    "Censoring",
    "Codelist",
    "ControlStrategy",
    "Covariate",
    "Criterion",
    "DiseaseStatus",
    "EventCriterion",
    "EvidenceTier",
    "Exposure",
    "IndexEvent",
    "IndexSource",
    "IntercurrentEvent",
    "ObservationCovariate",
    "Outcome",
    "PeriodCriterion",
    "PlausibleRange",
    "Protocol",
    "SexCovariate",
    "StatusCovariate",
    "Strategies",
    "Study",
    "Toxicity",
    "TreatedStrategy",
    "ValueCriterion",
    "Washout",
    "Window",
    "find_study",
    "load_codelist",
    "load_studies",
    "load_study",
    "study_schema",
]
