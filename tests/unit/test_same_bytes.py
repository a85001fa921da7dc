"""Same input and seed: byte-identical evidence, whatever the number of workers and of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from rwe.survival import bootstrap
from tests.support import ROOT
from tests.unit.evidence_twice import evidence_bytes


def test_workers_threads_and_hash_seeds_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_cores", lambda: 1)
    alone = evidence_bytes()
    # Two processes from the first replicate on: no work is too small for them here.
    pools = []
    whole = bootstrap._pool

    def counted(workers: int, work: bootstrap._Work) -> object:
        pools.append(workers)
        return whole(workers, work)

    monkeypatch.setattr(bootstrap, "_cores", lambda: 2)
    monkeypatch.setattr(bootstrap, "_WORTH_PROCESSES_S", -1.0)
    monkeypatch.setattr(bootstrap, "_pool", counted)
    assert evidence_bytes() == alone
    assert pools
    assert max(pools) == 2
    settings = {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4", "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.evidence_twice"],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(alone).hexdigest()
