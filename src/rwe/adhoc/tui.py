"""The SQL IDE of `rwe sql --tui`: Harlequin on a locked session.

Whatever is typed, picked from a menu or run from a catalog's context menu passes `LockedConnection.execute`.
Harlequin keeps buffers and caches on disk: here they lie in a private folder that goes with the session, for
a query can name a patient.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harlequin import Harlequin  # type: ignore[import-not-found,unused-ignore]
from harlequin.exception import HarlequinQueryError  # type: ignore[import-not-found,unused-ignore]
from harlequin_duckdb.adapter import (  # type: ignore[import-not-found,unused-ignore]
    DuckDbAdapter,
    DuckDbConnection,
    DuckDbCursor,
)

from rwe.adhoc.session import LockedSession, PublishedDatabase, locked_session
from rwe.errors import RweError

_TITLE = "Not run"
_MESSAGE = "Read-only: the published database, and nothing else."
_HOMES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


class LockedConnection(DuckDbConnection):  # type: ignore[misc,unused-ignore]
    """Harlequin's connection, through which only admitted statements pass."""

    def __init__(self, session: LockedSession) -> None:
        super().__init__(conn=session.connection, init_message=_MESSAGE)
        self._session = session

    def execute(self, query: str) -> DuckDbCursor | None:
        """Run one statement, if it is let through; else raise HarlequinQueryError with the sentence."""
        try:
            statements = self._session.admit(query)
        except RweError as e:
            raise HarlequinQueryError(msg=str(e), title=_TITLE) from None
        if not statements:
            return None
        if len(statements) > 1:
            raise HarlequinQueryError(msg="Run one statement at a time.", title=_TITLE)
        return super().execute(statements[0].sql)

    def close(self) -> None:
        """Nothing: the session closes its connection."""

    def _get_databases(self) -> list[tuple[str]]:
        """The published database alone, without the empty one that an encrypted session stands on."""
        query = "select current_database()"
        found = self.conn.execute(query).fetchone()
        return [(str(found[0]),)] if found else []


class LockedAdapter(DuckDbAdapter):  # type: ignore[misc,unused-ignore]
    """Gives Harlequin the session that is open already; no path, option or init file can open another."""

    def __init__(self, session: LockedSession) -> None:
        super().__init__(conn_str=(str(session.database.path),), no_init=True, read_only=True)
        self._session = session

    @property
    def connection_id(self) -> str:
        """Empty: nothing is cached under it."""
        return ""

    def connect(self) -> LockedConnection:
        return LockedConnection(self._session)


class LockedHarlequin(Harlequin):  # type: ignore[misc,unused-ignore]
    """Harlequin without its browsers of files and of S3."""

    CSS_PATH = [Path(inspect.getfile(Harlequin)).with_name(name) for name in ("global.tcss", "app.tcss")]  # noqa: RUF012

    def __init__(self, session: LockedSession, **options: Any) -> None:
        super().__init__(LockedAdapter(session), record_history=False, no_download_tzdata=True, **options)

    def action_show_files(self) -> None:
        """Refused."""
        self.notify(_MESSAGE, severity="warning")

    def action_show_s3(self) -> None:
        """Refused."""
        self.notify(_MESSAGE, severity="warning")


@contextmanager
def private_homes() -> Iterator[Path]:
    """Folders for what Harlequin writes by itself, gone at the end."""
    before = {name: os.environ.get(name) for name in _HOMES}
    with tempfile.TemporaryDirectory(prefix="rwe-tui-") as folder:
        os.environ.update(dict.fromkeys(_HOMES, folder))
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def run_tui(database: PublishedDatabase) -> None:
    """Open the IDE on a published database, until the user leaves it. Raises as `locked_session` does."""
    mask = os.umask(0o077)  # what the user exports is the user's alone
    try:
        with private_homes(), locked_session(database) as session:
            LockedHarlequin(session).run()
    finally:
        os.umask(mask)
