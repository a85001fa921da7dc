"""What stands in for a primary analysis that the data cannot carry: refused or downgraded, with a sentence.

Rules, of the primary analysis over all sites alone:

- A model whose events are fewer than half of `min_events_per_parameter` for each coefficient is not fitted.
  No covariate is chosen in place of the others: the answer is a model without any, by Firth's penalty.
- Weights that are worth fewer than ten patients in an arm, or that leave no estimate, are not believed.
- No event, or fewer than five, in a group, or fewer than ten patients in one: Firth's penalty instead of
  plain maximum likelihood, with the same covariates where the events carry them.

An exact permutation test at a landmark stands beside it where groups are that small, or nothing is adjusted.
Sources: Peduzzi et al. 1995, J Clin Epidemiol 48:1503; Heinze & Schemper 2001, Biometrics 57:114.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rwe.analyse.planned import hazard_ratio_of, is_of
from rwe.analyse.run_groups import FEW_EVENTS_IN_A_GROUP
from rwe.analyse.run_imputed import imputed_tables, is_imputed
from rwe.analyse.run_small import firth_rows
from rwe.analyse.tasks import Findings, Task, TooLittleError, count_events, prepared
from rwe.errors import RweError
from rwe.evidence.contract import Estimate, Refusal
from rwe.study import Analysis
from rwe.survival.data import CountingProcess, ExposureCounts

FEW_PATIENTS_IN_A_GROUP = 10
_CONDITIONAL = frozenset(
    {"landmark_cox", "landmark_firth", "time_dependent_cox", "time_dependent_firth", "sequential_trials"}
)
_PLAIN = frozenset({"landmark_cox", "time_dependent_cox", "sequential_trials"})
Run = Callable[[Task, Findings], RweError | None]


@dataclass(frozen=True)
class _Reason:
    """Why the primary analysis is downgraded, as a sentence, and whether its covariates can be kept."""

    words: str
    keeps_covariates: bool


def is_answer(task: Task) -> bool:
    """Whether this task is meant to give the study's answer."""
    return task.analysis.role == "primary" and task.site is None


def require_enough_events(task: Task, rows: CountingProcess) -> None:
    """Raises TooLittleError where a primary model would have too few events for its coefficients."""
    if not is_answer(task) or not task.analysis.adjusted_for or task.analysis.analysis not in _CONDITIONAL:
        return
    counts = rows.counts()
    events, wanted = counts.events_exposed + counts.events_unexposed, _events_wanted(task, rows)
    if events < wanted:
        raise TooLittleError(
            f"{count_events(task, events)} cannot carry {len(rows.names) + 1} coefficients (the exposure and "
            f"{len(rows.names)} of covariates): {wanted:g} are the least, and no covariate is chosen instead",
            advice="name fewer covariates in the protocol, or wait for more events",
        )


def _events_wanted(task: Task, rows: CountingProcess) -> float:
    return 0.5 * task.protocol.min_events_per_parameter * (len(rows.names) + 1)


def downgrade(asked: Task, failure: RweError | None, own: slice, findings: Findings, run: Run) -> None:
    """Put what the data can carry in the place of the primary analysis.

    `failure` is why it was refused, `own` where its estimates are among those of `findings`; `run` runs a
    task. Without a reason, or without anything in its place, all stays as it is.
    """
    findings.answer = asked
    try:
        task = _completed(prepared(asked))
        rows = task.rows()
        reason = _reason(task, rows, failure, findings.estimates[own])
    except RweError:
        return
    if reason is None:
        return
    keeps = reason.keeps_covariates and _carries(task, rows)
    firth = firth_in_place_of(asked.analysis, asked.landmark, keeps=keeps)
    stand_in = _stand_in(replace(asked, analysis=firth), findings, run)
    if stand_in is None:
        return
    cannot = _cannot(asked, reason)
    words = f"{cannot} {_instead(asked, firth)}"
    findings.estimates[own] = [_demoted(e, cannot) for e in findings.estimates[own]]
    at = findings.estimates.index(stand_in)
    findings.estimates[at] = stand_in.model_copy(
        update={
            "role": "posthoc" if asked.is_posthoc else "primary",
            "asked_role": "primary" if asked.is_posthoc else None,
            "downgraded_from": asked.analysis.analysis,
            "warnings": [words, *stand_in.warnings],
        }
    )
    findings.answer = replace(asked, analysis=firth)
    findings.primary = None if is_imputed(findings.answer) else firth_rows(prepared(findings.answer))
    if failure is None:
        day = f", day {asked.landmark}" if asked.landmark is not None else ""
        findings.refused.append(
            Refusal(analysis=f"{asked.analysis.analysis}{day}", reason=f"Not as the answer: {reason.words}")
        )
    if not keeps or _fewest_patients(rows.counts()) < FEW_PATIENTS_IN_A_GROUP:
        _exact_test(asked, findings, run)


def _completed(task: Task) -> Task:
    """The task on patients as it sees them: where it imputes, nobody is left out."""
    if not is_imputed(task):
        return task
    few = task.analysis.model_copy(update={"imputations": 2})
    return replace(task, table=imputed_tables(replace(task, analysis=few)).tables[0])


