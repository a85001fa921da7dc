"""How the command line shows what the commands return: results as lines of 80 columns, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from rwe import terminal
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.estimate import Estimate
    from rwe.evidence.blind import BlindDiagnostics
    from rwe.extract import ExtractionResult
    from rwe.intake import ImportResult
    from rwe.status import SiteStatus, WorkspaceStatus
    from rwe.warehouse.meta import SiteCounts
    from rwe.watermarks import Watermark


def as_json(result: Any) -> None:
    """Print a result for a program."""
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    typer.echo(json.dumps(plain, default=_plain, indent=1))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def notes(warnings: Iterable[str]) -> None:
    """Print what a user should know, and need not act on."""
    for warning in warnings:
        terminal.say(terminal.out, f"Note: {warning}")


def landed(results: Sequence[ExtractionResult | ImportResult], *, for_program: bool) -> None:
    """Print what landed, a line a site."""
    if for_program:
        as_json(
            [
                {"site": r.site, "run": r.run.run, "resources": r.resources, "warnings": list(r.warnings)}
                for r in results
            ]
        )
        return
    for r in results:
        total = counted(sum(r.resources.values()), "resource")
        terminal.say(terminal.out, f"{r.site}: {total} landed as run {r.run.run}")
        notes(r.warnings)


def estimates(results: Sequence[Estimate], *, for_program: bool) -> None:
    """Print what an extraction would ask and bring, a table a site."""
    if for_program:
        as_json([asdict(r) | {"total_rows": r.total_rows} for r in results])
        return
    for r in results:
        _estimate(r)


def _estimate(e: Estimate) -> None:
    terminal.out.print(f"[bold]{escape(e.site)}[/]")
    facts = _grid()
    for label, text in _estimate_lines(e):
        facts.add_row(f"  {label}", escape(text))
    terminal.out.print(facts)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for name, rows in e.rows.items():
        table.add_row(f"    {name}", f"{rows:,}", "")
    for name, reason in e.uncounted.items():
        table.add_row(f"    {name}", "?", escape(reason))
    terminal.out.print(table)
    terminal.say(terminal.out, f"  Nothing has landed. The estimate took {counted(e.asked, 'request')}.")
    notes(e.notes)


def _estimate_lines(e: Estimate) -> list[tuple[str, str]]:
    level = f" at the level {e.level}" if e.level else ""
    sample = f", counted in {e.sampled} of the patients" if e.patients and e.sampled < e.patients else ""
    lines = [
        ("way", f"{e.route}{level}: {'; '.join(e.reasons)}"),
        ("cohort", "not known before the export" if e.patients is None else counted(e.patients, "patient")),
        ("asks", _EXPORT_REQUESTS if e.requests is None else f"about {counted(e.requests, 'request')}"),
    ]
    if e.exported:
        total = counted(sum(e.exported.values()), "resource")
        lines.append(("exports", f"{total}, the whole hospital's, of which the cohort's land"))
    if e.rows:
        lines.append(("lands", f"about {counted(e.total_rows, 'resource')}{sample}"))
    return lines


_EXPORT_REQUESTS = "one export; how many polls and files is the server's choice"


def built(counts: Sequence[SiteCounts]) -> None:
    """Print what became of what landed, a line a site."""
    if not counts:
        terminal.say(terminal.out, "Nothing has landed yet: run `rwe extract` or `rwe import` first.")
    for c in counts:
        where = " (see meta.quarantine)" if c.quarantined else ""
        terminal.say(
            terminal.out,
            f"{c.site}: {c.in_lake:,} in the lake, {c.duplicate:,} duplicate,"
            f" {c.quarantined:,} quarantined{where}",
        )


def status(found: WorkspaceStatus) -> None:
    """Print where each site stands."""
    if not found.sites:
        terminal.say(terminal.out, "No site is declared yet: name one under sites: in rwe.yaml.")
    for site in found.sites:
        terminal.out.print(f"[bold]{escape(site.site)}[/]")
        table = _grid()
        for label, text in _site_lines(site):
            table.add_row(f"  {label}", escape(text))
        terminal.out.print(table)
    if found.published is None:
        shown = "nothing yet; run `rwe build`"
    else:
        shown = f"{found.published}{f', built {_minute(found.built_at)}' if found.built_at else ''}"
    terminal.say(terminal.out, f"Published: {shown}")


def _grid() -> Table:
    """Labels, and beside them texts that fold."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _site_lines(s: SiteStatus) -> list[tuple[str, str]]:
    if s.last_run is None:
        return [("last run", "nothing landed yet")]
    lines = [("last run", f"{s.last_run} ({s.route}), {counted(s.resources, 'resource')}")]
    if s.failed_types:
        lines.append(("failed", f"{', '.join(s.failed_types)}; run `rwe extract` again"))
    fresh = "never" if s.fresh_hours is None else _ago(s.fresh_hours)
    lines.append(("complete", fresh))
    for at, types in _by_minute(s.watermarks):
        lines.append(("whole up to", f"{at}: {', '.join(types)}"))
    if s.quarantined is not None:
        where = " (see meta.quarantine)" if s.quarantined else ""
        lines.append(("quarantine", f"{counted(s.quarantined, 'resource')}{where}"))
    return lines


def _ago(hours: float) -> str:
    return "less than an hour ago" if hours < 1 else f"{counted(int(hours), 'hour')} ago"


def _by_minute(marks: Sequence[Watermark]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for mark in marks:
        shown = _minute(mark.at) if mark.at else "no clock told"
        groups.setdefault(shown, []).append(mark.resource_type)
    return sorted(groups.items())


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def blind(found: BlindDiagnostics) -> None:
    """Print what may be seen before the lock: who the patients are, balance, weights, power."""
    by = ", ".join(f"{n} {name}" for name, n in found.n_by_strategy.items())
    terminal.say(terminal.out, f"{counted(found.n, 'patient')} ({by}), {found.events} events together")
    if found.median_follow_up_days is not None:
        terminal.say(terminal.out, f"Median follow-up {found.median_follow_up_days:.0f} days")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("At index", "strategy", "known", "mean or share", "SMD"):
        table.add_column(name, justify="left" if name in {"At index", "strategy"} else "right")
    for row in found.baseline:
        mean = "-" if row.mean is None else f"{row.mean:.2f}"
        smd = "-" if row.smd_before is None else f"{row.smd_before:+.2f}"
        table.add_row(escape(row.label), row.strategy, str(row.n), mean, smd)
    terminal.out.print(table)
    for arm in found.weights:
        terminal.say(
            terminal.out,
            f"Weights of {arm.strategy}: worth {arm.effective:.0f} patients, largest "
            + ("-" if arm.maximum is None else f"{arm.maximum:.1f}"),
        )
    empty = [c for c in found.positivity if not c.started or not c.not_started]
    for cell in empty:
        who = "nobody started" if not cell.started else "everybody started"
        terminal.say(terminal.out, f"No positivity: {cell.covariate} {cell.level}: {who}")
    if found.detectable:
        d = found.detectable
        terminal.say(
            terminal.out,
            f"With {d.events} events and what the protocol adjusts for, a hazard ratio of {d.protective:.2f} "
            f"or {d.harmful:.2f} would be found with {d.power:.0%} power",
        )
    notes(found.notes)
