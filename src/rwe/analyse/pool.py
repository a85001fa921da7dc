"""All that a hub analyses of a study: what it extracts and what sites shared, patients of two sites once.

    WORKSPACE/shared/study=S/links.json     which records are of one person, by shared pseudonyms; 0600

Link tokens of shares are dropped here, after use. A workspace without shares has its own tables, unchanged
but for their hash where it publishes anchored dates: that of exact dates would let a guess be checked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from rwe.analyse.pool_tables import concatenated, of_share
from rwe.analyse.read import StudyTables
from rwe.config import Workspace
from rwe.errors import EvidenceError
from rwe.evidence.contract import AttritionStep
from rwe.evidence.synthesis import Pooling, SiteSource
from rwe.lake.write import runs_in_lake
from rwe.landing import list_runs
from rwe.linking import read_tokens
from rwe.sharing.collect import (
    FOLDER,
    CollectedShare,
    collecting,
    drop_links,
    has_link_key,
    of_other_protocols,
    read_collected,
)
from rwe.sharing.files import shared_pseudonym
from rwe.sharing.linking import Person, Record, Token, among, joined, left_out, same_persons, tokens_of
from rwe.sharing.persons import Links, known_links, remember_links
from rwe.study import Study
from rwe.study.grid import TableChange

_MOST_NAMED: Final = 3
_ONCE: Final = "first_record_of_a_patient_at_several_sites"


@dataclass(frozen=True)
class _Own:
    """The hub's own tables, their hash as it may be seen, and own patient → shared pseudonym."""

    tables: StudyTables
    content_sha256: str
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class _Linked:
    """Records of one person each; `pairs` of sites that were linked, now or before, of `all_pairs`."""

    persons: list[Person]
    pairs: frozenset[tuple[str, str]]
    all_pairs: tuple[tuple[str, str], ...]


def pooled_tables(workspace: Workspace, study: Study, read_own: Callable[[], StudyTables]) -> StudyTables:
    """The study's own tables, which `read_own` reads, with those that sites shared.

    Raises EvidenceError where there is neither; ShareError where a kept share is not as it was taken.
    """
    with collecting(workspace) if (workspace.root / FOLDER).is_dir() else nullcontext():
        shares = read_collected(workspace, study)
        own = _own(workspace, study, read_own, is_needed=not shares)
        parts = [*([own.tables] if own else []), *(of_share(study, s) for s in shares)]
        linked = _link(workspace, study, shares, own)
        others = of_other_protocols(workspace, study) if shares else ()
    shared_names = {p for patients in left_out(linked.persons).values() for p in patients}
    renamed = own.renamed if own else {}
    dropped = shared_names | {mine for mine, name in renamed.items() if name in shared_names}
    whole = concatenated(parts, dropped)
    pooling = None
    if shares or linked.pairs:
        pooling = Pooling(
            sources=_sources(whole, shares),
            counted_once=len(shared_names) if linked.pairs else None,
            notes=(*_unlinked(linked), *_notes(workspace, study, shares, others, has_left=bool(dropped))),
        )
    return replace(
        whole,
        content_sha256=_content(own, shares, shared_names),
        attrition=_with_linking(whole.attrition, len(shared_names)),
        variants=() if shares or shared_names else whole.variants,
        pooling=pooling,
    )


def without_cohort_changes(study: Study, tables: StudyTables) -> Study:
    """The study without the rules of its sensitivity grid that need another cohort, where the tables have
    none: sites share the protocol's cohort alone, and who is at two of them is known of that one."""
    if tables.pooling is None or tables.variants:
        return study
    kept = [c for c in study.protocol.sensitivity_grid if not isinstance(c, TableChange)]
    return replace(study, protocol=study.protocol.model_copy(update={"sensitivity_grid": kept}))


def _own(
    workspace: Workspace, study: Study, read_own: Callable[[], StudyTables], *, is_needed: bool
) -> _Own | None:
    """The hub's own tables; None where it has none and there are shares."""
    if not is_needed and not runs_in_lake(workspace) and not list_runs(workspace.landing):
        return None
    try:
        tables = read_own()
    except EvidenceError:  # nobody of its own is in the cohort
        if is_needed:
            raise
        return None
    content = tables.content_sha256
    if workspace.settings.published.dates == "anchored":
        content = hmac.digest(workspace.pseudonym_key(), f"rwe content|{content}".encode(), "sha256").hex()
    renamed = dict[str, str]()
    for site, patients in tables.survival.groupby("site")["patient_id"]:
        rename = shared_pseudonym(workspace, study.name, str(site))
        renamed |= {str(p): rename(str(p)) for p in patients}
    return _Own(tables, content, renamed)


def _own_tokens(workspace: Workspace, study: Study, own: _Own | None) -> dict[str, list[Token]]:
    """Site → tokens of the hub's own patients, under their shared pseudonyms."""
    if own is None:
        return {}
    found = {}
    for site, patients in own.tables.survival.groupby("site")["patient_id"]:
        tokens = read_tokens(workspace, str(site))
        dates = {str(p): own.tables.index_dates[str(p)] for p in patients if str(p) in own.tables.index_dates}
        made = tokens_of(tokens, dates, study=study.name, protocol_sha256=study.protocol_sha256)
        if tokens:
            found[str(site)] = [replace(t, patient_id=own.renamed[t.patient_id]) for t in made.values()]
    return found


