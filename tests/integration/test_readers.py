"""Researchers hold the published database open while nights rebuild it: nobody waits, nobody fails, nobody
sees a build that is not whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rwe.adhoc.session import locked_session, published_database
from rwe.config import Workspace
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from tests.integration.landed import land, new_workspace
from tests.support import ROOT

STUDY = ROOT / "tests" / "cases_studies" / "tiny_7v9.yaml"
BUILDS = 10
FIRST = 4  # patients in the first build; each later one has one more

#: A reader of its own: opens the file, then asks until its input is closed. Every answer is one line.
READER = """
import sys, threading
import duckdb
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
connection = duckdb.connect(sys.argv[1], read_only=True)
while not over.wait(0.2):
    print(*connection.execute(sys.argv[2]).fetchone(), flush=True)
"""
#: One query over several tables: of one whole build all counts are the same.
QUERY = (
    "select (select count(*) from staging.patient), (select count(*) from cohort.index_event),"
    " (select n_before from cohort.attrition where step_number = 1),"
    " (select sum(in_lake)::int from meta.reconciliation where resource_type = 'Patient'),"
    " (select content_sha256 from meta.build)"
)


@dataclass(frozen=True)
class Answer:
    """What one query saw."""

    counts: tuple[int, ...]
    content_sha256: str

    @property
    def patients(self) -> int:
        assert len(set(self.counts)) == 1, self.counts
        return self.counts[0]


class Reader:
    """A process that holds the database open and keeps asking it."""

    def __init__(self, path: Path) -> None:
        self.answers: list[Answer] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path), QUERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            *counts, sha256 = line.split()
            self.answers.append(Answer(tuple(map(int, counts)), sha256))

    def wait_for_more(self) -> None:
        """Wait until it has had another answer to a query begun after now."""
        enough = len(self.answers) + 2
        deadline = time.monotonic() + 60
        while len(self.answers) < enough:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> str:
        """End it as a user does; returns what it complained about."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        complaint = self.process.stderr.read()
        self.process.wait(timeout=30)
        self._thread.join(timeout=30)
        return complaint


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    opened: list[Reader] = []
    yield opened
    for reader in opened:
        reader.process.kill()
        reader.stop()


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(STUDY)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Workspace:
    """One for all tests here: each begins with what the one before has published."""
    made = new_workspace(tmp_path_factory.mktemp("readers"))
    land_patients(made, study, range(FIRST))
    build(made, [study])
    return made


@pytest.fixture
def patients(workspace: Workspace) -> int:
    """How many the published database holds as the test begins."""
    return seen_by_a_new_process(workspace.database).patients


def land_patients(workspace: Workspace, study: Study, numbers: range) -> None:
    code = next(iter(study.codes(study.protocol.index_event.codelist)))
    resources: list[dict[str, Any]] = []
    for number in numbers:
        identity = f"p{number}"
        resources.append(
            {"resourceType": "Patient", "id": identity, "gender": "female", "birthDate": "1960-05-01"}
        )
        resources.append(
            {
                "resourceType": "MedicationAdministration",
                "id": f"m{number}",
                "status": "completed",
                "medicationCodeableConcept": {"coding": [{"system": code.system, "code": code.code}]},
                "subject": {"reference": f"Patient/{identity}"},
                "effectiveDateTime": "2020-01-01",
            }
        )
    land(workspace, "charite", *resources)


ASK_ONCE = """
import sys
import duckdb
print(*duckdb.connect(sys.argv[1], read_only=True).execute(sys.argv[2]).fetchone())
"""


def seen_by_a_new_process(path: Path) -> Answer:
    done = subprocess.run(
        [sys.executable, "-c", ASK_ONCE, str(path), QUERY], capture_output=True, text=True, check=True
    )
    *counts, sha256 = done.stdout.split()
    return Answer(tuple(map(int, counts)), sha256)


def test_through_ten_builds_nobody_waits_or_fails_and_each_sees_one_whole_build(
    workspace: Workspace, study: Study, patients: int, readers: list[Reader]
) -> None:
    opened_after = {}
    for number in range(BUILDS):
        if number in {0, 4, 8}:
            reader = Reader(workspace.database)
            readers.append(reader)
            reader.wait_for_more()
            opened_after[reader] = patients + number
        land_patients(workspace, study, range(patients + number, patients + number + 1))
        asked = {r: len(r.answers) for r in readers}
        result = build(workspace, [study])
        # They were answered while the build ran: none of them waited for it.
        assert all(len(r.answers) > asked[r] for r in readers)
        newest = seen_by_a_new_process(workspace.database)
        assert newest.patients == patients + number + 1
        assert newest.content_sha256 == result.content_sha256
    for reader in readers:
        reader.wait_for_more()
        assert reader.stop() == ""
        assert reader.process.returncode == 0
        assert {a.patients for a in reader.answers} == {opened_after[reader]}
        assert len({a.content_sha256 for a in reader.answers}) == 1


