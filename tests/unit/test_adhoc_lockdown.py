"""`rwe sql` reads the published database and does nothing else, on a plain and on an encrypted file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
import typer
import yaml

import rwe.cli
from rwe import cli_sql
from rwe.adhoc.session import PublishedDatabase, database_file, locked_session
from rwe.adhoc.statements import RefusedError, admitted
from rwe.config import init_workspace
from rwe.errors import ConfigError, RweError
from tests.unit.adhoc_attacks import ATTACKS, KEY, Target, listening, make_target

cli_sql.register(rwe.cli.app)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("lockdown") / request.param
    return make_target(folder, is_encrypted=request.param == "encrypted")


Listener = tuple[int, list[bool]]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            rwe.cli.main(list(words))
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, " ".join(told.err.split())

    return run


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_fails_with_a_sentence_and_changes_nothing(
    attack: str, target: Target, listener: Listener, run: Callable[..., tuple[int, str, str]]
) -> None:
    before = target.state()
    port, came = listener
    code, out, err = run("sql", "-c", target.sql(attack, port), *target.options())
    assert code in {1, 2}
    assert out == ""
    assert re.fullmatch(r"rwe: -c(, (statement|line) \d+)?: .+\.", err), err
    assert "Unexpected" not in err
    assert came == []
    assert target.state() == before


def test_what_is_refused_is_said_with_what_to_do(
    target: Target, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run("sql", "-c", "select 1; attach 'x' as y", *target.options())
    assert code == 2
    assert err == (
        "rwe: -c, statement 2: ATTACH is not let through: a session reads the published database and does"
        " nothing else; open other databases in a tool of your own."
    )


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from cohort.survival",
        "from cohort.survival limit 1",
        "with a as (select 1 as i) select * from a",
        "describe cohort.survival",
        "summarize cohort.survival",
        "show all tables",
        "pivot cohort.survival on study in ('a') using count(*)",
        "unpivot (select 1 as a, 2 as b) on a, b",
        "select list_transform([1, 2], lambda x: x + 1)",
        "select * from range(3)",
        "select unnest([1, 2])",
        "select * from duckdb_columns()",
        "explain select * from cohort.survival",
        "explain analyze select * from cohort.survival",
        "EXPLAIN /* why */ ANALYZE -- slow\n select 1",
        "select 'copy x to y; attach z' as text -- drop table t",
        "select 1;;select 2;",
        "select * from cohort.survival at_risk qualify row_number() over (order by time_days) = 1",
        "select json_extract_string('{\"a\": 1}', '$.a'), json_object('a', 1), list_aggregate([1, 2], 'sum')",
        "select strftime(date '2020-01-01', '%Y'), regexp_replace('a', 'a', 'b'), age(date '2020-01-01')",
        "select sum(time_days) filter (where time_days > 3) over () as days from cohort.survival limit 1",
    ],
)
def test_a_question_is_answered(query: str, target: Target, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("sql", "-c", query, *target.options())
    assert (code, err) == (0, "")
    assert out


def test_no_function_of_this_duckdb_that_looks_into_a_string_of_sql_is_let_through() -> None:
    table = "no_such_table_anywhere"
    with closing(duckdb.connect()) as connection:
        names = connection.execute(
            "select distinct function_name from duckdb_functions() where function_type in ('scalar', 'macro')"
            r" and regexp_full_match(function_name, '\w+') order by 1"
        ).fetchall()
        looked = set()
        for (name,) in names:
            query = f"select {name}('from {table}')"
            try:
                told = str(connection.execute(query).fetchall())
            except duckdb.Error as e:
                told = str(e)
            if f"Table with name {table} does not exist" in told:
                looked.add(name)
                with pytest.raises(RefusedError, match=name):
                    admitted(connection, query)
    assert looked == {"json_serialize_plan"}


def test_without_our_own_gate_duckdbs_locks_hold_too(target: Target, listener: Listener) -> None:
    key = bytes.fromhex(KEY) if target.key_file else None
    port, came = listener
    forbidden = (
        f"from read_text('{target.bystander}')",
        f"from glob('{target.path.parent}/*')",
        f"from read_text('http://127.0.0.1:{port}/')",
        "load spatial",
    )
    with locked_session(PublishedDatabase(target.path, key)) as session:
        for query in forbidden:
            with pytest.raises(duckdb.PermissionException):
                session.connection.execute(query)
        assert came == []
        for query in ("set threads = 1", "set enable_external_access = true", "create table t (i integer)"):
            with pytest.raises(duckdb.InvalidInputException):
                session.connection.execute(query)
        variable = [1]  # a name in a query is never a variable of this program
        with pytest.raises(duckdb.CatalogException):
            session.connection.execute("select * from variable")
        assert variable == [1]


def test_what_spills_lies_in_a_private_folder_that_goes(target: Target) -> None:
    key = bytes.fromhex(KEY) if target.key_file else None
    query = "select current_setting('temp_directory'), current_setting('temp_file_encryption')"
    with locked_session(PublishedDatabase(target.path, key)) as session:
        row = session.connection.execute(query).fetchone()
        assert row is not None
        folder, is_encrypted = Path(row[0]).parent, row[1]
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not folder.is_relative_to(target.path.parent)
        assert is_encrypted == (target.key_file is not None)
    assert not folder.exists()


@pytest.fixture
def sealed(tmp_path: Path) -> Target:
    return make_target(tmp_path / "sealed", is_encrypted=True)


def test_an_encrypted_database_without_its_key_says_so(sealed: Target, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key is known"), locked_session(PublishedDatabase(sealed.path)):
        pass
    other = PublishedDatabase(sealed.path, bytes(32))
    with pytest.raises(ConfigError, match="another key") as caught, locked_session(other):
        pass
    assert "00000000" not in str(caught.value)
    plain = make_target(tmp_path / "open", is_encrypted=False)
    with (
        pytest.raises(ConfigError, match="not at all"),
        locked_session(PublishedDatabase(plain.path, bytes(32))),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [("ab" * 31, 0o600, "not 32 bytes"), (KEY, 0o644, "others can read"), (None, 0, "cannot be read")],
)
def test_a_key_that_is_none_is_refused(
    content: str | None, mode: int, told: str, sealed: Target, tmp_path: Path
) -> None:
    file = tmp_path / "some.key"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=told) as caught:
        database_file(sealed.path, file)
    assert content is None or content not in str(caught.value)


def test_the_key_stands_in_no_table_a_session_can_read(sealed: Target) -> None:
    with locked_session(PublishedDatabase(sealed.path, bytes.fromhex(KEY))) as session:
        for function in ("duckdb_settings", "duckdb_databases", "duckdb_logs", "duckdb_variables"):
            assert KEY not in repr(session.connection.execute(f"from {function}()").fetchall())


def test_the_key_may_come_from_the_environment(sealed: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWE_PUBLISHED_KEY", KEY)
    with locked_session(database_file(sealed.path)) as session:
        assert session.connection.execute("select count(*) from cohort.survival").fetchall() == [(1000,)]


def test_a_workspace_names_the_key_of_its_published_database(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    workspace = init_workspace(tmp_path / "ws", tmp_path / "pseudonyms.key")
    made = make_target(workspace.published, is_encrypted=True)
    assert made.key_file is not None
    key_file = made.key_file.rename(tmp_path / "published.key")
    words = ("sql", "-c", "select count(*) as n from cohort.survival", "-w", str(workspace.root))
    code, _, err = run(*words)
    assert code == 2
    assert "the published database is encrypted, and no key is known" in err
    file = workspace.root / "rwe.yaml"
    settings = yaml.safe_load(file.read_text())
    settings.setdefault("published", {})["encryption"] = {"key_file": str(key_file)}
    file.write_text(yaml.safe_dump(settings))
    assert run(*words) == (0, "   n\n----\n1000\n", "")
    key_file.chmod(0o644)
    code, _, err = run(*words)
    assert code == 2
    assert "key" in err
    assert KEY not in err


@pytest.mark.parametrize("content", [None, b"", b"no database", bytes(5000)])
def test_a_file_that_is_no_database_is_said_to_be_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "rwe.duckdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RweError) as caught, locked_session(PublishedDatabase(path)):
        pass
    assert "database" in str(caught.value)


def test_an_error_in_a_query_is_told_to_the_person_who_asked(
    target: Target, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run("sql", "-c", "select 1,\n tme_days from cohort.survival", *target.options())
    assert code == 1
    assert err.startswith('rwe: -c, line 2: Binder Error: Referenced column "tme_days" not found')
    code, _, err = run("sql", "-c", "selct 1", *target.options())
    assert (code, err) == (1, 'rwe: -c, line 1: Parser Error: syntax error at or near "selct".')


def test_deep_nesting_is_answered_or_refused_but_ends_in_no_crash(
    target: Target, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run("sql", "-c", "select " + "(" * 5000 + "1" + ")" * 5000, *target.options())
    assert code in {0, 1, 2}
    assert "Unexpected" not in err


def test_register_adds_each_command_once() -> None:
    app = typer.Typer()
    cli_sql.register(app)
    cli_sql.register(app)
    assert sorted(c.name or "" for c in app.registered_commands) == ["dictionary", "sql"]
