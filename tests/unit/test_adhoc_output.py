"""Results of `rwe sql`: tables for people; CSV, JSON and Parquet for programs; files whole or absent."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from rwe.adhoc.output import FORMATS, Format, format_of, new_file, write_rows
from rwe.adhoc.session import LockedSession, PublishedDatabase, Rows, locked_session
from rwe.adhoc.table import table
from rwe.errors import UsageError
from tests.unit.adhoc_attacks import Target, make_target

VALUES = """
select
    1 as whole, 2.5::decimal(6, 2) as amount, 0.1::double as fraction, true as flag, date '2000-01-31' as day,
    timestamp '2000-01-31 12:30:00' as moment, 'ä "b", c' as text, '' as empty, null::varchar as missing,
    [1, 2] as many, {'a': 1, 'b': 'x'} as nested, 170141183460469231731687303715884105727::hugeint as huge
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return make_target(tmp_path_factory.mktemp("output") / "plain", is_encrypted=False)


@pytest.fixture(scope="module")
def session(target: Target) -> Iterator[LockedSession]:
    with locked_session(PublishedDatabase(target.path)) as opened:
        yield opened


def rows(session: LockedSession, query: str) -> Rows:
    (statement,) = session.admit(query)
    return session.run(statement)


def written(session: LockedSession, query: str, form: Format) -> bytes:
    out = io.BytesIO()
    write_rows(rows(session, query), form, out)
    return out.getvalue()


def test_csv_is_read_back_by_pythons_own_reader(session: LockedSession) -> None:
    header, values = csv.reader(io.StringIO(written(session, VALUES, "csv").decode()))
    assert dict(zip(header, values, strict=True)) == {
        "whole": "1",
        "amount": "2.50",
        "fraction": "0.1",
        "flag": "true",
        "day": "2000-01-31",
        "moment": "2000-01-31 12:30:00.000000",
        "text": 'ä "b", c',
        "empty": "",
        "missing": "",
        "many": "[1,2]",
        "nested": '{"a":1,"b":"x"}',
        "huge": "170141183460469231731687303715884105727",
    }


def test_csv_tells_an_empty_text_from_none(session: LockedSession) -> None:
    assert written(session, "select '' as a, null::varchar as b", "csv") == b'"a","b"\n"",\n'


def test_json_is_one_array_of_objects(session: LockedSession) -> None:
    (record,) = json.loads(written(session, VALUES, "json"), parse_float=Decimal)
    assert record["amount"] == Decimal("2.50")
    assert record["day"] == "2000-01-31"
    assert record["moment"] == "2000-01-31T12:30:00"
    assert record["missing"] is None
    assert record["many"] == [1, 2]
    assert record["nested"] == {"a": 1, "b": "x"}
    assert record["huge"] == 170141183460469231731687303715884105727
    assert json.loads(written(session, "select 1 as a where false", "json")) == []
    nothing = json.loads(written(session, "select 'nan'::double as a, 'inf'::double as b", "json"))
    assert nothing == [{"a": None, "b": None}]  # JSON has no such numbers


