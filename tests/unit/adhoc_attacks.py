"""What a locked session must not let through, and the databases it is tried on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from rwe.warehouse.opening import attach_database

KEY = "5a" * 32


def _as_json(query: str) -> str:
    """A query as DuckDB serializes it, ready to stand in an entry of ATTACKS."""
    with duckdb.connect() as connection:
        row = connection.execute("select json_serialize_sql(?::varchar)", [query]).fetchone()
    assert row is not None
    return str(row[0]).replace("'", "''").replace("{", "{{").replace("}", "}}")


_READ_AS_JSON = _as_json("from read_text('x')")


#: Name → SQL. {db}: the database; {folder}: its folder; {file}: a readable file; {port}: one that listens.
ATTACKS: dict[str, str] = {
    "read a file": "select * from read_text('{file}')",
    "read bytes": "from READ_BLOB('{file}')",
    "read the database as bytes": "select content from read_blob('{db}')",
    "read a csv": "select * from read_csv('{file}')",
    "read by its name": "select * from '{file}'",
    "read by its name, from first": "from '{file}'",
    "read in a subquery": "select 1 where exists (from read_text('{file}'))",
    "read in a common table": "with t as (from read_text('{file}')) select * from t",
    "read in a describe": "describe select * from read_text('{file}')",
    "read in a summarize": "summarize from read_csv('{file}')",
    "read with a schema": "select * from system.main.read_text('{file}')",
    "read quoted": "select * from \"read_text\"('{file}')",
    "read behind a comment": "/* a */ select * -- b\n from read_text('{file}')",
    "read under explain analyze": "explain analyze select * from read_text('{file}')",
    "sniff a csv": "from sniff_csv('{file}')",
    "look at parquet": "from parquet_metadata('{file}')",
    "open another database": "from read_duckdb('{db}')",
    "list files": "select * from glob('{folder}/*')",
    "SQL in a string": "from query('select 1')",
    "SQL as JSON": "from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "SQL bound for its plan": "select json_serialize_plan('from read_csv(''{file}'')')",
    "SQL bound for its plan, quoted": "select \"JSON_serialize_PLAN\"('from read_csv(''{file}'')')",
    "SQL bound for its plan, with a schema": "select main.json_serialize_plan('from read_csv(''{file}'')')",
    "SQL bound for its plan, chained": "select ('from read_csv(''{file}'')').json_serialize_plan()",
    "SQL bound for its plan, in a lambda": "select list_transform(['from read_csv(''{file}'')'],"
    " lambda q: json_serialize_plan(q, optimize := true))",
    "SQL bound under explain": "explain select json_serialize_plan('from read_csv(''{file}'')')",
    "SQL bound for its plan, far away": "select json_serialize_plan("
    "'from read_csv(''http://127.0.0.1:{port}/a.csv'')')",
    "SQL parsed": "select json_serialize_sql('select 1')",
    "SQL out of JSON": "select json_deserialize_sql('{{}}')",
    "an address of memory": "from arrow_scan(0, 0, 0)",
    "secrets": "from duckdb_secrets()",
    "settings with their values": "from duckdb_settings()",
    "start logging to a file": "from enable_logging(storage = 'file', storage_path = '{folder}/log')",
    "start profiling": "select * from enable_profiling(save_location = '{folder}/profile.json')",
    "write to the log": "select write_log('x')",
    "the environment": "select getenv('HOME')",
    "copy to a file": "copy cohort.survival to '{folder}/out.csv'",
    "copy to the database": "copy cohort.survival to '{db}'",
    "copy to its log": "copy cohort.survival to '{db}.wal'",
    "copy under explain analyze": "explain analyze copy cohort.survival to '{folder}/out.csv'",
    "copy to the database under explain analyze": "explain analyze copy cohort.survival to '{db}'",
    "copy to its log under explain analyze": "explain analyze copy cohort.survival to '{db}.wal'",
    "copy under explain, behind comments": "explain /**/ analyze -- x\n copy (select 1) to '{db}.wal'",
    "copy under explain with options": "explain (analyze, format json) copy (select 1) to '{db}.wal'",
    "copy prepared": "prepare p as copy cohort.survival to '{folder}/out.csv'",
    "copy to the database prepared": "prepare p as copy cohort.survival to '{db}'; execute p",
    "copy to its log prepared": "prepare p as copy (select 1) to '{db}.wal'; execute p",
    "copy after a select": "select 1; copy cohort.survival to '{db}.wal'",
    "copy of a database": "copy from database rwe to memory",
    "copy into a table": "copy cohort.survival from '{file}'",
    "export": "export database '{folder}/export'",
    "import": "import database '{folder}'",
    "import by pragma": "pragma import_database('{folder}')",
    "copy a database by pragma": "pragma copy_database('rwe', 'temp')",
    "SQL as JSON by pragma": f"pragma json_execute_serialized_sql('{_READ_AS_JSON}')",
    "profiling by pragma": "pragma enable_profiling",
    "a table by its name in a string": "from query_table('{file}')",
    "attach": "attach '{folder}/other.duckdb' as other",
    "attach in memory": "attach ':memory:' as other",
    "detach, then attach": "detach rwe; attach '{db}' as rwe",
    "install": "install httpfs",
    "load httpfs": "load httpfs",
    "load a file": "load '{file}'",
    "an outgoing request": "select * from read_text('http://127.0.0.1:{port}/')",
    "an outgoing request for a csv": "from read_csv('http://127.0.0.1:{port}/a.csv')",
    "an outgoing request by name": "from 'http://127.0.0.1:{port}/a.parquet'",
    "set threads": "set threads = 1",
    "reset a setting": "reset threads",
    "set by pragma": "pragma threads = 1",
    "unlock the configuration": "set lock_configuration = false",
    "set a variable": "set variable a = 1",
    "use another schema": "use main",
    "create a table": "create table t (i integer)",
    "create a temporary table": "create temp table t as select 1",
    "create a macro": "create macro m() as 1",
    "create a secret": "create secret s (type http)",
    "pivot that creates a type": "pivot cohort.survival on study using count(*)",
    "insert": "insert into cohort.survival values ('a', 1)",
    "update": "update cohort.survival set time_days = 0",
    "delete": "delete from cohort.survival",
    "merge": "merge into cohort.survival as t using cohort.survival as s on t.study = s.study"
    " when matched then delete",
    "alter": "alter table cohort.survival add column i integer",
    "drop": "drop table cohort.survival",
    "comment": "comment on table cohort.survival is 'x'",
    "checkpoint": "checkpoint",
    "checkpoint by function": "from force_checkpoint('rwe')",
    "vacuum": "vacuum",
    "begin": "begin; select 1",
    "call": "call enable_logging()",
    "execute": "execute p",
}


@dataclass(frozen=True)
class Target:
    """A database to try them on. `key_file` is None where it is plain."""

    path: Path
    key_file: Path | None
    bystander: Path

    def sql(self, name: str, port: int = 9) -> str:
        return ATTACKS[name].format(db=self.path, folder=self.path.parent, file=self.bystander, port=port)

    def options(self) -> list[str]:
        keyed = ["--key-file", str(self.key_file)] if self.key_file else []
        return ["--database", str(self.path), *keyed]

    def state(self) -> tuple[str, list[str]]:
        """The file's hash, and the names beside it."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return digest, sorted(p.name for p in self.path.parent.iterdir())


def make_target(folder: Path, *, is_encrypted: bool) -> Target:
    """A small published database in a folder of its own, owned by us."""
    folder.mkdir()
    path, bystander = folder / "rwe.duckdb", folder / "bystander.csv"
    bystander.write_text("a,b\n1,2\n")
    key_file = folder.parent / f"{folder.name}.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    with closing(duckdb.connect()) as connection:
        attach_database(connection, path, "rwe", KEY if is_encrypted else None)
        connection.execute("use rwe")
        connection.execute("create schema cohort")
        connection.execute(
            "create table cohort.survival as"
            " select 'a' as study, range::integer as time_days from range(1000)"
        )
    path.chmod(0o444)
    return Target(path, key_file if is_encrypted else None, bystander)


@contextmanager
def listening() -> Iterator[tuple[int, list[bool]]]:
    """A port of loopback, and whether somebody has come: one entry a connection."""
    import socket
    import threading

    came: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        is_over = threading.Event()

        def accept() -> None:
            while not is_over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                came.append(True)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], came
        finally:
            is_over.set()
            thread.join()
