"""The report's figures: what they must show, and that they can stand inside a page."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwe.evidence.contract import Curve, CurvePoint, Parameters, Refusal
from rwe.report import autopsy, curves, figures, forest, kinetics
from rwe.report import names as naming
from tests.unit import evidence_example as example

NAMES = naming.names_of(naming.protocol_of(example.evidence()))
SVG = "{http://www.w3.org/2000/svg}"


def text_of(svg: str) -> str:
    return " ".join("".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")).replace(
        "\u202f", " "
    )


def kaplan_meier(exits: list[tuple[int, bool]], analysis: str = "landmark_kaplan_meier") -> Curve:
    """The curve of patients who leave on a day, dead or alive: the textbook's product, drawn by hand."""
    points, survival = [], 1.0
    for day in sorted({d for d, _ in exits}):
        n = sum(d >= day for d, _ in exits)
        dead = sum(d == day and is_dead for d, is_dead in exits)
        survival *= 1 - dead / n
        points.append(
            CurvePoint(time_days=day, survival=survival, ci_low=None, ci_high=None, at_risk=n, events=dead)
        )
    return Curve(
        analysis=analysis,
        strategy=example.TREATED,
        site=None,
        is_biased=False,
        parameters=Parameters(),
        points=points,
    )


@given(
    exits=st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=20),
    day=st.integers(0, 70),
)
def test_the_number_at_risk_is_who_has_not_left_before_the_day(
    exits: list[tuple[int, bool]], day: int
) -> None:
    assert curves.at_risk(kaplan_meier(exits), day) == sum(left >= day for left, _ in exits)


def test_nobody_is_exposed_on_day_0_where_exposure_begins_later() -> None:
    late = kaplan_meier([(40, True), (90, False)], "simon_makuch")
    assert curves.at_risk(late, 0, enters_late=True) == 0
    assert curves.at_risk(late, 30, enters_late=True) == 2


def test_survival_on_a_day_is_the_step_before_and_ends_with_follow_up() -> None:
    steps = kaplan_meier([(10, True), (20, True), (30, False), (40, True)])
    found = [curves.point_at(steps, day) for day in (5, 10, 19, 20, 41)]
    assert [p and p.survival for p in found] == [None, 0.75, 0.75, 0.5, None]


@pytest.mark.parametrize("last_day", [20, 365, 730, 3000, 12000])
def test_ticks_are_round_months_inside_the_follow_up(last_day: float) -> None:
    ticks = curves.ticks_months(last_day, 8)
    assert ticks[0] == 0
    assert len(ticks) <= 9
    assert len({b - a for a, b in pairwise(ticks)}) <= 1
    assert ticks[-1] <= max(1, last_day / 30.4375)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=1500, unique=True))
def test_thinning_keeps_the_last_step_of_each_column_and_the_end(days: list[int]) -> None:
    full = kaplan_meier([(d, True) for d in days])
    last = full.points[-1].time_days
    kept = curves.thinned(full, last)
    assert kept[-1] == full.points[-1]
    assert len(kept) <= 301
    kept_days = [p.time_days for p in kept]
    assert all(any(0 <= k - p.time_days <= last / 300 for k in kept_days) for p in full.points)


def test_a_curve_of_many_patients_stays_small() -> None:
    both = [example.curve("simon_makuch", a, 0.001, 20_000) for a in (example.TREATED, example.CONTROL)]
    shown = curves.curve_sets(example.evidence(curves=both), NAMES)
    assert len(curves.curves_svg(shown[0], NAMES)) < 90_000


def _others() -> list[str]:
    """The figures besides curves and forest."""
    found = example.autopsy()
    drawn = [
        autopsy.steps_svg(found, "deaths", 0.95),
        autopsy.days_svg(found),
        kinetics.traces_svg(example.kinetics(), NAMES),
    ]
    return [svg for svg in drawn if svg]


def test_every_figure_is_xml_with_a_role_a_title_and_no_metadata() -> None:
    document = example.evidence()
    drawn = [curves.curves_svg(s, NAMES) for s in curves.curve_sets(document, NAMES)]
    drawn.append(forest.forest_svg(forest.forest_groups(document, NAMES), 0.95))
    drawn += _others()
    assert len(drawn) == 10
    for svg in drawn:
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        titles = root.findall(f"{SVG}title")
        assert len(titles) == 1
        assert titles[0].text
        assert titles[0].get("id") in (root.get("aria-labelledby") or "")
        assert not list(root.iter("{http://www.w3.org/2000/01/rdf-schema#}RDF"))
        assert not list(root.iter(f"{SVG}style")), "a style element would leak into the page"
        assert not list(root.iter(f"{SVG}metadata"))


def test_ids_are_unique_over_all_figures_and_every_reference_has_its_target() -> None:
    document = example.evidence()
    drawn = [curves.curves_svg(s, NAMES) for s in curves.curve_sets(document, NAMES)]
    drawn.append(forest.forest_svg(forest.forest_groups(document, NAMES), 0.95))
    drawn += _others()
    ids: Counter[str] = Counter()
    for svg in drawn:
        elements = list(ET.fromstring(svg).iter())
        own = [e.get("id") for e in elements if e.get("id")]
        ids.update(str(i) for i in own)
        for e in elements:
            for name, value in e.attrib.items():
                if name.endswith("href"):
                    assert value.removeprefix("#") in own
                if "url(#" in value:
                    assert value.split("url(#")[1].split(")")[0] in own
    assert max(ids.values()) == 1


