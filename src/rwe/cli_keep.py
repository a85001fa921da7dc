"""The commands that keep a workspace: erase, rollback, builds, backup, restore, trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rwe import cli_show, terminal
from rwe.admission import patient_ids
from rwe.audit import audited
from rwe.cli_options import JsonOption, WorkspaceOption, open_chosen
from rwe.config import open_workspace
from rwe.durable import write_new
from rwe.errors import ConfigError, PartialError, UsageError
from rwe.study import load_studies
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.config import Workspace
    from rwe.keeping.erase import Erased

keep_app = typer.Typer()

_SiteOption = Annotated[str, typer.Option("--site", help="The site the patient is of.")]


@keep_app.command("erase")
def erase(
    *,
    site: _SiteOption,
    patient_file: Annotated[
        Path | None,
        typer.Option("--patient-file", metavar="FILE", help="Patient ids of the site's server, one a line."),
    ] = None,
    pseudonym: Annotated[
        list[str] | None, typer.Option("--pseudonym", help="A patient's pseudonym; may repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, for a script.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Erase patients everywhere in the workspace, for good: they are not landed again. Asks before.

    Example: rwe erase --site charite --patient-file withdrawn.txt --dry-run

    Example: rwe erase --site charite --patient-file withdrawn.txt
    """
    from rwe.keeping.erase import erase as erase_patients

    opened = open_chosen(workspace)
    opened.site(site)
    ids = _read_ids(patient_file) if patient_file else []
    if not ids and not pseudonym:
        raise UsageError("nobody is named", advice="give --patient-file or --pseudonym")
    if dry_run:
        _count_erasure(opened, site, ids, pseudonym or [])
        return
    if not yes:
        _ask_to_erase(site, len({*ids, *(pseudonym or ())}))
    with audited(opened, "erase", site=site) as deed:
        with terminal.progress_bars() as bars:
            found = erase_patients(
                opened,
                site,
                load_studies(opened.studies),
                patient_ids=ids,
                pseudonyms=pseudonym or (),
                progress=bars,
            )
        deed.counts = {"patients": found.patients, "lines": sum(found.lines.values()), "rows": found.rows}
        _show_erased(found)
        if found.remaining:
            raise PartialError(
                f"{counted(len(found.remaining), 'file')} kept by hand still name them",
                where=str(opened.root),
                advice="take the lines out of the files listed above, and run it again",
            )


def _ask_to_erase(site: str, named: int) -> None:
    """Raises UsageError where nobody can answer, typer.Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise UsageError(
            "patients are erased for good, so it is asked before, and nobody is here to answer",
            where=f"site {site}",
            advice="count with --dry-run what would go, then repeat the command with --yes",
        )
    who = counted(named, "patient")
    typer.confirm(f"Erase {who} of {site} for good, and every build made before?", abort=True)


def _count_erasure(opened: Workspace, site: str, ids: list[str], pseudonyms: list[str]) -> None:
    from rwe.keeping.erase import would_erase

    with audited(opened, "erase --dry-run", site=site) as deed:
        found = would_erase(opened, site, patient_ids=ids, pseudonyms=pseudonyms)
        deed.counts = {"patients": found.patients, "lines": sum(found.lines.values()), "rows": found.rows}
    lines, runs = counted(sum(found.lines.values()), "line"), counted(found.runs, "run")
    who = counted(found.patients, "patient")
    if not found.was_found:
        told = "nothing of them is landed here" if found.knows_ids else "nothing of that pseudonym is here"
        terminal.say(terminal.out, f"{who} of {site}: {told}. Erasing keeps them from landing.")
    else:
        blanked = f", {counted(found.blanked, 'reference')} in records of others" if found.blanked else ""
        rows = f", {counted(found.rows, 'row')} of the lake alone" if found.rows else ""
        terminal.say(terminal.out, f"{who} of {site}: {lines} of {runs} would go{blanked}{rows}.")
        for kind, n in found.lines.items():
            terminal.say(terminal.out, f"  {kind}: {n:,}")
    if found.builds:
        terminal.say(terminal.out, f"{counted(found.builds, 'kept build')} would go, and a new one be made.")
    for path in found.backups:
        terminal.say(terminal.out, f"Note: a backup made before may hold them: {path}")
    terminal.say(terminal.out, "Nothing was changed.")


def _show_erased(found: Erased) -> None:
    lines, runs = counted(sum(found.lines.values()), "line"), counted(found.runs, "run")
    if found.was_found:
        told = f"{lines} of {runs} went"
    else:
        told = "Nothing of them was here" if found.knows_ids else "Nothing of that pseudonym was here"
    terminal.say(terminal.out, f"Erased {counted(found.patients, 'patient')} of {found.site}. {told}.")
    if not found.knows_ids:
        terminal.say(
            terminal.out,
            "Note: no Patient id is known here any more: the search looked for the pseudonym alone. "
            "Where you know the id, run it with --patient-file",
        )
    for name in found.other_sites:
        terminal.say(
            terminal.out,
            f"Note: site {name} has landed a patient of the same id. If it is the same person, "
            f"erase there as well: rwe erase --site {name}",
        )
    for path in found.backups:
        terminal.say(terminal.out, f"Note: a backup made before may hold them: {path}")
    for path in found.remaining:
        terminal.say(terminal.out, f"Left: {path}")


def _read_ids(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "the file cannot be read", where="--patient-file", advice="check its path"
        ) from None
    return patient_ids(lines, "--patient-file")


@keep_app.command("builds")
def builds(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the builds that are kept, newest first.

    Example: rwe builds
    """
    from rwe.warehouse.builds import current_build, kept_builds

    opened = open_chosen(workspace)
    kept, current = kept_builds(opened), current_build(opened)
    shown = current.build if current else None
    if as_json:
        cli_show.as_json({"current": shown, "builds": [k.build for k in kept]})
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for wraps in (False, False, False, True):
        table.add_column(no_wrap=not wraps, overflow="fold")
    for one in kept:
        mark = "published" if one.build == shown else ""
        at = f"{one.built_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(escape(one.build), at, mark, escape(", ".join(one.studies) or "no study"))
    terminal.out.print(table if kept else "No build is kept yet: run `rwe build`.")


