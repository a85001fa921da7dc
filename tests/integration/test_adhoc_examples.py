"""The questions of sql/examples/ on patients known from outside our code; the dictionary; the notebook."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifelines import KaplanMeierFitter

import rwe.cli
from rwe import cli_sql
from rwe.adhoc.dictionary import MIN_ROWS, Dictionary, read_dictionary, render_dictionary
from rwe.adhoc.examples import examples, find_example
from rwe.adhoc.session import locked_session, published_database
from rwe.adhoc.statements import RefusedError
from rwe.config import Workspace
from tests.integration.adhoc_published import STUDY, known_patients, publish_known_patients
from tests.support import ROOT, missing

cli_sql.register(rwe.cli.app)

Ask = Callable[[str], list[dict[str, Any]]]
ANSWERED = {
    "01_cohort_size",
    "02_attrition",
    "03_follow_up",
    "04_kaplan_meier",
    "05_risk_set_at_landmarks",
    "06_starts",
    "07_exposure_evidence",
    "08_baseline",
    "09_deaths",
    "10_what_was_refused",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return publish_known_patients(tmp_path_factory.mktemp("adhoc"))


@pytest.fixture
def ask(workspace: Workspace, tmp_path: Path) -> Ask:
    """The rows of an example, as `rwe sql NAME --out FILE` writes them."""

    def ask(name: str) -> list[dict[str, Any]]:
        out = tmp_path / "answer.json"
        with pytest.raises(SystemExit) as ended:
            rwe.cli.main(["sql", name, "--out", str(out), "--force", "-w", str(workspace.root)])
        assert not ended.value.code
        answer: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
        assert all(row.get("study", STUDY) == STUDY for row in answer)
        return answer

    return ask


def test_there_are_ten_and_each_says_its_question() -> None:
    assert {e.name for e in examples()} == ANSWERED
    for example in examples():
        assert "?" in example.question, example.name
    assert find_example("02_attrition.sql") == find_example("02_attrition")
    assert find_example("nothing") is None


def test_the_size_of_the_cohort(ask: Ask) -> None:
    rows = ask("01_cohort_size")
    assert [r["site"] for r in rows] == ["sitea", "siteb", "sitec", "sited", "all sites"]
    for row in rows:
        patients = [p for p in known_patients() if row["site"] in {p.site, "all sites"}]
        days, events = sum(p.time_days for p in patients), sum(p.is_event for p in patients)
        assert (row["patients"], row["events"]) == (len(patients), events)
        assert row["person_years"] == pytest.approx(days / 365.25, abs=0.051)
        assert row["events_per_100_years"] == pytest.approx(100 * events / (days / 365.25), abs=0.051)


def test_attrition_ends_at_the_cohort(ask: Ask) -> None:
    rows = ask("02_attrition")
    assert [r["step_number"] for r in rows] == list(range(1, len(rows) + 1))
    for before, after in pairwise(rows):
        assert before["n_after"] == after["n_before"]
    assert rows[-1]["n_after"] == len(known_patients())


def test_follow_up_by_its_end(ask: Ask) -> None:
    by_end = {r["end_reason"]: r for r in ask("03_follow_up")}
    for end, is_event in {"death": True, "last_activity": False}.items():
        days = [p.time_days for p in known_patients() if p.is_event == is_event]
        assert by_end[end]["patients"] == len(days)
        assert by_end[end]["median_days"] == statistics.median(days)
        assert by_end[end]["lower_quartile_days"] == pytest.approx(np.quantile(days, 0.25))
        assert (by_end[end]["shortest_days"], by_end[end]["longest_days"]) == (min(days), max(days))


def test_kaplan_meier_is_what_lifelines_finds(ask: Ask) -> None:
    patients = known_patients()
    fitter = KaplanMeierFitter().fit([p.time_days for p in patients], [p.is_event for p in patients])
    rows = ask("04_kaplan_meier")
    assert [r["day"] for r in rows] == [183, 365, 730, 1095]
    for row in rows:
        assert row["survival"] == pytest.approx(float(fitter.predict(row["day"])), abs=1e-12)
        assert row["still_at_risk"] == sum(p.time_days >= row["day"] for p in patients)


def test_the_risk_set_at_a_landmark(ask: Ask) -> None:
    for row in ask("05_risk_set_at_landmarks"):
        at_risk = [p for p in known_patients() if p.time_days > row["day"]]
        started = [p for p in at_risk if p.start_day is not None and p.start_day <= row["day"]]
        assert (row["at_risk"], row["started"]) == (len(at_risk), len(started))
        assert row["not_started"] == len(at_risk) - len(started)


def test_who_starts_when(ask: Ask) -> None:
    rows = ask("06_starts")
    assert sum(r["patients"] for r in rows) == len(known_patients())
    started = [p.start_day for p in known_patients() if p.start_day is not None]
    assert sum(r["patients"] for r in rows if r["started"] in {"1 within grace period", "2 later"}) == len(
        started
    )
    (never,) = [r for r in rows if r["started"] == "4 never in follow-up"]
    assert never["events"] == sum(p.is_event for p in known_patients() if p.start_day is None)


def test_the_evidence_of_exposure(ask: Ask) -> None:
    (row,) = ask("07_exposure_evidence")
    assert (row["tier"], row["kind"], row["is_counted"]) == ("administration", "maintenance", True)
    assert row["patients"] == sum(p.start_day is not None for p in known_patients())


def test_baseline(ask: Ask) -> None:
    by_name = {r["covariate"]: r for r in ask("08_baseline")}
    ecog = [p.ecog for p in known_patients()]
    assert by_name["ecog"]["mean"] == pytest.approx(statistics.fmean(ecog))
    assert by_name["ecog"]["standard_deviation"] == pytest.approx(statistics.stdev(ecog))
    assert by_name["ecog"]["missing"] == 0
    ages = [p.age_years for p in known_patients()]
    assert by_name["age"]["median"] == pytest.approx(statistics.median(ages), abs=1e-6)


def test_where_deaths_are_known_from(ask: Ask) -> None:
    rows = ask("09_deaths")
    assert sum(r["deaths"] for r in rows) == sum(p.is_event for p in known_patients())
    assert sum(r["with_a_day"] for r in rows) == sum(p.is_event for p in known_patients())
    assert sum(r["day_by_rule"] + r["contradicted"] for r in rows) == 0


def test_what_was_refused_adds_up(ask: Ask) -> None:
    rows = ask("10_what_was_refused")
    fates = ("in_use", "superseded", "duplicates", "deleted", "not_admitted", "refused", "of_no_table")
    for row in rows:
        assert row["landed"] == sum(row[fate] for fate in fates)
    patients = {r["site"]: r["in_use"] for r in rows if r["resource_type"] == "Patient"}
    assert patients == {s: sum(p.site == s for p in known_patients()) for s in patients}
    assert sum(patients.values()) == len(known_patients())


class Page(HTMLParser):
    """What a page refers to, and its texts by the tag they stand in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.references += [
            str(v) for name, v in attrs if name in {"href", "src", "srcset", "action", "data"}
        ]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


