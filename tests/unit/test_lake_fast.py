"""The fast way into the lake gives the rows that the careful way gives, whatever the lines are."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwe.config import Workspace
from rwe.lake import fast
from rwe.lake.careful import CarefulReader
from rwe.lake.columns import FAST_TYPES
from rwe.lake.schema import LAKE_TABLES
from rwe.lake.write import TypeCounts, update_lake
from rwe.landing import Run, RunFacts, new_run
from rwe.warehouse import lake_views
from tests.integration.landed import land_lines, new_workspace
from tests.support import shared
from tests.unit.odd_resources import PLAIN, lines

NEVER = 10**9
Rows = list[tuple[Any, ...]]


def brought_in(
    workspace: Workspace, run: Run, resource_type: str, fast_from: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Rows, Rows, TypeCounts]:
    """Rows, quarantine and counts of a type after bringing its run in one of the two ways."""
    monkeypatch.setattr(fast, "FAST_FROM", fast_from)
    with closing(duckdb.connect()) as db:
        for marker in workspace.lake.rglob("*.json"):
            marker.unlink()
        [counts] = update_lake(workspace).added
        rows: Rows = []
        files = [str(p) for p in (workspace.lake / resource_type).rglob("*.parquet")]
        if files:
            names = ", ".join(LAKE_TABLES[resource_type])
            rows = db.execute(f"select {names} from read_parquet(?) order by line", [files]).fetchall()
        refused = db.execute(
            "select * from read_parquet(?) order by all", [str(workspace.quarantine / "*" / "*.parquet")]
        ).fetchall()
    return rows, refused, counts.types[resource_type]


def same_both_ways(
    workspace: Workspace,
    resource_type: str,
    landed: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    zone: str = "UTC",
) -> Rows:
    run = land_lines(workspace, "north", [(resource_type, line) for line in landed], zone)
    carefully = brought_in(workspace, run, resource_type, NEVER, monkeypatch)
    quickly = brought_in(workspace, run, resource_type, 0, monkeypatch)
    assert quickly[2] == carefully[2]
    assert quickly[1] == carefully[1]
    for one, other in zip(quickly[0], carefully[0], strict=True):
        assert one == other
    return quickly[0]


@pytest.mark.parametrize("resource_type", sorted(FAST_TYPES))
@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_odd_lines_come_out_the_same_both_ways(
    seed: int, resource_type: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = new_workspace(tmp_path_factory.mktemp("odd"))
    zone = ("UTC", "Europe/Berlin", "America/New_York")[seed % 3]
    with pytest.MonkeyPatch.context() as patch:
        same_both_ways(workspace, resource_type, lines(seed, 150, resource_type), patch, zone)


@pytest.mark.parametrize("resource_type", sorted(FAST_TYPES))
def test_what_is_in_order_goes_the_fast_way(
    resource_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above compares the careful way with itself."""
    made = new_workspace(tmp_path)
    workspace = Workspace(made.root, made.settings.model_copy(update={"validation": "off"}))
    plain = [r for r in PLAIN if r["resourceType"] == resource_type]
    texts = [json.dumps(r | {"id": f"r{i}"}) for i, r in enumerate(plain)]
    landed = [text.encode() for text in texts if not any(rare in text for rare in _KEPT_BACK)]
    monkeypatch.setattr(CarefulReader, "take", lambda *_: pytest.fail("a line was doubted"))
    monkeypatch.setattr(fast, "FAST_FROM", 0)
    land_lines(workspace, "north", [(resource_type, line) for line in landed], "Europe/Berlin")
    [counts] = update_lake(workspace).added
    assert counts.types[resource_type] == TypeCounts(landed=len(landed), stored=len(landed))


#: Rare forms that are left to the careful way, and a text that may not enter.
_KEPT_BACK = ("valueRange", "valueRatio", "rateRatio", "Positive")


