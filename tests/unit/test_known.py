"""What is known of a site: as it landed last, less what a run looked for and missed; however many."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rwe import id_sets
from rwe.fhir.bundle import Resource
from rwe.fhir.deletions import tombstone
from rwe.id_sets import IdShelf
from rwe.known import Known
from rwe.landing import DELETED, UNREADABLE, Run, RunFacts, new_run

TYPE = "Condition"


def _line(resource_id: str, patient: str) -> bytes:
    return b'{"resourceType":"%s","id":"%s","subject":{"reference":"Patient/%s"}}' % (
        TYPE.encode(),
        resource_id.encode(),
        patient.encode(),
    )


def _night(landing: Path, rng: random.Random, known: dict[str, str]) -> Run:
    """Lands some, of one patient or another, then says of others that they were missed; keeps `known`."""
    with new_run(landing, "a") as run:
        for _ in range(rng.randrange(60)):
            one, patient = f"c{rng.randrange(80)}", f"p{rng.randrange(3)}"
            run.write(TYPE, _line(one, patient))
            known[one] = patient
        for _ in range(rng.randrange(15)):
            one = f"c{rng.randrange(80)}"
            run.write(DELETED, tombstone(TYPE, one, None, "reconcile"))
            known.pop(one, None)
        # Deleted at an instant: a version may have been written after it. And of another type.
        run.write(DELETED, tombstone(TYPE, f"c{rng.randrange(80)}", datetime.now(UTC), "history"))
        run.write(DELETED, tombstone("Procedure", f"c{rng.randrange(80)}", None, "reconcile"))
        run.write(UNREADABLE, b"no JSON")
        return run.commit(RunFacts(route="search", time_zone="UTC"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("held", [16, 1 << 16])
def test_the_lost_are_those_known_that_did_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, held: int
) -> None:
    monkeypatch.setattr(id_sets, "_HELD", held)
    monkeypatch.setattr(id_sets, "_PORTION", held)
    rng, truth = random.Random(seed), dict[str, str]()
    runs = [_night(tmp_path / "landing", rng, truth) for _ in range(4)]
    known, shelf = Known(runs), IdShelf(tmp_path / "private")
    assert {i: r.patient for i, r in known.of(TYPE).items()} == truth

    def is_ours(resource: Resource) -> bool:
        return resource.patient in {"p0", "p2"}

    came = [f"c{n}" for n in range(80) if rng.random() < 0.5]
    expected = sorted(i for i, p in truth.items() if p in {"p0", "p2"} and i not in came)
    assert expected
    ours, everything = known.ids(TYPE, shelf, is_ours, lambda _: True)
    assert len(everything) == len(truth)
    lost = known.named(TYPE, shelf, ours.minus(shelf.new(came[::2]), shelf.new(came[1::2])))
    assert lost.count == len(expected)
    assert sorted(lost.ids()) == expected


def test_nothing_lost_reads_no_line(tmp_path: Path) -> None:
    truth: dict[str, str] = {}
    run = _night(tmp_path / "landing", random.Random(1), truth)
    known, shelf = Known([run]), IdShelf(tmp_path / "private")
    (ours,) = known.ids(TYPE, shelf, lambda _: True)
    lost = known.named(TYPE, shelf, ours.minus(shelf.new(truth)))
    for entry in run.manifest.files:
        (run.path / entry.name).unlink()
    assert (lost.count, list(lost.ids())) == (0, [])
