"""A site's own codes: the table kept by hand, and the ConceptMap."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rwe.code_maps import COLUMNS, SAME_MEANING, Translation, load_code_map
from rwe.codes import ATC
from rwe.errors import ConfigError

HEADER = ",".join(COLUMNS)
LOCAL = "http://hospital.example.org/drugs"


def table(folder: Path, *lines: str) -> Path:
    path = folder / "map.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def concept_map(folder: Path, *elements: dict[str, Any], **fields: Any) -> Path:
    path = folder / "map.json"
    group = {"source": LOCAL, "target": ATC, "element": list(elements)}
    content = {"resourceType": "ConceptMap", "status": "active", "group": [group]} | fields
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_table_gives_its_translations_each_once(tmp_path: Path) -> None:
    path = table(
        tmp_path, f"{LOCAL},4711,{ATC},L04AX04,2020-01-01,", f",99,{ATC},L04AX04,,", f",99,{ATC},L04AX04,,"
    )
    assert load_code_map(path) == (
        Translation(LOCAL, "4711", ATC, "L04AX04", date(2020, 1, 1)),
        Translation("", "99", ATC, "L04AX04"),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{LOCAL},4711,{ATC},L04,AX04,,", "6 columns"),
        (f"{LOCAL},4711,{ATC},L04AX0,,", "ATC code looks like"),
        (f"{LOCAL},4711,atc,L04AX04,,", "no URI|not a URI"),
        (f"{LOCAL},,{ATC},L04AX04,,", "code is empty"),
        (f"{LOCAL},4711,{ATC},L04AX04,2020,", "no date"),
        (f"{LOCAL},4711,{ATC},L04AX04,2021-01-01,2020-01-01", "after the day"),
    ],
)
def test_a_mistake_in_a_table_is_named_by_its_line(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_code_map(table(tmp_path, f"{LOCAL},1,{ATC},L04AX04,,", line))
    assert "map.csv, line 3" in str(caught.value)


def test_another_header_is_no_code_map(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("code,target\n1,2\n")
    with pytest.raises(ConfigError, match="header"):
        load_code_map(tmp_path / "map.csv")
    with pytest.raises(ConfigError, match="not readable"):
        load_code_map(tmp_path / "missing.csv")


def target(equivalence: str, **more: Any) -> dict[str, Any]:
    return {"code": "L04AX04", "equivalence": equivalence} | more


def test_of_a_concept_map_count_the_targets_that_mean_the_same(tmp_path: Path) -> None:
    path = concept_map(
        tmp_path,
        *(
            {"code": e, "target": [target(e)]}
            for e in ("equal", "equivalent", "relatedto", "wider", "disjoint")
        ),
        {"code": "unmapped", "target": [{"equivalence": "unmatched"}]},
        {"code": "nothing"},
        {"code": "conditional", "target": [target("equal", dependsOn=[{"property": "x", "value": "y"}])]},
        {"code": "modified", "target": [target("equal", modifierExtension=[{"url": "x"}])]},
    )
    assert {t.code for t in load_code_map(path)} == {"equal", "equivalent"}
    accepted = load_code_map(path, {*SAME_MEANING, "relatedto"})
    assert {t.code for t in accepted} == {"equal", "equivalent", "relatedto"}
    assert accepted[0] == Translation(LOCAL, "equal", ATC, "L04AX04")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"status": "retired"}, "retired"),
        ({"modifierExtension": [{"url": "x"}]}, "modifierExtension"),
        ({"resourceType": "ValueSet"}, "no ConceptMap"),
        ({"group": "x"}, "no ConceptMap"),
    ],
)
def test_a_concept_map_that_means_something_else_is_refused(
    fields: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_code_map(concept_map(tmp_path, {"code": "1", "target": [target("equal")]}, **fields))


def test_a_wrong_target_is_named_by_its_place_and_bad_json_by_the_file(tmp_path: Path) -> None:
    path = concept_map(tmp_path, {"code": "1", "target": [{"code": "L04AX0", "equivalence": "equal"}]})
    with pytest.raises(ConfigError, match="ATC code looks like") as caught:
        load_code_map(path)
    assert "group[0].element[0]" in str(caught.value)
    path.write_text("{")
    with pytest.raises(ConfigError, match="no ConceptMap"):
        load_code_map(path)
