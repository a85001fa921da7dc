"""Reading one resource by its id: there, gone, or not to be told.

Source: HL7 FHIR R4, section 3.1.0.2 (read) and 3.1.0.2.1 (410 for a deleted resource).
"""

from __future__ import annotations

from rwe.fhir.bundle import NotAResourceError, Resource, read_resource
from rwe.fhir.client import FhirClient
from rwe.fhir.search import describe_non_fhir

_GONE = frozenset({404, 410})
_ATTEMPTS = 3


def read(client: FhirClient, resource_type: str, resource_id: str) -> Resource | None:
    """The resource; None where it is gone (404, 410), or another one of its type stands there.

    What is not there may be buried, so a web page, half a body or an OperationOutcome under status 200 does
    not count as gone: it is asked for again, and is an error where it stays. Raises SiteError.
    """
    url = f"{client.base_url}/{resource_type}/{resource_id}"
    for attempt in range(1, _ATTEMPTS + 1):
        answer = client.request(resource_type, url, accept=_GONE)
        if answer.status in _GONE:
            return None
        found = _resource(answer.body)
        if found is not None and found.type == resource_type:
            return found if found.id == resource_id else None
        if attempt < _ATTEMPTS:
            client.pause(attempt)
    what, advice = describe_non_fhir(answer.body)
    raise client.error(what, resource_type, advice=advice)


def _resource(body: bytes) -> Resource | None:
    try:
        return read_resource(body)
    except NotAResourceError:
        return None
