"""The page: one self-contained HTML file, no script, no network, the same bytes for the same evidence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from rwe.evidence.contract import Evidence, read_evidence
from rwe.report import formats, tables, words
from rwe.report.curves import CurveReading, CurveSet, curve_sets, curves_svg, readings
from rwe.report.forest import forest_groups, forest_svg
from rwe.report.specification import specification
from rwe.report.words import Names

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


def render_report(evidence: Evidence) -> str:
    """The report as HTML, from the evidence alone.

    Deterministic: the same evidence gives the same text, for a page carries no time but the refresh's.
    Raises EvidenceError if the protocol inside the evidence cannot be read.
    """
    protocol = words.protocol_of(evidence)
    names = words.names_of(protocol)
    figures = [_curves(s, names) for s in curve_sets(evidence, names)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            e=evidence,
            audience=AUDIENCES[evidence.audience],
            names=names,
            style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),  # noqa: S704  (our own file)
            answer=words.answer(evidence, names),
            after_grace=words.after_grace(evidence, protocol),
            naive=words.naive_sentences(evidence),
            key_numbers=tables.key_numbers(evidence, names),
            figures=[f for f in figures if not f.shown.is_biased and f.shown.curves[0].site is None],
            biased_figures=[f for f in figures if f.shown.is_biased and f.shown.curves[0].site is None],
            site_figures=[f for f in figures if f.shown.curves[0].site is not None],
            forest=_forest(evidence, names),
            follow_up=tables.follow_up(evidence, names),
            ends=tables.ends(evidence),
            attrition=tables.attrition(evidence, protocol),
            baseline=tables.baseline(evidence, protocol),
            specification=specification(evidence, protocol),
            codelists=tables.codelists(evidence),
            estimates=tables.estimates(evidence, names),
            coefficients=tables.coefficients(evidence, names),
            resource_types=tables.resource_types(evidence),
            not_shown=tables.sections_not_shown(evidence),
        )
    )


def write_report(evidence_path: Path, html_path: Path) -> None:
    """Read an evidence.json and write its report: complete or absent.

    Raises EvidenceError if the evidence is missing or breaks its contract; an older report stays then.
    """
    text = render_report(read_evidence(evidence_path))
    html_path.parent.mkdir(parents=True, exist_ok=True)
    aside = html_path.with_suffix(html_path.suffix + ".part")
    with aside.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    aside.replace(html_path)


def _curves(shown: CurveSet, names: Names) -> _CurvesShown:
    return _CurvesShown(shown, Markup(curves_svg(shown, names)), tuple(readings(shown, names)))  # noqa: S704


def _forest(evidence: Evidence, names: Names) -> Markup | None:
    """The forest plot; labels were escaped when the SVG was written. None without a hazard ratio."""
    groups = forest_groups(evidence, names)
    if not groups:
        return None
    levels = {e.ci_level for e in words.hazard_ratios(evidence) if e.ci_level is not None}
    level = levels.pop() if len(levels) == 1 else None
    return Markup(forest_svg(groups, level, names.events))  # noqa: S704


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        analysis=words.analysis_name,
        count=formats.count,
        humanise=formats.humanise,
        instant=formats.instant,
        sentence=formats.sentence,
        whole_words=_whole_words,
    )
    return environment


def _whole_words(text: str) -> Markup:
    """The text with short hyphenated words (CAR-T) kept on one line."""
    words_of_text = [
        Markup('<span class="whole">{}</span>').format(word)
        if "-" in word and len(word) < 16
        else escape(word)
        for word in text.split()
    ]
    return Markup(" ").join(words_of_text)