def _reason(
    task: Task, rows: CountingProcess, failure: RweError | None, found: list[Estimate]
) -> _Reason | None:
    if isinstance(failure, TooLittleError):
        return _Reason(f"{failure.what}.", keeps_covariates=task.analysis.analysis not in _CONDITIONAL)
    if failure is not None:
        return None
    counts = rows.counts()
    fewest = min(counts.events_exposed, counts.events_unexposed)
    who = "those who started" if counts.events_exposed == fewest else "those not started"
    if task.analysis.analysis not in _PLAIN:
        has_none = any(e.estimand == "hazard_ratio" and e.estimate is None for e in found)
        told = [w for e in found for w in e.warnings if w.startswith("There is no hazard ratio")]
        words = " ".join(["it gives no hazard ratio.", *dict.fromkeys(told)])
        return _Reason(words, keeps_covariates=True) if has_none else None
    if fewest < FEW_EVENTS_IN_A_GROUP:
        few = f"only {count_events(task, fewest)}" if fewest else f"no {count_events(task, 1)[2:]}"
        return _Reason(f"there {'are' if fewest > 1 else 'is'} {few} among {who}.", keeps_covariates=True)
    if _fewest_patients(counts) < FEW_PATIENTS_IN_A_GROUP:
        few = f"only {_fewest_patients(counts)} patients"
        return _Reason(f"there are {few} in a group.", keeps_covariates=True)
    return None


def _fewest_patients(counts: ExposureCounts) -> int:
    return min(counts.patients_exposed, counts.patients_unexposed)


def _carries(task: Task, rows: CountingProcess) -> bool:
    """Whether Firth's model can hold the covariates: events enough, and no status that follows the start."""
    counts = rows.counts()
    is_frozen = task.analysis.status_after_start == "freeze"
    return not is_frozen and counts.events_exposed + counts.events_unexposed >= _events_wanted(task, rows)


def firth_in_place_of(asked: Analysis, landmark: int | None, *, keeps: bool) -> Analysis:
    """The analysis that stands in for a primary one. `keeps`: with its covariates, or without any.

    What is not named here (robust variance, a status that is frozen, weights) does not go over to it.
    """
    a = asked
    return Analysis(
        analysis="time_dependent_firth" if landmark is None else "landmark_firth",
        role=a.role,
        adjusted_for=a.adjusted_for if keeps else [],
        stratify_by=a.stratify_by,
        landmarks=None if landmark is None else [landmark],
        missing=a.missing if keeps else "complete_case",
        imputations=a.imputations if keeps else 20,
    )


def _stand_in(task: Task, findings: Findings, run: Run) -> Estimate | None:
    """The estimate in question: one that the protocol asks for anyway, else of a run of its own."""
    others = [e for e in findings.estimates if e.role == "sensitivity" and e.status != "refused"]
    anyway = hazard_ratio_of(others, task)
    if anyway is not None:
        return anyway if anyway.estimate is not None else None
    apart = Findings()
    if run(task, apart) is not None:
        return None
    findings.estimates += apart.estimates
    return next((e for e in apart.estimates if e.estimate is not None), None)


def _exact_test(asked: Task, findings: Findings, run: Run) -> None:
    """The permutation test at the analysis's landmark, or where the grace period ends, unless asked for."""
    day = asked.landmark or max(asked.protocol.strategies.treated.grace_days, 1)
    analysis = Analysis(
        analysis="landmark_permutation", stratify_by=asked.analysis.stratify_by, landmarks=[day]
    )
    task = replace(asked, analysis=analysis, landmark=day)
    if any(is_of(e, task) for e in findings.estimates):
        return
    apart = Findings()
    run(task, apart)
    findings.estimates += apart.estimates
    findings.refused += apart.refused


def _cannot(asked: Task, reason: _Reason) -> str:
    """That the analysis that was asked for is not the answer, and why."""
    named = asked.analysis.analysis.replace("_", " ").replace("cox", "Cox model")
    return f"The {named} that the protocol names cannot be the answer: {reason.words}"


def _instead(asked: Task, firth: Analysis) -> str:
    """What a reader gets as the answer."""
    bare = ", and nothing is adjusted for" if asked.analysis.adjusted_for and not firth.adjusted_for else ""
    return f"This is Firth's penalised model in its place{bare}.{_other_question(asked, firth)}"


def _other_question(asked: Task, firth: Analysis) -> str:
    """That a ratio within covariates stands in for one of strategies, or of a weighted population."""
    if asked.analysis.analysis in _CONDITIONAL:
        return ""
    ratio = "a conditional ratio" if firth.adjusted_for or firth.stratify_by else "a crude ratio"
    of = "exposure so far" if asked.landmark is None else f"having started by day {asked.landmark}"
    is_emulation = asked.analysis.analysis == "clone_censor_weight"
    wanted = "a comparison of strategies" if is_emulation else "one of a weighted population"
    return f" It answers another question: {ratio} of {of}, not {wanted}."


def _demoted(e: Estimate, cannot: str) -> Estimate:
    """The estimate of the analysis that was asked for: no primary one any more, and it says why."""
    told = e.warnings if e.status == "refused" else [cannot, *e.warnings]
    role, asked = ("sensitivity" if r == "primary" else r for r in (e.role, e.asked_role))
    return e.model_copy(update={"role": role, "asked_role": asked, "warnings": told})