def test_the_same_figure_is_the_same_bytes() -> None:
    shown = curves.curve_sets(example.evidence(), NAMES)[0]
    assert curves.curves_svg(shown, NAMES) == curves.curves_svg(shown, NAMES)


def test_odd_characters_in_a_label_are_text_never_markup_or_mathematics() -> None:
    shown = curves.curve_sets(example.evidence(), NAMES)[0]
    svg = curves.curves_svg(shown, NAMES)
    assert text_of(svg).count(f"{example.ODD_LABEL}: started") == 2, "legend, and beside the numbers at risk"
    assert text_of(svg).count(f"{example.ODD_LABEL}: not (yet) started") == 2
    assert "<script" not in svg


def test_curves_come_in_the_order_simon_makuch_landmarks_naive() -> None:
    shown = curves.curve_sets(example.evidence(), NAMES)
    assert [(s.title, s.is_biased) for s in shown] == [
        ("Simon–Makuch curves", False),
        ("Clone-censor-weight, grace 180 days, weights by a Cox model", False),
        ("Clone-censor-weight, grace 180 days, against never starting, weights by a Cox model", False),
        ("Landmark Kaplan–Meier, day 60", False),
        ("Landmark Kaplan–Meier, day 90", False),
        ("Naive Kaplan–Meier", True),
    ]
    assert shown[3].axis_label == "Months since day 60"


def test_only_the_biased_curves_say_biased() -> None:
    for shown in curves.curve_sets(example.evidence(), NAMES):
        assert ("BIASED: IMMORTAL TIME" in text_of(curves.curves_svg(shown, NAMES))) is shown.is_biased


def test_curves_are_named_by_who_is_in_them() -> None:
    shown = curves.curve_sets(example.evidence(), NAMES)
    said = [text_of(curves.curves_svg(s, NAMES)) for s in shown]
    assert ": start by day 180" in said[1]
    assert ": no start by day 180" in said[1]
    assert ": never start" in said[2]
    assert ": started by day 60" in said[3]
    assert ": not started by day 60" in said[3]
    assert ": never started" in said[5]


def test_the_forest_heads_its_events_as_the_protocol_calls_them() -> None:
    groups = forest.forest_groups(example.evidence(), NAMES)
    assert "Deaths" in text_of(forest.forest_svg(groups, 0.95))
    composite = text_of(forest.forest_svg(groups, 0.95, "events"))
    assert "Events" in composite
    assert "Deaths" not in composite


def test_a_curve_without_points_is_drawn_without_failing() -> None:
    empty = example.curve("simon_makuch", example.TREATED, 0.001, 1)
    assert not empty.points
    shown = curves.curve_sets(example.evidence(curves=[empty]), NAMES)[0]
    ET.fromstring(curves.curves_svg(shown, NAMES))


def test_the_forest_holds_every_hazard_ratio_primary_first_naive_last() -> None:
    document = example.evidence()
    groups = forest.forest_groups(document, NAMES)
    rows = [r for g in groups for r in g.rows]
    assert len(rows) == sum(e.estimand == "hazard_ratio" for e in document.estimates)
    assert rows[0].kind == "primary"
    assert rows[-1].kind == "biased"
    assert rows[-1].label.startswith("BIASED")
    said = text_of(forest.forest_svg(groups, 0.95))
    for r in rows:
        assert r.text.replace("\u202f", " ") in said


def test_an_estimate_without_a_number_is_a_row_that_says_why() -> None:
    groups = forest.forest_groups(example.evidence(), NAMES)
    notes = [r.note for g in groups for r in g.rows if r.estimate is None]
    assert notes == [f"did not converge: {example.DIVERGED}", f"refused: {example.REFUSED}"]
    said = text_of(forest.forest_svg(groups, 0.95))
    assert "did not converge" in said
    assert "refused: 2 patients were exposed at the landmark" in said


def test_a_refused_model_without_an_estimate_is_a_row_too() -> None:
    refused = [
        Refusal(analysis="landmark_cox, day 7 at site alpha", reason="one arm is empty"),
        Refusal(analysis="landmark_cox", reason=example.REFUSED),
    ]
    groups = forest.forest_groups(example.evidence(refused=refused), NAMES)
    notes = [r.note for g in groups for r in g.rows]
    assert notes.count("refused: one arm is empty") == 1
    assert notes.count(f"refused: {example.REFUSED}") == 1, "told by its estimate already"


def test_the_log_axis_is_symmetric_around_one_and_holds_every_estimate() -> None:
    axis = forest.LogAxis(0.1, 10)
    assert axis.x(0.5) + axis.x(2) == pytest.approx(2 * axis.x(1))
    assert axis.x(0.001) == axis.x(0.1)
    rows = [r for g in forest.forest_groups(example.evidence(), NAMES) for r in g.rows]
    found = forest.log_axis(rows)
    assert (found.low, found.high) == (0.02, 20)  # 0.04 is inside; 23.4 is beyond and gets an arrow


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    "ink",
    [figures.INK, figures.MUTED, figures.BLUE, figures.WARNING_INK, figures.GREY_DARK, figures.GREY_LIGHT],
)
def test_text_in_figures_has_contrast(ink: str) -> None:
    assert 1.05 / (luminance(ink) + 0.05) >= 4.5
