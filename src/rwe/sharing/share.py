"""`rwe share`: the cohort tables of one study leave a site, under pseudonyms made for that study.

Only rows of the analysed cohort, whole days from the index event. Under `anchored`, which is the default, no
date leaves: ages are whole years, covariates of the calendar stay out, and a protocol whose days of follow-up
would give the index date back is refused. Texts of the hospital, record ids, runs, quality findings and
counts of who was left out (but rounded to midpoints of 6) do not leave.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Literal

import pandas as pd
import pyarrow as pa

import rwe
from rwe.analyse.read import StudyTables, holds_study, read_study
from rwe.config import Workspace
from rwe.durable import write_new
from rwe.errors import BuildError, ConfigError, UsageError
from rwe.identity import read_identity
from rwe.linking import read_tokens
from rwe.sharing.erased import erased_of, note_shared
from rwe.sharing.files import shared_pseudonym
from rwe.sharing.frames import LAYOUTS, ShareError, Tables, laid_out, to_parquet
from rwe.sharing.linking import tokens_of
from rwe.sharing.manifest import (
    FORMAT,
    MANIFEST,
    SIGNATURE,
    Manifest,
    StepCount,
    TableEntry,
    write_manifest,
)
from rwe.small_cells import midpoint_6
from rwe.study import AgeCovariate, CalendarCovariate, Study
from rwe.warehouse.opening import open_file, private_key

Dates = Literal["anchored", "exact"]
_NO_COVARIATES: Final = pd.DataFrame({"patient_id": [], "covariate": [], "value": []}).astype(
    {"patient_id": str, "covariate": str, "value": float}
)


@dataclass(frozen=True)
class Outgoing:
    """What would leave of one site, before it does. `vague` patients died on a day known to the month or
    year: their days are in it, unmarked."""

    study: Study
    site: str
    dates: Dates
    oldest_age: int | None
    tables: Tables
    attrition: tuple[StepCount, ...]
    patients: int
    vague: int
    withheld: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """A share that was written, for the hub to collect."""

    site: str
    path: Path
    share: str
    rows: dict[str, int]


@dataclass(frozen=True)
class _Cohort:
    """The private build's tables of the study, and who each patient was on the index day: patient_id,
    index_date, whole_years."""

    tables: StudyTables
    known: pd.DataFrame
    vague: frozenset[str]


def outgoing(
    workspace: Workspace, study: Study, *, sites: Sequence[str] = (), dates: Dates = "anchored"
) -> tuple[Outgoing, ...]:
    """Prepare what each site (all of the cohort, if none is named) would share. Nothing leaves yet.

    Raises BuildError where the database was not built with this protocol, ConfigError where exact dates are
    not this workspace's to share, UsageError for a site without a patient in the cohort, ShareError where
    anchored days would give dates back.
    """
    if dates == "exact" and workspace.settings.published.dates != "exact":
        raise ConfigError(
            "this workspace publishes anchored dates, so exact ones are not shared either",
            where="published.dates",
            advice="share with --dates anchored",
        )
    if dates == "anchored":
        _refuse_calendar(study)
    cohort = _cohort(workspace, study)
    there = sorted(str(s) for s in cohort.tables.survival["site"].unique())
    for name in sites:
        if name not in there:
            raise UsageError(
                "the site has no patient in the cohort", where=name, advice=f"there are: {', '.join(there)}"
            )
    return tuple(_outgoing(workspace, study, s, dates, cohort) for s in sites or there)


def write_share(workspace: Workspace, going: Outgoing, target: Path) -> Shared:
    """Sign and write a share below `target`: a folder (0700) of files (0600), complete or absent.

    Raises ConfigError where the workspace has no identity, UsageError where the folder cannot be written or
    lies in the workspace.
    """
    identity = read_identity(workspace)
    target = target.expanduser().resolve()
    if target.is_relative_to(workspace.root):
        raise UsageError(
            "the share would lie inside the workspace", where=str(target), advice="choose another"
        )
    files = {name: to_parquet(table) for name, table in going.tables.tables.items()}
    rows = going.tables.rows()
    manifest = Manifest(
        format=FORMAT,
        study=going.study.name,
        study_version=going.study.protocol.version,
        protocol_sha256=going.study.protocol_sha256,
        site=going.site,
        created_at=datetime.now(UTC),
        code_version=rwe.__version__,
        dates=going.dates,
        ages="exact" if going.dates == "exact" else "whole_years",
        oldest_age=going.oldest_age,
        tables={n: TableEntry(rows[n], _sha256(content)) for n, content in files.items()},
        content_sha256=going.tables.content_sha256(),
        attrition=list(going.attrition),
    )
    content, signature = write_manifest(manifest, identity)
    path = target / f"share={going.study.name}.{going.site}.{manifest.share}"
    part = path.with_name(f".{path.name}.part")
    try:
        note_shared(workspace, going.study.name, going.site)
        target.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
        for name, raw in files.items():
            write_new(part / f"{name}.parquet", raw)
        write_new(part / SIGNATURE, signature)
        write_new(part / MANIFEST, content)
        part.rename(path)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise UsageError(
            "the share cannot be written", where=str(target), advice="check the folder and the disk"
        ) from None
    return Shared(going.site, path, manifest.share, rows)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _refuse_calendar(study: Study) -> None:
    """Under anchored nothing may give the index day back."""
    p = study.protocol
    agreed = "agree on exact dates (`--dates exact`), or take part by `rwe federate`"
    if p.censoring.rule == "data_cutoff":
        raise ShareError(
            "follow-up ends at a day that the protocol names: its length gives every index date back",
            where=f"study {study.name}, censoring",
            advice=agreed,
        )
    calendar = {c.name for c in p.covariates if isinstance(c, CalendarCovariate)}
    used = sorted(calendar & {name for a in p.analyses for name in a.adjusted_for})
    if used:
        raise ShareError(
            f"its analyses adjust for {used[0]}, which tells the calendar and does not leave under anchored",
            where=f"study {study.name}",
            advice=agreed,
        )


def _cohort(workspace: Workspace, study: Study) -> _Cohort:
    path, key = workspace.private_database, private_key(workspace)
    if not holds_study(path, study, key):
        raise BuildError(
            "the database was not built with this protocol",
            where=f"study {study.name}",
            advice="put the study into studies/ and run `rwe build`",
        )
    tables = read_study(path, study, key)
    with closing(open_file(path, key)) as db:
        db.execute("begin transaction")
        (content,) = db.execute("select content_sha256 from meta.build").fetchall()[0]
        if content != tables.content_sha256:
            raise BuildError("another build came in meanwhile", where=str(path), advice="run it again")
        known = db.execute(
            "select patient_id, index_date, case when is_birth_date_approximate then"
            " cast(year(index_date) - year(birth_date) as double) else floor(age_years) end as whole_years"
            " from cohort.demographic where study = ?",
            [study.name],
        ).df()
        vague = db.execute(
            "select patient_id from cohort.death where study = ? and precision in ('month', 'year')",
            [study.name],
        ).fetchall()
    return _Cohort(tables, known.set_index("patient_id"), frozenset(p for (p,) in vague))


def _outgoing(workspace: Workspace, study: Study, site: str, dates: Dates, cohort: _Cohort) -> Outgoing:
    tables, rename = cohort.tables, shared_pseudonym(workspace, study.name, site)
    here = tables.survival[tables.survival["site"] == site]
    patients = {str(p): rename(str(p)) for p in here["patient_id"]}
    oldest = workspace.settings.published.top_code_age
    frames = {
        "survival": here,
        "covariate": _covariates(study, cohort, list(patients), dates, oldest),
        "change": tables.changes,
        "toxicity": tables.toxicity,
        "intercurrent": tables.intercurrent,
        "copies": tables.copies,
        "expansion": tables.expansion,
        "response": tables.response,
    }
    index_dates = {p: _day(cohort.known.at[p, "index_date"]) for p in patients}
    if dates == "exact":
        frames["index_date"] = pd.DataFrame(index_dates.items(), columns=["patient_id", "index_date"])
    link = _links(workspace, study, site, index_dates)
    if link is not None:
        frames["link"] = link
    erased = _erased(workspace, study, site, patients.values())
    calendar = [c.name for c in study.protocol.covariates if isinstance(c, CalendarCovariate)]
    return Outgoing(
        study=study,
        site=site,
        dates=dates,
        oldest_age=oldest,
        tables=Tables({n: _renamed(n, f, patients, f"site {site}") for n, f in frames.items()} | erased),
        # The steps are counted over all sites of the workspace.
        attrition=_attrition(tables) if tables.survival["site"].nunique() == 1 else (),
        patients=len(patients),
        vague=len(cohort.vague & patients.keys()),
        withheld=tuple(calendar) if dates == "anchored" else (),
    )


def _erased(workspace: Workspace, study: Study, site: str, patients: Collection[str]) -> dict[str, pa.Table]:
    """The patients of earlier shares who were erased since, by shared pseudonym; no table of nobody."""
    gone = erased_of(workspace, study.name, site)
    if gone & {*patients}:
        raise ShareError(
            "the database holds a patient who was erased", where=f"site {site}", advice="run `rwe build`"
        )
    return {"erased": laid_out("erased", pa.table({"patient_id": sorted(gone)}))} if gone else {}


def _renamed(name: str, frame: pd.DataFrame, patients: dict[str, str], where: str) -> pa.Table:
    """The rows of these patients, under their shared pseudonyms."""
    mine = frame[frame["patient_id"].isin(list(patients))]
    mine = mine.assign(patient_id=mine["patient_id"].map(patients))
    columns = [c for c, _, _ in LAYOUTS[name]]
    try:
        return laid_out(name, pa.Table.from_pandas(mine[columns], preserve_index=False))
    except (pa.ArrowException, ValueError):
        raise ShareError(
            f"the table {name} holds what its layout does not allow",
            where=where,
            advice="report it; nothing was written",
        ) from None


def _covariates(
    study: Study, cohort: _Cohort, patients: list[str], dates: Dates, oldest: int | None
) -> pd.DataFrame:
    """Known baseline covariates, long: patient_id, covariate, value. Ages as the agreement has them."""
    frames = []
    values = cohort.tables.covariates.set_index(cohort.tables.survival["patient_id"]).loc[patients]
    for c in study.protocol.covariates:
        if c.name not in values or (dates == "anchored" and isinstance(c, CalendarCovariate)):
            continue
        column = values[c.name].dropna()
        if isinstance(c, AgeCovariate):
            if dates == "anchored":
                column = cohort.known.loc[column.index, "whole_years"].astype(float)
            if oldest is not None:
                column = column.clip(upper=float(oldest))
        rows = {"patient_id": column.index, "covariate": c.name, "value": column.to_numpy()}
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True) if frames else _NO_COVARIATES


def _links(
    workspace: Workspace, study: Study, site: str, index_dates: dict[str, date]
) -> pd.DataFrame | None:
    """The link tokens of the study; None where the site has no link key."""
    declared = workspace.settings.sites.get(site)
    if declared is None or declared.link is None:
        return None
    own = read_tokens(workspace, site)
    made = tokens_of(own, index_dates, study=study.name, protocol_sha256=study.protocol_sha256)
    rows = [(t.patient_id, t.token, t.masked_day) for t in made.values()]
    frame = pd.DataFrame(rows, columns=["patient_id", "token", "masked_day"])
    return frame.astype({"patient_id": str, "token": str, "masked_day": "int64"})


def _attrition(tables: StudyTables) -> tuple[StepCount, ...]:
    return tuple(
        StepCount(step=s.step, n_before=midpoint_6(s.n_before), n_after=midpoint_6(s.n_after))
        for s in tables.attrition
    )


def _day(value: object) -> date:
    return pd.Timestamp(value).date()  # type: ignore[arg-type]
