"""Landed runs: raw bytes as served, immutable, complete or absent.

    landing/site=S/run=R/TYPE.ndjson.zst + manifest.json      folders 0700, files 0600

A run is written into `.run=R.part`, synced, its manifest last, and then renamed. One lock a site keeps two
runs apart; whoever holds it may clear away what a killed run left behind. One line is one resource.
Lines that are no resource at all land too, as the type `_unreadable`, so that all counts add up. What the
server deleted lands as the type `_deleted` (see `rwe.fhir.deletions`). `_cohort.zst` names, by pseudonym, the
patients the run was about: who is not in it has no history here yet.

Given a cipher, all files but the manifest are encrypted and end in `.enc`; runs from before stay readable.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import msgspec
import zstandard

from rwe import __version__
from rwe.blocklist import Gate
from rwe.crypt import SUFFIX, Cipher, Source, UnsealError
from rwe.durable import sync_path, write_new
from rwe.errors import LandingError
from rwe.flow_run import current_flow_run
from rwe.landed_files import CHUNK, LEVEL, FileWriter, HashingReader
from rwe.manifest import (
    LandedFile,
    Manifest,
    Route,
    RunFacts,
    ServerIdentity,
    StudyReference,
    TypeScope,
)

__all__ = [
    "DELETED",
    "UNREADABLE",
    "LandedFile",
    "Manifest",
    "Route",
    "Run",
    "RunFacts",
    "RunWriter",
    "ServerIdentity",
    "StudyReference",
    "TypeScope",
    "list_runs",
    "new_run",
    "open_run",
]

SCHEMA_VERSION = 1
#: The type of landed lines that are no FHIR resource.
UNREADABLE = "_unreadable"
#: The type of landed tombstones.
DELETED = "_deleted"
MANIFEST = "manifest.json"
COHORT = "_cohort.zst"
#: Beside a manifest: the raw bytes of the run were kept as long as the workspace says, and are removed.
RAW_REMOVED = "raw_removed"

_SPECIAL = frozenset({UNREADABLE, DELETED})
_TYPE = re.compile(r"[A-Za-z]{1,64}")
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


@dataclass(frozen=True)
class Run:
    """A landed run. `manifest_sha256` is of the manifest's bytes, which name the hash of every file."""

    site: str
    run: str
    path: Path
    manifest: Manifest
    manifest_sha256: str
    cipher: Cipher | None = field(default=None, repr=False, compare=False)

    @property
    def types(self) -> tuple[str, ...]:
        """The types landed, `_unreadable` among them where there is any, sorted."""
        return tuple(f.type for f in self.manifest.files)

    @property
    def resources(self) -> dict[str, int]:
        """Lines by type, `_unreadable` included."""
        return {f.type: f.lines for f in self.manifest.files}

    @property
    def raw_is_removed(self) -> bool:
        """Whether its lines are gone on purpose (`remove_raw`); the manifest and the cohort stay."""
        return (self.path / RAW_REMOVED).exists()

    def file(self, resource_type: str) -> Path | None:
        """The file of a type, or None where the run has none of it."""
        found = [f.name for f in self.manifest.files if f.type == resource_type]
        return self.path / found[0] if found else None

    def cohort(self) -> frozenset[str] | None:
        """Pseudonyms of the patients the run was about; None where it does not tell, or not credibly.

        Raises LandingError where the run is encrypted and the key at hand is not its key.
        """
        self._check_key()
        name = _stored_name(COHORT, self.manifest.key_id)
        try:
            content = (self.path / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != self.manifest.cohort_sha256:
                return None
            if self.cipher and self.manifest.key_id:
                content = self.cipher.unseal(content, _place(self.site, self.run, name))
            return frozenset(zstandard.ZstdDecompressor().decompress(content).decode("ascii").split())
        except (OSError, zstandard.ZstdError, UnicodeDecodeError, UnsealError):
            return None

    def open(self, resource_type: str) -> Iterator[bytes]:
        """The lines of one type, as landed, without their newline. No line where the run has no such type, or
        its raw bytes are removed.

        Raises LandingError, after the last line at the latest, if the file is not what the manifest says, or
        is encrypted and the key at hand is not its key.
        """
        entry = next((f for f in self.manifest.files if f.type == resource_type), None)
        return iter(()) if entry is None or self.raw_is_removed else self._verified_lines(entry)

    def _verified_lines(self, entry: LandedFile) -> Iterator[bytes]:
        self._check_key()
        where = f"site {self.site}, run {self.run}, {entry.name}"
        lines = 0
        try:
            with (self.path / entry.name).open("rb") as raw:
                hashing = HashingReader(raw)
                source = zstandard.ZstdDecompressor().stream_reader(
                    cast("IO[bytes]", self._opened(hashing, entry.name))
                )
                for line in io.BufferedReader(cast("io.RawIOBase", source), CHUNK):
                    lines += 1
                    yield line.removesuffix(b"\n")
                hashing.drain()
        except (OSError, zstandard.ZstdError, UnsealError):
            raise LandingError(
                "the landed file is damaged or gone", where=where, advice=_LAND_AGAIN
            ) from None
        if lines != entry.lines or hashing.sha256.hexdigest() != entry.sha256:
            raise LandingError(
                "the landed file is not the one its manifest names", where=where, advice=_LAND_AGAIN
            )

    def _check_key(self) -> None:
        _check_key(self.manifest.key_id, self.cipher, self.run, self.site)

    def _opened(self, source: HashingReader, name: str) -> Source:
        if self.cipher is None or self.manifest.key_id is None:
            return source
        return self.cipher.reader(source, _place(self.site, self.run, name))


def _check_key(key_id: str | None, cipher: Cipher | None, run: str, site: str) -> None:
    """Raise LandingError if a run is encrypted and the key at hand is not the one it is encrypted with."""
    if key_id is None or (cipher and cipher.key_id == key_id):
        return
    what = "encrypted with another key" if cipher else "encrypted, and no key is set"
    raise LandingError(f"the run is {what}", where=f"site {site}, run {run}", advice=_GIVE_THE_KEY)


_GIVE_THE_KEY = "give its key back in `encryption.key_file` of rwe.yaml or in RWE_ENCRYPTION_KEY"
_LAND_AGAIN = "move the run's folder away and land it again"


class RunWriter:
    """A run under way. Make one with `new_run`; nothing is landed before `commit`."""

    def __init__(
        self, site_folder: Path, site: str, cipher: Cipher | None = None, gate: Gate | None = None
    ) -> None:
        self.site, self.started_at, self._cipher, self._gate = site, datetime.now(UTC), cipher, gate
        self.run = f"{self.started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        self._target = site_folder / f"run={self.run}"
        self._part = site_folder / f".run={self.run}.part"
        _private_folder(self._part)
        self._files: dict[str, FileWriter] = {}
        self._cohort_sha256: str | None = None

    def write_cohort(self, pseudonyms: Collection[str]) -> None:
        """Keep who the run is about, as pseudonyms: never in the manifest, which is shown."""
        if self._gate:
            pseudonyms = self._gate.pseudonyms(pseudonyms)
        text = "\n".join(sorted(pseudonyms)).encode("ascii")
        content = zstandard.ZstdCompressor(level=LEVEL).compress(text)
        name = _stored_name(COHORT, self._cipher)
        if self._cipher:
            content = self._cipher.seal(content, _place(self.site, self.run, name))
        try:
            write_new(self._part / name, content)
        except OSError as e:
            raise self._disk_error() from e
        self._cohort_sha256 = hashlib.sha256(content).hexdigest()

    def write(self, resource_type: str, raw_line: bytes, *, last_updated: datetime | None = None) -> int:
        """Land one resource, byte by byte as served. See `write_all`."""
        return self.write_all(resource_type, (raw_line,), last_updated=last_updated)

    def write_all(
        self, resource_type: str, raw_lines: Sequence[bytes], *, last_updated: datetime | None = None
    ) -> int:
        """Land resources of a type, byte by byte as served, and return how many: erased patients' do not.

        A newline between tokens of pretty-printed JSON becomes a blank (inside strings JSON always escapes
        it), so that one line is one resource. `last_updated` is the latest `meta.lastUpdated`, aware.
        """
        if self._gate:
            raw_lines = self._gate.lines(raw_lines, is_unreadable=resource_type == UNREADABLE)
        try:
            if raw_lines:
                self._writer(resource_type).write(raw_lines, last_updated)
        except OSError as e:
            raise self._disk_error() from e
        return len(raw_lines)

    def _writer(self, resource_type: str) -> FileWriter:
        writer = self._files.get(resource_type)
        if writer is None:
            if not _is_type(resource_type):
                raise LandingError(
                    "a resource type is not made of letters",
                    where=f"site {self.site}",
                    advice="land it as unreadable",
                )
            name = _stored_name(f"{resource_type}.ndjson.zst", self._cipher)
            where = _place(self.site, self.run, name)
            writer = FileWriter(self._part / name, resource_type, self._cipher, where)
            self._files[resource_type] = writer
        return writer

    def _disk_error(self) -> LandingError:
        return LandingError(
            "the run could not be written to disk", where=f"site {self.site}", advice="check the disk's space"
        )

    @property
    def resources(self) -> dict[str, int]:
        """Lines written so far, by type."""
        return {t: w.lines for t, w in sorted(self._files.items())}

    def commit(self, facts: RunFacts) -> Run:
        """Finish the files, write the manifest last, and rename the folder into place."""
        try:
            files = tuple(self._files[t].finish() for t in sorted(self._files))
            manifest = self._manifest(facts, files)
            content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
            write_new(self._part / MANIFEST, content)
            sync_path(self._part)
            self._part.rename(self._target)
            sync_path(self._target.parent)
        except OSError as e:
            raise self._disk_error() from e
        sha256 = hashlib.sha256(content).hexdigest()
        return Run(self.site, self.run, self._target, manifest, sha256, self._cipher)

    def _manifest(self, facts: RunFacts, files: tuple[LandedFile, ...]) -> Manifest:
        latest = {t: w.last_updated for t, w in sorted(self._files.items()) if t not in _SPECIAL}
        return Manifest(
            schema_version=SCHEMA_VERSION,
            site=self.site,
            run=self.run,
            route=facts.route,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            code_version=__version__,
            time_zone=facts.time_zone,
            server=facts.server,
            requests={t: dict(sorted(c.items())) for t, c in sorted(facts.requests.items())},
            queries=tuple(facts.queries),
            files=files,
            watermarks=dict(sorted(facts.watermarks.items())),
            last_updated={t: at.isoformat() if at else None for t, at in latest.items()},
            studies=tuple(facts.studies),
            patients=facts.patients,
            warnings=tuple(facts.warnings),
            errors=tuple(facts.errors),
            scopes=dict(sorted(facts.scopes.items())),
            clock_ahead=facts.clock_ahead,
            cohort_sha256=self._cohort_sha256,
            key_id=self._cipher.key_id if self._cipher else None,
            limited_to=tuple(facts.limited_to),
            flow_run=current_flow_run(),
        )

    def abandon(self) -> None:
        """Close and remove what was written; a committed run stays."""
        for writer in self._files.values():
            writer.abandon()
        shutil.rmtree(self._part, ignore_errors=True)


@contextmanager
def new_run(
    landing: Path, site: str, *, cipher: Cipher | None = None, gate: Gate | None = None
) -> Iterator[RunWriter]:
    """Open a new run of a site; leaving the block without `commit` leaves no trace of it.

    What `gate` holds back (`rwe.blocklist.gate_of`: records of erased patients) does not land.

    Raises LandingError if another run of this site is under way, the folder cannot be written, or the last
    encrypted run of any site has another key than `cipher`: a landing never mixes two, nor goes back to none.
    """
    folder = landing / f"site={site}"
    try:
        _private_folder(landing)
        _private_folder(folder)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise LandingError(
            "the landing folder cannot be written", where=str(folder), advice="check its owner and the disk"
        ) from e
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LandingError(
                "another run of this site is under way",
                where=f"site {site}",
                advice="wait until it has ended",
            ) from None
        # The lock is ours, so every part belongs to a run that was killed.
        for leftover in folder.glob(".run=*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        _refuse_other_key(landing, cipher)
        writer = RunWriter(folder, site, cipher, gate)
        try:
            yield writer
        finally:
            writer.abandon()
    finally:
        os.close(lock)


def _refuse_other_key(landing: Path, cipher: Cipher | None) -> None:
    for path in sorted(landing.glob("site=*/run=*"), key=lambda p: p.name, reverse=True):
        try:
            key_id = msgspec.json.decode((path / MANIFEST).read_bytes(), type=_KeyOf).key_id
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue  # for `list_runs` to complain about
        if key_id is not None:
            _check_key(key_id, cipher, path.name.removeprefix("run="), path.parent.name.removeprefix("site="))
            return


class _KeyOf(msgspec.Struct):
    key_id: str | None = None


def list_runs(landing: Path, site: str | None = None, *, cipher: Cipher | None = None) -> list[Run]:
    """Every landed run, of one site or of all, oldest first (by run id, then site).

    `cipher` is needed to read lines of encrypted runs, not for their manifests. Raises LandingError if a
    run's manifest is unreadable, names another run, or names a file that is gone.
    """
    pattern = f"site={site}/run=*" if site else "site=*/run=*"
    found = (open_run(p, cipher=cipher) for p in landing.glob(pattern))
    return sorted(found, key=lambda r: (r.run, r.site))


def open_run(path: Path, *, cipher: Cipher | None = None) -> Run:
    """The landed run in the folder `path`. Raises LandingError as `list_runs` does."""
    site, run = path.parent.name.removeprefix("site="), path.name.removeprefix("run=")
    where = f"site {site}, run {run}"
    try:
        content = (path / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise LandingError("the manifest is missing or unreadable", where=where, advice=_LAND_AGAIN) from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise LandingError(
            "the manifest is of another version of rwe", where=where, advice="use the version that wrote it"
        )
    if (manifest.site, manifest.run) != (site, run) or not _RUN_ID.fullmatch(run):
        raise LandingError("the manifest belongs to another run", where=where, advice=_LAND_AGAIN)
    for f in manifest.files:
        if f.name != _stored_name(f"{f.type}.ndjson.zst", manifest.key_id) or not _is_type(f.type):
            raise LandingError("the manifest names a file of another shape", where=where, advice=_LAND_AGAIN)
        if not (path / f.name).is_file() and not (path / RAW_REMOVED).exists():
            raise LandingError(f"the file {f.name} is gone", where=where, advice=_LAND_AGAIN)
    return Run(site, run, path, manifest, hashlib.sha256(content).hexdigest(), cipher)


def remove_raw(run: Run) -> None:
    """Remove the raw bytes of a run and keep its manifest and cohort. Killed between, it can be called again.

    Raises LandingError where the files cannot be removed.
    """
    try:
        if not run.raw_is_removed:
            write_new(run.path / RAW_REMOVED, b"")
        for entry in run.manifest.files:
            (run.path / entry.name).unlink(missing_ok=True)
        sync_path(run.path)
    except OSError:
        raise LandingError(
            "the raw bytes of a run cannot be removed",
            where=f"site {run.site}, run {run.run}",
            advice="check the owner of the landing folder",
        ) from None


def _stored_name(name: str, sealed: object) -> str:
    return name + SUFFIX if sealed else name


def _place(site: str, run: str, name: str) -> str:
    """As `rwe.crypt.place` of the finished file; it is written under another name."""
    return f"site={site}/run={run}/{name}"


def _is_type(name: str) -> bool:
    return name in _SPECIAL or _TYPE.fullmatch(name) is not None


def _private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
