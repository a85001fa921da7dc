"""An export under way, kept on disk: what a killed night leaves behind, the next one goes on with.

    landing/site=S/.export.json     the job                      0600
    landing/site=S/.export/         its files, as they came      0700, cleared once their run is landed

With a cipher both are encrypted and end in `.enc`; a job begun without one is gone on with.

The caller holds the site's lock (`rwe.landing.new_run`), so there is one job a site at a time.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec

from rwe.crypt import SUFFIX, Cipher, OtherKeyError, UnsealError, place
from rwe.durable import sync_path, write_whole
from rwe.errors import LandingError
from rwe.fhir.bulk_files import Stored, is_intact
from rwe.fhir.bulk_manifest import FileKind

SCHEMA_VERSION = 1
_JOB, _SPILL = ".export.json", ".export"


@dataclass(frozen=True)
class DoneFile:
    """A file that is on disk and verified. `key` is the manifest's; `name` is that in the spill folder."""

    kind: FileKind
    type: str
    key: str
    name: str
    stored: Stored


@dataclass(frozen=True)
class ExportJob:
    """One export of a site.

    `request_sha256` stands for what was asked for (server, level, Group, types, filters): the ids in it stay
    out. `since` and `types` are what was really asked for. `transaction_time` is known from the manifest on.
    `failed` are types of which a file never came whole. `is_downloaded` says that all other files are here;
    `run` is the run they are being landed in.
    """

    status_url: str = field(repr=False)
    request_sha256: str
    level: str
    types: tuple[str, ...]
    since: datetime | None
    started_at: datetime
    kicked_off_at: datetime | None = None
    transaction_time: datetime | None = None
    files: tuple[DoneFile, ...] = ()
    failed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_downloaded: bool = False
    run: str | None = None


@dataclass(frozen=True)
class LastExport:
    """The last export that was landed: its start by this machine's clock, its end by the server's."""

    started_at: datetime
    transaction_time: datetime | None


@dataclass(frozen=True)
class _Kept:
    schema_version: int
    job: ExportJob | None = None
    last: LastExport | None = None


class JobStore:
    """The job and the files of one site, on disk."""

    def __init__(self, landing: Path, site: str, cipher: Cipher | None = None) -> None:
        self.site, self.cipher = site, cipher
        self._folder = landing / f"site={site}"
        self._plain, self._sealed = self._folder / _JOB, self._folder / f"{_JOB}{SUFFIX}"
        self.spill = self._folder / _SPILL

    def load(self) -> ExportJob | None:
        """The job that is to be gone on with, if any: its files are there, and its run is not landed yet.

        Raises LandingError where it is encrypted and the key at hand is not its key.
        """
        job = self._read().job
        if job is None:
            return None
        if job.run is not None and (self._folder / f"run={job.run}").is_dir():
            self.finish(job)
            return None
        kept = tuple(f for f in job.files if is_intact(self.spill / f.name, f.stored))
        if len(kept) < len(job.files):
            job = replace(job, files=kept, is_downloaded=False)
        return job

    def last(self) -> LastExport | None:
        """The last export that was landed."""
        return self._read().last

    def save(self, job: ExportJob) -> None:
        """Keep the job. Raises LandingError if the disk does not take it."""
        self._write(_Kept(SCHEMA_VERSION, job, self._read().last))

    def begin(self, job: ExportJob) -> None:
        """A new job: what an earlier one left is cleared away."""
        self._clear()
        self.save(job)

    def finish(self, job: ExportJob) -> None:
        """The job's run is landed: forget the job, clear its files, remember when it began."""
        self._write(_Kept(SCHEMA_VERSION, None, LastExport(job.started_at, job.transaction_time)))
        self._clear()

    def forget(self) -> None:
        """Give the job up, with its files."""
        self._write(_Kept(SCHEMA_VERSION, None, self._read().last))
        self._clear()

    def file(self, name: str) -> Path:
        """Where the file of this name goes; its name then says whether it is encrypted."""
        self._private(self.spill)
        return self.spill / (name + SUFFIX if self.cipher else name)

    def _clear(self) -> None:
        shutil.rmtree(self.spill, ignore_errors=True)

    def _read(self) -> _Kept:
        try:
            kept = msgspec.json.decode(self._content(), type=_Kept)
        except OtherKeyError:
            raise LandingError(
                "the export under way is encrypted with another key",
                where=f"site {self.site}",
                advice="give its key back in `encryption.key_file` of rwe.yaml or in RWE_ENCRYPTION_KEY",
            ) from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, UnsealError):
            return _Kept(SCHEMA_VERSION)  # it only saves work: without it, a new export begins
        return kept if kept.schema_version == SCHEMA_VERSION else _Kept(SCHEMA_VERSION)

    def _content(self) -> bytes:
        if not self._sealed.exists():
            return self._plain.read_bytes()
        if self.cipher is None:
            raise OtherKeyError
        return self.cipher.unseal(self._sealed.read_bytes(), place(self._sealed))

    def _private(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as e:
            raise self.disk_error() from e

    def _write(self, kept: _Kept) -> None:
        self._private(self._folder)
        path, content = self._plain, msgspec.json.encode(kept)
        if self.cipher:
            path, content = self._sealed, self.cipher.seal(content, place(self._sealed))
        try:
            write_whole(path, content)
            if self.cipher:
                self._plain.unlink(missing_ok=True)
                sync_path(self._folder)
        except OSError as e:
            raise self.disk_error() from e

    def disk_error(self) -> LandingError:
        """The error where the disk does not take the job or its files."""
        return LandingError(
            "the export could not be written to disk",
            where=f"site {self.site}",
            advice="check the disk's space",
        )
