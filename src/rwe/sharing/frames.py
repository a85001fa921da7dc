"""The tables of a share: what each column is, as Parquet and back, and the hash of their content.

    survival        one row a patient of the analysed cohort, whole days from the index event
    covariate       one row a known baseline covariate
    change          one row a change of a covariate over time
    toxicity, intercurrent, copies, expansion, response     as the study asks for them, else without rows
    index_date      one row a patient; only where exact dates were agreed
    link            one row a patient with a link token; dropped by the hub after use
    erased          one row a patient whom the site erased; not kept by the hub after use

A patient is a pseudonym made for one study: 32 hex digits. Nothing else in a share is of one patient.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rwe.errors import RweError
from rwe.warehouse.identity import content_hash

_TEXT, _DAY, _FLOAT, _BOOL = pa.string(), pa.int32(), pa.float64(), pa.bool_()
_PATIENT: Final = ("patient_id", _TEXT, False)

#: Table → columns as (name, type, may it be null).
LAYOUTS: Final[dict[str, tuple[tuple[str, pa.DataType, bool], ...]]] = {
    "survival": (
        _PATIENT,
        ("time_days", _DAY, False),
        ("is_event", _BOOL, False),
        ("start_day", _DAY, True),
        ("salvage_start_day", _DAY, True),
        ("progression_day", _DAY, True),
        ("end_reason", _TEXT, False),
    ),
    "covariate": (_PATIENT, ("covariate", _TEXT, False), ("value", _FLOAT, False)),
    "change": (_PATIENT, ("covariate", _TEXT, False), ("day", _DAY, False), ("value", _FLOAT, False)),
    "toxicity": (_PATIENT, ("toxicity", _TEXT, False), ("day", _DAY, False), ("grade", _DAY, True)),
    "intercurrent": (_PATIENT, ("event", _TEXT, False), ("day", _DAY, False)),
    "copies": (_PATIENT, ("day", _DAY, False), ("copies", _FLOAT, False)),
    "expansion": (
        _PATIENT,
        ("peak_copies", _FLOAT, True),
        ("peak_day", _DAY, True),
        ("auc_0_28", _FLOAT, True),
        ("last_detectable_day", _DAY, True),
        ("last_measured_day", _DAY, True),
    ),
    "response": (
        _PATIENT,
        ("status", _TEXT, False),
        ("from_day", _DAY, False),
        ("until_day", _DAY, True),
        ("is_relapse", _BOOL, False),
    ),
    "index_date": (_PATIENT, ("index_date", pa.date32(), False)),
    "link": (_PATIENT, ("token", _TEXT, False), ("masked_day", pa.int64(), False)),
    "erased": (_PATIENT,),
}
#: Tables that a share may lack.
OPTIONAL: Final = frozenset({"index_date", "link", "erased"})
#: Tables that the hub uses and does not keep, so that they are no part of the content.
PASSING: Final = frozenset({"link", "erased"})
#: What no two rows of a table have in common, beside the patient. A laboratory may grade a day in two units,
#: so toxicities may repeat.
_KEYS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("survival", "expansion", "index_date", "link", "erased"), ()),
    "covariate": ("covariate",),
    "change": ("covariate", "day"),
    "intercurrent": ("event",),
    "copies": ("day",),
    "response": ("from_day",),
}
MOST_BYTES: Final = 1 << 30
MOST_ROWS: Final = 20_000_000
_PSEUDONYM: Final = "^[0-9a-f]{32}$"


class ShareError(RweError):
    """A share cannot be made, or what arrived is not to be taken."""


def broken_share(what: str, where: str) -> ShareError:
    """The error of a share that breaks its own rules: only its site can make it anew."""
    return ShareError(what, where=where, advice="ask the site to share anew")


@dataclass(frozen=True)
class Tables:
    """The tables of one share by name, each as its layout says, sorted."""

    tables: Mapping[str, pa.Table]

    def __getitem__(self, name: str) -> pa.Table:
        """A table; one that the share lacks has no rows."""
        return self.tables[name] if name in self.tables else schema(name).empty_table()

    def rows(self) -> dict[str, int]:
        """Table → how many rows."""
        return {name: table.num_rows for name, table in self.tables.items()}

    def without(self, name: str) -> Tables:
        """All tables but one."""
        return Tables({n: t for n, t in self.tables.items() if n != name})

    def content_sha256(self) -> str:
        """The hash of what is in them, by sorted rows: of pseudonyms of this study and days from index. Link
        tokens and who was erased do not count: they are gone after use, and the content is what it was."""
        with duckdb.connect(":memory:") as connection:
            connection.execute("create schema shared")
            for name, table in self.tables.items():
                if name not in PASSING:
                    connection.register("incoming", table)
                    connection.execute(f"create table shared.{name} as from incoming")
                    connection.unregister("incoming")
            return content_hash(connection, [f"shared.{n}" for n in self.tables if n not in PASSING])


def schema(name: str) -> pa.Schema:
    """The schema of a table."""
    return pa.schema([pa.field(c, kind, nullable=null) for c, kind, null in LAYOUTS[name]])


def laid_out(name: str, table: pa.Table) -> pa.Table:
    """The table with the columns and types of its layout, its rows sorted: no order tells of an earlier one.

    Raises pyarrow.ArrowInvalid where a value does not fit.
    """
    wanted = schema(name)
    cast = table.select(wanted.names).cast(wanted)
    return cast.sort_by([(c, "ascending") for c in wanted.names])


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, without anything about the program's surroundings."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def from_parquet(name: str, content: bytes, where: str) -> pa.Table:
    """The table in a Parquet file that somebody else made.

    Raises ShareError where it is no such file, too large, of another layout, or breaks its rules.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > MOST_ROWS:
            raise broken_share(f"the table {name} has more than {MOST_ROWS:,} rows", where)
        found = file.schema_arrow.remove_metadata()
        wanted = [(c, kind) for c, kind, _ in LAYOUTS[name]]
        if [(f.name, f.type) for f in found] != wanted:
            raise ShareError(
                f"the table {name} has other columns than a share of this version",
                where=where,
                advice="ask the site to share with the hub's version of rwe",
            )
        table = file.read()
    except (pa.ArrowException, OSError, ValueError):
        raise broken_share(f"the table {name} is no readable Parquet file", where) from None
    _check(name, table, where)
    return laid_out(name, table)


