"""`rwe collect`: what sites shared is verified and kept at the hub, the newest of each site.

    WORKSPACE/shared/study=S/site=N/manifest.json · manifest.sig · TABLE.parquet     0700, 0600

Tables are sealed (`.enc`) where the workspace is encrypted. Nothing of a share is believed before its
signature is that of the pinned key; nothing in it becomes a path, SQL or code. A site that the hub extracts
from itself is not taken as a share, too: its patients would count twice. Whom a share names as erased at its
site goes on the hub's list of the erased, and out of all that the hub keeps.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa

from rwe.blocklist import open_blocklist
from rwe.config import Workspace
from rwe.crypt import SUFFIX
from rwe.durable import write_new
from rwe.errors import ConfigError, PartialError, RweError, UsageError
from rwe.identity import pinned
from rwe.keeping.aside import forget_aside
from rwe.lake.write import runs_in_lake
from rwe.landing import list_runs
from rwe.scratch import locked
from rwe.sharing import frames
from rwe.sharing.frames import ShareError, Tables, broken_share, check_together, from_parquet
from rwe.sharing.manifest import (
    MANIFEST,
    MOST_BYTES,
    SIGNATURE,
    Manifest,
    TableEntry,
    read_manifest,
    verify,
)
from rwe.sharing.persons import forget_persons
from rwe.sharing.storage import get, put
from rwe.study import Study

FOLDER: Final = "shared"
_CLOCKS_DIFFER: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Collected:
    """A share that is kept now. `is_new` is False where it was here already. `erased` patients of earlier
    shares were named as erased at the site. `arrived` is the folder it came in, which is still there;
    `has_tokens`: link tokens are in it. `warning`: what the hub could do with them and should not."""

    site: str
    study: str
    share: str
    created_at: datetime
    patients: int
    is_new: bool
    erased: int
    arrived: Path
    has_tokens: bool
    warning: str | None = None


@dataclass(frozen=True)
class CollectedShare:
    """A site's share as it is kept: of which tables `link` is gone once it was used."""

    manifest: Manifest
    manifest_sha256: str
    tables: Tables

    @property
    def site(self) -> str:
        return self.manifest.site


class PartlyCollectedError(PartialError):
    """Some shares were taken, others were not. `results` are those that were."""

    def __init__(self, results: Sequence[Collected], failures: Sequence[RweError]) -> None:
        self.results = tuple(results)
        super().__init__("; ".join(str(f).removesuffix(".") for f in failures))


def collect(workspace: Workspace, folders: Sequence[Path], studies: Sequence[Study]) -> tuple[Collected, ...]:
    """Take the shares in these folders, each a share or a folder of shares.

    Raises UsageError where a folder holds none; the error of a share where none could be taken, and
    PartlyCollectedError where some could: SignatureError, ShareError, UsageError without a pinned key.
    """
    results, failures = list[Collected](), list[RweError]()
    for path in [p for folder in folders for p in _shares_in(folder)]:
        try:
            results.append(_take(workspace, path, studies))
        except RweError as e:
            failures.append(e)
    if failures and not results and len(failures) == 1:
        raise failures[0]
    if failures and not results:
        raise ShareError("; ".join(str(f).removesuffix(".") for f in failures))
    if failures:
        raise PartlyCollectedError(results, failures)
    return tuple(results)


def read_collected(workspace: Workspace, study: Study) -> tuple[CollectedShare, ...]:
    """The shares kept of exactly this protocol, by site. Raises ShareError where one is not as it was taken,
    or where the hub extracts from its site as well."""
    found = []
    for name in _sites(workspace, study):
        _refuse_extracted(workspace, name)
        manifest, content = _kept(workspace, study.name, name)
        if manifest is not None and manifest.protocol_sha256 == study.protocol_sha256:
            tables = _tables(workspace, _place(workspace, study.name, name), manifest)
            _refuse_erased(workspace, tables, f"site {name}")
            found.append(CollectedShare(manifest, hashlib.sha256(content).hexdigest(), tables))
    return tuple(found)


def of_other_protocols(workspace: Workspace, study: Study) -> tuple[str, ...]:
    """The sites whose kept share is of another protocol of this study, so that it is not analysed."""
    names = []
    for name in _sites(workspace, study):
        manifest, _ = _kept(workspace, study.name, name)
        if manifest is not None and manifest.protocol_sha256 != study.protocol_sha256:
            names.append(manifest.site)
    return tuple(names)


