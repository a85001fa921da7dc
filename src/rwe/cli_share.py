"""The commands that let cohort tables leave a site and arrive at the hub: share, collect, keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from rwe import cli_show, terminal
from rwe.audit import audited
from rwe.cli_options import JsonOption, StudyArgument, WorkspaceOption, open_chosen
from rwe.errors import UsageError
from rwe.study import find_study, load_studies
from rwe.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwe.sharing.collect import Collected
    from rwe.sharing.share import Outgoing

share_app = typer.Typer()
keys_app = typer.Typer(
    help="Who this workspace is to others, and whom it trusts: keys for share and federate.\n\n"
    "Example: rwe keys show --out charite.json",
    no_args_is_help=True,
)


@share_app.command("share")
def share(
    study: StudyArgument,
    *,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder that goes to the hub.")],
    site: Annotated[
        list[str] | None, typer.Option("--site", help="Only this site; may repeat. Else all of the cohort.")
    ] = None,
    dates: Annotated[
        Literal["anchored", "exact"],
        typer.Option("--dates", help="exact: with index dates and exact ages, where that was agreed."),
    ] = "anchored",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would leave; write nothing.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a study's cohort tables for the hub: new pseudonyms, no dates, signed.

    Example: rwe share my_study --to outbox/

    Example: rwe share my_study --to outbox/ --dry-run
    """
    from rwe.sharing.share import outgoing, write_share

    opened = open_chosen(workspace)
    found = find_study(study, opened.studies)
    going = outgoing(opened, found, sites=site or (), dates=dates)
    if not as_json:
        for one in going:
            _show_outgoing(one)
    if dry_run:
        if as_json:
            cli_show.as_json([{"site": g.site, "dates": g.dates, "tables": g.tables.rows()} for g in going])
        else:
            terminal.out.print("Nothing was written.")
        return
    written = []
    for one in going:
        command = f"share --dates {dates}"
        with audited(opened, command, site=one.site, study=found.name) as deed:
            result = write_share(opened, one, to)
            deed.run, deed.counts = f"share {result.share}", result.rows
        written.append(result)
    if as_json:
        cli_show.as_json(
            [{"site": w.site, "share": w.share, "path": str(w.path), "tables": w.rows} for w in written]
        )
        return
    for result in written:
        terminal.say(terminal.out, f"Share: {result.path}")
    terminal.out.print(
        "Send it over a channel that encrypts: it has a row for each patient. Delete it once the hub has it."
    )