@pytest.fixture(scope="module")
def dictionary(workspace: Workspace) -> Dictionary:
    with locked_session(published_database(workspace)) as session:
        return read_dictionary(session)


def test_the_dictionary_holds_every_column_with_its_meaning(
    workspace: Workspace, dictionary: Dictionary
) -> None:
    found = {
        (t.schema, t.name, c.name, c.data_type, c.comment)
        for s in dictionary.schemas
        for t in s.tables
        for c in t.columns
    }
    with locked_session(published_database(workspace)) as session:
        query = "select table_schema, table_name, column_name, data_type, comment from meta.column"
        described = {tuple(r) for r in session.connection.execute(query).fetchall()}
        (patients,) = session.connection.execute("select count(*) from staging.patient").fetchone() or (None,)
    assert found == described
    assert all(comment for *_, comment in found)
    (table,) = [t for s in dictionary.schemas for t in s.tables if t.full_name == "staging.patient"]
    assert table.rows == patients == len(known_patients())


def test_the_page_is_one_file_without_script_or_network(dictionary: Dictionary) -> None:
    text = render_dictionary(dictionary)
    page = Page(text)
    assert "default-src 'none'" in text
    assert {"script", "img", "link", "iframe", "form"}.isdisjoint(page.tags)
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {reference[1:] for reference in page.references} <= ids
    assert render_dictionary(dictionary) == text


def test_examples_are_names_and_codes_of_studies_and_of_closed_sets(
    workspace: Workspace, dictionary: Dictionary
) -> None:
    columns = {(t.full_name, c.name): c for s in dictionary.schemas for t in s.tables for c in t.columns}
    assert columns["cohort.survival", "study"].examples == (STUDY,)
    assert columns["cohort.survival", "end_reason"].examples == ("death", "last_activity")
    assert columns["staging.patient", "gender"].examples == ("female", "male")
    assert columns["cohort.exposure_episode", "kind"].examples == ("maintenance",)
    assert STUDY in columns["study.codelist", "study"].examples
    for name in ("patient_id", "site", "index_date", "event_id", "display", "title", "run"):
        assert all(not c.examples for (_, column), c in columns.items() if column == name), name
    with locked_session(published_database(workspace)) as session:
        query = "select patient_id, cast(index_date as varchar) from cohort.survival"
        secrets = {value for row in session.connection.execute(query).fetchall() for value in row}
        codes = {r[0] for r in session.connection.execute("select code from study.codelist").fetchall()}
    text = render_dictionary(dictionary)
    assert not [s for s in secrets if s in text]
    shown = {e for (table, name), c in columns.items() if name == "code" for e in c.examples}
    assert shown
    assert shown <= codes


