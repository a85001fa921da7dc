"""What analyses keep aside of single patients: ledgers of refreshes and releases, bundles to reproduce."""

from __future__ import annotations

import shutil

from rwe.config import Workspace
from rwe.history.ledger import forget_erased


def forget_aside(workspace: Workspace) -> None:
    """Make it free of everybody on the list of the erased.

    The rows of bundles hold the patient, if without an id: they go whole, and the next analysis makes them
    again. The ledgers of refreshes hold the pseudonym: its rows go, the others stay.
    """
    forget_erased(workspace)
    for folder in workspace.evidence.glob("*/*/reproduce"):
        shutil.rmtree(folder)