def test_parquet_keeps_the_types(session: LockedSession) -> None:
    content = written(
        session, VALUES.replace(", 170141183460469231731687303715884105727::hugeint as huge", ""), "parquet"
    )
    (record,) = pa_parquet.read_table(io.BytesIO(content)).to_pylist()
    assert record["day"] == date(2000, 1, 31)
    assert record["moment"] == datetime(2000, 1, 31, 12, 30)
    assert record["amount"] == Decimal("2.50")
    assert record["nested"] == {"a": 1, "b": "x"}


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_two_columns_of_one_name_are_refused_where_one_would_be_lost(
    form: Format, session: LockedSession
) -> None:
    with pytest.raises(UsageError, match="two columns are called a"):
        written(session, "select 1 as a, 2 as a", form)
    assert written(session, "select 1 as a, 2 as a", "csv") == b'"a","a"\n1,2\n'


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_rows_are_written_as_they_come(form: Format) -> None:
    """Of any result a few batches are in memory: the first is written before the third is asked for."""
    out = io.BytesIO()
    sizes = []

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(4):
            sizes.append(out.tell())
            # random enough that nothing compresses to less than a buffer
            values = [os.urandom(500).hex() for _ in range(2_000)]
            yield pa.RecordBatch.from_arrays([pa.array(values)], names=["a"])

    schema = pa.schema([("a", pa.string())])
    assert write_rows(Rows(schema, batches()), form, out) == 8_000
    assert sizes == sorted(sizes)
    assert sizes[2] > sizes[0]


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", "csv"), ("a.JSON", "json"), ("a.parquet", "parquet"), ("a.txt", "table")]
)
def test_the_name_says_the_format(name: str, form: str) -> None:
    assert format_of(Path(name)) == form
    with pytest.raises(UsageError, match="--format"):
        format_of(Path("a.xlsx"))
    assert set(FORMATS) == {"table", "csv", "json", "parquet"}


