"""A long pull is shared out: no worker is left without work, and no request names too many patients."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.config import Site
from rwe.fhir.capability import Capability
from rwe.fhir.client import FhirClient
from rwe.harvest import Harvest
from rwe.landing import RunWriter
from rwe.progress import SILENT
from rwe.side_by_side import batches


def size_for(patients: int, **settings: float) -> int:
    site = Site.model_validate(
        {"base_url": "http://127.0.0.1:9/fhir", "allow_plain_http": "loopback only", **settings}
    )
    with FhirClient("clinic", site) as client:
        harvest = Harvest(client, site, cast("Capability", None), cast("RunWriter", None), SILENT)
        return harvest.fair_size(patients)


@given(st.integers(1, 3_000), st.integers(1, 500), st.integers(1, 64))
def test_every_worker_gets_a_like_share(patients: int, most: int, workers: int) -> None:
    size = size_for(patients, patients_per_request=most, max_concurrency=workers)
    sizes = [len(b) for b in batches(range(patients), size)]
    assert 1 <= max(sizes) <= most
    rounds = -(-len(sizes) // workers)
    # No more turns than with full batches, and the longest share is no longer than an equal one.
    assert rounds <= -(-patients // (most * workers))
    assert max(sizes) <= -(-patients // (rounds * workers))


@pytest.mark.parametrize(("patients", "batches_expected"), [(160, 8), (100, 8), (20, 7), (3, 3), (321, 23)])
def test_eight_workers_have_something_to_do(patients: int, batches_expected: int) -> None:
    size = size_for(patients, patients_per_request=20, max_concurrency=8)
    assert len(batches(range(patients), size)) == batches_expected


def test_where_requests_a_second_are_limited_as_few_as_possible_are_sent() -> None:
    settings = {"patients_per_request": 20, "max_concurrency": 8, "max_requests_per_second": 2.0}
    assert size_for(60, **settings) == 20
