"""Takes patients' lines out of landed runs: each run is rewritten aside and takes its place when it is whole.

landing/site=S/run=R              as it is read
landing/site=S/.run=R.erased      the same without the lines, complete, for a moment
landing/site=S/.run=R.part        the run of before, about to be removed
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from rwe.blocklist import patients_of, without_blocked
from rwe.crypt import Cipher, place
from rwe.durable import sync, sync_path, write_new
from rwe.errors import LandingError
from rwe.landing import COHORT, DELETED, MANIFEST, UNREADABLE, Run
from rwe.manifest import ErasedNote, LandedFile

#: Characters; a shorter id occurs in other words and is looked for with what delimits it.
LONG_ENOUGH = 6
_BATCH = 1 << 17


@dataclass
class Cut:
    """What was taken out of the runs of a site. `records` are (type, id) of the resources that went; `runs`
    are those rewritten."""

    lines: Counter[str] = field(default_factory=Counter)
    blanked: Counter[str] = field(default_factory=Counter)
    records: set[tuple[str, str]] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)


@contextmanager
def site_lock(landing: Path, site: str) -> Iterator[None]:
    """Hold a site's landing, as a run does. Raises LandingError where a run is under way."""
    folder = landing / f"site={site}"
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LandingError(
                "a run of this site is under way", where=f"site {site}", advice="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(handle)


def finish_interrupted(landing: Path, site: str) -> None:
    """Put runs in place whose rewriting was killed between its two steps, and remove what else was left.

    Call it under `site_lock`: then whatever is under way belongs to somebody who was killed.
    """
    folder = landing / f"site={site}"
    for rewritten in folder.glob(".run=*.erased"):
        target = rewritten.with_name(rewritten.name.removeprefix(".").removesuffix(".erased"))
        if target.exists():
            shutil.rmtree(rewritten)
        else:
            rewritten.rename(target)
    for leftover in folder.glob(".run=*.part"):
        shutil.rmtree(leftover)


def raw_is_there(run: Run) -> bool:
    """Whether the files of a run lie there; its raw bytes may have been removed, and its manifest kept."""
    return all((run.path / f.name).is_file() for f in run.manifest.files)


class Cutter:
    """Rewrites runs of one site without the lines of patients. `is_gone` tells them by Patient id; `ids` are
    the ids that are known: long ones are looked for anywhere in lines of any kind, short ones only where
    something sets them apart (see `rwe.blocklist.without_blocked`). `pseudonyms` are theirs."""

    def __init__(
        self,
        is_gone: Callable[[str], bool],
        ids: frozenset[str],
        pseudonyms: frozenset[str],
        cipher: Cipher | None,
    ) -> None:
        self._is_gone, self._pseudonyms, self._cipher = is_gone, pseudonyms, cipher
        long = sorted(re.escape(i).encode() for i in ids if len(i) >= LONG_ENOUGH)
        self._mentions = re.compile(b"|".join(long)) if long else None
        self.cut = Cut()

    def collect(self, run: Run) -> None:
        """Remember which records of the run will go, so that their tombstones go too."""
        for resource_type in run.types:
            if resource_type != DELETED:
                for line in run.open(resource_type):
                    if self._kept(resource_type, line) is None:
                        kind, record, _ = patients_of(line)
                        if record:
                            self.cut.records.add((kind, record))

    def count(self, run: Run) -> None:
        """Count what `rewrite` would take out of a run, and touch nothing."""
        gone, blanked = Counter[str](), Counter[str]()
        for resource_type in run.types:
            for line in run.open(resource_type):
                kept = self._kept(resource_type, line)
                gone[resource_type] += kept is None
                blanked[resource_type] += kept is not None and kept != line
        if gone.total() or blanked.total() or self._cohort(run) is not None:
            self.cut.lines += gone
            self.cut.blanked += blanked
            self.cut.runs.append(run.run)

    def rewrite(self, run: Run, before_swap: Callable[[], None]) -> bool:
        """Take the lines out of a run, in one step, just after `before_swap` was called. Returns whether
        there were any: else nothing is touched. Raises LandingError."""
        kept_cohort = self._cohort(run)
        touched = {t for t in run.types if any(self._kept(t, line) != line for line in run.open(t))}
        if not touched and kept_cohort is None:
            return False
        aside = run.path.with_name(f".{run.path.name}.erased")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        files, gone = [], Counter[str]()
        for entry in run.manifest.files:
            if entry.type in touched:
                new = self._write(run, entry, aside / entry.name)
                gone[entry.type] += entry.lines - new.lines
                files.append(new)
            else:
                os.link(run.path / entry.name, aside / entry.name)
                files.append(entry)
        cohort_sha256 = self._write_cohort(run, aside, kept_cohort)
        note = ErasedNote(at=datetime.now(UTC), lines={t: n for t, n in sorted(gone.items()) if n})
        fewer = len(run.cohort() or ()) - len(kept_cohort) if kept_cohort is not None else 0
        manifest = replace(
            run.manifest,
            files=tuple(files),
            cohort_sha256=cohort_sha256,
            patients=run.manifest.patients - fewer if run.manifest.patients is not None else None,
            erased=(*run.manifest.erased, note),
        )
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        write_new(aside / MANIFEST, content)
        before_swap()
        _swap(run.path, aside)
        self.cut.lines += gone
        self.cut.runs.append(run.run)
        return True

    def _kept(self, resource_type: str, line: bytes) -> bytes | None:
        if resource_type == DELETED and self._is_tombstone_of_gone(line):
            return None
        kept = without_blocked(line, self._is_gone, is_unreadable=resource_type == UNREADABLE)
        if kept is not None and self._mentions and self._mentions.search(kept):
            return None
        return kept

    def _is_tombstone_of_gone(self, line: bytes) -> bool:
        kind, record, _ = patients_of(line)
        return (kind, record) in self.cut.records

    def _write(self, run: Run, entry: LandedFile, target: Path) -> LandedFile:
        lines = size = 0
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            sink = _Sink(out)
            where = place(run.path / entry.name)
            sealing = self._cipher.writer(sink, where) if self._cipher and run.manifest.key_id else None
            compressor = zstandard.ZstdCompressor(level=3).compressobj()
            put = (sealing or sink).write
            batch = bytearray()
            for line in run.open(entry.type):
                kept = self._kept(entry.type, line)
                if kept is None:
                    continue
                self.cut.blanked[entry.type] += kept != line
                batch += kept + b"\n"
                lines, size = lines + 1, size + len(kept) + 1
                if len(batch) >= _BATCH:
                    put(compressor.compress(bytes(batch)))
                    batch.clear()
            put(compressor.compress(bytes(batch)) + compressor.flush())
            if sealing:
                sealing.finish()
            sync(out)
        return LandedFile(entry.type, entry.name, lines, size, sink.sha256.hexdigest())

    def _cohort(self, run: Run) -> frozenset[str] | None:
        """Who stays of those the run was about; None where nobody goes."""
        cohort = run.cohort() or frozenset()
        return cohort - self._pseudonyms if cohort & self._pseudonyms else None

    def _write_cohort(self, run: Run, aside: Path, kept: frozenset[str] | None) -> str | None:
        names = [p.name for p in run.path.glob(f"{COHORT}*")]
        if not names:
            return run.manifest.cohort_sha256
        if kept is None:
            os.link(run.path / names[0], aside / names[0])
            return run.manifest.cohort_sha256
        content = zstandard.ZstdCompressor(level=3).compress("\n".join(sorted(kept)).encode("ascii"))
        if self._cipher and run.manifest.key_id:
            content = self._cipher.seal(content, place(run.path / names[0]))
        write_new(aside / names[0], content)
        return hashlib.sha256(content).hexdigest()


class _Sink:
    """Writes a file and keeps the hash of what lies in it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self.sha256 = out, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.sha256.update(data)


def _swap(target: Path, rewritten: Path) -> None:
    """Two renames; what is killed between them is put right by `finish_interrupted`."""
    old = target.with_name(f".{target.name}.part")  # what a killed run leaves is called so, and cleared away
    shutil.rmtree(old, ignore_errors=True)
    sync_path(rewritten)
    target.rename(old)
    rewritten.rename(target)
    sync_path(target.parent)
    shutil.rmtree(old)
