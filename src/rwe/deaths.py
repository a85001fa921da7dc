"""Deaths from a registry: a file handed over beside FHIR becomes one more source of `cohort.death`.

    patient_id,death_date,source                       ids as in the site's Patient resources
    identifier_system,identifier,death_date,source     or an identifier that those resources bear

`death_date` is YYYY-MM-DD, or the month or year alone where no more is known; `source` names the registry
(letters, digits, `_` and `-`). Neither id nor identifier is kept:

    registries/site=S/import=I.parquet     mode 0600: pseudonym, date, source; encrypted if the lake is
"""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rwe.blocklist import gate_of
from rwe.config import SITE_NAME, Workspace
from rwe.crypt import SUFFIX, UnsealError, place
from rwe.durable import write_whole
from rwe.errors import LakeError, UsageError
from rwe.lake.dates import DateShapeError, FhirDate, read_fhir_date
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.lake.sealed import sealed_name
from rwe.lake.store import private_folder
from rwe.landing import list_runs
from rwe.scratch import locked
from rwe.site_settings import Site

FOLDER = "registries"
HEADERS = (
    ("patient_id", "death_date", "source"),
    ("identifier_system", "identifier", "death_date", "source"),
)
#: Of a table of imported deaths, as DuckDB types. `imported_at` (UTC) tells which import was the last;
#: `landed_day` is the site's day of it: what is dated later has not happened.
REGISTRY_COLUMNS = {
    "patient_id": "VARCHAR",
    "site": "VARCHAR",
    "source": "VARCHAR",
    "death_day": "DATE",
    "death_precision": "VARCHAR",
    "death_first_day": "DATE",
    "death_last_day": "DATE",
    "imported_at": "TIMESTAMP",
    "landed_day": "DATE",
}
_ARROW = pa.schema(
    [
        (name, {"VARCHAR": pa.string(), "DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us")}[kind])
        for name, kind in REGISTRY_COLUMNS.items()
    ]
)
_PATIENT_ID = re.compile(r"[A-Za-z0-9.\-]{1,64}")
_SOURCE = re.compile(r"[A-Za-z0-9_\-]{1,40}")


@dataclass(frozen=True)
class ImportedDeaths:
    """What became of a file: its lines, the patients they are about, lines whose identifier no landed Patient
    of the site bears, and rows of earlier imports that were dropped (`replace`)."""

    site: str
    lines: int
    patients: int
    unresolved: int
    replaced: int


@dataclass(frozen=True)
class _Line:
    who: tuple[str, str]  # ("", patient id) or (system, identifier)
    death: FhirDate
    source: str


def import_deaths(
    workspace: Workspace, file: Path, site: str, *, replace: bool = False, now: datetime | None = None
) -> ImportedDeaths:
    """Store the deaths of a registry's file under the pseudonyms of the site's patients.

    Of several imports the last counts for a patient and source; with `replace` what the file's sources said
    before is dropped, so that a death they no longer name is undone. All of the file is stored or nothing:
    raises UsageError naming the first line that is wrong. Identifiers are looked for in the landed Patient
    lines; raises LandingError where those cannot be read.
    """
    if not SITE_NAME.match(site):
        raise UsageError("this is no name of a site", advice="take letters, digits, _ and -")
    at = (now or datetime.now(UTC)).astimezone(UTC)
    settings = workspace.settings.sites.get(site, Site())
    lines = _read(file, settings)
    ids = _patient_ids(workspace, site, {line.who for line in lines if line.who[0]})
    named = [(i, line) for line in lines for i in (ids.get(line.who, ()) if line.who[0] else [line.who[1]])]
    known = _pseudonyms(workspace, site, {i for i, _ in named})
    today = at.astimezone(settings.zone).date()
    rows = {(known[i], line.source, line.death) for i, line in named if i in known}
    table = _table(
        (p, site, s, d.day, d.precision, d.first_day, d.last_day, at.replace(tzinfo=None), today)
        for p, s, d in sorted(rows, key=lambda r: (r[0], r[1], r[2].first_day, r[2].last_day))
    )
    folder = _folder(workspace, site)
    private_folder(folder)
    with locked(folder / ".lock"):
        dropped = _drop(workspace, site, sources={line.source for line in lines}) if replace else 0
        name = sealed_name(f"import={at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}.parquet", workspace.cipher())
        _write(workspace, folder / name, table)
    unresolved = sum(1 for line in lines if line.who[0] and line.who not in ids)
    return ImportedDeaths(site, len(lines), len({p for p, _, _ in rows}), unresolved, dropped)


def registered_deaths(workspace: Workspace) -> pa.Table:
    """All imported deaths, columns as REGISTRY_COLUMNS. Raises LakeError where a file cannot be read."""
    files = sorted((workspace.root / FOLDER).glob("site=*/import=*.parquet*"))
    tables = [_load(workspace, path) for path in files]
    return pa.concat_tables(tables) if tables else _ARROW.empty_table()


