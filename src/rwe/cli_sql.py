"""The commands `rwe sql` and `rwe dictionary`: questions to the published database, and what is in it."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rwe import terminal
from rwe.cli_options import WorkspaceOption, chosen_workspace, open_chosen
from rwe.errors import UsageError
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.adhoc.output import Format
    from rwe.adhoc.session import LockedSession, PublishedDatabase
    from rwe.adhoc.statements import Admitted

_MOST_BYTES = 1_000_000  # of SQL: a script longer than this is not typed by a person
_DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--database",
        metavar="FILE",
        help="A published database; else the workspace's. For accounts that cannot read the workspace.",
        show_default=False,
    ),
]
_KeyOption = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="Its key, with --database; else RWE_PUBLISHED_KEY."),
]
_OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write to this file, readable by you alone."),
]
_ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file of --out if it is there.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    names = {c.name for c in app.registered_commands}
    for name, command in (("sql", sql), ("dictionary", dictionary)):
        if name not in names:
            app.command(name)(command)


def sql(
    file: Annotated[
        str | None,
        typer.Argument(
            help="A file of SQL, the name of an example, or - for what is piped in.", show_default=False
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option("-c", "--command", metavar="QUERY", help="The SQL itself.")
    ] = None,
    *,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="table, csv, json or parquet; else as --out ends, or table."
        ),
    ] = None,
    out: _OutOption = None,
    force: _ForceOption = False,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows a table shows.")] = 40,
    tui: Annotated[bool, typer.Option("--tui", help="Open the SQL IDE instead.")] = False,
    list_examples: Annotated[bool, typer.Option("--examples", help="List the bundled examples.")] = False,
    database: _DatabaseOption = None,
    key_file: _KeyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Ask the published database: read-only, no way to files, network or settings.

    Example: rwe sql -c "select study, count(*) from cohort.survival group by study"

    Example: rwe sql 02_follow_up --out follow_up.csv
    """
    if list_examples:
        _list_examples()
        return
    if tui:
        if file is not None or query is not None or out is not None:
            raise UsageError("--tui takes no query and no --out", advice="type the query there")
        _open_tui(_database(database, key_file, workspace))
        return
    text, where = _text(file, query)
    _answer(
        _database(database, key_file, workspace), text, where, _format(form, out), out, force=force, rows=rows
    )


