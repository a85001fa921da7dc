"""The commands `rwe sites …`: what a server can do, may we in, and the public keys to register there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rwe import terminal
from rwe.cli_options import JsonOption, WorkspaceOption, open_chosen
from rwe.errors import ConfigError, SiteError
from rwe.site_settings import SmartAuth
from rwe.study import load_studies

if TYPE_CHECKING:
    from rwe.site_check import Finding, SiteReport, TypeReport

sites_app = typer.Typer(
    help="Look at the sites' servers, and publish our keys.\n\nExample: rwe sites check", no_args_is_help=True
)

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "failed": "[red]failed[/]"}


@sites_app.command("check")
def check(
    site: Annotated[str | None, typer.Argument(help="A site; else all that have a base_url.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """What can this server do, may we in, which way is taken and why.

    Example: rwe sites check charite
    """
    from rwe.site_check import check_sites

    opened = open_chosen(workspace)
    names = [site] if site else [n for n, s in opened.settings.sites.items() if s.base_url]
    if not names:
        raise ConfigError(
            "no site has a base_url",
            where=str(opened.root / "rwe.yaml"),
            advice="declare one under sites:",
        )
    studies = load_studies(opened.studies) if opened.studies.is_dir() else []
    reports = check_sites(opened, names, studies)
    if as_json:
        typer.echo(json.dumps([asdict(r) | {"is_ok": r.is_ok} for r in reports], indent=1))
    else:
        for report in reports:
            _show(report)
    failed = [r.site for r in reports if not r.is_ok]
    if failed:
        raise SiteError(
            f"not ready: {', '.join(failed)}", advice="see what is marked failed, and do what is said there"
        )


def _show(report: SiteReport) -> None:
    out = terminal.out
    out.print(f"[bold]{escape(report.site)}[/]  {escape(report.base_url or '')}", soft_wrap=True)
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(min_width=10, no_wrap=True)
    rows.add_column(overflow="fold")
    for label, text in _facts(report):
        rows.add_row(f"  {label}", escape(text))
    if report.types:
        out.print(rows)
        out.print(_types(report.types))
        rows = Table.grid(padding=(0, 1, 0, 0))
        rows.add_column(min_width=10, no_wrap=True)
        rows.add_column(overflow="fold")
    for finding in report.findings:
        rows.add_row(f"  {_MARKS[finding.grade]}", escape(_sentence(finding)))
    out.print(rows)


def _facts(report: SiteReport) -> list[tuple[str, str]]:
    if report.route is None:
        return []
    software = " ".join(x for x in (report.software, report.version) if x) or "does not say what it is"
    exports = ", ".join(report.export_levels) or "not declared"
    level = f" at the level {report.route.level}" if report.route.level else ""
    return [
        ("server", f"{software}; FHIR {report.fhir_version or 'version not told'}"),
        ("login", f"{report.auth}; SMART {_word(report.offers_smart, 'offered', 'not offered')}"),
        ("export", exports),
        ("POST", _word(report.takes_post, "search by POST works", "search by POST is refused")),
        ("way", f"{report.route.route}{level}: {'; '.join(report.route.reasons)}"),
    ]


def _word(value: bool | None, yes: str, no: str) -> str:
    return "not known" if value is None else yes if value else no


def _types(types: tuple[TypeReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("  type", no_wrap=True)
    for name in ("listed", "by code", "since", "history"):
        table.add_column(name)
    for t in types:
        cells = (t.is_listed, t.by_code, t.by_last_updated, t.history)
        table.add_row(f"  {t.name}", *(_word(c, "yes", "no") if c is not None else "?" for c in cells))
    return table


def _sentence(finding: Finding) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{finding.subject}: {finding.text}{advice}."


@sites_app.command("jwks")
def jwks(
    site: Annotated[str, typer.Argument(help="A site with SMART Backend Services.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """The public keys to register with the hospital: the current and the next.

    Example: rwe sites jwks charite --out jwks.json
    """
    from rwe.fhir.keys import jwk_set, site_keys

    auth = open_chosen(workspace).site(site).auth
    if not isinstance(auth, SmartAuth):
        raise ConfigError(
            "the site does not use SMART Backend Services",
            where=f"site {site}",
            advice="set auth: {kind: smart, client_id: …, key_file: …}",
        )
    text = jwk_set(site_keys(site, auth))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError:
        raise ConfigError("the file cannot be written", where=str(out)) from None
    terminal.out.print(f"Public keys: {escape(str(out))}", soft_wrap=True)
