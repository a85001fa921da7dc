"""The history on real builds: landed records, corrected, deleted, erased; two nights of a small cohort."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rwe.analyse import analyse
from rwe.config import Workspace
from rwe.evidence.history import Change
from rwe.history.ledger import holds_erased, ledger_path, read_ledger
from rwe.history.past import read_past
from rwe.keeping.erase import erase
from rwe.keeping.search import Sought, files_with
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.study import Study
from tests.integration.cohort_nights import STUDY, Person, begin, night, people, write_study

ADULT = {"eligibility": [{"name": "adult", "kind": "age_at_index", "min_years": 18}]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Study, list[Person]]:
    """A first night and its refresh. The tests below are one story, told in their order."""
    persons = [replace(p, start=p.start, seen=max(p.seen, 200)) for p in people(24)]
    opened, study = begin(tmp_path_factory.mktemp("history"), persons, **ADULT)
    return opened, study, persons


def change_of(workspace: Workspace, study: Study) -> Change:
    history = analyse(workspace, study).evidence.history
    assert history is not None
    assert history.change is not None
    return history.change


def test_a_night_that_brings_nothing_makes_no_refresh(
    workspace: tuple[Workspace, Study, list[Person]],
) -> None:
    opened, study, persons = workspace
    first = analyse(opened, study)
    night(opened, study, persons[:5])
    again = analyse(opened, study)
    assert not again.is_new
    assert again.refresh == first.refresh
    assert len(read_past(opened, STUDY).looks) == 1


def test_corrections_growth_and_arrivals_are_told_apart(
    workspace: tuple[Workspace, Study, list[Person]],
) -> None:
    opened, study, persons = workspace
    started = next(p for p in persons if p.start is not None and p.died is None)
    waiting = next(p for p in persons if p.start is None and p.died is None)
    dying = next(p for p in persons if p.died is None and p not in (started, waiting))
    young = next(p for p in persons if p not in (started, waiting, dying))
    night(
        opened,
        study,
        [
            replace(started, start=None),  # the start was entered in error
            replace(waiting, start=20),  # one that was overlooked
            replace(dying, seen=dying.seen + 60, died=dying.seen + 60),
            replace(young, born=2010),  # not an adult after all
            Person("newcomer", "river", died=90, seen=90),
        ],
    )
    found = change_of(opened, study)
    assert (found.entered, found.left) == (1, {"adult": 1})
    assert (found.corrections.moved_to_control, found.corrections.moved_to_treated) == (1, 1)
    assert (found.outcome_known, found.follow_up_grown) == (1, 1)
    assert found.unchanged == 24 - 4
    news = {s.site: (s.new_patients, s.new_events) for s in found.sites}
    assert news["river"][0] == 1
    assert sum(events or 0 for _, events in news.values()) == 2


def test_an_erased_patient_leaves_the_ledgers_and_nothing_is_left_to_find(
    workspace: tuple[Workspace, Study, list[Person]],
) -> None:
    opened, study, persons = workspace
    gone = persons[-1]
    pseudonym = Pseudonymiser(opened.pseudonym_key(), gone.site).of("Patient", gone.name)
    refresh = read_past(opened, STUDY).looks[-1].refresh
    before = read_ledger(opened, STUDY, refresh)
    assert before is not None
    assert pseudonym in set(before.survival["patient_id"])
    assert ledger_path(opened, STUDY, refresh) in files_with(opened, Sought((pseudonym,)))
    found = erase(opened, gone.site, [study], patient_ids=[gone.name])
    assert found.remaining == ()
    assert files_with(opened, Sought((pseudonym,))) == ()
    after = read_ledger(opened, STUDY, refresh)
    assert after is not None
    assert len(after.survival) == len(before.survival) - 1
    told = change_of(opened, study)
    assert (told.erased, told.left, told.entered) == (1, {}, 0)


def test_no_refresh_holds_a_name_or_a_pseudonym(workspace: tuple[Workspace, Study, list[Person]]) -> None:
    opened, _, persons = workspace
    words = [p.name for p in persons]
    words += [Pseudonymiser(opened.pseudonym_key(), p.site).of("Patient", p.name) for p in persons]
    for path in sorted(Path(opened.evidence).rglob("*.json")):
        text = path.read_text()
        assert not [w for w in words if w in text], path.name


def test_a_protocol_changed_since_the_build_is_reproduced_in_r_like_any(tmp_path: Path) -> None:
    """Each amendment is analysed before the next night's build: its refresh has all that others have."""
    opened, _ = begin(tmp_path, people(24), **ADULT)
    found = analyse(opened, write_study(opened.studies, **ADULT, confidence_level=0.9))
    assert (found.path.parent / "reproduce" / "analysis.R").is_file()
    ledger = read_ledger(opened, STUDY, found.refresh)
    assert ledger is not None
    assert not holds_erased(opened, ledger)


def test_who_is_erased_while_an_analysis_runs_is_kept_by_nothing(tmp_path: Path) -> None:
    opened, study = begin(tmp_path, people(24), **ADULT)
    found = analyse(opened, study)
    ledger = read_ledger(opened, STUDY, found.refresh)
    assert ledger is not None
    erase(opened, people(24)[0].site, [study], patient_ids=[people(24)[0].name])
    assert holds_erased(opened, ledger)  # as it was read before the erasure
