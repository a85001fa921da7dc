"""One evidence document of synthetic patients with everything that is drawn at random: its bytes.

Run as a module it prints their SHA-256, so that another process with other threads can be compared.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rwe.analyse.read import StudyTables
from rwe.analyse.refresh import make_evidence
from rwe.study import Codelist, Study
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, protocol_with, registry

ASKED = [
    {"analysis": "clone_censor_weight", "role": "primary", "adjusted_for": ADJUSTED, "replicates": 12},
    {"analysis": "landmark_weighting", "adjusted_for": ADJUSTED, "replicates": 12},
    {
        "analysis": "time_dependent_cox",
        "adjusted_for": ADJUSTED,
        "stratify_by": ["site"],
        "missing": "impute",
        "imputations": 2,
    },
    {"analysis": "landmark_permutation"},
    {"analysis": "landmark_competing_risks", "adjusted_for": ADJUSTED[:3]},
]


def evidence_bytes() -> bytes:
    """evidence.json of a study made at a fixed instant."""
    cohort = registry(60)
    survival = cohort.patients.drop(columns=ADJUSTED[:3]).assign(end_reason="death")
    covariates = cohort.patients[ADJUSTED[:3]].copy()
    covariates.loc[covariates.index % 7 == 0, "log_ldh"] = np.nan
    protocol = protocol_with(*ASKED, **WITH_STATUS)
    study = Study(protocol, {n: Codelist(n, ()) for n in protocol.codelist_names()}, Path("none.yaml"))
    tables = StudyTables(
        survival=survival,
        covariates=covariates,
        changes=cohort.changes,
        toxicity=pd.DataFrame(columns=["patient_id", "toxicity", "day", "grade"]),
        intercurrent=pd.DataFrame(columns=["patient_id", "event", "day"]),
        copies=pd.DataFrame(columns=["patient_id", "day", "copies"]),
        expansion=pd.DataFrame(columns=["patient_id", "peak_copies"]),
        response=pd.DataFrame(columns=["patient_id", "status", "from_day", "until_day", "is_relapse"]),
        attrition=[],
        runs=[],
        quality=[],
        resources={},
        quarantined={},
        last_updated={},
        data_cutoff=None,
        content_sha256="0" * 64,
    )
    evidence, _ = make_evidence(study, tables, created_at=datetime(2024, 1, 1, tzinfo=UTC))
    return evidence.model_dump_json().encode()


if __name__ == "__main__":
    print(hashlib.sha256(evidence_bytes()).hexdigest())
