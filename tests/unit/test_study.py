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
    if "analyses" in fields:  # an entry of the grid wants an analysis that knows its rule
        content.pop("sensitivity_grid", None)
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
    assert "unknown field eligibility #1.minimum" in mistake(change(folder, eligibility=eligibility))


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
    analyses = [{"analysis": "time_dependent_cox"}]
    without = change(folder, disease_status=None, covariates=[], subgroups=[], analyses=analyses)
    assert "disease_status" in mistake(without)


def test_only_one_analysis_is_primary(folder: Path) -> None:
    analyses = [
        {"analysis": "time_dependent_cox", "role": "primary"},
        {"analysis": "time_dependent_cox", "role": "primary", "ties": "breslow"},
    ]
    assert "more than one" in mistake(change(folder, analyses=analyses))


STATUS = {"analysis": "time_dependent_cox", "adjusted_for": ["age", "progressed"]}
FROZEN = {**STATUS, "variance": "robust", "status_after_start": "freeze"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variance": "model"}, "robust"),
        ({"analysis": "landmark_cox"}, "only time_dependent_cox"),
        ({"adjusted_for": ["age"]}, "adjusts for none"),
    ],
)
def test_a_status_is_frozen_only_where_there_is_one(
    folder: Path, changes: dict[str, object], told: str
) -> None:
    assert told in mistake(change(folder, analyses=[{**FROZEN, **changes}]))
    assert load_study(change(folder, analyses=[FROZEN])).name == NAME


def said_of(path: Path) -> str:
    return " ".join(s for sentences in explain(load_study(path)).values() for s in sentences)


def test_adjusting_for_status_after_the_start_is_explained_unless_it_is_frozen(folder: Path) -> None:
    caveat = "an effect through delaying progression is not part of this ratio"
    assert caveat in said_of(change(folder, analyses=[STATUS]))
    assert caveat not in said_of(change(folder, analyses=[FROZEN]))
    assert "disease status as it was then in both" in said_of(change(folder, analyses=[FROZEN]))


def test_the_explanation_names_a_composite_outcome_units_and_undated_starts(folder: Path) -> None:
    path = folder / f"{NAME}.yaml"
    before = said_of(path)
    assert "Overall survival" in before
    assert "in U/L (another unit is missing)" in before
    assert "a start after day 180 counts as Lenalidomide maintenance" in before
    assert "the patient is excluded" in before
    content = yaml.safe_load(path.read_text())
    content["intercurrent_events"][0]["handling"] = "composite"
    content["exposure"]["start_without_day"] = "latest_day"
    path.write_text(yaml.safe_dump(content))
    assert "death from any cause or second_car_t, whichever is first" in said_of(path)
    assert "Overall survival" not in said_of(path)
    assert "starts on its latest possible day" in said_of(path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"landmarks": [30, 30]}, "landmarks has 30 twice"),
        ({"landmarks": [-5]}, "landmarks #1"),
        ({"horizons": [float("nan")]}, "horizons #1"),
        ({"title": ""}, "title"),
        ({"eligibility": [{"kind": "age_at_index", "name": "a", "min_years": 80, "max_years": 18}]}, "above"),
        ({"eligibility": [{"kind": "age_at_index", "name": "a", "min_years": float("inf")}]}, "min_years"),
        (
            {"eligibility": [{"kind": "medication", "name": "m", "codelist": "ldh",
                              "window": {"to_day": 365}}]},
            "only survivors",
        ),
        (
            {"covariates": [{"kind": "observation", "name": "x", "label": "X", "codelist": "ldh",
                             "window": {"from_day": 0, "to_day": 90}}]},
            "only survivors",
        ),
    ],
)  # fmt: skip
def test_what_would_give_immortal_time_or_wrong_numbers_is_refused(
    folder: Path, fields: dict[str, object], told: str
) -> None:
    assert told in mistake(change(folder, **fields))


@pytest.mark.parametrize("grace", [True, "90", 10**11, 1.5])
def test_days_are_whole_numbers_of_a_human_size(folder: Path, grace: object) -> None:
    path = folder / f"{NAME}.yaml"
    content = yaml.safe_load(path.read_text())
    content["strategies"]["treated"]["grace_days"] = grace
    path.write_text(yaml.safe_dump(content))
    assert "grace_days" in mistake(path)


def test_a_key_that_stands_twice_is_not_the_last_one_wins(folder: Path) -> None:
    path = folder / f"{NAME}.yaml"
    path.write_text(path.read_text() + "\nlandmarks: [1]\n")
    assert "'landmarks' stands twice" in mistake(path)


@pytest.mark.parametrize(
    "text", ["data_cutoff: 2024-02-31\n", "[" * 5000, "a: !!python/object:os.system {}\n"]
)
def test_odd_yaml_is_told_in_a_sentence(folder: Path, text: str) -> None:
    path = folder / f"{NAME}.yaml"
    path.write_text(text)
    mistake(path)


def test_the_file_is_called_as_its_study(folder: Path) -> None:
    (folder / f"{NAME}.yaml").rename(folder / "other.yaml")
    with pytest.raises(StudyError, match=r"other\.yaml"):
        load_studies(folder)


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
    with pytest.raises(StudyError, match="both"):
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
    allowed = {"demo.py", "cli.py", "cli_study.py"}  # examples in help texts
    named = [
        p.name
        for p in files
        if "sandbox" not in p.parts and p.name not in allowed and "lenalidomide" in p.read_text().lower()
    ]
    assert named == []


@pytest.mark.parametrize(
    ("old", "new", "told", "meant"),
    [
        ("analysis: mantel_byar", "analysis: mantel_bayer", "there is no 'mantel_bayer'", "mantel_byar"),
        ("[age, ecog, ldh, resp", "[age, ecog, lhd, resp", "adjusts for 'lhd'", "ldh"),
        ("role: primary", "rule: primary", "unknown field analyses #", "role"),
        ("  gap_days:", "  gap_dyas:", "unknown field exposure.gap_dyas", "gap_days"),
        ("kind: age_at_index", "kind: age_at_indx", "there is no 'age_at_indx'", "age_at_index"),
    ],
)
def test_a_misspelt_word_anywhere_is_told_with_the_one_meant(
    folder: Path, old: str, new: str, told: str, meant: str
) -> None:
    path = folder / f"{NAME}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    message = mistake(path)
    assert told in message
    assert f"did you mean {meant}" in message


def test_entries_count_from_one_as_the_option_analysis_does(folder: Path) -> None:
    asked = [{"analysis": "simon_makuch"}, {"analysis": "time_dependent_cox", "adjusted_for": ["height"]}]
    message = mistake(change(folder, analyses=asked))
    assert "analyses #2 adjusts for 'height', which is no covariate of this study" in message
    assert "did you mean" not in message  # nothing is near


def test_a_misspelt_study_is_told_with_the_one_meant(folder: Path) -> None:
    with pytest.raises(StudyError, match=f"did you mean {NAME}"):
        find_study("lenalidomid_after_car_t", folder)
