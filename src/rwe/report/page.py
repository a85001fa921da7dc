"""The page: one self-contained HTML file, no script, no network, the same bytes for the same evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from rwe.durable import AS_UMASK, write_whole
from rwe.evidence.contract import Evidence, read_evidence
from rwe.evidence.parts import Kinetics
from rwe.report import contrasts, formats, safety, tables, words
from rwe.report.autopsy import AutopsyShown, autopsy
from rwe.report.curves import CurveReading, CurveSet, curve_sets, curves_svg, readings, survival_name
from rwe.report.diagnostics import DiagnosticsShown, diagnostics
from rwe.report.estimates import assumed, coefficients, estimates
from rwe.report.federated import federated
from rwe.report.forest import forest_groups, forest_svg
from rwe.report.grid import grid, untried
from rwe.report.history import history
from rwe.report.kinetics import traces_svg
from rwe.report.lock import lock
from rwe.report.names import Names, analysis_name, names_of, protocol_of
from rwe.report.specification import specification
from rwe.report.synthesis import SynthesisShown, synthesis
from rwe.study import Protocol

_FOLDER = Path(__file__).resolve().parent
AUDIENCES = {
    "internal": "Internal: exact counts of small groups; not for release outside the sites",
    "release": "Release: prepared to leave the sites",
}


@dataclass(frozen=True)
class _CurvesShown:
    shown: CurveSet
    svg: Markup
    readings: tuple[CurveReading, ...]
    survival: str


@dataclass(frozen=True)
class _KineticsShown:
    """The single traces and the case series are of an internal page: a release shows the summary.

    `apart`: what of them is not on this page, as a sentence.
    """

    unit: str
    summary: list[safety.ExpansionRow]
    figure: Markup | None
    cases: list[safety.CaseRow]
    has_no_case: bool
    apart: str
    has_single_patients: bool
    notes: tuple[str, ...]


def render_report(evidence: Evidence, *, has_page_of_single: bool = False) -> str:
    """The report as HTML, from the evidence alone.

    `has_page_of_single`: a page with single traces and cases is written in the folder `reproduce` beside it.
    Deterministic: the same evidence gives the same text, for a page carries no time but the refresh's.
    Raises EvidenceError if the protocol inside the evidence cannot be read.
    """
    protocol = protocol_of(evidence)
    names = names_of(protocol)
    figures = [_curves(s, names) for s in curve_sets(evidence, names)]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            e=evidence,
            audience=AUDIENCES[evidence.audience],
            names=names,
            level=f"{100 * protocol.confidence_level:g}\u202f%",
            style=style_sheet(),
            lock=lock(evidence),
            answer=words.answer(evidence, names, words.posthoc_sentences(evidence, protocol)),
            after_grace=words.after_grace(evidence, protocol),
            naive=words.naive_sentences(evidence),
            key_numbers=tables.key_numbers(evidence, names),
            autopsy=_autopsy(evidence, protocol, names),
            figures=[f for f in figures if not f.shown.is_biased and f.shown.curves[0].site is None],
            biased_figures=[f for f in figures if f.shown.is_biased and f.shown.curves[0].site is None],
            site_figures=[f for f in figures if f.shown.curves[0].site is not None],
            forest=_forest(evidence, names),
            grid=grid(evidence.sensitivity_grid, names) if evidence.sensitivity_grid else None,
            untried=untried(evidence, protocol),
            synthesis=_synthesis(evidence, protocol, names),
            federated=federated(evidence, protocol),
            absolute=contrasts.absolute(evidence, names),
            competing=contrasts.competing(evidence, names),
            d=_diagnostics(evidence, protocol, names),
            rates=safety.rates(evidence.safety, names) if evidence.safety else [],
            kinetics=_kinetics(evidence, names, has_page_of_single=has_page_of_single),
            history=history(evidence),
            follow_up=tables.follow_up(evidence, names),
            ends=tables.ends(evidence),
            attrition=tables.attrition(evidence, protocol),
            baseline=tables.baseline(evidence, protocol),
            specification=specification(evidence, protocol),
            codelists=tables.codelists(evidence),
            estimates=estimates(evidence, names),
            has_copies=any(e.contrast.groups == "follows_strategy" for e in evidence.estimates),
            coefficients=coefficients(evidence, names),
            assumed=assumed(evidence),
            resource_types=tables.resource_types(evidence),
        )
    )


def write_report(evidence_path: Path, html_path: Path) -> None:
    """Read an evidence.json and write its report: complete or absent.

    Where single traces were kept beside it, in `reproduce`, a report with them is written there (0600).

    Raises EvidenceError if the evidence is missing or breaks its contract; an older report stays then.
    """
    evidence = read_evidence(evidence_path)
    single = evidence_path.parent / "reproduce" / "kinetics.json"
    is_kept = single.is_file()
    write_html(render_report(evidence, has_page_of_single=is_kept), html_path)
    if is_kept:
        kinetics = Kinetics.model_validate_json(single.read_bytes())
        whole = evidence.model_copy(update={"kinetics": kinetics})
        write_html(render_report(whole), single.with_name("report.html"), 0o600)


def write_html(text: str, html_path: Path, mode: int = AS_UMASK) -> None:
    """Write a page: complete or absent. `mode`: who may read it; else as the folder's default is."""
    html_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(html_path, text.encode(), mode)