def _link(workspace: Workspace, study: Study, shares: Sequence[CollectedShare], own: _Own | None) -> _Linked:
    """Find who is at two sites, remember it, and drop the tokens of the shares."""
    tokens = _own_tokens(workspace, study, own)
    tokens |= {s.site: _tokens(s) for s in shares if "link" in s.tables.tables}
    names, present = _present(shares, own)
    folder = workspace.root / FOLDER / f"study={study.name}"
    known = known_links(workspace, folder) if shares else Links()
    met = {_pair(names[a], names[b]) for a, b in combinations(sorted(tokens), 2)}
    met |= {pair for pair in known.met if set(pair) <= set(names.values())}
    before = [tuple(Record(*r) for r in person) for person in known.persons]
    persons = among(joined(before, same_persons(tokens)), present)
    all_pairs = tuple(combinations(sorted(names), 2))
    pairs = frozenset(p for p in all_pairs if _pair(names[p[0]], names[p[1]]) in met)
    if shares and (met or known.met or known.persons):
        records = [[(r.site, r.patient_id, r.offset) for r in person] for person in persons]
        remember_links(workspace, folder, Links(records, sorted(met)))
    for share in shares:
        drop_links(workspace, study, share.site)
    return _Linked(persons, pairs, all_pairs)


def _pair(a: str, b: str) -> tuple[str, str]:
    """Two contents, whichever is named first."""
    return (a, b) if a <= b else (b, a)


def _present(
    shares: Sequence[CollectedShare], own: _Own | None
) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Site → the name of its content now, and its patients by shared pseudonym."""
    names, present = {}, dict[str, set[str]]()
    if own is not None:
        for site, patients in own.tables.survival.groupby("site")["patient_id"]:
            names[str(site)] = f"{site} own {own.content_sha256[:12]}"
            present[str(site)] = {own.renamed[str(p)] for p in patients}
    for share in shares:
        names[share.site] = f"{share.site} {share.manifest.share}"
        present[share.site] = set(share.tables["survival"]["patient_id"].to_pylist())
    return names, present


def _tokens(share: CollectedShare) -> list[Token]:
    rows = share.tables["link"].to_pylist()
    return [Token(r["patient_id"], r["token"], r["masked_day"]) for r in rows]


def _unlinked(linked: _Linked) -> tuple[str, ...]:
    missing = [p for p in linked.all_pairs if p not in linked.pairs]
    if not missing:
        return ()
    named = ", ".join(f"{a} and {b}" for a, b in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return (
        f"Not linked by tokens: {named}{more}. Who was treated at both counts twice. Tokens are dropped "
        "after use: to be linked with a newcomer, a site shares again.",
    )


def _notes(
    workspace: Workspace,
    study: Study,
    shares: Sequence[CollectedShare],
    others: Sequence[str],
    *,
    has_left: bool,
) -> list[str]:
    """`others`: sites whose kept share is of another protocol."""
    notes = []
    whole = sorted(s.site for s in shares if s.manifest.ages == "whole_years")
    if whole:
        notes.append(f"Ages are in whole years at {', '.join(whole)}: adjustment for age is coarser there.")
    if any(s.manifest.attrition for s in shares):
        notes.append("Counts of who was left out are rounded to midpoints of 6 where sites shared them.")
    needs_another = any(isinstance(c, TableChange) for c in study.protocol.sensitivity_grid)
    if needs_another and (shares or has_left):
        notes.append(
            "Rules of the sensitivity grid that need another cohort were not run: sites share the "
            "protocol's, and patients of two sites are known in it alone."
        )
    tokens = sorted(s.site for s in shares if s.manifest.is_guessable)
    if tokens and has_link_key(workspace):
        notes.append(
            f"The hub has a link key, with which it could try names against the tokens of "
            f"{', '.join(tokens)} and so learn index dates that do not leave: they rest on trust in the hub."
        )
    if others:
        notes.append(f"The share of {', '.join(others)} is of another protocol and is not in it.")
    return notes


def _with_linking(steps: Sequence[AttritionStep], left: int) -> list[AttritionStep]:
    """The attrition with one more step where records were left out, for the patient has one elsewhere."""
    if not left or not steps:
        return list(steps)
    before = steps[-1].n_after
    last = AttritionStep(step=_ONCE, n_before=before, n_excluded=left, n_after=before - left)
    return [*steps, last]


def _sources(whole: StudyTables, shares: Sequence[CollectedShare]) -> tuple[SiteSource, ...]:
    shared = {s.site: s for s in shares}
    patients = whole.survival["site"].value_counts()
    found = []
    for site in sorted({str(s) for s in patients.index} | shared.keys()):
        share = shared.get(site)
        found.append(
            SiteSource(
                site=site,
                source="shared" if share else "extracted",
                patients=int(patients.get(site, 0)),
                ages=share.manifest.ages if share else "exact",
                share=share.manifest.share if share else None,
            )
        )
    return tuple(found)


def _content(own: _Own | None, shares: Sequence[CollectedShare], dropped: set[str]) -> str:
    """The identity of what is analysed: of each part, and of whom is left out."""
    if not shares and not dropped and own is not None:
        return own.content_sha256
    lines = [own.content_sha256] if own else []
    lines += [f"{s.site} {s.manifest.content_sha256}" for s in shares]
    return hashlib.sha256("\n".join([*lines, *sorted(dropped)]).encode()).hexdigest()