def test_a_new_file_is_ours_alone_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with new_file(path, force=False) as f:
        f.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="--force"), new_file(path, force=False):
        pytest.fail("it must not get here")
    with new_file(path, force=True) as f:
        f.write(b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(UsageError, match="there already"), new_file(path, force=False):
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's"


def test_what_fails_on_the_way_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), new_file(path, force=True):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_nothing_is_written_into_the_published_folder_nor_over_what_is_no_file(tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (tmp_path / "link").symlink_to(published)
    for path in (published / "rwe.duckdb", published / "rwe.duckdb.wal", tmp_path / "link" / "x.csv"):
        with (
            pytest.raises(UsageError, match="folder of the published database"),
            new_file(path, force=True, never_in=published),
        ):
            pytest.fail("it must not get here")
    with pytest.raises(UsageError, match="no file"), new_file(tmp_path / "link", force=True):
        pytest.fail("it must not get here")
    with pytest.raises(UsageError, match="cannot be written"), new_file(tmp_path / "no" / "x", force=False):
        pytest.fail("it must not get here")
    assert list(published.iterdir()) == []


def test_a_table_fits_80_columns_and_says_what_it_leaves_out(session: LockedSession) -> None:
    shown = table(
        rows(session, f"select *, '{'x' * 60}' as long from cohort.survival order by time_days"), most_rows=3
    )
    assert shown.lines == (
        "study  time_days  long",
        f"-----  ---------  {'-' * 60}",
        f"a              0  {'x' * 60}",
        f"a              1  {'x' * 60}",
        f"a              2  {'x' * 60}",
    )
    assert shown.notes == ("997 rows more: --rows N shows more of them",)
    wide = ", ".join(f"'{'y' * 20}' as column_{i}" for i in range(6))
    shown = table(rows(session, f"select {wide}"))
    assert max(map(len, shown.lines)) <= 80
    assert shown.notes == ("3 columns more: column_3, column_4, column_5",)


STEPS = """
    select 'lenalidomide_after_car_t' as study, * from (values
        (1, 'index_event', 135, 0, 'an infusion of CAR T cells is recorded, of whatever product'),
        (2, 'adult', 135, 3, 'eighteen')
    ) as t(step_number, step, n_before, n_excluded, meaning)
"""


def test_of_a_wide_table_the_study_is_said_once_and_long_texts_go_over_lines(session: LockedSession) -> None:
    shown = table(rows(session, STEPS), width=72)
    assert shown.lines == (
        "study: lenalidomide_after_car_t",
        "step_number  step         n_before  n_excluded  meaning",
        "-----------  -----------  --------  ----------  ------------------------",
        "          1  index_event       135           0  an infusion of CAR T",
        "                                                cells is recorded, of",
        "                                                whatever product",
        "          2  adult             135           3  eighteen",
    )
    assert shown.notes == ()
    assert table(rows(session, STEPS), width=140).lines[0].startswith("study  "), "there is room for all"


@pytest.mark.parametrize(
    "query",
    [
        "select 'a' as study, * from (values (1, repeat('x ', 60))) as t(number, text)",
        "select study, number, repeat('x ', 60) as text from (values ('a', 1), ('b', 2)) as t(study, number)",
    ],
    ids=["one row", "another study"],
)
def test_what_differs_or_is_one_row_stays_a_column(session: LockedSession, query: str) -> None:
    assert table(rows(session, query), width=40).lines[0].split() == ["study", "number", "text"]


def test_numbers_and_words_are_not_broken_and_endless_texts_are_cut(session: LockedSession) -> None:
    query = """
        select md5('a') as patient_id, 123456789012 as dose, repeat('word ', 99) as note, repeat('z', 99) as z
    """
    shown = table(rows(session, query), width=80)
    assert max(map(len, shown.lines)) <= 80
    assert "0cc175b9c0f1b6a831c399e269772661  123456789012  word" in shown.lines[2]
    assert len(shown.lines) == 2 + 4
    assert shown.lines[-1].endswith("…")
    assert shown.notes == ("1 column more: z",)


def test_wide_characters_are_counted_as_wide(session: LockedSession) -> None:
    shown = table(rows(session, "select repeat('患者 ', 8) as a, 1 as b"), width=24)
    four = " ".join(["患者"] * 4)  # 19 columns of a terminal
    assert shown.lines == (f"a{' ' * 20}  b", f"{'-' * 21}  -", f"{four}{' ' * 4}1", four)


def test_a_table_shows_values_as_a_reader_expects_them(session: LockedSession) -> None:
    query = (
        "select null as a, true as b, 0.5 as c, 1e20 as d, date '2000-01-31' as e, 12::double as f, '' as g"
    )
    assert table(rows(session, query)).lines[2].split() == [
        "null",
        "true",
        "0.5",
        "1e+20",
        "2000-01-31",
        "12.0",
    ]
    assert table(rows(session, "select 1 as a where false")).notes == ("no rows",)


def test_a_value_cannot_steer_the_terminal(session: LockedSession) -> None:
    shown = table(rows(session, "select chr(27) || '[2J' || chr(10) || 'x' as a"))
    assert shown.lines[2] == r"\x1b[2J\nx"


def test_more_than_a_million_rows_are_not_counted_to_the_end() -> None:
    asked = []

    def batches() -> Iterator[pa.RecordBatch]:
        batch = pa.RecordBatch.from_arrays([pa.array(range(400_000))], names=["a"])
        for number in range(1_000):
            asked.append(number)
            yield batch

    shown = table(Rows(pa.schema([("a", pa.int64())]), batches()), most_rows=2)
    assert len(asked) == 3
    assert shown.notes == ("more than 1,199,998 rows more: --rows N shows more of them",)


MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores Ctrl-C
import rwe.cli
from rwe.cli_sql import register
register(rwe.cli.app)
rwe.cli.main()
"""


def started(*words: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", MAIN, "sql", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_a_query_and_leaves_no_file(target: Target, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    endless = "select a.range + b.range as n from range(10000000) as a, range(10000000) as b"
    with started("-c", endless, "--database", target.path, "--out", out) as process:
        try:
            deadline = time.monotonic() + 60
            while not any(p.stat().st_size > 100_000 for p in tmp_path.iterdir()):  # rows flow
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()  # else it would fill the disk
    assert process.returncode == 130
    assert told.decode().strip() == "rwe: Stopped; what was complete is kept."
    assert list(tmp_path.iterdir()) == []


def test_whoever_reads_may_stop_reading(target: Target) -> None:
    with started("-c", "from range(3000000)", "--database", target.path, "--format", "csv") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'"range"\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
