"""The databases encrypted at rest: what a key opens, and what no file holds without it."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from datetime import UTC, datetime, timedelta
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
from rwe.warehouse.builds import Finished, KeptBuild, keep, kept_builds
from rwe.warehouse.opening import (
    attach_database,
    open_private,
    open_published,
    private_key,
    published_key,
)
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


IN_PRIVATE, IN_PUBLISHED = b"words of the private build", b"words of the published one"


def keep_one(workspace: Workspace, day: int) -> KeptBuild:
    """A build of a few words, made and kept as `rwe build` does."""
    made = [workspace.root / "made.duckdb", workspace.root / "shown.duckdb"]
    keys = [private_key(workspace), published_key(workspace)]
    for path, key, words in zip(made, keys, (IN_PRIVATE, IN_PUBLISHED), strict=True):
        with duckdb.connect() as connection:
            attach_database(connection, path, "it", key)
            connection.execute("create table it.t as select ? as words", [words.decode()])
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
    return keep(workspace, Finished(*made, at, f"{day:064x}", "0", ()))


def holding(workspace: Workspace, words: bytes) -> list[str]:
    return sorted(p.name for p in workspace.root.rglob("*") if p.is_file() and words in p.read_bytes())


@pytest.mark.parametrize("keyed", ["encryption", "published", "both"])
def test_no_build_of_before_the_key_stays_open(keyed: str, tmp_path: Path) -> None:
    sealed = sealed_workspace(tmp_path)
    open_shown = sealed.settings.published.model_copy(update={"encryption": None})
    only = {
        "encryption": {"published": open_shown},
        "published": {"encryption": None},
        "both": {},
    }[keyed]
    plain = Workspace(
        sealed.root, sealed.settings.model_copy(update={"published": open_shown, "encryption": None})
    )
    sealed = Workspace(sealed.root, sealed.settings.model_copy(update=only))
    before = [keep_one(plain, 1), keep_one(plain, 2)]
    assert len(holding(plain, IN_PRIVATE)) == len(holding(plain, IN_PUBLISHED)) == 3
    # The note of the older one is torn: it is no build any more, and its databases lie there yet.
    (plain.private_builds / f"{before[0].build}.json").write_bytes(b"{")
    first = keep_one(sealed, 3)
    assert kept_builds(sealed) == (first,)
    assert holding(sealed, IN_PRIVATE) == []
    shown = [] if keyed != "encryption" else sorted([f"{first.build}.duckdb", "rwe.duckdb"])
    assert holding(sealed, IN_PUBLISHED) == shown
    second = keep_one(sealed, 4)
    assert kept_builds(sealed) == (second, first)