def drop_links(workspace: Workspace, study: Study, site: str) -> None:
    """Remove the link tokens of a kept share, after they were used."""
    for name in ("link.parquet", f"link.parquet{SUFFIX}"):
        (_place(workspace, study.name, site) / name).unlink(missing_ok=True)


def has_link_key(workspace: Workspace) -> bool:
    """Whether a site of this workspace has a link key, so that the hub could try names against tokens."""
    return any(s.link is not None for s in workspace.settings.sites.values())


def remove_arrived(found: Collected) -> None:
    """Delete a share that was taken from where it arrived. Raises UsageError where it cannot be deleted."""
    names = (MANIFEST, SIGNATURE, *(f"{n}.parquet" for n in frames.LAYOUTS))
    try:
        for name in names:
            (found.arrived / name).unlink(missing_ok=True)
        found.arrived.rmdir()
    except OSError:
        raise UsageError(
            "what arrived cannot be deleted, or other files lie in its folder",
            where=str(found.arrived),
            advice="delete it by hand",
        ) from None


@contextmanager
def collecting(workspace: Workspace) -> Iterator[None]:
    """Hold the kept shares: nobody else takes or links any meanwhile."""
    folder = workspace.root / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    with locked(folder / ".lock"):
        yield


def _shares_in(folder: Path) -> list[Path]:
    folder = folder.expanduser()
    if (folder / MANIFEST).is_file():
        return [folder]
    found = sorted(p.parent for p in folder.glob(f"share=*/{MANIFEST}"))
    if not found:
        raise UsageError(
            "there is no share here", where=str(folder), advice="name a folder that `rwe share` wrote"
        )
    return found


def _take(workspace: Workspace, path: Path, studies: Sequence[Study]) -> Collected:
    where = path.name
    content = _read(path / MANIFEST, MOST_BYTES, where)
    manifest = read_manifest(content, where)
    verify(content, _read(path / SIGNATURE, MOST_BYTES, where), pinned(workspace, manifest.site), where)
    _refuse_other_protocol(manifest, studies, where)
    _refuse_extracted(workspace, manifest.site)
    if manifest.created_at > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise ShareError("the share was made in the future", where=where, advice="set the site's clock")
    files = {n: _file(path / f"{n}.parquet", entry, where) for n, entry in manifest.tables.items()}
    tables = Tables({n: _table(n, raw, manifest.tables[n], where) for n, raw in files.items()})
    check_together(tables, where)
    if tables.content_sha256() != manifest.content_sha256:
        raise broken_share("the content is not what the manifest says", where)
    with collecting(workspace):
        before, _ = _kept(workspace, manifest.study, manifest.site)
        if before is not None and before.created_at > manifest.created_at:
            raise ShareError(
                f"a newer share of {manifest.site} is here, of {before.created_at:%Y-%m-%d %H:%M} UTC",
                where=where,
                advice="keep that one, or share anew",
            )
        gone = frozenset(tables["erased"]["patient_id"].to_pylist())
        _block(workspace, gone)
        _refuse_erased(workspace, tables, where)
        is_new = before is None or before.share != manifest.share
        if is_new:
            kept = {n: raw for n, raw in files.items() if n != "erased"}
            _keep(workspace, manifest, {**kept, MANIFEST: content})
        if gone:  # also where the share was here already: the collection before may have been killed
            forget_persons(workspace, _place(workspace, manifest.study, manifest.site).parent, gone)
            forget_aside(workspace)
    is_guessable = manifest.is_guessable and has_link_key(workspace)
    return Collected(
        site=manifest.site,
        study=manifest.study,
        share=manifest.share,
        created_at=manifest.created_at,
        patients=tables["survival"].num_rows,
        is_new=is_new,
        erased=len(gone),
        arrived=path,
        has_tokens="link" in manifest.tables,
        warning=_GUESSABLE if is_guessable else None,
    )


_GUESSABLE: Final = (
    "this workspace has a link key: whoever has it can try names against the share's tokens, and learn index "
    "dates that did not leave the site"
)


def _block(workspace: Workspace, patients: Collection[str]) -> None:
    """Put patients whom a site erased on the hub's list. Raises ConfigError where it cannot be written."""
    if not patients:
        return
    blocklist = open_blocklist(workspace, make=True)
    if blocklist is None:  # pragma: no cover - it is made
        raise ConfigError("the list of erased patients cannot be opened")
    blocklist.add({blocklist.by_pseudonym(p) for p in patients})


