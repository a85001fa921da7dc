"""Who belongs to a site's cohort: by the codes of index events, by a Group, or by a list of the hospital."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from rwe.admission import patient_ids
from rwe.config import Site
from rwe.errors import ConfigError, SiteError
from rwe.fhir.bundle import Resource, reference_id
from rwe.fhir.client import RefusedError
from rwe.fhir.search import Page, any_of, token
from rwe.harvest import Cohort, Harvest, Token
from rwe.side_by_side import batches, side_by_side

_CANNOT_SEARCH = frozenset({400, 403, 404, 405, 422, 501})
_FEW = 5
_INDEX_CODES_A_REQUEST = 50


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Member(msgspec.Struct):
    entity: _Reference | None = None
    inactive: bool = False


class _Group(msgspec.Struct):
    member: list[_Member] | None = None


def settle_cohort(harvest: Harvest, site: Site, index_codes: Mapping[str, Sequence[Token]]) -> Cohort:
    """The site's cohort, from the source that its settings name. Raises SiteError, ConfigError."""
    if site.cohort.source == "group":
        return Cohort(dict.fromkeys(_group_members(harvest, site.cohort.id)))
    if site.cohort.source == "patients":
        where = f"site {harvest.client.name}, cohort.file"
        try:
            lines = site.cohort.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError("the list of patients cannot be read", where=where) from None
        return Cohort(dict.fromkeys(patient_ids(lines, where)))
    return find_cohort(harvest, index_codes)


def _group_members(harvest: Harvest, group: str) -> list[str]:
    answer = harvest.client.request("Group", f"{harvest.client.base_url}/Group/{group}")
    try:
        read = msgspec.json.decode(answer.body, type=_Group)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise harvest.client.error(
            "the answer is no Group", "Group", advice="check cohort.id in rwe.yaml"
        ) from None
    references = [m.entity.reference for m in read.member or () if m.entity and not m.inactive]
    return sorted({i for r in references if r and (i := reference_id(r, "Patient"))})


def find_cohort(harvest: Harvest, index_codes: Mapping[str, Sequence[Token]]) -> Cohort:
    """The patients with an index event, by resource type and the codes to find it by.

    What the server answers is checked against the codes: one that ignores `code` must not make everyone a
    patient of the cohort. Raises SiteError if the server cannot be asked by code or offers none of the types.
    """
    index_type: dict[str, str | None] = {}
    offered = [source for source in index_codes if harvest.offers(source)]
    if not offered:
        raise harvest.client.error(
            "the server offers no type that could carry an index event",
            " and ".join(index_codes),
            advice="check base_url, and index_event.sources of the studies",
        )
    works: list[tuple[str, Callable[[], set[str]]]] = []
    for source in offered:
        for codes in batches(index_codes[source], _INDEX_CODES_A_REQUEST):
            works.append((source, partial(_by_code, harvest, source, codes)))
            if source == "MedicationAdministration":
                works.append((source, partial(_by_medication, harvest, codes)))
    with harvest.progress.step(f"{harvest.client.name}: index events", len(works), "searches") as step:
        workers = harvest.site.max_concurrency
        found = side_by_side([work for _, work in works], workers=workers, step=step)
    for (source, _), patients in zip(works, found, strict=True):
        for patient in sorted(patients):
            index_type.setdefault(patient, source)
    return Cohort(index_type)


def _by_code(harvest: Harvest, resource_type: str, codes: Sequence[Token]) -> set[str]:
    """The patients of resources that bear one of the codes themselves."""
    events = _bearing(harvest, resource_type, codes)
    orphans = sum(r.patient is None for r in events)
    if orphans:
        harvest.warn(f"{resource_type}: index events that refer to no patient by id, passed over: {orphans}")
    return {r.patient for r in events if r.patient}


def _by_medication(harvest: Harvest, codes: Sequence[Token]) -> set[str]:
    """The patients given a Medication with one of the codes: `code=` does not see through the reference."""
    if not harvest.offers("Medication"):
        return set()
    ids = sorted(r.id for r in _bearing(harvest, "Medication", codes) if r.id)
    patients: set[str] = set()

    def ask(some: Sequence[str]) -> set[str | None]:
        asked, events = frozenset(some), set[str | None]()

        def collect(page: Page) -> None:
            for found in page.found:
                if found.resource.medication in asked:
                    events.add(found.resource.id)
                    if found.resource.patient:
                        patients.add(found.resource.patient)

        value = any_of(f"Medication/{i}" for i in some)
        template = "medication={medications}"
        harvest.ask("MedicationAdministration", [("medication", value)], template, collect)
        return events

    size = 1
    if len(ids) > _FEW:
        singles = ask(ids[:1]) | ask(ids[1:2])
        size = harvest.batch_size if singles and ask(ids[:2]) == singles else 1
    for batch in batches(ids, size):
        ask(batch)
    return patients


def _bearing(harvest: Harvest, resource_type: str, codes: Sequence[Token]) -> list[Resource]:
    wanted, matched, others = frozenset(codes), list[Resource](), Counter[str]()

    def collect(page: Page) -> None:
        for found in page.found:
            if found.resource.type == resource_type and found.resource.codes & wanted:
                matched.append(
                    Resource(found.resource.type, b"", found.resource.id, patient=found.resource.patient)
                )
            elif found.is_match and not found.resource.medication:
                others[resource_type] += 1

    try:
        value = any_of(token(*c) for c in codes)
        harvest.ask(resource_type, [("code", value)], "code={index codes}", collect)
    except RefusedError as e:
        if e.status not in _CANNOT_SEARCH:
            raise
        raise SiteError(
            f"the server refuses a search by code (status {e.status}), so the cohort cannot be found",
            where=e.where,
            advice="ask the hospital to enable it, or for files to `rwe import`",
        ) from None
    if others:
        harvest.warn(
            f"{resource_type}: answers without a code asked for, passed over: {others[resource_type]}"
        )
    return matched
