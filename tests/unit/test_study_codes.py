"""`rwe study check` shows the code lists: the first codes of each, or all of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rwe.cli import main
from rwe.study import load_study
from rwe.study_codes import every_code, first_codes
from tests.support import ROOT

PATH = ROOT / "studies" / "lenalidomide_after_car_t.yaml"
BUNDLED = load_study(PATH)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["study", "check", str(PATH), *words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def in_file(name: str) -> list[str]:
    path = PATH.parent / "codelists" / f"{name}.csv"
    return [row["code"] for row in csv.DictReader(path.open(encoding="utf-8"))]


def test_each_code_list_has_a_sentence_with_its_first_codes() -> None:
    names = BUNDLED.protocol.codelist_names()
    sentences = first_codes(BUNDLED)
    assert [s.partition(":")[0] for s in sentences] == names
    for name, sentence in zip(names, sentences, strict=True):
        codes = in_file(name)
        assert all(c in sentence for c in codes[:3])
        assert (f"and {len(codes) - 3} code" in sentence) == (len(codes) > 3)


def test_a_prefix_shows_its_star_and_a_code_its_days(tmp_path: Path) -> None:
    (tmp_path / "codelists").mkdir()
    for path in (PATH, *(PATH.parent / "codelists").glob("*.csv")):
        (tmp_path / path.relative_to(PATH.parent)).write_text(path.read_text(encoding="utf-8"))
    (tmp_path / "codelists" / "dlbcl.csv").write_text(
        "system,code,display,source,valid_from,valid_to\n"
        "http://hl7.org/fhir/sid/icd-10-cm,C83.3*,lymphoma,NCHS,2020-10-01,\n"
        "urn:oid:1.2.3,x1,,local,,2021-12-31\n"
    )
    lines = every_code(load_study(tmp_path / PATH.name))["dlbcl"]
    assert lines == ["ICD-10-CM C83.3* (lymphoma, from 2020-10-01)", "urn:oid:1.2.3 x1 (until 2021-12-31)"]


def test_the_command_shows_the_first_codes_and_with_codes_every_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = shown(capsys)
    assert "Code lists" in short
    assert "--codes" in short
    assert max(map(len, short.splitlines())) <= 80
    whole = shown(capsys, "--codes").split()
    for name in BUNDLED.protocol.codelist_names():
        assert all(code in whole for code in in_file(name)), name
