"""What a user meets who types `rwe sql`: where SQL comes from, where answers go, and what is said."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rwe.cli
from rwe import cli_sql
from tests.unit.adhoc_attacks import Target, make_target

cli_sql.register(rwe.cli.app)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return make_target(tmp_path_factory.mktemp("command") / "plain", is_encrypted=False)


@pytest.fixture
def run(target: Target, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str | Path, database: bool = True) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            rwe.cli.main(["sql", *map(str, words), *(target.options() if database else [])])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, " ".join(told.err.split())

    return run


def test_a_query_may_come_as_a_word_a_file_or_piped_in(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, answer = "select max(time_days) as longest from cohort.survival", "longest\n-------\n    999\n"
    assert run("-c", query) == (0, answer, "")
    file = tmp_path / "question.sql"
    file.write_text(f"-- A question with an umlaut: ä.\n{query};\n", encoding="utf-8")
    assert run(file) == (0, answer, "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(query.encode())))
    assert run("-") == (0, answer, "")


def test_several_statements_give_several_tables(run: Run) -> None:
    code, out, _ = run("-c", "select 1 as a; explain select 2; select 3 as b")
    assert code == 0
    assert out.startswith("a\n-\n1\n\n┌")
    assert out.endswith("┘\n\nb\n-\n3\n")


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_program_gets_one_answer(form: str, run: Run) -> None:
    code, out, err = run("-c", "select 1; select 2", "--format", form)
    assert (code, out) == (2, "")
    assert f"{form} takes one statement; there are 2" in err


def test_an_answer_for_a_program_is_alone_on_stdout(run: Run) -> None:
    code, out, err = run(
        "-c", "select study, count(*) as n from cohort.survival group by all", "--format", "json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out) == [{"study": "a", "n": 1000}]


def test_a_file_is_written_in_the_format_of_its_name_and_said_on_stderr(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "answer.csv"
    assert run("-c", "from cohort.survival limit 2", "--out", out) == (0, "", f"2 rows: {out}")
    assert out.read_text() == '"study","time_days"\n"a",0\n"a",1\n'
    assert out.stat().st_mode & 0o777 == 0o600
    code, _, err = run("-c", "from cohort.survival limit 2", "--out", out)
    assert (code, err) == (2, f"rwe: {out}: the file is there already; add --force to replace it.")


def test_the_published_folder_takes_no_file_even_by_force(run: Run, target: Target) -> None:
    before = target.state()
    for path in (target.path, target.path.with_name("rwe.duckdb.wal"), target.path.with_name("a.csv")):
        code, _, err = run("-c", "from cohort.survival", "--format", "csv", "--out", path, "--force")
        assert code == 2
        assert "nothing is written into the folder of the published database" in err
    assert target.state() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "there is no query; give a FILE, or -c QUERY, or --tui"),
        (["a.sql", "-c", "select 1"], "there are two queries"),
        (["no_such_question"], "no_such_question: there is no such file, and no example of this name"),
        (["-c", " -- nothing\n ;"], "there is no statement in it"),
        (["-c", "select 1", "--format", "xlsx"], "--format: none of table, csv, json, parquet"),
        (["-c", "select 1", "--out", "a.xlsx"], "the format is not clear from the name; add --format"),
        (["-c", "select 1", "--tui"], "--tui takes no query"),
        (["--tui"], "pip install -e '.[adhoc]'|needs a terminal"),
        (["-c", "select 1", "-w", "."], "--database and --workspace exclude each other"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_one_sentence(words: list[str], told: str, run: Run) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert any(part in err for part in told.split("|")), err
    assert err.startswith("rwe: ")
    assert err.endswith(".")


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff\xfe", "it is not UTF-8 text"), (b"-" * 1_000_001, "longer than 1 MB")]
)
def test_a_file_that_is_no_sql_is_not_read_on(content: bytes, told: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "question.sql"
    file.write_bytes(content)
    code, _, err = run(file)
    assert code == 2
    assert told in err


def test_a_key_without_its_database_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    code, _, err = run("-c", "select 1", "--key-file", tmp_path / "key", database=False)
    assert code == 2
    assert "--key-file goes with --database" in err


def test_the_examples_are_listed_with_their_questions(run: Run) -> None:
    code, out, _ = run("--examples")
    assert code == 0
    assert "02_attrition: Who was lost" in out
    assert out.count("?") >= 10


def test_a_wide_answer_fits_80_columns_and_names_what_is_left_out(run: Run) -> None:
    columns = ", ".join(f"'{'x' * 12}' as a_column_with_a_long_name_{i}" for i in range(12))
    code, out, _ = run("-c", f"select {columns}")
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "(10 columns more:" in out
    assert "a_column_with_a_long_name_11" in out
