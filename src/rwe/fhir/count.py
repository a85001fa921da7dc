"""How many resources a search would find, by the server's own word: no resource is asked for.

Source: HL7 FHIR R4, 3.1.1.5.4 (`_summary=count`), 3.1.1.5.3 (`_total`), `Bundle.total`.
"""

from __future__ import annotations

import msgspec

from rwe.fhir.client import FhirClient, RefusedError
from rwe.fhir.search import Parameters, first_page, ignored_parameters

#: In this order: the first is for it; the second where a server does not know the first; `_count` keeps
#: what a server sends all the same small.
_WAYS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("_summary", "count"),),
    (("_total", "accurate"), ("_count", "1")),
)
_UNABLE = frozenset({400, 422, 501})


class _Counted(msgspec.Struct):
    total: int | None = None


def count_found(client: FhirClient, resource_type: str, parameters: Parameters) -> int | None:
    """How many resources of a type match; None where the server does not tell, or not of these parameters.

    Raises SiteError as every request does, but not where only counting is refused.
    """
    for way in _WAYS:
        try:
            answer, bundle = first_page(client, resource_type, [*parameters, *way])
        except RefusedError as e:
            if e.status in _UNABLE:
                continue
            raise
        if ignored_parameters(bundle, parameters):
            return None
        try:
            total = msgspec.json.decode(answer.body, type=_Counted).total
        except (msgspec.DecodeError, UnicodeDecodeError):
            total = None
        if total is not None and total >= 0:
            return total
    return None
