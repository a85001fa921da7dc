"""The databases encrypted at rest: what a key opens, and what no file holds without it."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from rwe.analyse.read import holds_study, read_study
from rwe.config import Encryption, Workspace
from rwe.errors import BuildError
from rwe.keeping.erase import erase
from rwe.keeping.rollback import roll_back
from rwe.landing import RunFacts, new_run
from rwe.study import load_study
from rwe.warehouse.build import build
from rwe.warehouse.opening import open_private, open_published, private_key, published_key
from tests.integration.landed import new_workspace
from tests.integration.test_keeping import RAW, pseudonym, records
from tests.support import ROOT


def sealed_workspace(folder: Path) -> Workspace:
    made = new_workspace(folder)
    keys = {}
    for name in ("published", "rest"):
        path = folder / f"{name}.key"
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
        keys[name] = Encryption(key_file=path)
    shown = made.settings.published.model_copy(update={"encryption": keys["published"]})
    settings = made.settings.model_copy(update={"published": shown, "encryption": keys["rest"]})
    return Workspace(made.root, settings)


def test_both_databases_open_with_their_key_only_and_hold_nothing_in_plain(tmp_path: Path) -> None:
    study = load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")
    workspace = sealed_workspace(tmp_path)
    with new_run(workspace.landing, "north", cipher=workspace.cipher()) as run:
        for r in (*records(RAW), *records("anna")):
            run.write(r["resourceType"], json.dumps(r).encode())
        run.commit(RunFacts(route="import", time_zone="UTC"))
    build(workspace, [study])
    build(workspace, [study])
    key = published_key(workspace)
    assert key is not None
    assert key != private_key(workspace) is not None
    anna = pseudonym(workspace, "anna")
    files = [p for p in workspace.root.rglob("*.duckdb*") if p.is_file()]
    assert len(files) == 6
    for path in files:
        assert anna.encode() not in path.read_bytes()
        with pytest.raises(duckdb.Error):
            duckdb.connect(str(path), read_only=True)
    for open_it in (open_published, open_private):
        with closing(open_it(workspace)) as db:
            assert db.execute("select count(*) from cohort.survival").fetchall() == [(2,)]
            with pytest.raises(duckdb.Error, match="read-only"):
                db.execute("create table t (a integer)")
    with duckdb.connect() as anybody:  # as DBeaver, R or the command line do
        anybody.execute(f"attach '{workspace.database}' as rwe (read_only, encryption_key '{key}')")
        assert anybody.execute("select count(*) from rwe.cohort.survival").fetchall() == [(2,)]
    assert holds_study(workspace.private_database, study, private_key(workspace))
    assert len(read_study(workspace.private_database, study, private_key(workspace)).survival) == 2
    assert roll_back(workspace).content_sha256
    plain = workspace.settings.published.model_copy(update={"encryption": None})
    other = Workspace(workspace.root, workspace.settings.model_copy(update={"published": plain}))
    with pytest.raises(BuildError, match="cannot be opened"):
        open_published(other)
    secret = pseudonym(workspace, RAW)
    assert erase(workspace, "north", [study], pseudonyms=[secret]).remaining == ()
    with closing(open_private(workspace)) as db:
        assert db.execute("select patient_id from staging.patient").fetchall() == [(anna,)]
