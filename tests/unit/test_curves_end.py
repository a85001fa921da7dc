"""A weighted curve says nothing where nobody of its arm is followed any more."""

from __future__ import annotations

from rwe.evidence.contract import Curve, CurvePoint, Parameters
from rwe.report import curves
from rwe.report import names as naming
from tests.unit import evidence_example as example

NAMES = naming.names_of(naming.protocol_of(example.evidence()))
MONTH = 30.4375


def _arm(strategy: str, rows: list[tuple[float, float, int]]) -> Curve:
    points = [
        CurvePoint(time_days=day, survival=s, ci_low=None, ci_high=None, at_risk=n, events=0)
        for day, s, n in rows
    ]
    return Curve(
        analysis="clone_censor_weight",
        strategy=strategy,
        site=None,
        is_biased=False,
        parameters=Parameters(grace_days=60),
        points=points,
    )


def test_a_level_beyond_the_last_follow_up_of_the_arm_is_not_read() -> None:
    """Both arms step on the deaths of either: one is followed for 20 months, the other for 40."""
    days = [0.0, 10 * MONTH, 20 * MONTH, 30 * MONTH, 40 * MONTH]
    short = _arm(
        example.CONTROL, list(zip(days, [1, 0.5, 0.073, 0.073, 0.073], [9, 6, 2, 0, 0], strict=True))
    )
    long = _arm(example.TREATED, list(zip(days, [1, 0.9, 0.8, 0.7, 0.6], [9, 8, 7, 6, 5], strict=True)))
    (shown,) = curves.curve_sets(example.evidence(curves=[short, long]), NAMES)
    read = {(r.strategy, r.month): (r.at_risk, r.survival) for r in curves.readings(shown, NAMES)}
    months = sorted({month for _, month in read})
    control, treated = (next(s for s, _ in read if w in s) for w in ("no start by", ": start by"))
    assert {m for m in months if read[(control, m)] == ("0", "after the last follow-up")} == {
        m for m in months if m > 20
    }
    assert max(months) == 36
    assert read[(treated, 36)] == ("5", "70.0\u202f%")


def test_the_other_arm_keeps_its_points_and_an_empty_one_is_left_as_it_is() -> None:
    nobody = _arm(example.CONTROL, [(0.0, 1.0, 0)])
    both = [_arm(example.TREATED, [(0.0, 1.0, 3), (50.0, 0.5, 1), (60.0, 0.5, 0)]), nobody]
    (shown,) = curves.curve_sets(example.evidence(curves=both), NAMES)
    assert [len(c.points) for c in shown.curves] == [2, 1]
