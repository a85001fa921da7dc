"""The commands `rwe federate …`: a hub asks, sites answer with sums, files go between them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rwe import cli_show, terminal
from rwe.audit import audited
from rwe.cli_options import JsonOption, StudyArgument, WorkspaceOption, open_chosen
from rwe.errors import RweError, UsageError
from rwe.study import Study, find_study, load_studies
from rwe.study_words import explain
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.config import Workspace
    from rwe.federate.documents import Request
    from rwe.federate.hub import Asked
    from rwe.federate.result import FederatedResult

federate_app = typer.Typer(
    help="Estimate over sites that keep their patients: sums out, sums in.\n\nExample: rwe federate status",
    no_args_is_help=True,
)

_ToOption = Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write the file into.")]


@federate_app.command("init")
def federate_init(
    study: StudyArgument,
    *,
    site: Annotated[list[str], typer.Option("--site", help="A pinned site; repeat for each.")],
    to: _ToOption,
    plain: Annotated[
        bool, typer.Option("--plain", help="Ask for plain sums, which give a site's small cells away.")
    ] = False,
    analysis: Annotated[
        int | None,
        typer.Option(min=1, help="Which analysis of the protocol, from 1 on; else the primary one."),
    ] = None,
    landmark: Annotated[int | None, typer.Option(metavar="DAY", help="Which of its landmarks.")] = None,
    days: Annotated[int, typer.Option(help="How long a request is valid.")] = 14,
    workspace: WorkspaceOption = None,
) -> None:
    """Hub: begin a refresh, and write its first request for all sites.

    Example: rwe federate init my_study --site a --site b --site c --to outbox
    """
    from rwe.federate import hub

    opened = open_chosen(workspace)
    found = find_study(study, opened.studies)
    with audited(opened, "federate init", study=found.name) as deed:
        asked = hub.init(
            opened,
            found,
            site,
            to,
            mode="plain" if plain else "masked",
            analysis=None if analysis is None else analysis - 1,
            landmark_day=landmark,
            days=days,
        )
        deed.run, deed.counts = asked.refresh, {"sites": len(asked.sites), "step": 0}
    _say_asked(asked)


@federate_app.command("approve")
def federate_approve(
    study: StudyArgument,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="HASH", help="The hash you have read and approve; else asked."),
    ] = None,
    apart: Annotated[
        bool,
        typer.Option("--apart", help="Do not wait for what is new since refreshes of other studies."),
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Site: read a protocol in words, and approve it once, by its hash.

    Example: rwe federate approve my_study
    """
    from rwe.federate import site

    opened = open_chosen(workspace)
    found = find_study(study, opened.studies)
    if protocol is None:
        _show_protocol(opened, found, apart=apart)
        if not sys.stdin.isatty():
            raise UsageError(
                "a protocol is approved by a person",
                where=f"study {found.name}",
                advice="read it, then repeat the command with --protocol and its hash",
            )
        typer.confirm("Approve this protocol for federated analyses?", abort=True)
    elif protocol != found.protocol_sha256:
        raise UsageError(
            "the hash is not that of this workspace's protocol",
            where=f"study {found.name}",
            advice="read it with `rwe federate approve` and compare",
        )
    with audited(opened, "federate approve", study=found.name):
        site.approve(opened, found, apart=apart)
    terminal.say(terminal.out, f"Approved {found.name}, protocol {found.protocol_sha256}")


def _show_protocol(opened: Workspace, study: Study, *, apart: bool) -> None:
    from rwe.federate.ledger import read_ledger

    terminal.out.print(f"[bold]{escape(study.protocol.title)}[/] ({study.name} {study.protocol.version})")
    for heading, sentences in explain(study).items():
        terminal.out.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            terminal.out.print(Padding(escape(sentence), (0, 0, 0, 2)))
    earlier = sorted({e.study for e in read_ledger(opened).refreshes()} - {study.name})
    if earlier:
        names = ", ".join(earlier)
        terminal.say(terminal.out, f"\nSums of these patients were given before, for {names}.")
    if earlier and apart:
        terminal.say(
            terminal.out,
            "With --apart this study does not wait until enough is new since then: the totals of two "
            "protocols that differ by a few patients give those patients' sums away.",
        )
    terminal.out.print(f"\nProtocol hash {study.protocol_sha256}")


