"""What the hub sees is the same for all data with one total; keys and streams are used once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rwe.analyse.read import StudyTables
from rwe.config import Workspace
from rwe.federate import fixed_point, guards, hub, site
from rwe.federate.documents import Request, canonical, read_answer, read_request
from rwe.federate.masks import Stream, derive_key, keystream, shared_secret
from rwe.federate.plan import make_plan
from rwe.federate.result import FederatedResult
from rwe.federate.site import own_tables
from rwe.federate.sums import site_rows, site_sums
from rwe.identity import read_identity
from rwe.study import Study
from tests.federate.hospitals import NO_MINIMUM, THREE, Hospitals, answer_in, approve_everywhere

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def refresh_with(
    made: Hospitals,
    post: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    data_of: dict[str, str],
    stream_at: Stream | None = None,
    shifted: bool = False,
) -> FederatedResult:
    """A refresh in which each site holds the patients of `data_of[site]`; the hub's dice are fixed.

    `shifted`: the masks of sites A and B are those that map B's data at A onto A's own.
    """
    made.forget()
    for name in THREE:
        made.settings(name, **NO_MINIMUM)
    approve_everywhere(made, THREE)
    dice: Iterator[int] = itertools.count(1)
    monkeypatch.setattr(hub.secrets, "token_hex", lambda n: f"{next(dice):0{2 * n}x}")

    def tables_at(workspace: Workspace, study: Study, progress: object = None) -> StudyTables:
        return own_tables(made.workspace(data_of[workspace.root.parent.name]), study)

    monkeypatch.setattr(site, "own_tables", tables_at)
    asked = hub.init(made.workspace("hub"), made.study(), THREE, post, now=NOW)
    while True:
        stream = stream_at or keystream
        if shifted:
            stream = shifted_stream(made, read_request(asked.path).document)
        for name in THREE:
            site.answer(
                made.workspace(name), asked.path, post, now=NOW + timedelta(hours=asked.step), stream=stream
            )
        found = hub.combine(
            made.workspace("hub"), asked.refresh, post, post, now=NOW + timedelta(hours=asked.step)
        )
        if isinstance(found, FederatedResult):
            return found
        asked = found


def pair_key(made: Hospitals, request: Request, one: str, other: str) -> bytes:
    """The key of a pair of sites for one request, as either of them derives it."""
    secret = shared_secret(
        read_identity(made.workspace(one)).agreement,
        read_identity(made.workspace(other)).public.agreement_key(),
    )
    return derive_key(secret, f"{one}\n{other}\n".encode() + canonical(request))


def encoded(made: Hospitals, name: str, request: Request) -> list[int]:
    study = made.study(name)
    plan = make_plan(study, 0)
    rows = site_rows(study, plan, own_tables(made.workspace(name), study))
    return [fixed_point.encode(v, addends=3) for v in site_sums(rows, plan, request.step, request.beta)]


def shifted_stream(made: Hospitals, request: Request) -> Stream:
    """The stream of every pair as it is, but that of A and B moved by what their data differ in."""
    key_ab = pair_key(made, request, "siteA", "siteB")
    moved = [
        a - b for a, b in zip(encoded(made, "siteA", request), encoded(made, "siteB", request), strict=True)
    ]

    def stream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
        made_of_it = keystream(key, nonce, counter, length)
        if key != key_ab:
            return made_of_it
        numbers = [int.from_bytes(made_of_it[i : i + 16], "little") for i in range(0, length, 16)]
        return b"".join(
            ((n + m) % fixed_point.MODULUS).to_bytes(16, "little")
            for n, m in zip(numbers, moved, strict=True)
        )

    return stream


def test_for_other_data_of_a_site_with_the_same_total_there_are_masks_that_give_the_same_files(
    hospitals: Hospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holds its own patients or those of B: the hub's files are equal byte by byte, in every field.

    Each mask of a pair is as likely as any other, so the files say nothing about which it was.
    """
    files = []
    own = {name: name for name in THREE}
    swapped = {"siteA": "siteB", "siteB": "siteA", "siteC": "siteC"}
    for data_of, shifted in ((own, False), (swapped, True)):
        post = tmp_path / f"post{shifted}"
        post.mkdir()
        refresh_with(hospitals, post, monkeypatch, data_of=data_of, shifted=shifted)
        files.append({p.name: p.read_bytes() for p in post.iterdir()})
    assert len(files[0]) > 12
    assert files[0].keys() == files[1].keys()
    for name, content in files[0].items():
        assert content == files[1][name], name
    # And the data did differ: in every number of the first step but those that both sites share.
    first = read_request(next(tmp_path.glob("postFalse/*.request.0.json"))).document
    pairs = zip(encoded(hospitals, "siteA", first), encoded(hospitals, "siteB", first), strict=True)
    assert sum(a != b for a, b in pairs) > 20


