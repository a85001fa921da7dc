"""The careful way into the lake: line by line, with the rule and the place of whatever is wrong.

It takes every line of a small file, and of a large one those that the fast way (`fast.py`) doubts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from rwe.lake import validate
from rwe.lake.context import SiteContext
from rwe.lake.elements import RESOURCES, ResourceIn, TombstoneIn
from rwe.lake.findings import Flag, RejectedError
from rwe.lake.rows import RowBuilder
from rwe.lake.rules import RULES
from rwe.lake.sealed import create_file
from rwe.landing import DELETED, Run
from rwe.progress import Step

_TICK = 1000
_SOURCES = frozenset({"export", "history", "reconcile", "read"})


class CarefulReader:
    """Checks lines of one run and writes rows and quarantine as NDJSON into the folder `aside`."""

    def __init__(self, context: SiteContext, run: Run, aside: Path, step: Step) -> None:
        self.context, self.run, self.aside, self.step = context, run, aside, step
        self._builder = RowBuilder(context.mapping)
        self._encoder = msgspec.json.Encoder()
        self.started_at = run.manifest.started_at.astimezone(UTC).replace(tzinfo=None)
        self.landed_day = run.manifest.finished_at.astimezone(context.zone).date()
        self.quarantine = aside / context.name("quarantine.ndjson")
        self._quarantine = create_file(self.quarantine, context.cipher)
        #: The longest line written: what reads it must make room for it.
        self.longest_row = 0

    def rows_file(self, resource_type: str) -> Path:
        """Where the rows of a type go."""
        return self.aside / self.context.name(f"{resource_type}.ndjson")

    def open_rows(self, resource_type: str) -> IO[bytes]:
        """The file of a type's rows, to be written from its beginning to its end."""
        return create_file(self.rows_file(resource_type), self.context.cipher)

    def take_all(self, resource_type: str, lines: Iterator[bytes], out: IO[bytes]) -> Counter[str]:
        """Take all lines of a type; how many were `stored` and `quarantined`."""
        sampled_below = validate.sample_threshold(
            self.context.validation, self.run.resources.get(resource_type, 0)
        )
        counts: Counter[str] = Counter()
        for number, line in enumerate(lines, start=1):
            counts[self.take(resource_type, number, line, out, sampled_below)] += 1
            if number % _TICK == 0:
                self.step.advance(_TICK)
        self.step.advance(counts.total() % _TICK)
        return counts

    def take(self, resource_type: str, number: int, line: bytes, out: IO[bytes], sampled_below: str) -> str:
        """Take one line: `stored` or `quarantined`. fhir.resources looks at pseudonyms before
        `sampled_below`."""
        context, resource = self.context, None
        try:
            found = validate.decode(line, resource_type)
            resource = found.resource
            pseudonym = context.mapping.pseudonyms.of(resource_type, resource.id or "")
            validate.refuse_repeated_keys(validate.minimal(line), resource_type)
            flags = validate.refuse_unusable(resource, context.excluded_labels, context.mapping.actions)
            row = self._builder.build(resource)
            flags += validate.left_out(found, context.mapping.actions) + self._builder.flags
            if pseudonym < sampled_below:
                flags += self._explained(line, resource_type)
        except RejectedError as refusal:
            self.put_aside(resource_type, number, line, refusal, resource)
            return "quarantined"
        row |= {
            "resource_id": pseudonym,
            "site": context.site,
            "run": self.run.run,
            "line": number,
            "updated_at": self._updated_at(resource),
            "version_number": _version_number(resource),
            "landed_at": self.started_at,
            "landed_day": self.landed_day,
            "has_modifier_extension": any(flag.rule == "modifier_extension" for flag in flags),
        }
        for flag in flags:
            self._flag(resource_type, number, pseudonym, flag)
        content = self._encoder.encode(row)
        self.longest_row = max(self.longest_row, len(content))
        out.write(content + b"\n")
        return "stored"

    def _explained(self, line: bytes, resource_type: str) -> list[Flag]:
        found = validate.explain(line, resource_type)
        if found and self.context.mapping.actions.rejects("fhir_invalid"):
            raise RejectedError(found[0].rule, found[0].json_path)
        return found

    def take_tombstones(self, lines: Iterator[bytes]) -> Counter[str]:
        """Take the lines of `_deleted`: `tombstones`, `quarantined` and `not_mapped`."""
        counts: Counter[str] = Counter()
        with self.open_rows(DELETED) as out:
            for number, line in enumerate(lines, start=1):
                try:
                    found = validate.decode_tombstone(line)
                except RejectedError as refusal:
                    self.put_aside(DELETED, number, line, refusal, None)
                    counts["quarantined"] += 1
                    continue
                if found.resourceType not in RESOURCES:
                    counts["not_mapped"] += 1
                    continue
                out.write(self._encoder.encode(self._tombstone(found, number)) + b"\n")
                counts["tombstones"] += 1
        self.step.advance(counts.total())
        return counts

    def _tombstone(self, found: TombstoneIn, number: int) -> dict[str, Any]:
        return {
            "resource_type": found.resourceType,
            "resource_id": self.context.mapping.pseudonyms.of(found.resourceType, found.id),
            "site": self.context.site,
            "run": self.run.run,
            "line": number,
            "deleted_at": _naive_utc(found.deletedAt),
            "landed_at": self.started_at,
            "source": found.source if found.source in _SOURCES else None,
        }

    def _updated_at(self, resource: ResourceIn) -> datetime:
        """When this version was written, in UTC: what a server serves undated is as new as the run."""
        return _naive_utc(resource.meta.lastUpdated if resource.meta else None) or self.started_at

    def put_aside(
        self,
        resource_type: str,
        number: int,
        line: bytes,
        refusal: RejectedError,
        resource: ResourceIn | None,
    ) -> None:
        """Write a line that does not enter into the quarantine."""
        raw_id = resource.id if resource else validate.id_of(line)
        pseudonym = self.context.mapping.pseudonyms.of(resource_type, raw_id) if raw_id else None
        record: dict[str, Any] = {
            **self._finding(resource_type, number, pseudonym, Flag(refusal.rule, refusal.json_path)),
            "action": "reject",
            "updated_at": self._updated_at(resource) if resource else self.started_at,
            "version_number": _version_number(resource) if resource else -1,
            "landed_at": self.started_at,
            "retires": RULES[refusal.rule].retires,
        }
        self._quarantine.write(self._encoder.encode(record) + b"\n")
        if self.context.validation != "off" and refusal.rule in validate.WORTH_EXPLAINING:
            for flag in validate.explain(line, resource_type):
                self._flag(resource_type, number, pseudonym, flag)

    def _flag(self, resource_type: str, number: int, pseudonym: str | None, flag: Flag) -> None:
        record = self._finding(resource_type, number, pseudonym, flag)
        record |= {"action": "flag", "retires": False}
        self._quarantine.write(self._encoder.encode(record) + b"\n")

    def _finding(self, resource_type: str, number: int, pseudonym: str | None, found: Flag) -> dict[str, Any]:
        return {
            "site": self.context.site,
            "run": self.run.run,
            "resource_type": resource_type,
            "resource_pseudonym": pseudonym,
            "rule": found.rule,
            "json_path": found.json_path,
            "line": number,
        }

    def finish(self) -> None:
        """Close the quarantine."""
        self._quarantine.close()


def _naive_utc(text: str | None) -> datetime | None:
    """A FHIR instant in UTC without its zone; None where it is absent or none."""
    try:
        at = datetime.fromisoformat(text) if text else None
        return at.astimezone(UTC).replace(tzinfo=None) if at and at.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _version_number(resource: ResourceIn) -> int:
    """The versionId where it is a number, else -1: the standard makes it opaque, most servers count."""
    text = resource.meta.versionId if resource.meta else None
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else -1