def _refuse_erased(workspace: Workspace, tables: Tables, where: str) -> None:
    """An older share, or one of a backup, may bring somebody back who was erased since."""
    blocklist = open_blocklist(workspace)
    if blocklist is not None and any(
        blocklist.holds_pseudonym(p) for p in tables["survival"]["patient_id"].to_pylist()
    ):
        raise ShareError(
            "it holds a patient who was erased since", where=where, advice="ask the site for a new share"
        )


def _refuse_other_protocol(manifest: Manifest, studies: Sequence[Study], where: str) -> None:
    study = next((s for s in studies if s.name == manifest.study), None)
    if study is None:
        raise ShareError("it is of a study that this hub does not have", where=where, advice="add its file")
    if study.protocol_sha256 != manifest.protocol_sha256:
        raise ShareError(
            f"it is of another protocol of {study.name} than the hub's version {study.protocol.version}",
            where=where,
            advice="give hub and site the same study file and code lists, and share anew",
        )


def _refuse_extracted(workspace: Workspace, site: str) -> None:
    landed = any(True for _ in list_runs(workspace.landing, site)) if workspace.landing.is_dir() else False
    if landed or any(r.site == site for r in runs_in_lake(workspace)):
        raise ShareError(
            "the hub extracts from this site itself, so its share would count its patients twice",
            where=f"site {site}",
            advice="give the one or the other: share it under its own name, or do not extract from it here",
        )


def _read(path: Path, most: int, where: str) -> bytes:
    try:
        if path.is_symlink() or path.stat().st_size > most:
            raise broken_share(f"{path.name} is too large, or a link", where)
        return path.read_bytes()
    except OSError:
        raise broken_share(f"{path.name} is missing or cannot be read", where) from None


def _file(path: Path, entry: TableEntry, where: str) -> bytes:
    raw = _read(path, frames.MOST_BYTES, where)
    if hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise ShareError(
            f"{path.name} is not the file that was signed", where=where, advice="ask for the share again"
        )
    return raw


def _table(name: str, raw: bytes, entry: TableEntry, where: str) -> pa.Table:
    table = from_parquet(name, raw, where)
    if table.num_rows != entry.rows:
        raise broken_share(f"the table {name} has not the rows that the manifest says", where)
    return table


def _sites(workspace: Workspace, study: Study) -> list[str]:
    """The sites with a kept share, also where a collection was killed while it swapped two (see `_kept`)."""
    folder = _place(workspace, study.name, "*").parent
    aside = (p.name.removeprefix(".").removesuffix(".old") for p in folder.glob(".site=*.old"))
    names = {*(p.name for p in folder.glob("site=*")), *aside}
    return sorted(name.removeprefix("site=") for name in names)


def _place(workspace: Workspace, study: str, site: str) -> Path:
    path: Path = workspace.root / FOLDER / f"study={study}" / f"site={site}"
    return path


def _keep(workspace: Workspace, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Put a share in the place of the one before. Killed at any moment, one of the two is there, whole."""
    final = _place(workspace, manifest.study, manifest.site)
    part, old = final.with_name(f".{final.name}.part"), final.with_name(f".{final.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    final.parent.mkdir(mode=0o700, exist_ok=True)
    part.mkdir(mode=0o700)
    for name, content in files.items():
        if name == MANIFEST:
            write_new(part / name, content)
        else:
            put(workspace, part / f"{name}.parquet", content)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _kept(workspace: Workspace, study: str, site: str) -> tuple[Manifest | None, bytes]:
    """The manifest of a kept share; that of before where a collection was killed while it swapped them."""
    final = _place(workspace, study, site)
    old = final.with_name(f".{final.name}.old")
    if old.exists() and final.exists():  # the swap was done: who was erased since may be in the old one
        shutil.rmtree(old)
    elif old.exists():
        old.rename(final)
    path = final / MANIFEST
    if not path.is_file():
        return None, b""
    content = _read(path, MOST_BYTES, f"site {site}")
    return read_manifest(content, f"site {site}"), content


def _tables(workspace: Workspace, folder: Path, manifest: Manifest) -> Tables:
    found = {}
    for name, entry in manifest.tables.items():
        raw = get(workspace, folder / f"{name}.parquet")
        if raw is None and name in frames.OPTIONAL:
            continue
        if raw is None or hashlib.sha256(raw).hexdigest() != entry.sha256:
            raise ShareError(
                f"the table {name} is not as it was collected",
                where=f"site {manifest.site}",
                advice="collect it again",
            )
        found[name] = from_parquet(name, raw, f"site {manifest.site}")
    return Tables(found)