def test_no_key_nonce_and_counter_is_used_twice(
    hospitals: Hospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two whole refreshes and requests that are answered again, at each site."""
    used: list[tuple[bytes, bytes, int]] = []

    def noting(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
        used.extend((key, nonce, counter + block) for block in range(-(-length // 64)))
        return keystream(key, nonce, counter, length)

    made = hospitals
    for name in THREE:
        made.settings(name, **NO_MINIMUM)
    approve_everywhere(made, THREE)
    by_site: dict[str, list[tuple[bytes, bytes, int]]] = {name: [] for name in THREE}
    for round_ in range(2):
        post = tmp_path / str(round_)
        post.mkdir()
        asked = hub.init(made.workspace("hub"), made.study(), THREE, post)
        while True:
            for name in THREE:
                for _ in range(2):  # the second time is a repeat: nothing is drawn
                    used.clear()
                    site.answer(made.workspace(name), asked.path, post, stream=noting)
                    by_site[name] += used
            found = hub.combine(made.workspace("hub"), asked.refresh, post, post)
            if isinstance(found, FederatedResult):
                break
            asked = found
    steps = 2 * 4
    for drawn in by_site.values():
        assert len(drawn) == len(set(drawn))
        assert len({key for key, _, _ in drawn}) == 2 * steps  # one key a peer and request
    keys = Counter(key for drawn in by_site.values() for key in {k for k, _, _ in drawn})
    assert set(keys.values()) == {2}  # known to the two sites of a pair, for one request


def test_omitting_one_mask_breaks_the_total(hospitals: Hospitals, post: Path) -> None:
    made = hospitals
    for name in THREE:
        made.settings(name, **NO_MINIMUM)
    approve_everywhere(made, THREE)
    asked = hub.init(made.workspace("hub"), made.study(), THREE, post)
    request = read_request(asked.path).document
    left_out = pair_key(made, request, "siteA", "siteB")

    def without(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
        return bytes(length) if key == left_out else keystream(key, nonce, counter, length)

    for name in THREE:
        stream = without if name == "siteA" else keystream
        site.answer(made.workspace(name), asked.path, post, stream=stream)
    answers = [answer_in(post, asked.refresh, 0, n) for n in THREE]
    broken = guards.total_of(answers, make_plan(made.study(), 0), 0)
    columns = zip(*(encoded(made, name, request) for name in THREE), strict=True)
    true = [fixed_point.total(numbers) for numbers in columns]
    assert len(true) == len(broken)
    assert all(a != b for a, b in zip(broken.values(), true, strict=True))


def test_one_masked_answer_looks_like_chance(hospitals: Hospitals, post: Path) -> None:
    """Its digits do not tell small numbers from large ones, nor zeros from anything."""
    made = hospitals
    approve_everywhere(made, THREE)
    asked = hub.init(made.workspace("hub"), made.study(), THREE, post)
    given = site.answer(made.workspace("siteA"), asked.path, post)
    masked = read_answer(given.path).document.masked
    assert "0" * 32 not in masked.values()
    digits = Counter("".join(masked.values()))
    expected = sum(digits.values()) / 16
    chi_square = sum((digits[d] - expected) ** 2 / expected for d in "0123456789abcdef")
    assert chi_square < 75  # 15 degrees of freedom: chance exceeds it once in 10^9
