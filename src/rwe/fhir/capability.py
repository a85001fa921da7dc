"""What a server says it can do: its CapabilityStatement (R4), read leniently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from rwe.fhir.client import FhirClient
from rwe.fhir.search import describe_non_fhir

_LABEL = "CapabilityStatement"


@dataclass(frozen=True)
class Capability:
    """Software, version and FHIR version (None: not told), and search parameters by resource type.

    An empty `types` means that the server lists none, not that it has none.
    """

    software: str | None
    version: str | None
    fhir_version: str | None
    types: Mapping[str, frozenset[str]]

    def offers(self, resource_type: str) -> bool:
        """Whether the type may be asked for: it is listed, or nothing is."""
        return not self.types or resource_type in self.types


class _Software(msgspec.Struct):
    name: str | None = None
    version: str | None = None


class _Parameter(msgspec.Struct):
    name: str | None = None


class _Type(msgspec.Struct):
    type: str | None = None
    search_param: list[_Parameter] | None = msgspec.field(default=None, name="searchParam")


class _Rest(msgspec.Struct):
    mode: str | None = None
    resource: list[_Type] | None = None


class _Statement(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    fhir_version: str | None = msgspec.field(default=None, name="fhirVersion")
    software: _Software | None = None
    rest: list[_Rest] | None = None


def read_capability(client: FhirClient) -> Capability:
    """Ask the server for /metadata.

    Raises SiteError where there is no CapabilityStatement, or it is of a FHIR version other than R4 (4.x).
    """
    answer = client.request(_LABEL, f"{client.base_url}/metadata")
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
    return Capability(
        software=software.name,
        version=software.version,
        fhir_version=version,
        types={
            t.type: frozenset(p.name for p in t.search_param or () if p.name)
            for rest in rests
            for t in rest.resource or ()
            if t.type
        },
    )