def _show_outgoing(going: Outgoing) -> None:
    """What leaves, table by table, and what does not."""
    patients = counted(going.patients, "patient")
    terminal.say(terminal.out, f"What leaves {going.site} for {going.study.name}: {patients}", style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for name, rows in going.tables.tables.items():
        columns = ", ".join(rows.column_names[1:])
        table.add_row(escape(name), f"{rows.num_rows:,}", escape(columns))
    terminal.out.print(table)
    for sentence in _said(going):
        terminal.say(terminal.out, sentence)


def _said(going: Outgoing) -> list[str]:
    said = ["Patients have pseudonyms made for this study; the site's own stay here."]
    names = sorted(set(going.tables["covariate"]["covariate"].to_pylist()))
    if names:
        said.append(f"Covariates at index: {', '.join(names)}.")
    if going.dates == "anchored":
        said.append("No date leaves: days count from the index event, ages are whole years.")
    else:
        said.append("Index dates and exact ages leave, as agreed.")
    if going.oldest_age is not None:
        said.append(f"Ages above {going.oldest_age} are shown as {going.oldest_age}.")
    if going.withheld:
        said.append(f"Stays here, for it tells the calendar: {', '.join(going.withheld)}.")
    if going.vague:
        said.append(
            f"{counted(going.vague, 'death')} known to the month or year: their days rest on its middle and "
            "are in it, unmarked."
        )
    if "link" in going.tables.tables:
        tokens = counted(going.tables["link"].num_rows, "link token")
        said.append(f"{tokens}: they tell the hub which patients another site has too, and are dropped then.")
    if "erased" in going.tables.tables:
        gone = counted(going.tables["erased"].num_rows, "patient")
        said.append(f"{gone} erased here since an earlier share: named, for the hub to erase them too.")
    said.append("Counts of who was left out are rounded to midpoints of 6. No texts, no record ids.")
    return said


@share_app.command("collect")
def collect(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Shares, or folders of shares, that arrived.")
    ],
    *,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the shares that were taken from where they arrived.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify what sites shared, and keep the newest of each for the next analysis.

    Example: rwe collect inbox/ --remove
    """
    from rwe.sharing.collect import PartlyCollectedError, remove_arrived
    from rwe.sharing.collect import collect as take

    opened = open_chosen(workspace)
    studies = load_studies(opened.studies)
    with audited(opened, "collect") as deed:
        try:
            results = take(opened, folders, studies)
        except PartlyCollectedError as e:
            deed.counts = _counts(e.results)
            _show_collected(e.results, removed=remove, as_json=as_json)
            for result in e.results if remove else ():
                remove_arrived(result)
            raise
        deed.counts = _counts(results)
        for result in results if remove else ():
            remove_arrived(result)
    _show_collected(results, removed=remove, as_json=as_json)


def _counts(results: Sequence[Collected]) -> dict[str, int]:
    """Patients by site, for the audit log, and how many a site named as erased."""
    erased = {f"{r.site} erased": r.erased for r in results if r.erased}
    return {r.site: r.patients for r in results} | erased


def _show_collected(results: Sequence[Collected], *, removed: bool, as_json: bool) -> None:
    if as_json:
        cli_show.as_json([{**r.__dict__} for r in results])
        return
    for r in results:
        at = f"{r.created_at:%Y-%m-%d %H:%M} UTC"
        patients = counted(r.patients, "patient")
        what = f"{patients}, shared {at}" if r.is_new else "nothing new, it was here already"
        terminal.say(terminal.out, f"{r.site}: {what}")
        if r.erased:
            gone = counted(r.erased, "patient")
            terminal.say(terminal.out, f"{r.site}: {gone} erased there, and in nothing that is kept here")
        if r.warning:
            terminal.say(terminal.out, f"Note: {r.site}: {r.warning}")
    left = [str(r.arrived) for r in results]
    if left and not removed:
        tokens = ", link tokens too" if any(r.has_tokens for r in results) else ""
        terminal.say(terminal.out, f"Delete what arrived (--remove does): rows of patients{tokens} are in it")
    for study in sorted({r.study for r in results if r.is_new}):
        terminal.say(terminal.out, f"Next: rwe analyse {study}")


@keys_app.command("show")
def keys_show(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the public document there.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Show this workspace's fingerprint; its keys are made the first time.

    Example: rwe keys show --out charite.identity.json
    """
    from rwe.identity import identity_of

    opened = open_chosen(workspace)
    with audited(opened, "keys show"):
        public = identity_of(opened).public
        if out is not None:
            _write_public(out, public.document())
    terminal.say(terminal.out, f"Fingerprint: {public.fingerprint}")
    if out is not None:
        terminal.say(terminal.out, f"Public document: {out}")
        terminal.out.print("Hand it over, and tell the fingerprint by another way: by telephone.")


def _write_public(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as f:
            f.write(text)
    except FileExistsError:
        raise UsageError("the file is there already", where=str(path), advice="name another") from None
    except OSError:
        raise UsageError("the file cannot be written", where=str(path), advice="name another") from None


@keys_app.command("pin")
def keys_pin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's name, or hub.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its public document.")],
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="What its owner told you, by another way than the file.")
    ],
    workspace: WorkspaceOption = None,
) -> None:
    """Trust another workspace's keys, after its fingerprint was compared.

    Example: rwe keys pin charite charite.json --fingerprint "0a1b 2c3d 4e5f 6071 8293 a4b5 c6d7 e8f9"
    """
    from rwe.identity import pin, read_public

    opened = open_chosen(workspace)
    with audited(opened, "keys pin", site=name):
        pin(opened, name, read_public(_text(file), str(file)), fingerprint)
    terminal.say(terminal.out, f"Pinned {name}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError("the file cannot be read", where=str(path), advice="check its path") from None


@keys_app.command("unpin")
def keys_unpin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name it was pinned under.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Trust these keys no more.

    Example: rwe keys unpin charite
    """
    from rwe.identity import unpin

    opened = open_chosen(workspace)
    with audited(opened, "keys unpin", site=name):
        unpin(opened, name)
    terminal.say(terminal.out, f"Unpinned {name}")


@keys_app.command("list")
def keys_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List whose keys are pinned, with their fingerprints.

    Example: rwe keys list
    """
    from rwe.identity import pins

    found = pins(open_chosen(workspace))
    if as_json:
        cli_show.as_json({name: public.fingerprint for name, public in found.items()})
        return
    for name, public in found.items():
        terminal.say(terminal.out, f"{name}: {public.fingerprint}")
    if not found:
        terminal.out.print("No key is pinned yet.")
