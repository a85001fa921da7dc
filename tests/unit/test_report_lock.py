"""What a reader is told of the lock, and of an answer outside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rwe.evidence.contract import Evidence, Parameters
from rwe.evidence.parts import Amendment, LockSummary
from rwe.report import render_report
from rwe.report.estimates import estimates
from rwe.report.forest import forest_groups
from rwe.report.lock import LockShown, lock
from rwe.report.names import names_of, protocol_of
from rwe.report.specification import specification
from rwe.report.words import answer, posthoc_answer, posthoc_sentences
from rwe.terminal import hazard_ratio_table
from tests.unit import evidence_example as example
from tests.unit.evidence_example import ADJUSTED, estimate, evidence
from tests.unit.test_report_new_evidence import plain

PROTOCOL = protocol_of(evidence())
NAMES = names_of(PROTOCOL)
AS_ASKED = Parameters(
    adjusted_for=ADJUSTED, stratified_by=["site"], status_after_start="follow", ties="efron"
)
FROZEN = AS_ASKED.model_copy(update={"status_after_start": "freeze"})


def entry(day: int, **values: Any) -> Amendment:
    return Amendment(
        locked_at=datetime(2025, 5, day, 9, tzinfo=UTC),
        version=f"1.0.{day}",
        protocol_sha256=f"{day:064d}",
        reason="asked for" if day > 1 else None,
        **values,
    )


def shown(*log: Amendment, status: str = "locked", estimates: Any = None, **values: Any) -> LockShown:
    registration = next((a.registration for a in reversed(log) if a.registration), None)
    summary = LockSummary.model_validate(
        {"status": status, "registration": registration, "log": list(log), "changed": [], **values}
    )
    document = evidence(protocol_lock=summary, estimates=estimates or [estimate(role="primary")])
    found = lock(document)
    assert found is not None
    return found


def test_a_lock_before_any_refresh_is_clean() -> None:
    found = shown(entry(1, refreshes_before=0, registration="NCT01"))
    assert (found.status, found.badge) == ("locked", "Protocol locked 2025-05-01, registration NCT01")
    assert "No refresh of this study had been made before." in found.sentences


@pytest.mark.parametrize(("seen", "said"), [(1, "1 refresh had"), (6, "6 refreshes had")])
def test_a_lock_after_the_outcome_was_seen_is_not_clean(seen: int, said: str) -> None:
    found = shown(entry(1, refreshes_before=seen, registration="NCT01"))
    assert found.status == "late"
    assert found.badge == f"Protocol locked 2025-05-01 after {said} shown the outcome, registration NCT01"
    assert f"{said} shown the outcome by then: the lock does not show what was planned." in found.sentences


def test_an_amendment_of_the_answer_after_the_outcome_was_seen_is_not_clean() -> None:
    first = entry(1, refreshes_before=0, registration="NCT01")
    swapped = entry(9, refreshes_before=6, has_other_answer=True, changed=["analyses", "version"])
    found = shown(first, swapped)
    assert found.status == "late"
    assert found.badge == (
        "Primary analysis amended 2025-05-09 after 6 refreshes had shown the outcome, "
        "registration NCT01 of version 1.0.1"
    )
    said = " ".join(found.sentences)
    assert "made the primary analysis, or what it rests on, another; changed: analyses and version." in said
    assert "The registration NCT01 is of version 1.0.1; no later one is named." in said


def test_an_amendment_that_leaves_the_answer_leaves_the_lock_clean_and_says_what_it_changed() -> None:
    first = entry(1, refreshes_before=0)
    added = entry(
        9, refreshes_before=6, changed=["subgroups"], dropped=["subgroup young"], added=["subgroup old"]
    )
    found = shown(first, added)
    assert (found.status, found.badge) == ("locked", "Protocol locked 2025-05-01, amended 2025-05-09")
    assert found.log[1].changes == (
        "changed: subgroups",
        "no longer asked for: subgroup young",
        "new: subgroup old",
    )
    assert [r.refreshes for r in found.log] == ["0", "6"]


def test_what_was_dropped_is_named_and_an_answer_that_is_as_locked_is_called_so() -> None:
    crude = "sensitivity: Cox model of the time-dependent exposure"
    found = shown(entry(1), status="changed", changed=["analyses"], dropped=[crude])
    assert found.badge == "Protocol changed after its lock of 2025-05-01, its primary analysis as locked"
    assert found.sentences[-1] == "No estimate is outside the lock."
    assert found.lists == (("Locked, and no longer asked for", (crude,)),)
    page = plain(render_report(evidence(protocol_lock=LockSummary(
        status="changed", registration=None, log=[entry(1)], changed=["analyses"], dropped=[crude]
    ))))  # fmt: skip
    assert "no longer asked for: Sensitivity: Cox model of the time-dependent exposure" in page


def outside() -> Evidence:
    """The frozen model stands before the one that was asked for, and both are post hoc."""
    return evidence(
        estimates=[
            estimate(role="posthoc", asked_role="sensitivity", parameters=FROZEN, estimate=1.09),
            estimate(role="posthoc", asked_role="primary", parameters=AS_ASKED, estimate=1.02),
        ]
    )


def test_the_answer_outside_the_lock_is_the_one_asked_for_whatever_stands_before_it() -> None:
    found = posthoc_answer(outside())
    assert found is not None
    assert found.estimate == 1.02
    said = posthoc_sentences(outside(), PROTOCOL)
    assert "it gives a hazard ratio of 1.02" in said[0]
    assert "an effect through delaying progression is not part of this ratio" in said[1]


def test_an_answer_outside_the_lock_without_a_number_says_why() -> None:
    refused = estimate(
        role="posthoc", asked_role="primary", estimate=None, status="refused", warnings=["nobody started"]
    )
    (said,) = posthoc_sentences(evidence(estimates=[refused]), PROTOCOL)
    assert said.endswith("is post hoc; its hazard ratio is not estimable. Nobody started.")


def test_an_answer_outside_the_lock_is_not_said_to_adjust_for_nothing() -> None:
    elements = {e.name: e.emulation for e in specification(outside(), PROTOCOL)}
    (assumed,) = elements["Assignment"]
    assert assumed.startswith("Not at random. Taken as comparable given age at index")
    how = elements["Contrast and analysis"][0]
    assert how.startswith("Post hoc, for the protocol was changed after its lock: Time-dependent Cox model")


def test_without_its_estimate_the_protocol_says_what_is_primary() -> None:
    elements = {e.name: e.emulation for e in specification(evidence(estimates=[]), PROTOCOL)}
    assert elements["Assignment"][0].startswith("Not at random. Taken as comparable given age at index")
    assert "this refresh shows no estimate of it" in elements["Contrast and analysis"][0]
    none = PROTOCOL.model_copy(update={"analyses": PROTOCOL.analyses[:1]})
    elements = {e.name: e.emulation for e in specification(evidence(estimates=[]), none)}
    assert elements["Assignment"] == ("Not at random, and no analysis is primary",)
    assert elements["Contrast and analysis"][0] == "No analysis is primary"


def test_a_naive_estimate_outside_the_lock_is_marked_wherever_it_stands() -> None:
    naive = estimate(analysis="naive_cox", role="contrast", asked_role="contrast", is_biased=True)
    document = evidence(estimates=[naive])
    row = estimates(document, NAMES).kinds[0].rows[0]
    assert (row.role, row.is_posthoc) == ("contrast, post hoc", True)
    (group,) = forest_groups(document, NAMES)
    assert group.rows[0].label.startswith("BIASED: POST HOC: ")
    table = hazard_ratio_table([naive])
    assert list(table.columns[-1].cells) == ["biased post hoc"]
    summary = example.lock("changed", ["analyses"])
    found = lock(document.model_copy(update={"protocol_lock": summary}))
    assert found is not None
    assert "1 estimate is outside the lock and marked post hoc." in found.sentences


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": FROZEN}, "status as on the day of each start."),
        ({"parameters": FROZEN}, "whoever starts later stays among those not (yet) started"),
        (
            {
                "analysis": "clone_censor_weight",
                "parameters": Parameters(
                    adjusted_for=ADJUSTED, grace_days=180, compared_with="never", weight_model="logistic",
                    weight_for_loss=True, truncate_percentile=99,
                ),
            },
            "grace 180 days; against never starting; weights by a logistic model; also weighted for loss to "
            "follow-up; weights cut at percentile 99.",
        ),
        (
            {
                "analysis": "landmark_weighting",
                "parameters": Parameters(adjusted_for=ADJUSTED, landmark_day=60, weight_model="overlap"),
            },
            "Landmark weighting, day 60, weighted for",
        ),
    ],
)  # fmt: skip
def test_the_headline_names_what_was_chosen_in_the_primary_analysis(
    changes: dict[str, Any], said: str
) -> None:
    document = evidence(estimates=[estimate(role="primary", **changes)])
    assert said in " ".join(answer(document, NAMES))
    assert said.rstrip(".") in " ".join(
        line for e in specification(document, PROTOCOL) for line in e.emulation
    )


def test_the_forest_calls_no_ratio_marginal_for_being_weighted() -> None:
    page = plain(render_report(evidence()))
    assert "weighted (marginal)" not in page
    assert "also a weighted one with covariates of baseline in its model" in page