@federate_app.command("answer")
def federate_answer(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The hub's request, a JSON file.")],
    to: _ToOption,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Site: answer one step with sums, or say why not. Look at the file before you send it.

    Example: rwe federate answer inbox/request.json --to outbox
    """
    from rwe.federate import site

    opened = open_chosen(workspace)
    asked, hub = _request_in(request), opened.settings.federation.hub
    study = asked.study if asked else None
    with terminal.progress_bars() as bars, audited(opened, "federate answer", site=hub, study=study) as deed:
        if asked is not None:  # a refusal is recorded by what the request says of itself
            deed.run, deed.counts = asked.refresh, {"step": asked.step}
        try:
            given = site.answer(opened, request, to, progress=bars)
        except RweError as e:
            deed.reason = e.what
            raise
        deed.run = given.refresh
        deed.counts = {"step": given.step, "numbers": given.numbers, f"{given.mode}_answers": 1}
    if as_json:
        cli_show.as_json(given)
        return
    what = "masked: they show nothing without those of all sites" if given.mode == "masked" else "PLAIN"
    terminal.say(terminal.out, f"{counted(given.numbers, 'number')} of step {given.step}, {what}.")
    if given.mode == "plain":
        terminal.say(terminal.out, "Note: plain sums give small cells away (docs/federation.md)")
    if given.is_repeat:
        terminal.say(terminal.out, "This request was answered before: it is the same answer again.")
    terminal.say(terminal.out, f"Answer: {given.path}")


def _request_in(file: Path) -> Request | None:
    """The request in a file, not yet verified; None where it is none."""
    from rwe.federate.documents import read_request

    try:
        return read_request(file).document
    except UsageError:
        return None


@federate_app.command("combine")
def federate_combine(
    refresh: Annotated[str, typer.Argument(metavar="REFRESH", help="As `rwe federate init` named it.")],
    answers: Annotated[Path, typer.Option("--from", metavar="DIR", help="The folder of the answers.")],
    to: _ToOption,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hub: add the sites' answers; write the next request, or the result with a page to read it on.

    Example: rwe federate combine 20261122T030000Z-0123456789abcdef --from inbox --to outbox
    """
    from rwe.federate import hub
    from rwe.federate.result import FederatedResult

    opened = open_chosen(workspace)
    with audited(opened, "federate combine") as deed:
        deed.run = refresh
        found = hub.combine(opened, refresh, answers, to)
        deed.counts = {"steps": found.steps} if isinstance(found, FederatedResult) else {"step": found.step}
    page = _write_page(opened, found, to) if isinstance(found, FederatedResult) else None
    if as_json:
        next_file = None if isinstance(found, FederatedResult) else found.path
        cli_show.as_json({"is_result": next_file is None, "next": next_file, "page": page})
    elif isinstance(found, FederatedResult):
        _show_result(found)
        terminal.say(terminal.out, f"Result: {to / f'{found.study}.{refresh}.result.json'}")
        if page is None:
            terminal.say(terminal.out, "Note: the protocol changed since, so there is no page of this result")
        else:
            terminal.say(terminal.out, f"Page: {page}")
    else:
        _say_asked(found)


def _write_page(opened: Workspace, found: FederatedResult, to: Path) -> Path | None:
    """None where the protocol is another one by now: the page would explain what nobody asked about."""
    from rwe.evidence.federated import read_estimate
    from rwe.federate import hub
    from rwe.report.federated_page import write_federated

    estimate = read_estimate(hub.hub_folder(opened) / found.refresh)
    study = hub.study_asked(opened, found)
    if estimate is None or study is None:
        return None
    path = to / f"{found.study}.{found.refresh}.result.html"
    write_federated(estimate, study, path)
    return path


def _say_asked(asked: Asked) -> None:
    terminal.say(terminal.out, f"Refresh {asked.refresh}, step {asked.step}, for {', '.join(asked.sites)}")
    terminal.say(terminal.out, f"Request (send it to every site): {asked.path}")


def _show_result(result: FederatedResult) -> None:
    terminal.say(terminal.out, f"{result.method}; {counted(len(result.sites), 'site')}, {result.mode} sums")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Coefficient")
    for name in ("HR", f"{100 * result.ci_level:g} % CI", "log HR", "SE", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in result.coefficients:
        ratio = c.hazard_ratio
        if ratio is None or c.estimate is None or c.se is None or c.p_value is None:
            table.add_row(escape(c.name), "no estimate", "-", "-", "-", "-")
            continue
        limits = f"{ratio[1]:.2f}-{ratio[2]:.2f}"
        p = "<0.001" if c.p_value < 0.001 else f"{c.p_value:.3f}"
        table.add_row(escape(c.name), f"{ratio[0]:.2f}", limits, f"{c.estimate:.4f}", f"{c.se:.4f}", p)
    terminal.out.print(table)
    kind = "rounded to midpoints of six at each site" if result.counts_are == "midpoint_6" else "as they are"
    counts = result.counts
    terminal.say(
        terminal.out,
        f"About {counts['patients']:g} patients, {counts['ever_exposed']:g} ever exposed, "
        f"{counts['events']:g} events ({counts['events_exposed']:g} while exposed); counts {kind}",
    )
    for warning in result.warnings:
        terminal.say(terminal.out, f"Note: {warning}")


@federate_app.command("send")
def federate_send(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A request or an answer of this workspace.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Put a request or an answer into the drop folder, once you have looked at it.

    Example: rwe federate send outbox/answer-00-0123456789abcdef.json
    """
    from rwe.federate import drop

    opened = open_chosen(workspace)
    with audited(opened, "federate send"):
        name = drop.send(opened, file)
    terminal.say(terminal.out, f"Sent as {name}")


@federate_app.command("fetch")
def federate_fetch(
    study: StudyArgument,
    to: _ToOption,
    workspace: WorkspaceOption = None,
) -> None:
    """Get the hub's request, or (at the hub) the sites' answers, from the drop folder.

    Example: rwe federate fetch my_study --to inbox
    """
    from rwe.federate import drop

    opened = open_chosen(workspace)
    found = drop.fetch(opened, find_study(study, opened.studies).name, to)
    for path in found:
        terminal.say(terminal.out, f"Fetched {path}")
    if not found:
        terminal.out.print("There is nothing to fetch yet.")


@federate_app.command("status")
def federate_status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """What this workspace asked for as a hub, and answered and approved as a site.

    Example: rwe federate status
    """
    from rwe.federate import hub
    from rwe.federate.ledger import Answered, Approved, read_ledger

    opened = open_chosen(workspace)
    asked = hub.refreshes(opened)
    entries = read_ledger(opened).entries
    approved = [e for e in entries if isinstance(e, Approved)]
    answered = [e for e in entries if isinstance(e, Answered)]
    if as_json:
        begun = [{"refresh": r, "study": q.study, "step": q.step, "is_ended": ended} for r, q, ended in asked]
        given = [{"refresh": e.refresh, "study": e.study, "step": e.step, "mode": e.mode} for e in answered]
        cli_show.as_json({"asked": begun, "answered": given, "approved": [e.study for e in approved]})
        return
    for refresh, request, ended in asked:
        state = "ended" if ended else f"waits for answers to step {request.step}"
        terminal.say(terminal.out, f"Asked: {request.study}, refresh {refresh}: {state}")
    current = {s.name: s.protocol_sha256 for s in load_studies(opened.studies)}
    for e in approved:
        old = "" if current.get(e.study) == e.protocol_sha256 else " (not the protocol of today)"
        terminal.say(terminal.out, f"Approved: {e.study}, by {e.user} at {e.at}{old}")
    for a in answered:
        terminal.say(
            terminal.out, f"Answered: {a.study}, refresh {a.refresh}, step {a.step}, {a.mode}, at {a.at}"
        )
    if not asked and not entries:
        terminal.out.print("Nothing was asked or answered yet.")