def _curves(shown: CurveSet, names: Names) -> _CurvesShown:
    svg = Markup(curves_svg(shown, names))  # noqa: S704  (labels were escaped when the SVG was written)
    return _CurvesShown(shown, svg, tuple(readings(shown, names)), survival_name(shown, names))


def _autopsy(evidence: Evidence, protocol: Protocol, names: Names) -> AutopsyShown | None:
    found = evidence.bias_autopsy
    return autopsy(found, names.events, protocol.confidence_level) if found else None


def _synthesis(evidence: Evidence, protocol: Protocol, names: Names) -> SynthesisShown | None:
    found = synthesis(evidence, protocol, names)
    if found is None:
        return None
    return replace(found, figure=Markup(found.figure))  # noqa: S704  (labels were escaped, as above)


def _diagnostics(evidence: Evidence, protocol: Protocol, names: Names) -> DiagnosticsShown | None:
    return diagnostics(evidence.diagnostics, names, protocol) if evidence.diagnostics else None


def _kinetics(evidence: Evidence, names: Names, *, has_page_of_single: bool) -> _KineticsShown | None:
    found = evidence.kinetics
    if found is None:
        return None
    is_internal = evidence.audience == "internal"
    drawn = traces_svg(found, names) if is_internal else None
    return _KineticsShown(
        unit=safety.unit_words(found.unit),
        summary=safety.expansion(found, names),
        figure=Markup(drawn) if drawn else None,  # noqa: S704  (as above)
        cases=safety.case_series(found) if is_internal else [],
        has_no_case=safety.has_no_case(found),
        apart=safety.kept_apart(found, is_written=has_page_of_single) if is_internal else "",
        has_single_patients=is_internal,
        notes=tuple(found.notes),
    )


def _forest(evidence: Evidence, names: Names) -> Markup | None:
    """The forest plot; labels were escaped when the SVG was written. None without a hazard ratio."""
    groups = forest_groups(evidence, names)
    if not groups:
        return None
    levels = {e.ci_level for e in words.hazard_ratios(evidence) if e.ci_level is not None}
    level = levels.pop() if len(levels) == 1 else None
    return Markup(forest_svg(groups, level, names.events))  # noqa: S704


def environment() -> Environment:
    """Templates and filters of the report's pages."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        analysis=analysis_name,
        count=formats.count,
        humanise=formats.humanise,
        instant=formats.instant,
        sentence=formats.sentence,
        svg=_svg,
        whole_words=_whole_words,
    )
    return environment


def style_sheet() -> Markup:
    """The look of every page, to stand in its head."""
    return Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)


def _svg(text: str) -> Markup:
    """An SVG of our own as markup; its labels were escaped when it was written."""
    return Markup(text)  # noqa: S704


def _whole_words(text: str) -> Markup:
    """The text with short hyphenated words (CAR-T) kept on one line."""
    words_of_text = [
        Markup('<span class="whole">{}</span>').format(word)
        if "-" in word and len(word) < 16
        else escape(word)
        for word in text.split()
    ]
    return Markup(" ").join(words_of_text)
