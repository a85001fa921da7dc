"""The commands. No logic: each opens the workspace, calls one function, prints what it returns.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 partly done. An error is one sentence on stderr that says
what, where and what to do; a traceback appears only with --debug, without texts that may quote records.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.exceptions

import rwe
from rwe import cli_show, terminal
from rwe.audit import audited
from rwe.cli_deaths import import_deaths
from rwe.cli_deploy import deploy
from rwe.cli_federate import federate_app
from rwe.cli_history import history_app
from rwe.cli_keep import keep_app
from rwe.cli_options import (
    JsonOption,
    StudyArgument,
    WorkspaceOption,
    choose_workspace,
    open_chosen,
    study_with_lock,
)
from rwe.cli_share import keys_app, share_app
from rwe.cli_simulate import simulate
from rwe.cli_sites import sites_app
from rwe.cli_sql import register as register_sql
from rwe.cli_study import study_app
from rwe.config import Workspace, init_workspace
from rwe.errors import ConfigError, RweError, UsageError
from rwe.resources import bundled
from rwe.study import Study, find_study, load_studies
from rwe.tracebacks import safe_traceback
from rwe.wording import counted

app = typer.Typer(
    name="rwe",
    help="FHIR in, evidence out: survival evidence from hospital FHIR servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,  # it would write into the user's shell settings
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(study_app, name="study")
app.add_typer(sites_app, name="sites")
app.add_typer(federate_app, name="federate")
app.add_typer(keys_app, name="keys")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"rwe {rwe.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    workspace: WorkspaceOption = None,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    choose_workspace(workspace)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make a workspace of.")],
    key_file: Annotated[
        Path | None, typer.Option(help="Where to write the new pseudonym key (outside DIR).")
    ] = None,
) -> None:
    """Make a workspace: rwe.yaml with comments, studies/, and a pseudonym key outside it.

    Example: rwe init ~/evidence
    """
    workspace = init_workspace(folder, key_file)
    shutil.copytree(bundled("studies"), workspace.studies, dirs_exist_ok=True)
    key = workspace.settings.pseudonyms.key_file
    terminal.say(terminal.out, f"Workspace: {workspace.root}")
    terminal.say(terminal.out, f"Pseudonym key (keep a copy where you keep secrets): {key}")
    terminal.out.print("Next: name your FHIR servers under sites: in rwe.yaml, then `rwe extract`.")


@app.command()
def extract(
    workspace: WorkspaceOption = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this site; may repeat.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Pull everything again, not only what is new.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate requests and rows; land nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pull the cohort of every study from the sites' FHIR servers, and land it.

    Example: rwe extract --site charite

    Example: rwe extract --dry-run
    """
    from rwe.extract import PartlyExtractedError, PartlyLandedError, extract_sites

    opened = open_chosen(workspace)
    studies = load_studies(opened.studies)
    names = site or [n for n, s in opened.settings.sites.items() if s.base_url]
    if not names:
        raise ConfigError(
            "no site has a base_url",
            where=str(opened.root / "rwe.yaml"),
            advice="declare one under sites:, or hand files over with `rwe import`",
        )
    if dry_run:
        _estimate(opened, names, studies, as_json=as_json)
        return
    try:
        with terminal.progress_bars() as bars:
            results = extract_sites(opened, names, studies, full=full, progress=bars)
    except PartlyExtractedError as e:
        cli_show.landed(e.results, for_program=as_json)
        raise
    except PartlyLandedError as e:
        cli_show.landed([e.result], for_program=as_json)
        raise
    cli_show.landed(results, for_program=as_json)


