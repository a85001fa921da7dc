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


#: Which element refers to what: its name, the type it refers to, and the column for its pseudonym.
_References = tuple[tuple[str, str, str], ...]

_SUBJECT: _References = (("subject", "Patient", "rwe_patient"),)
_ENCOUNTER: _References = (("encounter", "Encounter", "rwe_encounter"),)
_CONTEXT: _References = (("context", "Encounter", "rwe_encounter"),)
_DRUG: _References = (("medicationReference", "Medication", "rwe_medication"),)
REFERENCES: dict[str, _References] = {
    "MedicationAdministration": (
        *_SUBJECT,
        *_DRUG,
        *_CONTEXT,
        ("request", "MedicationRequest", "rwe_request"),
    ),
    "MedicationRequest": (*_SUBJECT, *_DRUG, *_ENCOUNTER),
    "MedicationDispense": (
        *_SUBJECT,
        *_DRUG,
        *_CONTEXT,
        ("authorizingPrescription", "MedicationRequest", "rwe_request"),
    ),
    "MedicationStatement": (*_SUBJECT, *_DRUG, *_CONTEXT),
    "Observation": (*_SUBJECT, *_ENCOUNTER),
    "Condition": (*_SUBJECT, *_ENCOUNTER),
    "Procedure": (*_SUBJECT, *_ENCOUNTER),
    "Encounter": (*_SUBJECT, ("partOf", "Encounter", "rwe_encounter")),
}

#: Of these is looked only whether they are there: a line that has one goes the careful way.
_DOUBTED = frozenset({"RangeIn", "RatioIn"})
_PRESENT = 'STRUCT("-" VARCHAR)'  # a struct of DuckDB has a field at least


def parsed_columns(resource_type: str) -> dict[str, str]:
    """What is read of a resource of this type, as columns of DuckDB, and what was fed in."""
    read = {f.encode_name: _duckdb_type(f.type, frozenset()) for f in _fields(resource_type)}
    return read | FED_COLUMNS


def needed_columns(resource_type: str) -> dict[str, str]:
    """What DuckDB parses of a line: of what `feed.py` has read, and of what is doubted, that it is there."""
    followed = {name for name, _, _ in REFERENCES.get(resource_type, ())}
    read = {f.encode_name: _duckdb_type(f.type, _DOUBTED) for f in _fields(resource_type)}
    read |= {name: f"{_PRESENT}[]" if read[name].endswith("[]") else _PRESENT for name in followed}
    return read | FED_COLUMNS


def _fields(resource_type: str) -> list[msgspec.inspect.Field]:
    kind = msgspec.inspect.type_info(RESOURCES[resource_type])
    if not isinstance(kind, msgspec.inspect.StructType):
        raise TypeError(resource_type)
    return [f for f in kind.fields if f.encode_name != "referenceRange"]


def _duckdb_type(kind: msgspec.inspect.Type, present: frozenset[str]) -> str:
    """The type of DuckDB. Structs named in `present` come without what is in them."""
    if isinstance(kind, msgspec.inspect.UnionType):
        given = (one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
        return _duckdb_type(next(given), present)
    if isinstance(kind, msgspec.inspect.ListType):
        return f"{_duckdb_type(kind.item_type, present)}[]"
    if isinstance(kind, msgspec.inspect.StructType):
        if kind.cls.__name__ in present:
            return _PRESENT
        fields = [
            f'"{f.encode_name}" {_duckdb_type(f.type, present)}' for f in kind.fields if not _is_raw(f.type)
        ]
        return f"STRUCT({', '.join(fields)})" if fields else _PRESENT
    return _SCALARS[type(kind)]


def _is_raw(kind: msgspec.inspect.Type) -> bool:
    return isinstance(kind, msgspec.inspect.RawType)


_SCALARS: dict[type[msgspec.inspect.Type], str] = {
    msgspec.inspect.StrType: "VARCHAR",
    msgspec.inspect.FloatType: "DOUBLE",
    msgspec.inspect.IntType: "BIGINT",
    msgspec.inspect.BoolType: "BOOLEAN",
}