def test_the_shared_samples_come_out_the_same_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, list[bytes]] = {}
    for path in sorted(shared("fhir-samples").rglob("*.json")):
        found.setdefault(path.name.partition("-")[0], []).append(path.read_bytes().replace(b"\n", b" "))
    for resource_type in sorted(FAST_TYPES & found.keys()):
        workspace = new_workspace(tmp_path / resource_type)
        rows = same_both_ways(workspace, resource_type, found[resource_type], monkeypatch)
        assert len(rows) > len(found[resource_type]) / 3


def test_a_line_that_duckdb_refuses_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = new_workspace(tmp_path)
    good = [f'{{"resourceType":"Patient","id":"p{i}","gender":"male"}}'.encode() for i in range(200)]
    bad = [
        b'{"resourceType":"Patient","id":"a","gender":"male","link":[{"type":"replaces","type":"seealso"}]}',
        b'{"resourceType":"Patient","id":"b","multipleBirthInteger":1e999}',
        b'{"resourceType":"Patient","id":"c","name":"\xff"}',
        b'{"resourceType":"Patient","id":"d","rwe_line":1}',
    ]
    rows = same_both_ways(workspace, "Patient", [*good[:100], *bad, *good[100:]], monkeypatch)
    assert [row[3] for row in rows if row[3] <= 100 or row[3] > 104] == [*range(1, 101), *range(105, 205)]


def test_rows_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = new_workspace(tmp_path)
    landed = [
        json.dumps(PLAIN[2] | {"id": f"r{i}", "note": [{"text": "x" * 900}]}).encode() for i in range(20_000)
    ]
    run = land_lines(workspace, "north", [("Observation", line) for line in landed])
    found = []
    opened = fast.open_duckdb
    for threads in (1, 4):

        def with_threads(*given: Any, threads: int = threads, **more: Any) -> duckdb.DuckDBPyConnection:
            connection = opened(*given, **more)
            connection.execute(f"set threads = {threads}")
            return connection

        monkeypatch.setattr(fast, "open_duckdb", with_threads)
        for marker in workspace.lake.rglob("*.json"):
            marker.unlink()
        update_lake(workspace)
        [path] = (workspace.lake / "Observation").rglob(f"run={run.run}.parquet")
        with closing(duckdb.connect()) as db:
            found.append(
                db.execute(
                    "select line, hash(t) from read_parquet(?) t order by line", [str(path)]
                ).fetchall()
            )
    assert found[0] == found[1]
    assert len(found[0]) >= 19_000


def test_an_encrypted_workspace_gets_the_same_rows_and_nothing_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "5a" * 32)
    made = new_workspace(tmp_path)
    workspace = Workspace(made.root, made.settings.model_copy(update={"validation": "off"}))
    text = {"code": {"coding": [{"system": "http://loinc.org", "code": "2532-0"}], "text": "ZZLEGIBLE"}}
    landed = [json.dumps(PLAIN[2] | text | {"id": f"r{i}"}).encode() for i in range(50)]
    with new_run(workspace.landing, "north", cipher=workspace.cipher()) as run:
        for line in [*landed, b'{"resourceType":"Observation","id":"x"}']:
            run.write("Observation", line)
        run.commit(RunFacts(route="import", time_zone="UTC"))
    monkeypatch.setattr(fast, "FAST_FROM", 0)
    [counts] = update_lake(workspace).added
    assert counts.types["Observation"] == TypeCounts(landed=51, stored=50, quarantined=1)
    with closing(duckdb.connect()) as db:
        lake_views.create(db, workspace.lake, workspace.quarantine, cipher=workspace.cipher())
        found = db.execute("select count(*), min(value_number) from lake.observation").fetchone()
    assert found == (50, 7.1)
    files = [p for p in workspace.root.rglob("*") if p.is_file()]
    assert not any(b"ZZLEGIBLE" in p.read_bytes() or p.suffix == ".parquet" for p in files)
