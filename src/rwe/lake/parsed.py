"""What DuckDB parses of a line on the fast way: the columns and their types, derived from `elements.py`."""

from __future__ import annotations

import msgspec

from rwe.lake.elements import RESOURCES
from rwe.lake.schema import LAKE_TABLES

#: Reference ranges come as the lake has them.
RANGES = LAKE_TABLES["Observation"]["reference_ranges"]

#: What `feed.py` writes into each line before DuckDB reads it: pseudonyms, and what a valueString says.
FED_COLUMNS: dict[str, str] = {
    "rwe_line": "BIGINT",
    "rwe_id": "VARCHAR",
    "rwe_patient": "VARCHAR",
    "rwe_encounter": "VARCHAR",
    "rwe_request": "VARCHAR",
    "rwe_medication": "VARCHAR",
    "rwe_ranges": RANGES,
    "rwe_text": "STRUCT(number DOUBLE, comparator VARCHAR, unit VARCHAR, text VARCHAR)",
}


def parsed_columns(resource_type: str) -> dict[str, str]:
    """What DuckDB parses of a line of this type: all that is read of the resource, and what was fed in."""
    kind = msgspec.inspect.type_info(RESOURCES[resource_type])
    if not isinstance(kind, msgspec.inspect.StructType):
        raise TypeError(resource_type)
    read = {f.encode_name: _duckdb_type(f.type) for f in kind.fields if f.encode_name != "referenceRange"}
    return read | FED_COLUMNS


def _duckdb_type(kind: msgspec.inspect.Type) -> str:
    if isinstance(kind, msgspec.inspect.UnionType):
        return next(_duckdb_type(one) for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.ListType):
        return f"{_duckdb_type(kind.item_type)}[]"
    if isinstance(kind, msgspec.inspect.StructType):
        fields = [f'"{f.encode_name}" {_duckdb_type(f.type)}' for f in kind.fields if not _is_raw(f.type)]
        inside = ", ".join(fields) or '"-" VARCHAR'  # a struct of DuckDB has a field at least
        return f"STRUCT({inside})"
    return _SCALARS[type(kind)]


def _is_raw(kind: msgspec.inspect.Type) -> bool:
    return isinstance(kind, msgspec.inspect.RawType)


_SCALARS: dict[type[msgspec.inspect.Type], str] = {
    msgspec.inspect.StrType: "VARCHAR",
    msgspec.inspect.FloatType: "DOUBLE",
    msgspec.inspect.IntType: "BIGINT",
    msgspec.inspect.BoolType: "BOOLEAN",
}