def dictionary(
    out: _OutOption = None,
    force: _ForceOption = False,
    database: _DatabaseOption = None,
    key_file: _KeyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write one HTML page: every table and column of the published database, what it means, where it is from.

    Example: rwe dictionary --out dictionary.html
    """
    from rwe.adhoc.dictionary import read_dictionary, render_dictionary
    from rwe.adhoc.output import new_file
    from rwe.adhoc.session import locked_session

    found = _database(database, key_file, workspace)
    with locked_session(found) as session:
        page = render_dictionary(read_dictionary(session))
    path = out or Path("dictionary.html")
    with new_file(path, force=force, never_in=found.path.parent) as f:
        f.write(page.encode())
    terminal.say(terminal.out, f"Dictionary: {path}")


def _list_examples() -> None:
    from rwe.adhoc.examples import examples

    for example in examples():
        terminal.say(terminal.out, f"{example.name}: {example.question}")


def _database(database: Path | None, key_file: Path | None, workspace: Path | None) -> PublishedDatabase:
    from rwe.adhoc.session import database_file, published_database

    if database is None:
        if key_file is not None:
            raise UsageError("--key-file goes with --database", advice="else rwe.yaml names the key")
        return published_database(open_chosen(workspace))
    if chosen_workspace(workspace) is not None:
        raise UsageError("--database and --workspace exclude each other", advice="name one of them")
    return database_file(database.expanduser().absolute(), key_file)


def _open_tui(database: PublishedDatabase) -> None:
    if find_spec("harlequin") is None or find_spec("harlequin_duckdb") is None:
        raise UsageError(
            "the SQL IDE is not installed",
            advice="install the extra in the checkout of rwe: .venv/bin/pip install -e '.[adhoc]'",
        )
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError("the SQL IDE needs a terminal", advice="without one, use -c QUERY or a FILE")
    from rwe.adhoc.tui import run_tui

    run_tui(database)


def _text(file: str | None, query: str | None) -> tuple[str, str]:
    """The SQL, and what messages call the place it is from."""
    if (file is None) == (query is None):
        raise UsageError(
            "there is no query" if file is None else "there are two queries",
            advice="give a FILE, or -c QUERY, or --tui; `rwe sql --examples` lists some",
        )
    if query is not None:
        return query, "-c"
    if file == "-":
        return _decoded(sys.stdin.buffer.read(_MOST_BYTES + 1), "standard input"), "standard input"
    return _from_file(cast(str, file))


def _from_file(name: str) -> tuple[str, str]:
    from rwe.adhoc.examples import find_example

    path = Path(name).expanduser()
    if not path.exists():
        example = find_example(name)
        if example is None:
            raise UsageError(
                "there is no such file, and no example of this name",
                where=name,
                advice="`rwe sql --examples` lists the examples; a query itself goes behind -c",
            )
        return example.sql, example.name
    try:
        with path.open("rb") as f:
            return _decoded(f.read(_MOST_BYTES + 1), name), name
    except OSError:
        raise UsageError("the file cannot be read", where=name, advice="check who may read it") from None


def _decoded(content: bytes, where: str) -> str:
    if len(content) > _MOST_BYTES:
        raise UsageError("it is longer than 1 MB", where=where, advice="give a file of SQL")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8 text", where=where, advice="give a file of SQL") from None


def _format(form: str | None, out: Path | None) -> Format:
    from rwe.adhoc.output import FORMATS, format_of

    if form is None:
        return format_of(out) if out is not None else "table"
    if form not in FORMATS:
        raise UsageError(f"--format: none of {', '.join(FORMATS)}")
    return form


def _answer(
    database: PublishedDatabase,
    text: str,
    where: str,
    form: Format,
    out: Path | None,
    *,
    force: bool,
    rows: int,
) -> None:
    from rwe.adhoc.session import locked_session

    if form == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", advice="name a file with --out")
    with locked_session(database) as session:
        statements = session.admit(text, where=where)
        if not statements:
            raise UsageError("there is no statement in it", where=where, advice="write a SELECT")
        if form != "table" and len(statements) > 1:
            raise UsageError(
                f"{form} takes one statement; there are {len(statements)}",
                where=where,
                advice="ask them one by one",
            )
        try:
            _print(session, statements, where, form, out, force=force, most_rows=rows)
        except BrokenPipeError:  # `rwe sql … | head`: whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(
    session: LockedSession,
    statements: tuple[Admitted, ...],
    where: str,
    form: Format,
    out: Path | None,
    *,
    force: bool,
    most_rows: int,
) -> None:
    from rwe.adhoc.output import new_file, write_rows

    if out is not None:
        with new_file(out, force=force, never_in=session.database.path.parent) as f:
            if form == "table":
                lines = _table_lines(session, statements, where, most_rows)
                f.write("".join(f"{line}\n" for line in lines).encode())
                told = "Table"
            else:
                told = counted(write_rows(session.run(statements[0], where=where), form, f), "row")
        terminal.say(terminal.err, f"{told}: {out}")
    elif form == "table":
        for line in _table_lines(session, statements, where, most_rows):
            typer.echo(line)
    else:
        write_rows(session.run(statements[0], where=where), form, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _table_lines(
    session: LockedSession, statements: tuple[Admitted, ...], where: str, most_rows: int
) -> list[str]:
    from rwe.adhoc.table import table, text_lines

    width = shutil.get_terminal_size((80, 24)).columns
    lines: list[str] = []
    for number, statement in enumerate(statements):
        rows = session.run(statement, where=where)
        lines += [""] if number else []
        if statement.is_explain:
            lines += text_lines(rows)
            continue
        shown = table(rows, width=width, most_rows=most_rows)
        notes = (textwrap.wrap(f"({note})", max(width, 40), break_long_words=False) for note in shown.notes)
        lines += [*shown.lines, *chain.from_iterable(notes)]
    return lines
