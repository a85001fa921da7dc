"""What a run's manifest says. Nothing in it identifies a patient: it is never encrypted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Route = Literal["search", "export", "import"]


@dataclass(frozen=True)
class LandedFile:
    """One file of a run. `bytes` counts them uncompressed; `sha256` is of the file as it lies on disk."""

    type: str
    name: str
    lines: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ServerIdentity:
    """What a server's CapabilityStatement says about itself. None is: it does not say."""

    software: str | None = None
    version: str | None = None
    fhir_version: str | None = None


@dataclass(frozen=True)
class StudyReference:
    """A study that decided what was asked for."""

    name: str
    protocol_sha256: str


@dataclass(frozen=True)
class TypeScope:
    """What a run asked of one type, and whether it got all of it.

    `since` (ISO 8601) is the instant asked from, null where everything was asked for; `base` is then the run
    that it builds on. `plan_sha256` tells two questions apart (server, codes). `newest` is the latest
    `meta.lastUpdated` seen by this run and those it builds on. `is_reconciled`: what is gone was looked for
    in full. `is_paged`: some answer had several pages, between which things may have changed.
    """

    plan_sha256: str
    is_complete: bool
    since: str | None = None
    base: str | None = None
    newest: str | None = None
    is_reconciled: bool = False
    is_paged: bool = True


@dataclass(frozen=True)
class ErasedNote:
    """Lines by type that were taken out of a run because a patient was erased, and when."""

    at: datetime
    lines: dict[str, int]


@dataclass(frozen=True)
class RunFacts:
    """What only the maker of a run knows. Nothing in it may identify a patient: queries are templates.

    `requests` counts by resource type and HTTP status; `watermarks` holds the server's clock (ISO 8601) by
    type that is complete, null where the server told none; `time_zone` is the site's, IANA. `clock_ahead` is
    by how many seconds the server's clock was ahead of ours, at least and at most. `limited_to` names the
    types of a run that was not to land the others; empty, it was to land all.
    """

    route: Route
    time_zone: str
    server: ServerIdentity | None = None
    requests: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    queries: Sequence[str] = ()
    watermarks: Mapping[str, str | None] = field(default_factory=dict)
    studies: Sequence[StudyReference] = ()
    patients: int | None = None
    warnings: Sequence[str] = ()
    errors: Sequence[str] = ()
    scopes: Mapping[str, TypeScope] = field(default_factory=dict)
    clock_ahead: tuple[float, float] | None = None
    limited_to: Sequence[str] = ()


@dataclass(frozen=True)
class Manifest:
    """The manifest of a run. `last_updated` is the latest `meta.lastUpdated` (ISO 8601) by type, or null.

    `key_id` names the key its files are encrypted with (`rwe.crypt`), null where they are not. `flow_run` is
    the scheduled run that it was part of, null where it was started by hand.
    """

    schema_version: int
    site: str
    run: str
    route: Route
    started_at: datetime
    finished_at: datetime
    code_version: str
    time_zone: str
    server: ServerIdentity | None
    requests: dict[str, dict[str, int]]
    queries: tuple[str, ...]
    files: tuple[LandedFile, ...]
    watermarks: dict[str, str | None]
    last_updated: dict[str, str | None]
    studies: tuple[StudyReference, ...]
    patients: int | None
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    scopes: dict[str, TypeScope] = field(default_factory=dict)
    clock_ahead: tuple[float, float] | None = None
    cohort_sha256: str | None = None
    key_id: str | None = None
    erased: tuple[ErasedNote, ...] = ()
    limited_to: tuple[str, ...] = ()
    flow_run: str | None = None
