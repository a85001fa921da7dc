"""The commands `rwe study …`: write, check and lock study files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding

from rwe import terminal
from rwe.audit import audited
from rwe.cli_options import StudyArgument, WorkspaceOption, chosen_workspace, open_chosen
from rwe.config import Workspace
from rwe.errors import ConfigError, StudyError
from rwe.resources import bundled
from rwe.study import Study, find_study, study_schema
from rwe.study.lock import ProtocolLock, lock_study, read_lock
from rwe.study_words import explain

study_app = typer.Typer(help="Write, check and lock study files.", no_args_is_help=True)


@study_app.command("schema")
def study_schema_command() -> None:
    """Print the JSON Schema of a study file.

    Example: rwe study schema > study.schema.json
    """
    typer.echo(json.dumps(study_schema(), indent=1))


@study_app.command("check")
def study_check(
    file: Annotated[str, typer.Argument(help="A study file, or the name of a study.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Check a study file and explain it back in words.

    Example: rwe study check studies/lenalidomide_after_car_t.yaml
    """
    try:
        opened: Workspace | None = open_chosen(workspace)
    except ConfigError:
        if chosen_workspace(workspace):
            raise
        opened = None  # a study can be checked anywhere
    study = _find_anywhere(file, opened)
    terminal.out.print(f"[bold]{escape(study.protocol.title)}[/] ({study.name} {study.protocol.version})")
    for heading, sentences in explain(study).items():
        terminal.out.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            terminal.out.print(Padding(escape(sentence), (0, 0, 0, 2)))
    terminal.out.print(f"\nProtocol hash {study.protocol_sha256}")
    terminal.say(terminal.out, _LOCKED[read_lock(study).status])


@study_app.command("lock")
def study_lock(
    study: StudyArgument,
    registration: Annotated[
        str | None, typer.Option(help="The number under which the protocol is registered.")
    ] = None,
    amendment: Annotated[
        str | None, typer.Option(help="Why a protocol that was locked changed.", metavar="REASON")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Freeze a protocol by its hash, before anybody sees the outcome; or amend it, with the reason.

    Example: rwe study lock lenalidomide_after_car_t --registration EUPAS100000
    """
    opened = open_chosen(workspace)
    found = find_study(study, opened.studies)
    with audited(opened, "study lock", study=found.name):
        entry = lock_study(found, registration=registration, amendment=amendment)
    terminal.say(terminal.out, f"Locked {found.name} {entry.version}, hash {entry.protocol_sha256}")
    _say_log(read_lock(found))


def _say_log(lock: ProtocolLock) -> None:
    for entry in lock.entries:
        parts = [f"{entry.locked_at:%Y-%m-%d}", f"version {entry.version}", entry.registration, entry.reason]
        terminal.say(terminal.out, "  " + ", ".join(p for p in parts if p))


_LOCKED = {
    "unlocked": "Not locked: `rwe study lock` freezes it before anybody sees the outcome.",
    "locked": "Locked as it stands.",
    "changed": "Changed since it was locked: `rwe study lock --amendment REASON` amends the lock.",
}


def _find_anywhere(file: str, opened: Workspace | None) -> Study:
    if opened is not None:
        return find_study(file, opened.studies)
    try:
        return find_study(file, bundled("studies"))
    except StudyError:
        if Path(file).suffix in {".yaml", ".yml"} or Path(file).exists():
            raise
        raise StudyError(
            f"there is no study {file!r} here",
            advice="give a path, or the name of a study in a workspace (-w DIR)",
        ) from None
