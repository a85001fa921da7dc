"""What of a user's SQL is let through: SELECT, and EXPLAIN of one, of functions that only read the database.

DuckDB itself says what a statement is (`extract_statements`), and its own parse tree which functions it
names. That type alone is not enough: `SELECT * FROM enable_logging(…)` changes the session,
`EXPLAIN ANALYZE COPY …` writes, `query('…')`, `json_execute_serialized_sql(…)` and `json_serialize_plan('…')`
hide SQL in a string, which the last one binds: files are opened, and it tells what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import msgspec

from rwe.errors import UsageError

#: Functions that may stand in FROM. All others are refused: they read files, take addresses of memory, run
#: SQL from strings, or change the session.
TABLE_FUNCTIONS = frozenset(
    [
        "duckdb_columns",
        "duckdb_constraints",
        "duckdb_databases",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_schemas",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "histogram",
        "histogram_values",
        "json_each",
        "json_tree",
        "pragma_database_size",
        "pragma_show",
        "pragma_table_info",
        "pragma_version",
        "range",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    ]
)
#: Functions of a value that do more than return one.
REFUSED_FUNCTIONS = frozenset(
    [
        "currval",
        "getenv",
        "nextval",
        "query",
        "read_blob",
        "read_text",
        "set_config",
        "write_log",
    ]
)
#: Functions that take SQL, a plan, or either as JSON, are refused by their names, those of later DuckDBs too.
_TAKES_SQL = re.compile(r"sql|serialize|execute|(^|_)plan|^query")

_READS = "a session reads the published database and does nothing else"
_ADVICE = {
    "COPY": "write a result with --out FILE, in the IDE with Export",
    "EXPORT": "write a result with --out FILE, in the IDE with Export",
    "ATTACH": "open other databases in a tool of your own",
    "DETACH": "open other databases in a tool of your own",
    "CREATE": "name what lies between in a WITH clause",
    "LOAD": "extensions are not loaded here",
    "SET": "the configuration is fixed; SELECT current_setting('…') shows it",
    "VARIABLE_SET": "the configuration is fixed",
    "PRAGMA": "the configuration is fixed; DESCRIBE and SUMMARIZE show a table",
    "CALL": "write SELECT * FROM a function",
    "PREPARE": "write the SELECT itself",
    "EXECUTE": "write the SELECT itself",
    "TRANSACTION": "each query sees one whole build without it",
}
_SELECT = "write a SELECT"
_PIVOT = "name the columns: PIVOT … ON column IN ('a', 'b') USING …"
_BLANK = r"(?:\s|--[^\n]*(?:\n|$)|/\*(?:[^*]|\*(?!/))*\*/)"
_EXPLAIN = re.compile(rf"^{_BLANK}*explain\b{_BLANK}*(analyze\b)?", re.IGNORECASE)


class RefusedError(UsageError):
    """A statement is not let through. Nothing of the text has run."""


@dataclass(frozen=True)
class Admitted:
    """One statement that may run, as it will be run."""

    sql: str
    is_explain: bool = False


def admitted(
    connection: duckdb.DuckDBPyConnection, text: str, *, where: str | None = None
) -> tuple[Admitted, ...]:
    """The statements of `text`, in order; none where it holds none.

    `connection` must be locked already: DuckDB reads files while it parses IMPORT DATABASE. Raises
    RefusedError where any statement is not let through, and duckdb.ParserException where the text is no SQL.
    """
    try:
        statements = connection.extract_statements(text)
    except duckdb.ParserException:
        raise
    except duckdb.Error:  # IMPORT DATABASE, which is a file's statements
        raise RefusedError(f"it is not let through: {_READS}", where=where, advice=_SELECT) from None
    found = []
    for number, statement in enumerate(statements, start=1):
        place = _place(where, number, len(statements))
        found.append(_admit(connection, statement, place))
    return tuple(found)


def _place(where: str | None, number: int, of: int) -> str | None:
    if of == 1:
        return where
    return f"{where}, statement {number}" if where else f"statement {number}"


def _admit(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, where: str | None) -> Admitted:
    kind, sql = statement.type.name, statement.query
    if kind == "SELECT":
        _check_names(connection, sql, where)
        return Admitted(sql)
    if kind == "EXPLAIN":
        return _admit_explain(connection, sql, where)
    if kind == "CREATE" and not sql.strip():  # DuckDB turns a PIVOT without columns into two statements
        raise RefusedError("PIVOT without its columns creates a type", where=where, advice=_PIVOT)
    raise _refusal(kind, where)


def _refusal(kind: str, where: str | None) -> RefusedError:
    shown = kind.replace("_", " ")
    return RefusedError(
        f"{shown} is not let through: {_READS}", where=where, advice=_ADVICE.get(kind, _SELECT)
    )


def _admit_explain(connection: duckdb.DuckDBPyConnection, sql: str, where: str | None) -> Admitted:
    """EXPLAIN or EXPLAIN ANALYZE of one SELECT, put together anew around a statement that is a SELECT."""
    head = _EXPLAIN.match(sql)
    if head is None:
        raise _refusal("EXPLAIN", where)
    try:
        inner = connection.extract_statements(sql[head.end() :])
    except duckdb.Error:  # EXPLAIN (FORMAT …) and the like
        inner = []
    if len(inner) != 1:
        raise RefusedError(
            "this EXPLAIN is not let through",
            where=where,
            advice="write EXPLAIN or EXPLAIN ANALYZE and a SELECT",
        )
    if inner[0].type.name != "SELECT":
        raise _refusal(f"EXPLAIN of {inner[0].type.name}", where)
    _check_names(connection, inner[0].query, where)
    return Admitted(f"explain {'analyze ' if head.group(1) else ''}{inner[0].query}", is_explain=True)


def _check_names(connection: duckdb.DuckDBPyConnection, sql: str, where: str | None) -> None:
    """Refuse a SELECT that names a function or a file it may not, wherever in it."""
    try:
        answer = connection.execute("select json_serialize_sql(?::varchar)", [sql]).fetchone()
        tree = msgspec.json.decode(answer[0]) if answer else {"error": True}
        is_serialized = not tree.get("error")
        named = sorted(set(_names(tree)))
    except (duckdb.Error, msgspec.DecodeError, RecursionError):
        is_serialized, named = False, []
    if not is_serialized:
        raise RefusedError(
            f"this statement is not let through: {_READS}",
            where=where,
            advice="write a SELECT, DESCRIBE or SUMMARIZE",
        )
    for role, name in named:
        if _MAY_STAND[role](name):
            continue
        what = "a file or an address" if role == "table" else f"the function {name}"
        raise RefusedError(
            f"{what} is not let through: {_READS}",
            where=where,
            advice="SELECT from the tables that `show all tables` lists",
        )


_Role = Literal["table", "table function", "function"]
_MAY_STAND: dict[_Role, Callable[[str], bool]] = {
    "table": lambda name: not any(c in name for c in "/\\.:*?"),  # DuckDB would look for a file of this name
    "table function": lambda name: name in TABLE_FUNCTIONS,
    "function": lambda name: name not in REFUSED_FUNCTIONS and not _TAKES_SQL.search(name),
}


def _names(tree: Any) -> Iterator[tuple[_Role, str]]:
    """What DuckDB's parse tree names, and as what."""
    waiting: list[tuple[_Role, Any]] = [("function", tree)]
    while waiting:
        role, node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(("function", item) for item in node)
        elif isinstance(node, dict):
            if isinstance(name := node.get("function_name"), str):
                yield role, name.lower()
            if node.get("type") == "BASE_TABLE":
                yield "table", str(node.get("table_name"))
            in_from = node.get("type") == "TABLE_FUNCTION"
            waiting.extend(
                ("table function" if in_from and key == "function" else "function", value)
                for key, value in node.items()
            )
