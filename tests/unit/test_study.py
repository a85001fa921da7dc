"""A study is a file: what it may say, and how a mistake in it is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from rwe.errors import StudyError
from rwe.resources import bundled
from rwe.study import find_study, load_studies, load_study, study_schema
from rwe.study_words import explain

NAME = "lenalidomide_after_car_t"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "studies"
    shutil.copytree(bundled("studies"), target)
    return target


def change(folder: Path, **fields: object) -> Path:
    path = folder / f"{NAME}.yaml"
    content = yaml.safe_load(path.read_text())
    content.update(fields)
    path.write_text(yaml.safe_dump(content))
    return path


def mistake(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert caught.value.exit_status == 2
    assert str(path.parent) in str(caught.value)
    return str(caught.value)


def test_an_unknown_field_is_named_with_the_field_meant(folder: Path) -> None:
    path = folder / f"{NAME}.yaml"
    path.write_text(path.read_text().replace("\nlandmarks:", "\nlandmark:"))
    message = mistake(path)
    assert "unknown field landmark" in message
    assert "did you mean landmarks" in message


def test_an_unknown_field_deep_inside_is_named_by_its_path(folder: Path) -> None:
    exposure = {"codelist": "lenalidomide", "tiers": ["administration"], "gap": 3}
    assert "unknown field exposure.gap" in mistake(change(folder, exposure=exposure))


def test_an_unknown_field_of_a_criterion_is_named_by_its_place(folder: Path) -> None:
    eligibility = [{"kind": "age_at_index", "name": "adult", "minimum": 18}]
    assert "unknown field eligibility[0].minimum" in mistake(change(folder, eligibility=eligibility))


def test_a_broken_code_is_named_with_its_line(folder: Path) -> None:
    path = folder / "codelists" / "ldh.csv"
    path.write_text(path.read_text().replace("2532-0", "2532-7"))
    message = mistake(folder / f"{NAME}.yaml")
    assert "ldh.csv, line 2" in message
    assert "2532-7" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("system,code\n", "header"),
        ("system,code,display,source,valid_from,valid_to\n", "no code"),
        ("system,code,display,source,valid_from,valid_to\nhttp://loinc.org,2532-0,LDH\n", "columns"),
        (
            "system,code,display,source,valid_from,valid_to\nhttp://loinc.org,2532-0,LDH,LOINC,1.1.2020,\n",
            "date",
        ),
    ],
)
def test_a_code_list_of_the_wrong_shape_is_told(folder: Path, text: str, told: str) -> None:
    (folder / "codelists" / "ldh.csv").write_text(text)
    assert told in mistake(folder / f"{NAME}.yaml")


def test_a_missing_code_list_suggests_the_nearest_name(folder: Path) -> None:
    (folder / "codelists" / "dlbcl.csv").rename(folder / "codelists" / "dlbc.csv")
    assert "did you mean dlbc" in mistake(folder / f"{NAME}.yaml")


def test_yaml_that_does_not_parse_is_told_by_line(folder: Path) -> None:
    path = folder / f"{NAME}.yaml"
    path.write_text("name: x\nlandmarks: [30\n")
    assert "line" in mistake(path)


def test_a_naive_analysis_can_only_be_a_contrast(folder: Path) -> None:
    analyses = [{"analysis": "naive_cox", "role": "primary"}]
    assert "contrast" in mistake(change(folder, analyses=analyses))


def test_an_analysis_adjusts_only_for_covariates_of_the_study(folder: Path) -> None:
    analyses = [{"analysis": "time_dependent_cox", "adjusted_for": ["height"]}]
    assert "height" in mistake(change(folder, analyses=analyses))


def test_unless_progressed_needs_a_way_to_see_progression(folder: Path) -> None:
    assert "disease_status" in mistake(change(folder, disease_status=None, covariates=[], analyses=[
        {"analysis": "time_dependent_cox"}]))  # fmt: skip


def test_only_one_analysis_is_primary(folder: Path) -> None:
    analyses = [
        {"analysis": "time_dependent_cox", "role": "primary"},
        {"analysis": "time_dependent_cox", "role": "primary", "ties": "breslow"},
    ]
    assert "more than one" in mistake(change(folder, analyses=analyses))


def test_a_changed_code_is_a_changed_protocol(folder: Path) -> None:
    before = load_study(folder / f"{NAME}.yaml").protocol_sha256
    path = folder / "codelists" / "lenalidomide.csv"
    path.write_text(
        path.read_text() + "http://www.nlm.nih.gov/research/umls/rxnorm,999999,new product,RxNorm,,\n"
    )
    assert load_study(folder / f"{NAME}.yaml").protocol_sha256 != before


def test_a_comment_is_no_change_of_the_protocol(folder: Path) -> None:
    path = folder / f"{NAME}.yaml"
    before = load_study(path).protocol_sha256
    path.write_text("# a remark\n" + path.read_text())
    assert load_study(path).protocol_sha256 == before


def test_a_study_is_found_by_name_and_by_path(folder: Path) -> None:
    assert find_study(NAME, folder) == find_study(str(folder / f"{NAME}.yaml"), Path("/nowhere"))
    with pytest.raises(StudyError, match=NAME):
        find_study("another", folder)


def test_two_files_of_one_study_are_refused(folder: Path) -> None:
    shutil.copy(folder / f"{NAME}.yaml", folder / "copy.yaml")
    with pytest.raises(StudyError, match="two files"):
        load_studies(folder)


def test_the_explanation_names_every_code_list_window_and_rule(folder: Path) -> None:
    study = load_study(folder / f"{NAME}.yaml")
    words = "\n".join(s for sentences in explain(study).values() for s in sentences)
    for name in study.protocol.codelist_names():
        assert name in words, name
    for said in (
        "by day 180",
        "14 days",
        "180 days before",
        "day -30 to day 0",
        "60, 90, 180",
        "60 days apart",
    ):
        assert said in words, said
    for covariate in study.protocol.covariates:
        assert f"{covariate.name}:" in words


def test_the_schema_describes_the_bundled_study(folder: Path) -> None:
    import jsonschema

    content = yaml.safe_load((folder / f"{NAME}.yaml").read_text())
    jsonschema.Draft202012Validator(study_schema()).validate(content)
    content["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(study_schema()).validate(content)


def test_code_never_names_the_drug_of_a_study() -> None:
    """The engine is general: only the sandbox, the demo and the study's own files know lenalidomide."""
    package = Path(__file__).parents[2] / "src" / "rwe"
    sql = Path(__file__).parents[2] / "sql"
    files = [*package.rglob("*.py"), *sql.rglob("*.sql")]
    allowed = {"demo.py", "cli.py"}  # examples in help texts
    named = [
        p.name
        for p in files
        if "sandbox" not in p.parts and p.name not in allowed and "lenalidomide" in p.read_text().lower()
    ]
    assert named == []
