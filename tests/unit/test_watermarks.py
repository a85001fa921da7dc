"""Watermarks are facts of complete runs, and never ahead of data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rwe.landing import Run, RunFacts, TypeScope, list_runs, new_run
from rwe.watermarks import Baseline, baselines, in_order, reconciled_at, watermarks

T = datetime(2026, 3, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def land(
    landing: Path,
    scopes: Mapping[str, TypeScope],
    at: datetime = T,
    cohort: frozenset[str] = frozenset({"ann"}),
) -> Run:
    with new_run(landing, "north") as writer:
        writer.write_cohort(cohort)
        marks = {t: at.isoformat() for t, s in scopes.items() if s.is_complete}
        facts = RunFacts(route="search", time_zone="UTC", watermarks=marks, scopes=scopes)
        return writer.commit(facts)


def whole(base: Run | None = None, **fields: bool) -> TypeScope:
    since = T.isoformat() if base else None
    return TypeScope("plan", True, since, base.run if base else None, T.isoformat(), **fields)


FAILED = TypeScope("", False)


def found(landing: Path) -> dict[str, Baseline]:
    return baselines(in_order(list_runs(landing, "north")))


def test_a_type_that_failed_keeps_its_watermark_and_the_others_move_on(tmp_path: Path) -> None:
    first = land(tmp_path, {"Encounter": whole(), "Condition": whole()})
    second = land(tmp_path, {"Encounter": whole(first), "Condition": FAILED}, T + 24 * HOUR)
    assert {t: b.run for t, b in found(tmp_path).items()} == {"Encounter": second.run, "Condition": first.run}
    shown = {w.resource_type: w.at for w in watermarks(tmp_path)}
    assert shown == {"Encounter": T + 24 * HOUR, "Condition": T}


def test_a_run_built_on_one_that_is_gone_is_no_base_unless_the_lake_has_it(tmp_path: Path) -> None:
    first = land(tmp_path / "landing", {"Encounter": whole()})
    land(tmp_path / "landing", {"Encounter": whole(first)})
    first.path.rename(tmp_path / "away")
    runs = list_runs(tmp_path / "landing")
    assert baselines(runs) == {}
    assert baselines(runs, archived={first.run}).keys() == {"Encounter"}


def test_a_run_that_does_not_tell_whom_it_was_about_is_no_base(tmp_path: Path) -> None:
    run = land(tmp_path, {"Encounter": whole()})
    assert found(tmp_path)["Encounter"].patients == {"ann"}
    (run.path / "_cohort.zst").write_bytes(b"damaged")
    assert found(tmp_path) == {}


def test_the_cohort_is_kept_out_of_the_manifest_and_for_the_owner_alone(tmp_path: Path) -> None:
    run = land(tmp_path, {"Encounter": whole()}, cohort=frozenset({"pseudonym-of-ann"}))
    assert run.cohort() == {"pseudonym-of-ann"}
    assert b"pseudonym-of-ann" not in (run.path / "manifest.json").read_bytes()
    assert (run.path / "_cohort.zst").stat().st_mode & 0o777 == 0o600


def test_when_ids_were_last_compared_is_told_by_the_newest_run_that_did(tmp_path: Path) -> None:
    first = land(tmp_path, {"Encounter": whole(is_reconciled=True)})
    land(tmp_path, {"Encounter": whole(first)})
    runs = in_order(list_runs(tmp_path))
    assert reconciled_at(runs, "Encounter") == first.manifest.started_at
    assert reconciled_at(runs, "Condition") is None


def baseline(**fields: object) -> Baseline:
    known = {"watermark": T, "newest": T, "since": None, "finished_at": T, "clock_ahead": (0.0, 0.1)}
    return Baseline(run="r", plan_sha256="p", patients=frozenset(), **{**known, **fields})  # type: ignore[arg-type]


def test_the_next_night_asks_from_the_watermark_less_the_overlap() -> None:
    ten = timedelta(minutes=10)
    assert baseline().ask_from(ten, (0.0, 0.1)) is not None
    assert baseline(clock_ahead=None).ask_from(ten, None) == T - ten


def test_a_clock_that_tells_more_than_the_newest_resource_is_not_believed() -> None:
    assert baseline(watermark=T + HOUR, clock_ahead=None).ask_from(timedelta(), None) == T


def test_where_the_clock_was_set_back_that_much_more_is_asked() -> None:
    ahead = baseline(clock_ahead=(3600.0, 3600.0))
    assert ahead.ask_from(timedelta(), (0.0, 0.0)) == T - HOUR
    assert ahead.ask_from(timedelta(), (7200.0, 7200.0)) == T


def test_a_server_without_a_clock_or_dates_is_asked_for_everything() -> None:
    assert baseline(watermark=None).ask_from(timedelta(), None) is None
    assert baseline(newest=None).ask_from(timedelta(), None) is None
