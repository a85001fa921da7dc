"""Is this line a resource the lake can use? Refusals name a rule and a JSON path, never a value.

Every line gets the cheap checks: it parses, it is the type its file says, its id is legal, and the fields
that the mapping relies on have the JSON type they must have. `fhir.resources` (R4B) looks at all of them, at
a seeded share, or at none; it explains, and never rewrites what landed.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import msgspec
from pydantic import ValidationError

from rwe.lake.elements import RESOURCES, CodingIn, MetaIn, ResourceIn, TombstoneIn
from rwe.lake.findings import Flag, RejectedError
from rwe.lake.rules import Actions
from rwe.lake.rules import actions as default_actions

ValidationMode = Literal["strict", "sample", "off"]

#: One in so many resources of a type is looked at by fhir.resources in mode `sample`, of a large file fewer:
#: about as many as `SAMPLE_MOST`.
SAMPLE_ONE_IN = 50
SAMPLE_MOST = 1000

#: Elements that a resource can do without: one of a wrong type is left out, and the resource enters.
FURTHER_ELEMENTS = frozenset(
    [
        "active",
        "category",
        "statusReason",
        "statusReasonCodeableConcept",
        "reasonCode",
        "context",
        "encounter",
        "request",
        "authorizingPrescription",
        "quantity",
        "daysSupply",
        "dosageInstruction",
        "dispenseRequest",
        "form",
        "ingredient",
        "issued",
        "interpretation",
        "bodySite",
        "method",
        "referenceRange",
        "severity",
        "onsetAge",
        "abatementDateTime",
        "abatementPeriod",
        "stage",
        "outcome",
        "complication",
        "hospitalization",
        "partOf",
        "type",
    ]
)

#: Refusals of the cheap checks that fhir.resources is asked to explain further.
WORTH_EXPLAINING = frozenset({"wrong_type", "date_shape", "id_shape"})

#: A resource that may show at most this many mistakes in the quarantine.
_MOST_FLAGS = 5
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_PATH_IN_MESSAGE = re.compile(r"at `(\$[^`]*)`")
_SUBSETTED = "SUBSETTED"
_TEST_DATA = "HTEST"


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Envelope(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")


@cache
def _decoder(resource_type: str) -> msgspec.json.Decoder[ResourceIn]:
    return msgspec.json.Decoder(RESOURCES[resource_type])


@dataclass(frozen=True)
class Decoded:
    """A resource that passed the cheap checks. `left_out` are the paths of elements that were not usable."""

    resource: ResourceIn
    left_out: tuple[str, ...] = ()


def decode(line: bytes, resource_type: str) -> Decoded:
    """The cheap checks. Raises RejectedError with one of the rules not_json, wrong_type, resource_type,
    id_shape."""
    try:
        decoded = _decode_without(line, resource_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None
    resource = decoded.resource
    if resource.resourceType != resource_type:
        raise RejectedError("resource_type", "$.resourceType")
    if resource.id is None or not _ID.fullmatch(resource.id):
        raise RejectedError("id_shape", "$.id")
    return decoded


def _decode_without(line: bytes, resource_type: str) -> Decoded:
    """Decode a line, leaving out further elements that have another type than R4 gives them."""
    left_out: list[str] = []
    while True:
        try:
            return Decoded(_decoder(resource_type).decode(line), tuple(left_out))
        except msgspec.ValidationError as e:
            found = _PATH_IN_MESSAGE.search(str(e))
            path = _safe_path(found[1]) if found else "$"
        name = path[2:].partition(".")[0].partition("[")[0]
        members = _members(line)
        if name not in FURTHER_ELEMENTS or name not in members:
            raise RejectedError("wrong_type", path)
        left_out.append(path)
        line = msgspec.json.encode({key: value for key, value in members.items() if key != name})


def left_out(decoded: Decoded, actions: Actions) -> list[Flag]:
    """What was left out of a resource, as flags. Raises RejectedError where the workspace wants that."""
    if decoded.left_out and actions.rejects("unusable_element"):
        raise RejectedError("unusable_element", decoded.left_out[0])
    return [Flag("unusable_element", path) for path in decoded.left_out]


def decode_tombstone(line: bytes) -> TombstoneIn:
    """A tombstone line. Raises RejectedError (not_json, id_shape)."""
    try:
        found = msgspec.json.decode(line, type=TombstoneIn)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None
    if not _ID.fullmatch(found.id):
        raise RejectedError("id_shape", "$.id")
    return found


def refuse_unusable(
    resource: ResourceIn,
    excluded_labels: frozenset[str] = frozenset(),
    actions: Actions | None = None,
) -> list[Flag]:
    """Raises RejectedError for what is no version of a resource, is test data, bears a label in
    `excluded_labels`, or says not to use it; the flags, where the workspace wants no more than those."""
    meta, actions = resource.meta, actions or default_actions()
    if meta is not None:
        if _has_code(meta.tag, _SUBSETTED):
            raise RejectedError("subsetted", "$.meta.tag")
        if _has_code(meta.security, _TEST_DATA):
            raise RejectedError("test_data", "$.meta.security")
        if _has_code(meta.tag, _TEST_DATA):
            raise RejectedError("test_data", "$.meta.tag")
        if any(c.code in excluded_labels for c in meta.security or ()):
            raise RejectedError("security_label", "$.meta.security")
    flags = []
    if resource.implicitRules is not None:
        flags.append(Flag("implicit_rules", "$.implicitRules"))
    if resource.modifierExtension:
        flags.append(Flag("modifier_extension", "$.modifierExtension"))
    for flag in flags:
        if actions.rejects(flag.rule):
            raise RejectedError(flag.rule, flag.json_path)
    return flags


def id_of(line: bytes) -> str | None:
    """The id of a line that failed the checks, if it has a legal one."""
    try:
        raw = msgspec.json.decode(line, type=_Envelope).id
        text = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return text if isinstance(text, str) and _ID.fullmatch(text) else None


def minimal(line: bytes) -> bytes:
    """The line without its white space, so that pretty-printing is no new version.

    Raises RejectedError (not_json) if the line does not parse.
    """
    try:
        return msgspec.json.format(line, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RejectedError("not_json") from None


def refuse_repeated_keys(content: bytes, resource_type: str) -> None:
    """Raises RejectedError (repeated_key) where a key that is read stands twice: of two `meta`, one may say
    HTEST, and every parser takes the one it likes. Looks at the resource and its `meta`.

    `content` is JSON without white space: its length is that of its keys and values, unless keys repeat (or
    are written with escapes, which is looked at closely).
    """
    top = _members(content)
    if _is_longer(content, top):
        _refuse_repeats_among(content, RESOURCES[resource_type], "$")
    meta = bytes(top.get("meta", b""))
    if meta.startswith(b"{") and _is_longer(meta, _members(meta)):
        _refuse_repeats_among(meta, MetaIn, "$.meta")


def _members(content: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _MEMBERS.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}  # not an object: the checks of its type say so


def _is_longer(content: bytes, members: dict[str, msgspec.Raw]) -> bool:
    punctuation = len(b'"":,')
    names = sum(len(name.encode(errors="surrogatepass")) + punctuation for name in members)
    return bool(members) and len(content) != names + sum(len(bytes(v)) for v in members.values()) + 1


def _refuse_repeats_among(content: bytes, kind: type[msgspec.Struct], json_path: str) -> None:
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs  # called for the inner objects first, for the outermost last

    try:
        json.loads(content, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        raise RejectedError("not_json") from None
    read = {f.encode_name for f in msgspec.structs.fields(kind)}
    for name, times in Counter(name for name, _ in outermost).items():
        if times > 1 and name in read:
            raise RejectedError("repeated_key", f"{json_path}.{name}")


def sample_threshold(mode: ValidationMode, lines: int) -> str:
    """Before which pseudonym, as text, fhir.resources looks at a resource of a file with so many lines.

    Pseudonyms are spread evenly, and nobody without the key can choose one: the same resources on every run.
    """
    if mode == "strict":
        return "g"
    if mode == "off":
        return ""
    share = min(1 / SAMPLE_ONE_IN, SAMPLE_MOST / lines if lines else 1.0)
    return f"{int(share * 16**8):08x}"


def explain(line: bytes, resource_type: str) -> list[Flag]:
    """What fhir.resources (R4B) finds wrong with a resource: rule `fhir_invalid` and where, at most five."""
    try:
        _model(resource_type).model_validate_json(line)
    except ValidationError as e:
        found = e.errors(include_url=False, include_context=False, include_input=False)
        places = dict.fromkeys(_safe_location(error["loc"], _model(resource_type)) for error in found)
        return [Flag("fhir_invalid", place) for place in list(places)[:_MOST_FLAGS]]
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, ImportError, RecursionError):
        # Some of its checks raise bare errors (a contained resource of no known type: a KeyError); their
        # texts hold values, so they are not kept.
        return [Flag("fhir_invalid", "$")]
    return []


@cache
def _model(resource_type: str) -> Any:
    module = importlib.import_module(f"fhir.resources.R4B.{resource_type.lower()}")
    return getattr(module, resource_type)


def _has_code(codings: list[CodingIn] | None, code: str) -> bool:
    return any(c.code == code for c in codings or ())


def _safe_location(location: tuple[int | str, ...], model: Any) -> str:
    """A path out of a validation error of a `model`. What is no field of it could be a value: it becomes `?`,
    and so does every name below it."""
    path = "$"
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        fields = _fields(model) if model is not None else {}
        path += f".{part}" if part in fields else ".?"
        model = fields.get(part)
    return path


@cache
def _fields(model: Any) -> dict[str, Any]:
    """The fields of a model of fhir.resources by their FHIR names, each with the model of what it holds."""
    return {f.alias or name: _model_within(f.annotation) for name, f in model.model_fields.items()}


def _model_within(annotation: Any) -> Any:
    if hasattr(annotation, "get_model_klass"):
        return annotation.get_model_klass()
    return next((found for a in get_args(annotation) if (found := _model_within(a)) is not None), None)


def _safe_path(path: str) -> str:
    return path if re.fullmatch(r"\$(\.[A-Za-z_]{1,48}|\[\d+\]|\[\.\.\.\])*", path) else "$"
