"""The command `rwe import-deaths`: deaths that a registry knows of, for the patients of a site."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rwe import audit, terminal
from rwe.cli_options import JsonOption, WorkspaceOption, open_chosen
from rwe.wording import counted


def import_deaths(
    file: Annotated[Path, typer.Argument(help="The registry's file (CSV).")],
    site: Annotated[str, typer.Option("--site", help="The hospital whose patients it is about.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what its sources said before at this site.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring in deaths from a registry: a CSV of patient_id (or identifier_system, identifier), death_date and
    source.

    The protocol says which sources count (outcome.death_sources). `rwe build` takes them in.

    Example: rwe import-deaths deaths.csv --site charite
    """
    from rwe.deaths import import_deaths as bring_in  # `rwe --help` must not wait for it

    opened = open_chosen(workspace)
    done = bring_in(opened, file, site, replace=replace)
    counts = {n: v for n, v in asdict(done).items() if isinstance(v, int)}
    audit.record(opened.root, "import-deaths", site=site, approval=opened.settings.approval, counts=counts)
    if as_json:
        print(json.dumps(asdict(done)))
        return
    terminal.say(
        terminal.out, f"{counted(done.patients, 'patient')} with a death, from {counted(done.lines, 'line')}"
    )
    if done.unresolved:
        terminal.say(
            terminal.out,
            f"{counted(done.unresolved, 'line')} name an identifier that no landed Patient of {site} has",
            "yellow",
        )
    if done.replaced:
        terminal.say(terminal.out, f"{counted(done.replaced, 'row')} of before dropped")
    terminal.out.print("Next: `rwe build` takes them into cohort.death.")