def _estimate(opened: Workspace, names: Sequence[str], studies: Sequence[Study], *, as_json: bool) -> None:
    from rwe.estimate import PartlyEstimatedError, estimate_sites

    try:
        with terminal.progress_bars() as bars:
            results = estimate_sites(opened, names, studies, progress=bars)
    except PartlyEstimatedError as e:
        cli_show.estimates(e.results, for_program=as_json)
        raise
    cli_show.estimates(results, for_program=as_json)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of files handed over.")],
    site: Annotated[str, typer.Option("--site", help="The site they come from; declared if it is new.")],
    time_zone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of a new site, such as Europe/Berlin; else UTC.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Land files a hospital handed over: *.ndjson and *.json, also .gz and .zst, resources or Bundles.

    Example: rwe import handed-over/ --site charite --time-zone Europe/Berlin
    """
    from rwe.intake import PartlyImportedError, import_folder

    opened = open_chosen(workspace)
    try:
        with terminal.progress_bars() as bars, audited(opened, "import", site=site) as deed:
            try:
                result = import_folder(opened, folder, site, time_zone=time_zone, progress=bars)
            except PartlyImportedError as e:
                deed.landed(e.result.run)
                raise
            deed.landed(result.run)
    except PartlyImportedError as e:
        cli_show.landed([e.result], for_program=as_json)
        raise
    cli_show.landed([result], for_program=as_json)


@app.command()
def build(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Bring what has landed into the lake, rebuild the database, check it, publish it.

    Example: rwe build
    """
    from rwe.warehouse.build import build as build_database
    from rwe.warehouse.build import has_landed

    opened = open_chosen(workspace)
    studies = load_studies(opened.studies)
    with terminal.progress_bars() as bars, audited(opened, "build") as deed:
        result = build_database(opened, studies, progress=bars) if has_landed(opened) else None
        deed.counts = result.tables if result else {}
    if result is None:
        _say_nothing_landed(as_json=as_json)
        return
    if as_json:
        cli_show.as_json(result)
        return
    terminal.say(terminal.out, f"Published {result.path}")
    cli_show.built(result.sites)
    for finding in result.quality:
        rows = counted(finding.rows, "row")
        terminal.say(terminal.out, f"{finding.severity}: {finding.message} ({rows})")


def _say_nothing_landed(*, as_json: bool) -> None:
    if as_json:
        cli_show.as_json({"path": None, "content_sha256": None, "quality": [], "tables": {}, "sites": []})
        return
    terminal.say(
        terminal.out,
        "Nothing has landed yet, so there is nothing to publish: run `rwe extract` or `rwe import`, then "
        "`rwe build` again",
    )


@app.command()
def analyse(
    study: StudyArgument,
    workspace: WorkspaceOption = None,
    blind: Annotated[
        bool,
        typer.Option("--blind", help="Before the lock: balance, weights and power, no outcome by strategy."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write a new refresh even if nothing is new.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the analyses a study asks for, and write its evidence.json. Says so where nothing is new.

    Example: rwe analyse lenalidomide_after_car_t

    Example: rwe analyse lenalidomide_after_car_t --blind
    """
    from rwe.analyse import analyse as run_analyses

    opened = open_chosen(workspace)
    found = study_with_lock(opened, study)
    if blind:
        _analyse_blind(opened, found, as_json=as_json)
        return
    with terminal.progress_bars() as bars, audited(opened, "analyse", study=found.name) as deed:
        result = run_analyses(opened, found, progress=bars, force=force)
        deed.counts = {"patients": result.evidence.cohort.n}
    if as_json:
        answer = {"refresh": result.refresh, "evidence": str(result.path), "is_new": result.is_new}
        cli_show.as_json(answer)
        return
    if not result.is_new:
        terminal.say(terminal.out, result.note)
        terminal.say(terminal.out, f"Evidence: {result.path}")
        return
    terminal.out.print(terminal.hazard_ratio_table(result.evidence.estimates))
    if result.evidence.is_made_up:
        terminal.say(terminal.out, "The patients are made up (`patients` in rwe.yaml): this is no evidence.")
    cli_show.notes(result.evidence.warnings)
    terminal.say(terminal.out, result.note)
    terminal.say(terminal.out, f"Evidence: {result.path}")


def _analyse_blind(opened: Workspace, study: Study, *, as_json: bool) -> None:
    from rwe.analyse import analyse_blind

    with terminal.progress_bars() as bars, audited(opened, "analyse --blind", study=study.name) as deed:
        path, found = analyse_blind(opened, study, progress=bars)
        deed.counts = {"patients": found.n}
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    cli_show.blind(found)
    terminal.say(terminal.out, f"Blind diagnostics: {path}")


@app.command()
def report(study: StudyArgument, workspace: WorkspaceOption = None) -> None:
    """Make report.html from the newest evidence.json of a study; one that is there already stays.

    Example: rwe report lenalidomide_after_car_t
    """
    from rwe.analyse import latest_folder
    from rwe.history.report import report_of

    opened = open_chosen(workspace)
    name = find_study(study, opened.studies).name
    with audited(opened, "report", study=name):
        page = report_of(latest_folder(opened, name))
    terminal.say(terminal.out, f"Report: {page}")


@app.command()
def refresh(
    study: StudyArgument,
    workspace: WorkspaceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write a new refresh even if nothing is new.")
    ] = False,
) -> None:
    """Build, analyse, report. Says so where nothing is new.

    Example: rwe refresh lenalidomide_after_car_t
    """
    opened = open_chosen(workspace)
    study_with_lock(opened, study)  # a mistake in the study is said before the work, not after
    build(opened.root)
    analyse(study, opened.root, force=force)
    report(study, opened.root)


@app.command()
def status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Each site's last run, how fresh it is, what failed; what was refused and published.

    Example: rwe status
    """
    from rwe.status import workspace_status

    found = workspace_status(open_chosen(workspace))
    if as_json:
        cli_show.as_json(found)
    else:
        cli_show.status(found)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo's workspace goes.")] = Path(
        "rwe-demo"
    ),
    patients: Annotated[int, typer.Option(min=20, max=5000, help="Patients a site.")] = 300,
    seed: Annotated[int, typer.Option(help="The seed of the synthetic hospitals.")] = 1,
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep the hospitals up, to try other commands.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Delete also what the demo before did not write.")
    ] = False,
) -> None:
    """Three synthetic hospitals with a known truth, the whole way, and a report to open.

    A second time it makes its folder anew, but not over what you put there, as a study of your own.

    Example: rwe demo --serve
    """
    from rwe.demo import run_demo

    run_demo(folder, patients=patients, seed=seed, serve=serve, anew=anew)


