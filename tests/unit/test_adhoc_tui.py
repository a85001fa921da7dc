"""The SQL IDE of `rwe sql --tui` is the same locked session: what `rwe sql` refuses, it refuses."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rwe.adhoc.session import LockedSession, PublishedDatabase, locked_session
from tests.support import missing
from tests.unit.adhoc_attacks import ATTACKS, KEY, Target, listening, make_target

if TYPE_CHECKING:
    from rwe.adhoc.tui import LockedHarlequin


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if find_spec("harlequin") is None:
        missing("harlequin (the extra adhoc)")


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("tui") / request.param
    return make_target(folder, is_encrypted=request.param == "encrypted")


@pytest.fixture(scope="module")
def session(target: Target) -> Iterator[LockedSession]:
    with locked_session(published(target)) as opened:
        yield opened


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[int, list[bool]]]:
    with listening() as found:
        yield found


def published(target: Target) -> PublishedDatabase:
    return PublishedDatabase(target.path, bytes.fromhex(KEY) if target.key_file else None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_fails_with_a_sentence_and_changes_nothing(
    attack: str, target: Target, session: LockedSession, listener: tuple[int, list[bool]]
) -> None:
    from harlequin.exception import HarlequinQueryError

    from rwe.adhoc.tui import LockedAdapter

    port, came = listener
    before = target.state()
    connection = LockedAdapter(session).connect()
    with pytest.raises(HarlequinQueryError) as refused:
        connection.execute(target.sql(attack, port))
    assert re.fullmatch(r"((statement|line) \d+: )?.+\.", refused.value.msg)
    assert came == []
    assert target.state() == before


def test_a_menu_of_the_catalog_cannot_drop_a_table(session: LockedSession, target: Target) -> None:
    from harlequin.exception import HarlequinQueryError

    from rwe.adhoc.tui import LockedAdapter

    connection = LockedAdapter(session).connect()
    (database,) = connection.get_catalog().items
    assert database.label == "rwe"
    (schema,) = [s for s in database.fetch_children() if s.label == "cohort"]
    (table,) = schema.fetch_children()
    assert [column.label for column in table.fetch_children()] == ["study", "time_days"]
    for statement in (f"drop table {table.qualified_identifier}", f"use {schema.qualified_identifier}"):
        with pytest.raises(HarlequinQueryError, match="not let through"):
            table.connection.execute(statement)


def test_the_running_ide_answers_questions_refuses_attacks_and_keeps_nothing_on_disk(
    session: LockedSession, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    before = target.state()

    async def use(app: LockedHarlequin, pilot: Any) -> None:
        await ask(app, pilot, "select count(*) as typed_by_somebody from cohort.survival")
        await until(pilot, lambda: app.results_viewer.tab_count == 1)
        assert refusal(app) is None
        for attack in ("copy to its log under explain analyze", "attach", "read a file", "set threads"):
            await ask(app, pilot, target.sql(attack))
            await until(pilot, lambda: "is not let through" in (refusal(app) or ""))
            await pilot.press("escape")
            await until(pilot, lambda: refusal(app) is None)
        app.action_show_files()  # the browsers of files and of S3 stay shut
        app.action_show_s3()
        await pilot.pause()
        assert len(app.screen_stack) == 1

    in_the_ide(session, use)
    assert target.state() == before
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path)
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and b"typed_by_somebody" in p.read_bytes()]
    assert kept == []


def in_the_ide(session: LockedSession, use: Callable[[LockedHarlequin, Any], Awaitable[None]]) -> None:
    """Run the IDE without a terminal, use it, and leave it as a user does."""
    from rwe.adhoc.tui import LockedHarlequin, private_homes

    async def run(opened: LockedSession) -> None:
        app = LockedHarlequin(opened)
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: app.editor is not None and app.connection is not None)
            await use(app, pilot)
            await app.action_quit()

    with private_homes():
        asyncio.run(run(session))


async def ask(app: LockedHarlequin, pilot: Any, query: str) -> None:
    assert app.editor is not None
    app.editor.text = query
    await pilot.pause()
    app.editor.focus()
    await app.action_run_query()


def refusal(app: LockedHarlequin) -> str | None:
    """The text of the error dialog, if it is open."""
    if len(app.screen_stack) == 1:
        return None
    return " ".join(str(getattr(part, "content", "")) for part in app.screen.query("Static"))


async def until(pilot: Any, is_so: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_so():
            return
        await pilot.pause(0.05)
    pytest.fail("the IDE did not get there")
