"""The lint of the portable subset (ARCHITECTURE, decision 4): what a model may say so that DuckDB and Spark
say the same. It looks at the parsed tree, so neither comments nor texts mislead it.

Functions are on a list of those that both have, with one meaning; any other is refused until somebody has
looked it up. Whatever sqlglot cannot write for Spark is refused too.
"""

from __future__ import annotations

from typing import Any

import sqlglot
from sqlglot import exp

#: Names as sqlglot has them. Beside each that is not in every engine alike, what to mind.
_FUNCTIONS = frozenset(
    {
        "ABS",
        "ARRAY_SIZE",  # of null: null here, -1 there: coalesce it and compare with <= 0
        "AVG",
        "CAST",
        "CASE",
        "CEIL",
        "COALESCE",
        "CONCAT",
        "COUNT",
        "DATE_ADD",  # a date and whole days: the same on both
        "DATEDIFF",  # days only
        "DATE_FROM_PARTS",
        "EXISTS",
        "FLOOR",
        "GREATEST",  # nulls are left out
        "IF",
        "LAG",
        "LEAD",
        "LEAST",  # nulls are left out
        "LENGTH",
        "LN",
        "LOWER",
        "MAX",
        "MIN",
        "PAD",
        "RANK",
        "REPLACE",
        "ROUND",
        "ROW_NUMBER",
        "SPLIT_PART",
        "STR_POSITION",
        "SUBSTRING",
        "SUM",
        "TRIM",
        "UNNEST",
        "YEAR",
        "MONTH",
        "AND",
        "OR",
        "XOR",
    }
)

_NOT_PORTABLE: tuple[tuple[type[exp.Expression], str], ...] = (
    (exp.TryCast, "try_cast"),
    (exp.PercentileCont, "percentile_cont"),
    (exp.Quantile, "quantile"),
    (exp.Median, "median"),
    (exp.Bracket, "a list subscript"),
    (exp.Lambda, "a lambda"),
    (exp.Parameter, "a parameter"),
    (exp.Placeholder, "a parameter"),
    (exp.Pivot, "pivot or unpivot"),
    (exp.WithinGroup, "within group"),
    (exp.ILike, "ilike"),
    (exp.SimilarTo, "similar to"),
)


def portability_problems(query: str) -> list[str]:
    """What in a model would mean something else on Spark, or nothing; sorted, each once."""
    tree = sqlglot.parse_one(query, dialect="duckdb")
    problems = [reason for kind, reason in _NOT_PORTABLE if tree.find(kind)]
    problems += _functions(tree)
    problems += _joins(tree)
    problems += _selections(tree)
    for cast_ in tree.find_all(exp.Cast):
        if isinstance(cast_.parent, exp.Unnest):
            problems.append("a cast inside unnest")
    for difference in tree.find_all(exp.DateDiff):
        unit = difference.args.get("unit")
        if unit is None or unit.name.lower() != "day":
            problems.append("date_diff of another unit than day")
    for addition in tree.find_all(exp.DateAdd):
        if isinstance(addition.expression, exp.Interval) or addition.args.get("unit"):
            problems.append("date_add of an interval")
    for union in tree.find_all(exp.SetOperation):
        if union.args.get("by_name"):
            problems.append("union by name")
    for operation in [*tree.find_all(exp.Add), *tree.find_all(exp.Sub)]:
        if any(_is_date(side) for side in (operation.left, operation.right)):
            problems.append("arithmetic on a date")
    return sorted(set(problems) | set(_not_in_spark(tree)))


def _functions(tree: exp.Expr) -> list[str]:
    found = []
    for function in tree.find_all(exp.Func):
        name = function.name if isinstance(function, exp.Anonymous) else function.sql_name()
        if name.upper() not in _FUNCTIONS:
            found.append(f"the function {name.lower()}")
    return found


def _joins(tree: exp.Expr) -> list[str]:
    problems = []
    for join in tree.find_all(exp.Join):
        if join.side and isinstance(join.this, exp.Unnest):
            problems.append("left join unnest")
        if (join.method or "").upper() in {"ASOF", "POSITIONAL"}:
            problems.append(f"{join.method.lower()} join")
        if isinstance(join.this, exp.Unnest) and join.this.args.get("offset"):
            problems.append("unnest with ordinality")  # from 1 or from 0; and slow here
        if (join.kind or "").upper() in {"SEMI", "ANTI"}:
            problems.append(f"{join.kind.lower()} join")
    return problems


def _selections(tree: exp.Expr) -> list[str]:
    """Spellings that only DuckDB has, or that hide what is selected."""
    problems = []
    for select in tree.find_all(exp.Select):
        distinct = select.args.get("distinct")
        if distinct is not None and distinct.args.get("on"):
            problems.append("distinct on")
        group = select.args.get("group")
        if group is not None and any(group.args.get(word) for word in ("all", "rollup", "cube")):
            problems.append("group by all, rollup or cube")
        if select.args.get("sample"):
            problems.append("a sample")
    for star in tree.find_all(exp.Star):
        if any(star.args.get(word) for word in ("except", "except_", "exclude", "replace", "rename")):
            problems.append("a star that leaves out or replaces columns")
    for with_ in tree.find_all(exp.With):
        if with_.recursive:
            problems.append("a recursive query")
    if any(cte.args.get("materialized") is not None for cte in tree.find_all(exp.CTE)):
        problems.append("materialized")
    return problems


def _not_in_spark(tree: exp.Expr) -> list[str]:
    try:
        tree.sql(dialect="spark", unsupported_level=sqlglot.ErrorLevel.RAISE)
    except sqlglot.errors.UnsupportedError:
        return ["what sqlglot cannot write for Spark"]
    return []


def _is_date(side: Any) -> bool:
    named_date = isinstance(side, exp.Column) and side.name.endswith(("_date", "_first_day", "_last_day"))
    return named_date or isinstance(side, exp.Interval)