app.command("import-deaths")(import_deaths)
app.command()(deploy)
app.command()(simulate)
register_sql(app)
app.registered_commands += keep_app.registered_commands
app.registered_commands += history_app.registered_commands
app.registered_commands += share_app.registered_commands


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs a command and turns errors into a sentence and an exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]  # wherever it stands
    os.umask(os.umask(0) | 0o027)  # nothing this program writes is for everybody; published/ says so itself
    # A service manager ends a night with SIGTERM: then, too, temporary databases are removed.
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(args=words, standalone_mode=False) or 0
        if code == _STOPPED:  # typer's own answer to Ctrl-C
            _say(_KEPT, debug)
    except RweError as e:
        code = e.exit_status
        _say(str(e), debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _STOPPED
        _say(_KEPT, debug)
    except typer.exceptions.TyperException as e:
        code = UsageError.exit_status
        if str(e):  # without a command the help has been shown already
            _say(f"{_usage(e)}; see `{_help_of(words)}`.", debug)
    except Exception as e:  # its text may hold a record's values: only its type is named
        code = _STOPPED if terminal.interrupted.is_set() else RweError.exit_status
        _say(
            _KEPT
            if code == _STOPPED  # DuckDB and Prefect answer Ctrl-C with errors of their own
            else f"Unexpected {type(e).__name__}; run again with --debug to see where, and report it.",
            debug,
        )
    raise SystemExit(code)


_STOPPED = 130
_KEPT = "Stopped; what was complete is kept."


def _usage(error: typer.exceptions.TyperException) -> str:
    """The message with the option it is about, which the library's own text may leave out."""
    message, parameter = str(error).rstrip("."), getattr(error, "param", None)
    options = getattr(parameter, "opts", None) or []
    shown = next((o for o in options if o.startswith("--")), getattr(parameter, "metavar", None))
    return message if not shown or shown in message else f"{shown}: {message}"


def _help_of(words: Sequence[str]) -> str:
    """The help of the command that was meant, as far as it exists."""
    names = {c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands}
    command = next((w for w in words if w in names), None)
    return f"rwe {command} --help" if command else "rwe --help"


def _stop(number: int, frame: object) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def _say(sentence: str, debug: bool) -> None:
    if debug:
        error = sys.exc_info()[1]
        if error is not None:
            sys.stderr.write(safe_traceback(error))
    terminal.say(terminal.err, f"rwe: {sentence}")
