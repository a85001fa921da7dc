"""The commands `rwe study …`: check and lock study files, print their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding

from rwe import terminal
from rwe.audit import audited
from rwe.cli_options import StudyArgument, WorkspaceOption, chosen_workspace, open_chosen, study_with_lock
from rwe.config import Workspace
from rwe.errors import ConfigError, StudyError
from rwe.resources import bundled
from rwe.study import Study, find_study, is_study_path, load_named_study, study_schema
from rwe.study.lock import ProtocolLock, lock_study, read_lock
from rwe.study_codes import every_code, first_codes
from rwe.study_words import explain
from rwe.wording import counted

study_app = typer.Typer(help="Check and lock study files; print their schema.", no_args_is_help=True)


@study_app.command("schema")
def study_schema_command() -> None:
    """Print the JSON Schema of a study file.

    Example: rwe study schema > study.schema.json
    """
    typer.echo(json.dumps(study_schema(), indent=1))


@study_app.command("check")
def study_check(
    file: Annotated[str, typer.Argument(help="A study file, or the name of a study.")],
    codes: Annotated[bool, typer.Option("--codes", help="Show every code of every code list.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Check a study file and explain it back in words: every code list, window and rule.

    Example: rwe study check studies/lenalidomide_after_car_t.yaml

    Example: rwe study check lenalidomide_after_car_t --codes
    """
    try:
        opened: Workspace | None = open_chosen(workspace)
    except ConfigError:
        if chosen_workspace(workspace):
            raise
        opened = None  # a study can be checked anywhere
    study = _read_anywhere(file, opened)
    terminal.out.print(f"[bold]{escape(study.protocol.title)}[/] ({study.name} {study.protocol.version})")
    for heading, sentences in explain(study).items():
        terminal.out.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            terminal.out.print(Padding(escape(sentence), (0, 0, 0, 2)))
    _show_codes(study, every=codes)
    terminal.out.print(f"\nProtocol hash {study.protocol_sha256}")
    if opened is not None:  # the same study in the workspace, with its lock; another one is refused
        study = study_with_lock(opened, file)
    terminal.say(terminal.out, _LOCKED[read_lock(study).status])


def _show_codes(study: Study, *, every: bool) -> None:
    terminal.out.print("\n[bold]Code lists[/]")
    if not every:
        for sentence in first_codes(study):
            terminal.out.print(Padding(escape(sentence), (0, 0, 0, 2)))
        terminal.out.print(Padding("With --codes every code is shown.", (0, 0, 0, 2)))
        return
    for name, lines in every_code(study).items():
        terminal.out.print(Padding(f"{escape(name)} ({counted(len(lines), 'code')})", (0, 0, 0, 2)))
        for line in lines:
            terminal.out.print(Padding(escape(line), (0, 0, 0, 4)))


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
    from rwe.history.kept_lock import keep_lock

    opened = open_chosen(workspace)
    found = study_with_lock(opened, study)
    with audited(opened, "study lock", study=found.name):
        entry = lock_study(found, registration=registration, amendment=amendment)
        keep_lock(opened, found)
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


def _read_anywhere(file: str, opened: Workspace | None) -> Study:
    """The study of a file as it stands there, or the one that is called so in the workspace."""
    if is_study_path(file):
        return load_named_study(Path(file).expanduser())
    if opened is not None:
        return find_study(file, opened.studies)
    try:
        return find_study(file, bundled("studies"))
    except StudyError:
        raise StudyError(
            f"there is no study {file!r} here",
            advice="give a path, or the name of a study in a workspace (-w DIR)",
        ) from None
