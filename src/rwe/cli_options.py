"""What the commands share: options with one meaning everywhere, and the workspace that was named."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from rwe.config import Workspace, open_workspace
from rwe.study import Study, find_study

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "-w", "--workspace", help="The workspace; else RWE_WORKSPACE, else this folder.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a program.")]
StudyArgument = Annotated[str, typer.Argument(help="A study's name in the workspace, or a path to its file.")]

_chosen: ContextVar[Path | None] = ContextVar("workspace named before the command", default=None)


def choose_workspace(workspace: Path | None) -> None:
    """Remember the workspace named before the command: `rwe -w DIR build`."""
    _chosen.set(workspace)


def chosen_workspace(workspace: Path | None) -> Path | None:
    """The workspace named after the command, else the one named before it."""
    return workspace or _chosen.get()


def open_chosen(workspace: Path | None) -> Workspace:
    """Open it; raises ConfigError as `open_workspace` does."""
    return open_workspace(chosen_workspace(workspace))


def study_with_lock(workspace: Workspace, name_or_path: str) -> Study:
    """The study with the lock that its evidence was made under.

    Raises StudyError as `find_study` and `require_lock_kept` do.
    """
    from rwe.history.kept_lock import require_lock_kept

    found = find_study(name_or_path, workspace.studies)
    require_lock_kept(workspace, found)
    return found
