"""What should be there and did not come: gone, somebody else's by now, or missed by the server's answer.

Nothing is buried on the word of a list: each resource is read once, and only what is gone (404, 410) or no
longer answers the question gets its tombstone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from rwe.fhir.bundle import Resource
from rwe.fhir.read import read
from rwe.harvest import Harvest
from rwe.known import Lost

MOST_READS = 1_000  # what is listed no more is read once, to be sure; the rest waits for the next night


def confirm(
    harvest: Harvest, resource_type: str, suspects: Lost, is_ours: Callable[[Resource], bool]
) -> bool:
    """Read each suspect: land what is there and ours, bury the others. Returns whether all were looked at.

    Raises SiteError where the server does not say; what was buried until then is. Raises LandingError.
    """
    missed = 0
    for one in islice(suspects.ids(), MOST_READS):
        resource = read(harvest.client, resource_type, one)
        if resource is not None and is_ours(resource):
            harvest.write(resource)
            missed += 1
        else:
            harvest.bury(resource_type, one, None, "reconcile")
    if missed:
        harvest.warn(f"{resource_type}: not found by search or export, but by reading: {missed}")
    return suspects.count <= MOST_READS
