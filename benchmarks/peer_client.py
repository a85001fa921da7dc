"""How fast a peer reads the same pages. Runs in an environment of its own (benchmarks/requirements.lock).

    python benchmarks/peer_client.py fhirpy|fhir_pyrate BASE_URL COUNT

Prints resources read, seconds taken and seconds of the processor.
"""

from __future__ import annotations

import sys
import time


def fhirpy(base: str, count: int) -> int:
    """Every resource as an object of the library, the way its README reads all pages."""
    from fhirpy import SyncFHIRClient

    return len(SyncFHIRClient(base).resources("Observation").limit(count).fetch_all())


def fhir_pyrate(base: str, count: int) -> int:
    """Every bundle as an object of the library."""
    from fhir_pyrate import Pirate

    pirate = Pirate(auth=None, base_url=base, print_request_url=False, num_processes=1)
    bundles = pirate.steal_bundles(
        resource_type="Observation", request_params={"_count": count}, num_pages=-1
    )
    return sum(len(bundle.entry or []) for bundle in bundles)


if __name__ == "__main__":
    peer, url, page_size = sys.argv[1:4]
    begun, worked = time.perf_counter(), time.process_time()
    read = {"fhirpy": fhirpy, "fhir_pyrate": fhir_pyrate}[peer](url, int(page_size))
    print(read, time.perf_counter() - begun, time.process_time() - worked)