def test_a_value_out_of_no_list_is_not_quoted_however_many_share_it(tmp_path: Path) -> None:
    import duckdb

    from rwe.adhoc.session import PublishedDatabase

    path = tmp_path / "rwe.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("create schema staging")
        db.execute("create schema cohort")
        db.execute(
            "create table staging.observation as select i::varchar as observation_id,"
            " case when i < 50 then 'final' when i < 53 then 'amended' else 'Dr. Mabuse said' end as status"
            " from range(100) as t(i)"
        )
        db.execute("comment on table staging.observation is 'One row an <b>observation</b>.'")
    with locked_session(PublishedDatabase(path)) as session:
        dictionary = read_dictionary(session)
    text = render_dictionary(dictionary)
    (table,) = dictionary.schemas[0].tables
    assert {c.name: c.examples for c in table.columns} == {"observation_id": (), "status": ("final",)}
    assert MIN_ROWS == 5  # three rows of `amended` are too few
    assert "Mabuse" not in text
    assert "<b>" not in text


def test_where_there_is_lineage_the_page_says_what_a_column_is_made_of(tmp_path: Path) -> None:
    import duckdb

    from rwe.adhoc.session import PublishedDatabase

    path = tmp_path / "rwe.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("create schema cohort")
        db.execute("create schema meta")
        db.execute("create table cohort.death as select 'a' as study")
        db.execute(
            "create table meta.build as select 's 1' as studies, 'ab' as content_sha256, '1' as code_version"
        )
        db.execute(
            "create table meta.lineage as select 'cohort' as table_schema, 'death' as table_name,"
            " 'study' as column_name, 'study' as source_schema, 'protocol' as source_table, source_column"
            " from (values ('study'), ('version'), (null)) as t(source_column)"
        )
    with locked_session(PublishedDatabase(path)) as session:
        dictionary = read_dictionary(session)
    (column,) = dictionary.schemas[0].tables[0].columns
    assert column.sources == ("study.protocol.study", "study.protocol.version")
    assert "study.protocol.version" in render_dictionary(dictionary)


def test_the_command_writes_the_page_for_us_alone(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "dictionary.html"
    with pytest.raises(SystemExit) as ended:
        rwe.cli.main(["dictionary", "--out", str(out), "-w", str(workspace.root)])
    assert not ended.value.code
    assert out.stat().st_mode & 0o777 == 0o600
    assert "cohort.survival" in out.read_text(encoding="utf-8")


@pytest.fixture
def defined(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the notebook's cells define, after all of them have run."""
    if find_spec("marimo") is None:
        missing("marimo (the extra adhoc)")
    monkeypatch.setenv("RWE_WORKSPACE", str(workspace.root))
    monkeypatch.setenv("MPLBACKEND", "agg")
    specification = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    assert specification is not None
    assert specification.loader is not None
    notebook = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(notebook)
    _, definitions = notebook.app.run()
    return dict(definitions)


def test_its_cells_run_and_show_the_cohort(defined: dict[str, Any], workspace: Workspace) -> None:
    patients = known_patients()
    assert defined["study"].value == STUDY
    assert defined["attrition"].n_after.iloc[-1] == len(patients)
    assert sorted(defined["cohort"].time_days) == sorted(p.time_days for p in patients)
    fitter = KaplanMeierFitter().fit(
        [p.time_days / 30.4375 for p in patients], [p.is_event for p in patients]
    )
    assert defined["survival"].iloc[-1, 0] == pytest.approx(fitter.survival_function_.iloc[-1, 0])


def test_its_questions_are_locked(defined: dict[str, Any], workspace: Workspace, tmp_path: Path) -> None:
    for query in (
        f"copy cohort.survival to '{tmp_path}/x.csv'",
        "from read_text('/etc/hostname')",
        "set threads = 1",
    ):
        with pytest.raises(RefusedError):
            defined["ask"](query)
    assert list(tmp_path.iterdir()) == []
    text = (ROOT / "docs" / "notebook.py").read_text(encoding="utf-8")
    assert "mo.sql" not in text  # marimo's own SQL cells run unlocked
    assert "duckdb" not in text