def forget(workspace: Workspace, site: str, pseudonyms: Collection[str]) -> int:
    """Remove what was imported about these patients. Returns the rows removed. Raises LakeError."""
    folder = _folder(workspace, site)
    if not folder.is_dir():
        return 0
    with locked(folder / ".lock"):
        return _drop(workspace, site, patients=set(pseudonyms))


def _folder(workspace: Workspace, site: str) -> Path:
    folder: Path = workspace.root / FOLDER / f"site={site}"
    return folder


def _read(file: Path, site: Site) -> list[_Line]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UsageError("the file is not readable as UTF-8 text", where=file.name) from None
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(rows.fieldnames or ())
        if header not in HEADERS:
            raise UsageError(
                "the header is not the one of a death registry's file",
                where=file.name,
                advice=f"make its first line {' or '.join(','.join(h) for h in HEADERS)}",
            )
        return [_line(row, site, f"{file.name}, line {rows.line_num}") for row in rows]
    except csv.Error:
        raise UsageError("no CSV", where=f"{file.name}, line {rows.line_num}") from None


def _line(row: dict[str, str], site: Site, where: str) -> _Line:
    if None in row or None in row.values():
        raise UsageError("another number of columns than the header", where=where)
    values = {name: value.strip() for name, value in row.items()}
    by_identifier = "identifier" in values
    who = (values["identifier_system"], values["identifier"]) if by_identifier else ("", values["patient_id"])
    if by_identifier and not all(who):
        raise UsageError("the identifier or its system is empty", where=where)
    if not by_identifier and not _PATIENT_ID.fullmatch(who[1]):
        raise UsageError("patient_id is no id of a FHIR resource", where=where)
    if not _SOURCE.fullmatch(values["source"]):
        raise UsageError("source is no name", where=where, advice="take letters, digits, _ and -")
    try:
        death = read_fhir_date(values["death_date"], site.zone)
    except DateShapeError:
        raise UsageError(
            "death_date is no date", where=where, advice="write YYYY-MM-DD, YYYY-MM or YYYY"
        ) from None
    return _Line(who, death, values["source"])


def _pseudonyms(workspace: Workspace, site: str, ids: Collection[str]) -> dict[str, str]:
    """Patient id → pseudonym, without those who were erased: no file brings them back."""
    pseudonyms = Pseudonymiser(workspace.pseudonym_key(), site)
    found = {i: pseudonyms.of("Patient", i) for i in ids}
    gate = gate_of(workspace, site)
    if gate is None:
        return found
    erased, allowed = gate.patients(found), gate.pseudonyms(found.values())
    return {i: p for i, p in found.items() if i not in erased and p in allowed}


class _Identifier(msgspec.Struct):
    system: str | None = None
    value: str | None = None


class _Patient(msgspec.Struct):
    id: str | None = None
    identifier: list[_Identifier] = []


def _patient_ids(
    workspace: Workspace, site: str, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], set[str]]:
    """The ids of the landed Patients that bear these identifiers; several where records were not merged."""
    found: dict[tuple[str, str], set[str]] = {}
    if not wanted:
        return found
    for run in list_runs(workspace.landing, site, cipher=workspace.cipher()):
        for line in run.open("Patient"):
            try:
                patient = msgspec.json.decode(line, type=_Patient)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the lake refuses it, and says so
            for identifier in patient.identifier if patient.id else ():
                key = (identifier.system or "", identifier.value or "")
                if key in wanted and patient.id:
                    found.setdefault(key, set()).add(patient.id)
    return found


def _table(rows: Iterable[tuple[object, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(_ARROW)
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, _ARROW, strict=True)], schema=_ARROW
    )


def _drop(
    workspace: Workspace, site: str, *, sources: Collection[str] = (), patients: Collection[str] = ()
) -> int:
    dropped = 0
    for path in sorted(_folder(workspace, site).glob("import=*.parquet*")):
        table = _load(workspace, path)
        stays = [
            s not in sources and p not in patients
            for s, p in zip(
                table.column("source").to_pylist(), table.column("patient_id").to_pylist(), strict=True
            )
        ]
        if not all(stays):
            dropped += len(stays) - sum(stays)
            _write(workspace, path, table.filter(pa.array(stays)))
    return dropped


def _load(workspace: Workspace, path: Path) -> pa.Table:
    where = "/".join(path.parts[-3:])
    cipher = workspace.cipher()
    try:
        content = path.read_bytes()
        if path.suffix == SUFFIX:
            if cipher is None:
                raise LakeError(
                    "the file is encrypted and no key is set",
                    where=where,
                    advice="give its key back in `encryption.key_file` of rwe.yaml or in RWE_ENCRYPTION_KEY",
                )
            content = cipher.unseal(content, place(path))
        return pq.read_table(io.BytesIO(content), schema=_ARROW)
    except (OSError, pa.ArrowException, UnsealError):
        raise LakeError(
            "the imported death registry cannot be read", where=where, advice="remove it and import it again"
        ) from None


def _write(workspace: Workspace, target: Path, table: pa.Table) -> None:
    """Complete or not at all, and on disk when this returns."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    cipher = workspace.cipher()
    if cipher and target.suffix == SUFFIX:
        content = cipher.seal(content, place(target))
    write_whole(target, content)