def _check(name: str, table: pa.Table, where: str) -> None:
    for column, kind, may_be_null in LAYOUTS[name]:
        values = table[column]
        if values.null_count and not may_be_null:
            raise broken_share(f"the table {name} has rows without {column}", where)
        if kind == _FLOAT and not pc.all(pc.is_finite(values)).as_py() and len(values) > values.null_count:
            raise broken_share(f"the column {column} of {name} has infinite values", where)
    patients = table["patient_id"]
    if not pc.all(pc.match_substring_regex(patients, _PSEUDONYM)).as_py() and len(patients):
        raise broken_share(f"the table {name} has a patient who is no pseudonym of a share", where)
    _check_keys(name, table, where)
    _check_days(name, table, where)


def _check_keys(name: str, table: pa.Table, where: str) -> None:
    if name not in _KEYS:
        return
    key = ["patient_id", *_KEYS[name]]
    if table.select(key).group_by(key).aggregate([]).num_rows != table.num_rows:
        of_one = f" of one {' and '.join(_KEYS[name])}" if _KEYS[name] else ""
        raise broken_share(f"a patient has two rows{of_one} in the table {name}", where)


def _check_days(name: str, table: pa.Table, where: str) -> None:
    """Only what is known at index may have changed before it; nothing starts after the end of follow-up."""
    for column, kind, _ in LAYOUTS[name]:
        if kind == _DAY and name != "change" and _any(pc.less(table[column], 0)):
            raise broken_share(f"the column {column} of {name} has days before the index event", where)
    if name == "survival":
        for column in ("start_day", "salvage_start_day", "progression_day"):
            if _any(pc.greater(table[column], table["time_days"])):
                raise broken_share(f"the column {column} has days after the end of follow-up", where)


def _any(flags: pa.ChunkedArray) -> bool:
    return bool(pc.any(flags).as_py())


def check_together(tables: Tables, where: str) -> None:
    """Raises ShareError where a table is missing, or a row is of nobody in `survival`; or where somebody
    who was erased is in it."""
    missing = sorted(LAYOUTS.keys() - OPTIONAL - tables.tables.keys())
    if missing:
        raise broken_share(f"the share lacks the table {missing[0]}", where)
    patients = tables["survival"]["patient_id"]
    for name, table in tables.tables.items():
        known = pc.is_in(table["patient_id"], value_set=patients.combine_chunks())
        if name == "erased":
            if _any(known):
                raise broken_share("a patient who was erased is in the table survival", where)
            continue
        if len(table) and not pc.all(known).as_py():
            raise broken_share(f"the table {name} has rows of nobody in the table survival", where)
