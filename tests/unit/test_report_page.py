"""The page as a whole: complete, self-contained, escaped, the same bytes every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rwe.errors import EvidenceError
from rwe.evidence.contract import write_evidence
from rwe.report import render_report, write_report
from rwe.report.estimates import estimates as estimate_tables
from rwe.report.names import names_of, protocol_of
from tests.support import ROOT
from tests.unit import evidence_example as example

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes and text by section; fails on a tag that closes another's."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.rows: list[str] = []
        self._open: list[str] = []
        self._in_head_style = False
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if "tr" in self._open:
            self.rows[-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\u202f", " "))


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(example.evidence())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_balanced_html_with_one_title_and_one_main(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert page.tags.count("h1") == 1
    assert page.tags.count("main") == 1


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [v for _, k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name in {"href", "xlink:href"}:
            assert value.startswith("#")
            assert value[1:] in ids
        if name == "aria-labelledby":
            assert set(value.split()) <= set(ids)


def test_nothing_is_fetched_from_anywhere(html: str, page: Page) -> None:
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(page.tags)
    for _, name, value in page.attributes:
        assert name not in {"src", "srcset", "action", "poster", "data"}
        assert not name.startswith("on")
        assert not re.search(r"url\((?!#)", value)
        if "://" in value:
            assert name.startswith("xmlns"), f"{name} names an address"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(v for _, k, v in page.attributes if k == "content" and "default-src" in v)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_labels_are_text_never_markup(html: str, page: Page) -> None:
    assert example.ODD_LABEL in page.text
    assert example.ODD_STEP.replace("_", " ") in page.text
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>a study" not in html


def test_the_first_screen_answers_and_warns(page: Page) -> None:
    first = page.text[: page.text.index("Provenance")]
    assert "was 0.71 times that under" in first
    assert "The naive comparison of ever with never started gives 0.20" in first
    assert "231 ever started, 110 of them after the grace period" in first
    assert "26.0 months" in first
    assert "2026-03-01" in first
    assert "3 deaths without a date were placed on the last contact." in first


def test_every_estimate_is_a_row_primary_first_biased_last_of_the_comparisons(page: Page) -> None:
    kinds = "Time|Land|Naive|Mantel|Simon|Clone|Sequential|Marginal"
    found = [r for r in page.rows if re.match(rf"\d+({kinds})", r)]
    numbers = [int(re.match(r"\d+", r).group()) for r in found]  # type: ignore[union-attr]
    estimates = example.estimates()
    assert sorted(numbers) == list(range(1, len(estimates) + 1))
    assert estimates[numbers[0] - 1].role == "primary"
    for kind in estimate_tables(example.evidence(), names_of(protocol_of(example.evidence()))).kinds:
        is_biased = [r.is_biased for r in kind.rows]
        assert is_biased == sorted(is_biased), kind.title
    for number, row in zip(numbers, found, strict=True):
        e = estimates[number - 1]
        assert (f"Site {e.site}" if e.site else "All sites") in row
        is_open = e.ci_level is not None and e.ci_low is None
        assert ("not estimable" in row) is (e.estimate is None or is_open)
        for warning in e.warnings:
            assert warning[1:] in row
        assert ("biased: immortal time" in row) is e.is_biased


def test_expected_deaths_and_medians_keep_their_own_words(page: Page) -> None:
    assert "231 / 78 (95.2 expected)" in page.text
    median = next(r for r in page.rows if "Median survival" in r).replace("\u202f", " ")
    assert "95 % CI 410 days to not estimable" in median
    assert "the median is not reached" in median


def test_salvage_and_resumption_are_told_apart(page: Page) -> None:
    assert "37 first started after progression (salvage) and do not count as started" in page.text
    assert "5 started before it, continued or resumed after it, and do" in page.text
    assert (
        "110 of the 231 who started did so after the grace period (day 180), and count as started"
        in page.text
    )


def test_quarantined_lines_stand_beside_their_site(page: Page) -> None:
    assert next(r for r in page.rows if r.startswith("Quarantined lines")).endswith("007")


def test_a_composite_shows_events_and_the_deaths_among_them() -> None:
    protocol = example.protocol()
    protocol["intercurrent_events"][0]["handling"] = "composite"
    cohort = example.evidence().cohort
    cohort = cohort.model_copy(update={"deaths_by_strategy": {example.TREATED: 40, example.CONTROL: 200}})
    text = Page(render_report(example.evidence(protocol=protocol, cohort=cohort))).text
    assert "418 events" in text
    assert "Events Deaths (as the first event)" in text
    assert "Patients / events" in text
    assert "418 deaths" not in text
    assert "Patients / deaths" not in text


def test_refusals_findings_and_provenance_are_there(page: Page) -> None:
    for said in (
        "Landmark log-rank test : Nobody was exposed at day 7.",
        "Deaths recorded before the index event.",
        "not stated",
        "20 510",
        "ab" * 32,
        "cd" * 32,
        "ef" * 32,
        "20220331",
        "L01XL *",
        "2021-10-01 to …",
    ):
        assert said.replace(" ", "") in page.text.replace(" ", ""), said


def test_every_table_has_a_caption_and_every_head_a_scope(html: str, page: Page) -> None:
    assert page.tags.count("table") == page.tags.count("caption")
    assert page.tags.count("th") == len([1 for t, k, _ in page.attributes if (t, k) == ("th", "scope")])


@pytest.mark.parametrize(("audience", "said"), [("internal", "Internal: "), ("release", "Release: ")])
def test_the_audience_is_the_first_thing_said(audience: str, said: str) -> None:
    text = Page(render_report(example.evidence(audience=audience))).text
    body = text.split("a study", 1)[1]
    assert body.lstrip(" </b>").startswith(said)


def test_an_evidence_without_results_still_renders() -> None:
    lists = "sites runs quality attrition baseline estimates curves refused warnings codelists"
    nothing: dict[str, list[object]] = {name: [] for name in lists.split()}
    text = Page(render_report(example.evidence(**nothing))).text
    assert "There is no primary estimate in this refresh" in text
    assert "This refresh holds no hazard ratio" in text
    assert "No check returned a row" in text


def test_curves_by_site_are_not_dropped() -> None:
    by_site = example.curve("simon_makuch", example.TREATED, 0.001, 20, site="alpha")
    text = Page(render_report(example.evidence(curves=[by_site]))).text
    assert "Curves by site" in text
    assert "Simon–Makuch curves, site alpha" in text


def test_the_page_is_small(html: str) -> None:
    assert len(html.encode()) < 400_000


def test_the_same_evidence_gives_the_same_bytes_in_another_process(html: str) -> None:
    program = (
        "import sys; from tests.unit.evidence_example import evidence; from rwe.report import render_report;"
        "sys.stdout.buffer.write(render_report(evidence()).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert done.stdout == html.encode()


def test_the_file_is_what_was_rendered(tmp_path: Path, html: str) -> None:
    write_evidence(example.evidence(), tmp_path / "evidence.json")
    write_report(tmp_path / "evidence.json", tmp_path / "out" / "report.html")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == html
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html"]


def test_broken_evidence_leaves_the_older_report(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("older")
    (tmp_path / "evidence.json").write_text('{"schema_version": "1.2"}')
    with pytest.raises(EvidenceError):
        write_report(tmp_path / "evidence.json", report)
    with pytest.raises(EvidenceError):
        write_report(tmp_path / "absent.json", report)
    assert report.read_text() == "older"
