"""Is this line a resource the lake can use? Refusals name a rule and a JSON path, never a value.

Every line gets the cheap checks: it parses, it is the type its file says, its id is legal, and the fields
that the mapping relies on have the JSON type they must have. `fhir.resources` (R4B) looks at all of them, at
a seeded share, or at none; it explains, and never rewrites what landed.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from functools import cache
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from rwe.lake.rows import Flag, RejectedError
from rwe.lake.schema import RESOURCES, CodingIn, ResourceIn, TombstoneIn

ValidationMode = Literal["strict", "sample", "off"]

#: One in so many resources of a type is looked at by fhir.resources in mode `sample`.
SAMPLE_ONE_IN = 50

#: Refusals of the cheap checks that fhir.resources is asked to explain further.
WORTH_EXPLAINING = frozenset({"wrong_type", "date_shape", "id_shape"})

#: A resource that may show at most this many mistakes in the quarantine.
_MOST_FLAGS = 5
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,48}")
_PATH_IN_MESSAGE = re.compile(r"at `(\$[^`]*)`")
_SUBSETTED = "SUBSETTED"
_TEST_DATA = "HTEST"


class _Envelope(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")


@cache
def _decoder(resource_type: str) -> msgspec.json.Decoder[ResourceIn]:
    return msgspec.json.Decoder(RESOURCES[resource_type])


def decode(line: bytes, resource_type: str) -> ResourceIn:
    """The cheap checks. Raises RejectedError with one of the rules not_json, wrong_type, resource_type,
    id_shape."""
    try:
        resource = _decoder(resource_type).decode(line)
    except msgspec.ValidationError as e:
        found = _PATH_IN_MESSAGE.search(str(e))
        raise RejectedError("wrong_type", _safe_path(found[1]) if found else "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None
    if resource.resourceType != resource_type:
        raise RejectedError("resource_type", "$.resourceType")
    if resource.id is None or not _ID.fullmatch(resource.id):
        raise RejectedError("id_shape", "$.id")
    return resource


def decode_tombstone(line: bytes) -> TombstoneIn:
    """A tombstone line. Raises RejectedError (not_json, id_shape)."""
    try:
        found = msgspec.json.decode(line, type=TombstoneIn)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None
    if not _ID.fullmatch(found.id):
        raise RejectedError("id_shape", "$.id")
    return found


def refuse_unusable(resource: ResourceIn, excluded_labels: frozenset[str] = frozenset()) -> None:
    """Raises RejectedError for what is no version of a resource, is test data, bears a label in
    `excluded_labels`, or says not to use it."""
    meta = resource.meta
    if meta is not None:
        if _has_code(meta.tag, _SUBSETTED):
            raise RejectedError("subsetted", "$.meta.tag")
        if _has_code(meta.security, _TEST_DATA):
            raise RejectedError("test_data", "$.meta.security")
        if any(c.code in excluded_labels for c in meta.security or ()):
            raise RejectedError("security_label", "$.meta.security")
    if resource.modifierExtension:
        raise RejectedError("modifier_extension", "$.modifierExtension")


def retires_earlier_versions(rule: str) -> bool:
    """Whether a refusal by this rule also takes earlier versions of the resource out of use."""
    return rule in {"modifier_extension", "test_data", "security_label"}


def id_of(line: bytes) -> str | None:
    """The id of a line that failed the checks, if it has a legal one."""
    try:
        raw = msgspec.json.decode(line, type=_Envelope).id
        text = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return text if isinstance(text, str) and _ID.fullmatch(text) else None


def content_hash(line: bytes) -> str:
    """SHA-256 of the line without its white space, so that pretty-printing is no new version.

    Raises RejectedError (not_json) if the line does not parse.
    """
    try:
        return hashlib.sha256(msgspec.json.format(line, indent=-1)).hexdigest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None


def is_sampled(mode: ValidationMode, digest: str) -> bool:
    """Whether fhir.resources looks at the resource with this content hash: the same ones on every run."""
    if mode == "sample":
        return int(digest[:8], 16) % SAMPLE_ONE_IN == 0
    return mode == "strict"


def explain(line: bytes, resource_type: str) -> list[Flag]:
    """What fhir.resources (R4B) finds wrong with a resource: rule `fhir_invalid` and where, at most five."""
    try:
        _model(resource_type).model_validate_json(line)
    except ValidationError as e:
        found = e.errors(include_url=False, include_context=False, include_input=False)
        places = dict.fromkeys(_safe_location(error["loc"]) for error in found)
        return [Flag("fhir_invalid", place) for place in list(places)[:_MOST_FLAGS]]
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        # Some of its checks raise bare errors; their texts hold values, so they are not kept.
        return [Flag("fhir_invalid", "$")]
    return []


@cache
def _model(resource_type: str) -> Any:
    module = importlib.import_module(f"fhir.resources.R4B.{resource_type.lower()}")
    return getattr(module, resource_type)


def _has_code(codings: list[CodingIn] | None, code: str) -> bool:
    return any(c.code == code for c in codings or ())


def _safe_location(location: tuple[int | str, ...]) -> str:
    """A path out of a validation error. What is no field name could be a value, and becomes `?`."""
    path = "$"
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _FIELD.fullmatch(part):
            path += f".{part}"
        else:
            path += ".?"
    return path


def _safe_path(path: str) -> str:
    return path if re.fullmatch(r"\$(\.[A-Za-z_]{1,48}|\[\d+\]|\[\.\.\.\])*", path) else "$"