@keep_app.command("rollback")
def rollback(
    to: Annotated[
        str | None, typer.Option("--to", metavar="BUILD", help="This one; see `rwe builds`.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Show the build before the current one again. Whoever reads keeps what is open.

    Example: rwe rollback
    """
    from rwe.keeping.rollback import roll_back

    opened = open_chosen(workspace)
    with audited(opened, "rollback"):
        chosen = roll_back(opened, to)
    terminal.say(terminal.out, f"Published build {chosen.build}")


@keep_app.command("backup")
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the backup's folder goes.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Copy the whole workspace, with a hash of every file. Keys are not in it: keep them apart.

    Example: rwe backup /mnt/backups
    """
    from rwe.keeping.backup import back_up

    opened = open_chosen(workspace)
    with audited(opened, "backup") as deed:
        path, made = back_up(opened, folder)
        deed.counts = {"files": len(made.files)}
    size = f"{made.bytes / 1e6:,.1f} MB"
    terminal.say(terminal.out, f"Backup: {path} ({counted(len(made.files), 'file')}, {size})")
    for name in made.left_out:
        terminal.say(terminal.out, f"Note: {name} holds a secret and is not in it")
    terminal.out.print("The keys are not in it: keep copies of them where you keep secrets.")


@keep_app.command("restore")
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder rwe-backup-….")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the workspace.")],
) -> None:
    """Bring a backup back into a new folder. Patients erased since then stay erased.

    Example: rwe restore /mnt/backups/rwe-backup-20261122T030000Z ~/evidence
    """
    from rwe.keeping.backup import restore as bring_back
    from rwe.keeping.erase import erase_blocked

    restored = bring_back(source, target)
    opened = open_workspace(restored.root)
    with terminal.progress_bars() as bars, audited(opened, "restore") as deed:
        gone = erase_blocked(opened, load_studies(opened.studies), progress=bars)
        deed.counts = {"files": restored.files, "erased_again": gone}
    terminal.say(terminal.out, f"Workspace: {restored.root} ({counted(restored.files, 'file')})")
    if gone:
        terminal.say(terminal.out, f"Note: {counted(gone, 'line')} of erased patients went again")
    cli_show.notes(restored.notes)


@keep_app.command("trace")
def trace(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="As staging.observation.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The row's key: a pseudonym.")],
    show: Annotated[bool, typer.Option("--show", help="Show the landed record itself.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --show: write it there, 0600.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Which landed line is a row made of? The look is written to the audit log.

    Example: rwe trace staging.observation 0123456789abcdef0123456789abcdef
    """
    from rwe.keeping.trace import landed_line
    from rwe.keeping.trace import trace as follow

    opened = open_chosen(workspace)
    if show and out is None and not sys.stdout.isatty():
        raise UsageError("a record is shown on a terminal only", advice="name a file with --out")
    with audited(opened, "trace") as deed:
        found = follow(opened, table, key)
        lines = [landed_line(opened, t) for t in found] if show else []
        deed.run, deed.counts = found[0].run, {"rows": len(found), "shown": len(lines)}
    for t in found:
        where = t.path.relative_to(opened.root) if t.path else "its raw bytes were removed"
        terminal.say(terminal.out, f"{t.site}, run {t.run}: {where}, line {t.line}")
    if out is not None and lines:
        _write_private(out, b"\n".join(lines) + b"\n")
        terminal.say(terminal.out, f"Written to {out}")
    elif lines:
        for line in lines:
            typer.echo(line.decode("utf-8", errors="replace"))


def _write_private(path: Path, content: bytes) -> None:
    try:
        write_new(path, content)
    except FileExistsError:
        raise UsageError("the file is there already", where=str(path), advice="name another") from None
    except OSError:
        raise UsageError("the file cannot be written", where=str(path), advice="name another") from None
