"""What a server says it can do: its CapabilityStatement (R4), read leniently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from rwe.fhir.client import Answer, FhirClient
from rwe.fhir.search import describe_non_fhir

_LABEL = "CapabilityStatement"
_CLOSED = frozenset({401, 403})

#: Where Bulk Data's $export is: at BASE/, at BASE/Patient, at BASE/Group/ID.
ExportLevel = Literal["system", "patient", "group"]


@dataclass(frozen=True)
class Capability:
    """Software, version and FHIR version (None: not told), and search parameters by resource type.

    An empty `types` means that the server lists none, not that it has none. `interactions` are by type,
    under "" those of the whole system (`history-system`); `export_levels` are where $export is.
    """

    software: str | None
    version: str | None
    fhir_version: str | None
    types: Mapping[str, frozenset[str]]
    interactions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    export_levels: frozenset[ExportLevel] = frozenset()
    declares_smart: bool = False

    def offers(self, resource_type: str) -> bool:
        """Whether the type may be asked for: it is listed, or nothing is."""
        return not self.types or resource_type in self.types

    def searches(self, resource_type: str, parameter: str) -> bool:
        """Whether the type's search takes the parameter: it is listed, or the server lists no types."""
        return not self.types or parameter in self.types.get(resource_type, frozenset())

    def has_history(self, resource_type: str = "") -> bool:
        """Whether `_history` of the type is declared; without one, that of the whole system."""
        wanted = "history-type" if resource_type else "history-system"
        return wanted in self.interactions.get(resource_type, frozenset())


class _Software(msgspec.Struct):
    name: str | None = None
    version: str | None = None


class _Parameter(msgspec.Struct):
    name: str | None = None


class _Interaction(msgspec.Struct):
    code: str | None = None


class _Operation(msgspec.Struct):
    name: str | None = None
    definition: str | None = None

    @property
    def names(self) -> set[str]:
        """Its name and the last part of its definition: servers write `export` or `group-export`."""
        definition = (self.definition or "").partition("|")[0].rpartition("/")[2]
        return {n.lstrip("$").lower().removesuffix("-i") for n in (self.name or "", definition)}


class _Type(msgspec.Struct):
    type: str | None = None
    search_param: list[_Parameter] | None = msgspec.field(default=None, name="searchParam")
    interaction: list[_Interaction] | None = None
    operation: list[_Operation] | None = None


class _Coding(msgspec.Struct):
    code: str | None = None


class _Service(msgspec.Struct):
    coding: list[_Coding] | None = None


class _Extension(msgspec.Struct):
    url: str | None = None


class _Security(msgspec.Struct):
    service: list[_Service] | None = None
    extension: list[_Extension] | None = None


class _Rest(msgspec.Struct):
    mode: str | None = None
    resource: list[_Type] | None = None
    search_param: list[_Parameter] | None = msgspec.field(default=None, name="searchParam")
    interaction: list[_Interaction] | None = None
    operation: list[_Operation] | None = None
    security: _Security | None = None


class _Statement(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    fhir_version: str | None = msgspec.field(default=None, name="fhirVersion")
    software: _Software | None = None
    rest: list[_Rest] | None = None


def read_capability(client: FhirClient) -> Capability:
    """Ask the server for /metadata.

    Raises SiteError where there is no CapabilityStatement, or it is of a FHIR version other than R4 (4.x).
    """
    answer = _ask(client)
    try:
        statement = msgspec.json.decode(answer.body, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError):
        statement = None
    if statement is None or statement.type != _LABEL:
        what, advice = describe_non_fhir(answer.body)
        raise client.error(what, _LABEL, advice=advice)
    version = statement.fhir_version
    if version and not version.startswith("4."):
        raise client.error(
            "the server does not speak FHIR R4", _LABEL, advice="ask the hospital for its R4 endpoint"
        )
    rests = [r for r in statement.rest or () if r.mode in (None, "server")]
    software = statement.software or _Software()
    kinds = [(t.type, t, rest) for rest in rests for t in rest.resource or () if t.type]
    return Capability(
        software=software.name,
        version=software.version,
        fhir_version=version,
        types={
            name: frozenset(p.name for p in (*(t.search_param or ()), *(rest.search_param or ())) if p.name)
            for name, t, rest in kinds
        },
        interactions={name: _codes(t.interaction) for name, t, _ in kinds}
        | {"": frozenset[str]().union(*(_codes(rest.interaction) for rest in rests))},
        export_levels=frozenset(level for rest in rests for level in _export_levels(rest)),
        declares_smart=any(_is_smart(rest.security) for rest in rests if rest.security),
    )


def _ask(client: FhirClient) -> Answer:
    """/metadata is open by the standard, so it is asked without a credential, and with it where it is not."""
    url = f"{client.base_url}/metadata"
    if client.credential is not None:
        answer = client.request(_LABEL, url, token="never", accept=_CLOSED)  # noqa: S106  (no password)
        if answer.status not in _CLOSED:
            return answer
    return client.request(_LABEL, url)


def _codes(interactions: list[_Interaction] | None) -> frozenset[str]:
    return frozenset(i.code for i in interactions or () if i.code)


def _export_levels(rest: _Rest) -> set[ExportLevel]:
    levels: set[ExportLevel] = set()
    for operation in rest.operation or ():
        names = operation.names
        levels |= {"patient"} if "patient-export" in names else set()
        levels |= {"group"} if "group-export" in names else set()
        levels |= (
            {"system"} if "export" in names and not names & {"patient-export", "group-export"} else set()
        )
    owners: dict[str, ExportLevel] = {"Patient": "patient", "Group": "group"}
    for kind in rest.resource or ():
        level = owners.get(kind.type or "")
        exports = {"export", f"{level}-export"}
        if level and any(o.names & exports for o in kind.operation or ()):
            levels.add(level)
    return levels


def _is_smart(security: _Security) -> bool:
    codes = [c.code for s in security.service or () for c in s.coding or ()]
    urls = [e.url or "" for e in security.extension or ()]
    return "SMART-on-FHIR" in codes or any(u.endswith("/oauth-uris") for u in urls)
