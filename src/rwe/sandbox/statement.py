"""What a hospital's server says about itself (R4 CapabilityStatement)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks
from rwe.sandbox.search import KNOWN_PARAMETERS, includes

_BULK = "http://hl7.org/fhir/uv/bulkdata"
_SMART_SERVICE = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


def capability_statement(
    spec: HospitalSpec, types: Iterable[str], base_url: str, token_endpoint: str
) -> dict[str, Any]:
    """True about what is served, unless the spec's quirks say that it lies."""
    quirks = Quirks() if spec.quirks.lies else spec.quirks
    manner = spec.manner
    rest: dict[str, Any] = {"mode": "server", "resource": [_resource(spec, quirks, t) for t in sorted(types)]}
    if spec.access.mode == "smart":
        endpoint = {"url": "token", "valueUri": token_endpoint}
        service = {"coding": [{"system": _SMART_SERVICE, "code": "SMART-on-FHIR"}]}
        extension = [{"url": _OAUTH_URIS, "extension": [endpoint]}]
        rest["security"] = {"extension": extension, "service": [service]}
    if not quirks.no_history:
        rest["interaction"] = [{"code": "history-system"}]
    if spec.bulk and "system" in spec.bulk.levels:
        rest["operation"] = [_export("export")]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-06-01",
        "kind": "instance",
        **({"instantiates": [f"{_BULK}/CapabilityStatement/bulk-data"]} if spec.bulk else {}),
        "software": {"name": manner.software, "version": manner.software_version},
        "implementation": {"description": manner.software, "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [rest],
    }


def _resource(spec: HospitalSpec, quirks: Quirks, name: str) -> dict[str, Any]:
    interactions = ["read", "search-type", *([] if quirks.no_history else ["history-type"])]
    parameters = {
        n: p.kind
        for n, p in sorted(KNOWN_PARAMETERS[name].items())
        if n != "_lastUpdated" or name not in quirks.no_last_updated
    }
    exports = {"Patient": "patient", "Group": "group"}
    is_exported = spec.bulk is not None and exports.get(name) in spec.bulk.levels
    has_includes = includes(name) and not quirks.no_include
    return {
        "type": name,
        "interaction": [{"code": code} for code in interactions],
        "versioning": "no-version" if quirks.no_version_id else "versioned",
        "readHistory": False,
        **({"searchInclude": sorted(includes(name))} if has_includes else {}),
        "searchParam": [
            {"name": "_id", "type": "token"},
            *({"name": n, "type": kind} for n, kind in parameters.items()),
        ],
        **({"operation": [_export(f"{exports[name]}-export")]} if is_exported else {}),
    }


def _export(name: str) -> dict[str, str]:
    return {"name": "export", "definition": f"{_BULK}/OperationDefinition/{name}"}
