"""The SQL runner: one model a file, one table a model, ordered by what they read.

`sql/cohort/survival.sql` is a SELECT; its result becomes the table `cohort.survival`. The comment at its top
says what one row is and becomes the table's comment; the comment behind a column of its last SELECT becomes
the column's. A check (`sql/checks/`) is a SELECT that must return no row. Its column `detail`, if it has one,
says where a row is (study, site, resource type, rule; nothing of a patient) and ends the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, cast

import duckdb
import sqlglot
from sqlglot import exp

from rwe.errors import BuildError, RweError
from rwe.warehouse.describing import describe_table
from rwe.warehouse.portable import portability_problems
from rwe.warehouse.references import ensure_references

__all__ = [
    "Check",
    "Finding",
    "Model",
    "create_schemas",
    "describe_table",
    "load_checks",
    "load_models",
    "portability_problems",
    "run_check",
    "run_model",
]

#: The folders that hold models, each a schema of the database.
MODEL_SCHEMAS = ("staging", "cohort", "meta")
Severity = Literal["error", "warning"]
_DETAILS = 5  # the commonest that a message names


@dataclass(frozen=True)
class Model:
    """A table and the SELECT that makes it. `reads` are the tables it names, as `schema.table`."""

    name: str
    query: str
    comment: str
    columns: dict[str, str]
    reads: frozenset[str]

    @property
    def schema(self) -> str:
        return self.name.split(".", maxsplit=1)[0]


@dataclass(frozen=True)
class Check:
    """A SELECT that must return no row, and what it means if it does."""

    name: str
    query: str
    severity: Severity
    message: str
    has_detail: bool = False


@dataclass(frozen=True)
class Finding:
    """What a check found; `rows` is how many rows broke it, 0 if none did."""

    check: str
    severity: Severity
    rows: int
    message: str


def load_models(root: Path) -> list[Model]:
    """The models under `root`, each after those it reads.

    Raises RweError if a file does not parse, has no comment at its top, or models read each other in a
    circle.
    """
    models = {
        m.name: m
        for schema in MODEL_SCHEMAS
        for path in sorted((root / schema).glob("*.sql"))
        for m in [_read_model(schema, path)]
    }
    graph = {name: m.reads & models.keys() for name, m in models.items()}
    try:
        return [models[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as e:
        raise RweError(f"SQL models read each other in a circle: {', '.join(e.args[1])}") from None


def load_checks(root: Path) -> list[Check]:
    """The checks under `root`/checks, by name. Raises RweError if one does not say severity and message."""
    return [_read_check(path) for path in sorted((root / "checks").glob("*.sql"))]


def create_schemas(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the schemas that models are made in, and what they read that is neither lake nor study."""
    for schema in MODEL_SCHEMAS:
        connection.execute(f"create schema if not exists {schema}")
    ensure_references(connection)


def run_model(connection: duckdb.DuckDBPyConnection, model: Model) -> int:
    """Make the model's table with its comments; returns its number of rows. Raises BuildError."""
    try:
        made = f"create table {model.name} as select * from ({model.query}) as made order by all"  # noqa: S608
        connection.execute(made)
        describe_table(connection, model.name, model.comment, model.columns)
        found = connection.execute(f"select count(*) from {model.name}").fetchone()  # noqa: S608
    except duckdb.Error as e:
        # The text of a DuckDB error can print a value; its class cannot.
        raise BuildError(
            f"the model failed ({type(e).__name__})", where=f"sql/{model.name.replace('.', '/')}.sql"
        ) from None
    return int(found[0]) if found else 0


def run_check(connection: duckdb.DuckDBPyConnection, check: Check) -> Finding:
    """Count the rows that break a check; the message ends with their details. Raises BuildError."""
    try:
        found = connection.execute(f"select count(*) from ({check.query}) as broken").fetchone()  # noqa: S608
        rows = int(found[0]) if found else 0
        where = _details(connection, check.query) if rows and check.has_detail else ""
    except duckdb.Error as e:
        raise BuildError(
            f"the check failed ({type(e).__name__})", where=f"sql/checks/{check.name}.sql"
        ) from None
    return Finding(check.name, check.severity, rows, check.message + where)


def _details(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    counted = connection.execute(
        f"select detail, count(*) from ({query}) as broken group by detail order by 2 desc, 1"  # noqa: S608
    ).fetchall()
    shown = [f"{detail}: {rows:,}" if rows > 1 else str(detail) for detail, rows in counted[:_DETAILS]]
    more = len(counted) - len(shown)
    return f" ({', '.join(shown)}{f', and {more} more' if more else ''})"


def _read_model(schema: str, path: Path) -> Model:
    text = path.read_text(encoding="utf-8")
    comment = _leading_comment(text)
    if not comment:
        raise RweError("the model has no comment that says what one row is", where=str(path))
    tree = _parse(text, path)
    columns = {
        column.alias_or_name: " ".join(" ".join(column.comments or ()).split())
        for column in tree.selects
        if column.comments
    }
    common = {cte.alias for cte in tree.find_all(exp.CTE)}
    reads = {f"{t.db}.{t.name}" for t in tree.find_all(exp.Table) if t.db or t.name not in common}
    query = text.strip().removesuffix(";")
    return Model(f"{schema}.{path.stem}", query, comment, columns, frozenset(reads))


def _read_check(path: Path) -> Check:
    text = path.read_text(encoding="utf-8")
    tree = _parse(text, path)
    fields = dict(re.findall(r"^-- (severity|message): (.+)$", text, flags=re.MULTILINE))
    if fields.get("severity") not in {"error", "warning"} or "message" not in fields:
        raise RweError("the check does not say its severity and message", where=str(path))
    severity = cast("Severity", fields["severity"])
    query, message = text.strip().removesuffix(";"), fields["message"].strip()
    return Check(path.stem, query, severity, message, "detail" in tree.named_selects)


def _parse(text: str, path: Path) -> exp.Query:
    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
    except sqlglot.errors.ParseError as e:
        line = e.errors[0].get("line") if e.errors else None
        raise RweError(f"the SQL does not parse, line {line}", where=str(path)) from None
    if not isinstance(tree, exp.Query):
        raise RweError("the file is not one SELECT", where=str(path))
    return tree


def _leading_comment(text: str) -> str:
    lines: Sequence[str] = text.lstrip().splitlines()
    words = []
    for line in lines:
        if not line.startswith("--"):
            break
        words.append(line.removeprefix("--").strip())
    return " ".join(words).strip()
