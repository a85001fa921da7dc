"""The report of a refresh is made once, and sealed like its evidence."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rwe.history.manifest import EVIDENCE, REPORT, require_unaltered, sealed, write_manifest
from rwe.report.page import write_report


def report_of(folder: Path) -> Path:
    """The report of a refresh: made of its evidence if there is none yet, and never changed after that.

    A refresh without a manifest (of an older rwe) gets its report anew. Raises EvidenceError where the
    evidence is missing, altered or breaks its contract.
    """
    page = folder / REPORT
    if require_unaltered(folder) is None:
        write_report(folder / EVIDENCE, page)
        return page
    with _held(folder):
        manifest = require_unaltered(folder)
        if manifest is None or any(f.name == REPORT for f in manifest.files):
            return page
        write_report(folder / EVIDENCE, page)
        write_manifest(
            folder, msgspec.structs.replace(manifest, files=(*manifest.files, *sealed(folder, [REPORT])))
        )
    return page


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Two reports at once of one refresh: the second waits, without a file of its own in the folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
