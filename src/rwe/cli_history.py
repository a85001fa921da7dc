"""The commands `rwe history`, `rwe diff`, `rwe release`: how an estimate moved, why, when it may leave."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from rwe import terminal
from rwe.audit import audited
from rwe.cli_options import JsonOption, StudyArgument, WorkspaceOption, open_chosen
from rwe.study import find_study
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.analyse.differences import Difference
    from rwe.evidence.history import Change, Look
    from rwe.history.past import Past

history_app = typer.Typer()
_WIDTH = 80
_RefreshArgument = Annotated[
    str, typer.Argument(metavar="REFRESH", help="Its name or the beginning of it; `latest`; `#3`.")
]


@history_app.command("history")
def history(study: StudyArgument, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """The estimate over all refreshes, what was new by site, and what was corrected or changed.

    Example: rwe history my_study
    """
    from rwe.history.past import read_past

    opened = open_chosen(workspace)
    name = find_study(study, opened.studies).name
    past = read_past(opened, name)
    if as_json:
        looks = [look.model_dump(mode="json") for look in past.looks]
        typer.echo(json.dumps({"study": name, "looks": looks, "notes": list(past.notes)}, indent=1))
        return
    _show_history(name, past)


def _show_history(name: str, past: Past) -> None:
    from rwe.history.words import look_notes, repeated_looks

    if not past.looks:
        _say(f"There is no refresh of {name} yet: run `rwe analyse {name}`.")
    else:
        _line(f"{'look':>4} {'refresh':<16} {'patients':>8} {'events':>6}  {'hazard ratio':<22} {'naive':>6}")
    for look in past.looks:
        at = f"{look.created_at:%Y-%m-%d %H:%M}"
        known = terminal.ratio(look.naive) if look.naive is not None else "-"
        _line(f"{look.number:>4} {at:<16} {look.n:>8,} {look.events:>6,}  {_ratio(look):<22} {known:>6}")
        for note in look_notes(look):
            _say(note, indent=5)
    if past.looks:
        _say(repeated_looks(past.looks[-1].number) + " The naive ratio is biased by immortal time.")
    for note in past.notes:
        _say(f"Note: {note}.")


@history_app.command("diff")
def diff(
    first: _RefreshArgument,
    second: _RefreshArgument = "latest",
    *,
    study: Annotated[str | None, typer.Option("--study", help="Look among this study's refreshes.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why an estimate moved from one refresh to another, in counts of patients that stay inside.

    Example: rwe diff '#1' latest --study my_study
    """
    from rwe.analyse.differences import difference
    from rwe.history.past import resolve

    opened = open_chosen(workspace)
    found = difference(opened, resolve(opened, first, study), resolve(opened, second, study))
    looks, change = [found.before, found.after], found.change
    if as_json:
        told = change.model_dump(mode="json") if change else None
        plain = [look.model_dump(mode="json") for look in looks]
        typer.echo(
            json.dumps(
                {"study": found.study, "before": plain[0], "after": plain[1], "change": told}, indent=1
            )
        )
        return
    _show_difference(found)


def _show_difference(found: Difference) -> None:
    for word, look in (("Before", found.before), ("After", found.after)):
        _say(
            f"{word}: look {look.number}, {look.refresh}. {look.n:,} patients, {look.events:,} events, "
            f"hazard ratio {_ratio(look)}."
        )
    if found.change is not None:
        _show_change(found.change)
    else:
        _show_between(found)


def _show_change(change: Change) -> None:
    from rwe.history.words import change_lines, news, step_label

    for what, n in change_lines(change):
        _line(f"  {what:<58} {n:>8,}")
    if told := news(change.sites):
        _say(f"New by site: {told}.")
    if change.protocol_changed:
        _say(f"The protocol changed: {', '.join(change.protocol_changed)}.")
    if change.code_changed:
        _say("The code changed.")
    if len(change.steps) > 1:
        _line(f"  {'The primary hazard ratio, one class of change after another':<58}")
        for step in change.steps:
            ratio = "-" if step.estimate is None else f"{step.estimate:.3f}"
            _line(f"  {step_label(step):<58} {ratio:>8}")
        _say("In another order the steps would differ: changes act together.")
    for note in change.notes:
        _say(f"Note: {note}")


def _show_between(found: Difference) -> None:
    from rwe.history.words import look_notes

    _say(
        "Who was in both is no longer kept (see history.keep_ledgers in rwe.yaml), so this is what each "
        "refresh between reported when it was made; a patient who moved twice counts twice."
    )
    for look in found.between:
        notes = look_notes(look)
        _say(f"look {look.number}, {look.created_at:%Y-%m-%d}: {'; '.join(notes) or 'not told'}", indent=2)


@history_app.command("release")
def release(
    study: StudyArgument,
    *,
    apart: Annotated[
        bool, typer.Option("--apart", help="Do not wait for what is new since releases of other studies.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the copy of the newest refresh that may leave: rounded, and only if enough is new.

    Example: rwe release my_study
    """
    from rwe.history.kept_lock import require_made_under_lock
    from rwe.history.release import release as make_release

    opened = open_chosen(workspace)
    found = find_study(study, opened.studies)
    name = found.name
    require_made_under_lock(opened, found)
    with audited(opened, "release", study=name) as deed:
        made = make_release(opened, name, apart=apart)
        deed.counts = {"release": made.number, "withheld": made.withheld, "apart": int(apart)}
    if as_json:
        typer.echo(json.dumps({"release": made.release, "folder": str(made.folder)}, indent=1))
        return
    terminal.say(terminal.out, f"Release {made.number}: {made.folder}")
    since = f"since release {made.beyond.since}" if made.beyond.since else "in the first release"
    new = f"{counted(made.beyond.new_patients, 'patient')} and {counted(made.beyond.new_events, 'event')}"
    terminal.say(terminal.out, f"{new} are new {since} (numbers that stay here).")
    if made.withheld:
        few = (
            "too few of its patients or events are new" if made.withheld == 1 else "too little of each is new"
        )
        terminal.say(terminal.out, f"{counted(made.withheld, 'number')} withheld: {few}.")
    if apart:
        terminal.say(terminal.out, "Releases of other studies were not looked at: give this one to others.")


def _ratio(look: Look) -> str:
    if look.estimate is None:
        return "not estimable"
    limits = "" if look.ci_low is None or look.ci_high is None else f" ({look.ci_low:.2f}-{look.ci_high:.2f})"
    return f"{look.estimate:.3f}{limits}"


def _line(text: str) -> None:
    terminal.out.print(text.rstrip(), markup=False, soft_wrap=True)


def _say(text: str, indent: int = 0) -> None:
    """A sentence in lines of 80 columns, also where the output is piped."""
    for line in textwrap.wrap(
        text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2)
    ):
        _line(line)
