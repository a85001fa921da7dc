"""Goes back to a build that is kept: both databases, the private one and the published one."""

from __future__ import annotations

from rwe.config import Workspace
from rwe.errors import BuildError, UsageError
from rwe.warehouse.build import only_build
from rwe.warehouse.builds import KeptBuild, current_build, kept_builds, make_current


def roll_back(workspace: Workspace, to: str | None = None) -> KeptBuild:
    """Publish the build before the current one, or the one named; each database is swapped in one step.

    Readers keep what they opened. The next `rwe build` makes the newest again. Raises UsageError where there
    is no such build, BuildError where a build is under way or the kept files were changed.
    """
    with only_build(workspace):
        kept = kept_builds(workspace)
        if to is not None:
            chosen = next((k for k in kept if k.build == to), None)
            if chosen is None:
                raise UsageError(
                    "there is no such build", where=str(workspace.private_builds), advice="see `rwe builds`"
                )
        else:
            current = current_build(workspace)
            older = [k for k in kept if current is None or k.build < current.build]
            if not older:
                raise BuildError(
                    "no earlier build is kept",
                    where=str(workspace.published_builds),
                    advice="published.keep_builds of rwe.yaml says how many are",
                )
            chosen = older[0]
        make_current(workspace, chosen)
    return chosen