BUILD = """
import sys
from pathlib import Path
from rwe.config import open_workspace
from rwe.study import load_study
from rwe.warehouse.build import build
build(open_workspace(Path(sys.argv[1])), [load_study(Path(sys.argv[2]))])
"""


@pytest.mark.parametrize("moment", ["as the new database grows", "as it is about to be published"])
def test_after_kill_9_in_the_build_yesterdays_database_is_intact(
    moment: str, workspace: Workspace, study: Study, patients: int, readers: list[Reader]
) -> None:
    before = sha256(workspace.database)
    readers.append(Reader(workspace.database))
    readers[0].wait_for_more()
    land_patients(workspace, study, range(patients, patients + 1))
    kill_a_build(workspace, moment)
    assert sha256(workspace.database) == before
    assert seen_by_a_new_process(workspace.database).patients == patients
    readers[0].wait_for_more()
    build(workspace, [study])  # nothing that the killed one left stands in the way
    assert seen_by_a_new_process(workspace.database).patients == patients + 1
    assert readers[0].stop() == ""
    assert {a.patients for a in readers[0].answers} == {patients}


def kill_a_build(workspace: Workspace, moment: str) -> None:
    """Kill one where it stands: at the first sign of a new database, or at the rename that publishes it."""
    program = BUILD
    if moment == "as it is about to be published":
        published = str(workspace.database)
        stop = f"p = event == 'os.rename' and str(args[1]) == {published!r}"
        program = (
            "import os, signal, sys\n"
            f"def watch(event, args):\n    {stop}\n    p and os.kill(os.getpid(), signal.SIGKILL)\n"
            "sys.addaudithook(watch)\n"
        ) + BUILD
    with subprocess.Popen([sys.executable, "-c", program, str(workspace.root), str(STUDY)]) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if moment == "as the new database grows" and any(workspace.private.glob("build-*/*.duckdb*")):
                process.kill()
            time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL


CRASH = """
import os, sys
import duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("delete from cohort.index_event")
connection.execute("create table cohort.stray as select 1 as i")
os._exit(1)
"""


def test_a_reader_that_wrote_and_crashed_changes_nothing(
    workspace: Workspace, study: Study, patients: int
) -> None:
    before = sha256(workspace.database)
    crash_while_writing(workspace.database)
    log = workspace.database.with_name("rwe.duckdb.wal")
    assert log.stat().st_size > 0
    assert sha256(workspace.database) == before
    with locked_session(published_database(workspace)) as session:  # a session of ours reads past the log
        counts = session.connection.execute(QUERY).fetchone()
        assert counts is not None
        assert counts[:4] == (patients,) * 4
    land_patients(workspace, study, range(patients, patients + 1))
    build(workspace, [study])
    assert not log.exists()
    assert seen_by_a_new_process(workspace.database).patients == patients + 1
    assert asked_by_rwe_sql(workspace) == [{"n": patients + 1, "strays": 0}]


def asked_by_rwe_sql(workspace: Workspace) -> Any:
    program = "import rwe.cli, rwe.cli_sql; rwe.cli_sql.register(rwe.cli.app); rwe.cli.main()"
    query = (
        "select (select count(*) from staging.patient) as n,"
        " (select count(*) from duckdb_tables() where table_name = 'stray') as strays"
    )
    words = ["sql", "-c", query, "--format", "json", "-w", str(workspace.root)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=True)
    return json.loads(done.stdout)


def crash_while_writing(path: Path) -> None:
    """As whoever owns the file and may write into its folder; readers may not (0444 in 0755)."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", CRASH, str(path)], check=True, capture_output=True)
    path.chmod(mode)


def test_readers_cannot_write_beside_the_database(workspace: Workspace) -> None:
    assert workspace.database.stat().st_mode & 0o777 == 0o444
    assert workspace.published.stat().st_mode & 0o022 == 0
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            workspace.database.open("r+b")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
