"""What things are called in Prefect: flows, limits, events, artifacts. Nothing of a patient is in a name."""

from __future__ import annotations

import re

NIGHTLY, REFRESH, RECONCILE, BACKFILL = (
    "nightly-extraction",
    "evidence-refresh",
    "reconcile",
    "backfill",
)

SITE_FAILED = "rwe.site.failed"
SITE_STALE = "rwe.site.stale"
CHECK_FAILED = "rwe.check.failed"
ESTIMATE_MOVED = "rwe.estimate.moved"
EVENTS = (SITE_FAILED, SITE_STALE, CHECK_FAILED, ESTIMATE_MOVED)

#: One build of the workspace at a time.
BUILD_LIMIT = "rwe-build"
#: How long a slot outlives a killed process (seconds; the least that Prefect allows).
LEASE_SECONDS = 60.0


def site_limit(site: str) -> str:
    """The limit that keeps night, reconcile and backfill of one site apart."""
    return f"rwe-site-{site}"


def key(*words: str) -> str:
    """An artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(("rwe", *words)).lower()).strip("-")
