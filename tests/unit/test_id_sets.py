"""Sets of ids on disk: they answer as Python's own sets do, and nobody else can read them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rwe import id_sets
from rwe.errors import LandingError
from rwe.id_sets import IdSet, IdShelf


@pytest.fixture(params=["in memory", "spilled"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IdShelf:
    if request.param == "spilled":
        monkeypatch.setattr(id_sets, "_HELD", 50)
        monkeypatch.setattr(id_sets, "_COMPARED", 200)
        monkeypatch.setattr(id_sets, "_PORTION", 100)
    return IdShelf(tmp_path / "private")


def _digests(shelf: IdShelf, ids: set[str]) -> set[bytes]:
    return {shelf.digest(i) for i in ids}


def _held(ids: IdSet) -> set[bytes]:
    return {digest for portion in ids.portions() for digest in portion}


@pytest.mark.parametrize("seed", range(3))
def test_sets_on_disk_answer_as_pythons_own(shelf: IdShelf, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"obs-{n}" for n in range(300)]
    ours: list[IdSet] = [shelf.new() for _ in range(3)]
    theirs: list[set[str]] = [set() for _ in range(3)]
    for _ in range(1200):
        which, name = rng.randrange(3), rng.choice(names)
        if rng.random() < 0.6:
            ours[which].add((name,))
            theirs[which].add(name)
        else:
            ours[which].discard(name)
            theirs[which].discard(name)
    for mine, there in zip(ours, theirs, strict=True):
        assert len(mine) == len(there) > 0
        assert _held(mine) == _digests(shelf, there)
    left = ours[0].minus(ours[1], ours[2])
    expected = theirs[0] - theirs[1] - theirs[2]
    assert expected
    assert _held(left) == _digests(shelf, expected)
    assert len(left) == len(expected)


def test_what_is_added_after_a_look_counts_too(shelf: IdShelf) -> None:
    ids = shelf.new(["a", "b"])
    assert len(ids) == 2
    ids.add(["c", "a"])
    ids.discard("b")
    assert _held(ids) == _digests(shelf, {"a", "c"})


def test_an_empty_set_is_false_and_takes_nothing_away(shelf: IdShelf) -> None:
    empty, some = shelf.new(), shelf.new(["a"])
    assert not empty
    assert some
    assert not some.minus(some)
    assert _held(some.minus(empty)) == _digests(shelf, {"a"})
    assert list(empty.portions()) == []


def test_a_great_many_are_handed_out_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_sets, "_PORTION", 100)
    ids = IdShelf(tmp_path).new(f"obs-{n}" for n in range(2000))
    sizes = [len(portion) for portion in ids.portions()]
    assert sum(sizes) == 2000
    assert max(sizes) < 200


def test_the_disk_holds_no_id_and_no_file_that_a_killed_process_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_sets, "_HELD", 10)
    folder, opened = tmp_path / "private", list[int]()
    open_file = IdShelf.open_file

    def watched(self: IdShelf) -> int:
        opened.append(open_file(self))
        return opened[-1]

    monkeypatch.setattr(IdShelf, "open_file", watched)
    shelf = IdShelf(folder)
    names = [f"canary-{n}" for n in range(40)]
    ids = shelf.new(names)
    assert len(ids) == 40
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []
    content = os.pread(opened[0], 1 << 20, 0)
    assert len(content) == 40 * 16
    assert b"canary" not in content
    assert _digests(IdShelf(folder), set(names)).isdisjoint(_digests(shelf, set(names)))
    del ids
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(opened[0])


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_sets, "_HELD", 10)
    (tmp_path / "private").write_text("a file where the folder should be")
    with pytest.raises(LandingError, match="could not be noted on disk"):
        IdShelf(tmp_path / "private").new(f"obs-{n}" for n in range(20))
