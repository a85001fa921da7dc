"""What a refresh is made of, as hashes: by them the next one knows that there is nothing new."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import rwe
from rwe.evidence.federated import FederatedEstimate, federated_sha256
from rwe.history.ledger import Ledger
from rwe.history.manifest import Inputs, code_sha256
from rwe.study import Study
from rwe.study.lock import ProtocolLock

if TYPE_CHECKING:
    from rwe.analyse.read import StudyTables


def inputs_of(
    study: Study,
    tables: StudyTables,
    lock: ProtocolLock,
    *,
    key: bytes,
    federated: Sequence[FederatedEstimate] = (),
) -> Inputs:
    """The inputs of a refresh: the study's own tables (a build changes with every study in it), the protocol
    with its code lists, the code, the lock, and what this workspace found as a hub.

    `key`: the pseudonyms' key. Under it the tables' hash lets no guess at their rows be checked.
    """
    return Inputs(
        tables_sha256=hmac.digest(key, f"tables|{tables_sha256(tables)}".encode(), "sha256").hex(),
        protocol_sha256=study.protocol_sha256,
        code_version=rwe.__version__,
        code_sha256=code_sha256(),
        lock_sha256=lock_sha256(lock),
        federated_sha256=federated_sha256(federated),
    )


def lock_sha256(lock: ProtocolLock) -> str:
    """A hash of the status and the log of a protocol's lock."""
    log = [[e.protocol_sha256, e.registration, e.reason, e.locked_at.isoformat()] for e in lock.entries]
    return hashlib.sha256(json.dumps([lock.status, log]).encode()).hexdigest()


def tables_sha256(tables: StudyTables) -> str:
    """A hash of the rows that analyses and descriptions of a study are made of, each table in its order."""
    digest = hashlib.sha256()
    frames = {
        "survival": tables.survival,
        "covariates": tables.covariates,
        "changes": tables.changes,
        "toxicity": tables.toxicity,
        "intercurrent": tables.intercurrent,
        "copies": tables.copies,
        "expansion": tables.expansion,
        "response": tables.response,
    }
    for i, variant in enumerate(tables.variants):
        frames |= {
            f"survival {i}": variant.survival,
            f"covariates {i}": variant.covariates,
            f"changes {i}": variant.changes,
        }
    for name, frame in frames.items():
        digest.update(f"{name}|{len(frame)}".encode())
        for column in frame.columns:
            digest.update(f"|{column}|".encode() + _bytes(frame[column]))
    steps = [[s.step, s.n_before, s.n_excluded] for s in tables.attrition]
    digest.update(json.dumps([steps, str(tables.data_cutoff), _pooled(tables)]).encode())
    return digest.hexdigest()


def _pooled(tables: StudyTables) -> list[object]:
    """What was pooled, but not by which share: the same rows shared once more are nothing new."""
    if tables.pooling is None:
        return []
    sources = [[s.site, s.source, s.patients, s.ages] for s in tables.pooling.sources]
    return [sources, tables.pooling.counted_once]


def ledger_of(tables: StudyTables, refresh: str, key_id: str) -> Ledger:
    """The ledger of a refresh that is made of these tables."""
    survival = tables.survival
    for name in ("salvage_start_day", "progression_day"):
        if name not in survival.columns:
            survival = survival.assign(**{name: np.nan})
    return Ledger(
        refresh=refresh,
        key_id=key_id,
        survival=survival,
        covariates=tables.covariates,
        changes=tables.changes,
        excluded=dict(zip(tables.excluded["patient_id"], tables.excluded["step"], strict=True)),
    )


def _bytes(column: pd.Series[Any]) -> bytes:
    """Numbers bit by bit (all that is missing alike), anything else as JSON."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isnan(values), np.nan, values + 0.0).tobytes()
    return json.dumps([None if pd.isna(v) else str(v) for v in column.tolist()]).encode()
