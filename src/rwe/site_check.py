"""`rwe sites check`: what a server can do, whether we may in, which way is taken and why.

The questions name a patient who does not exist, so the answers hold nobody's record.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote, urlencode

from rwe.config import Site, Workspace
from rwe.errors import RweError, SiteError, UsageError
from rwe.fhir.bundle import NotAResourceError, read_bundle
from rwe.fhir.capability import Capability, ExportLevel, read_capability
from rwe.fhir.client import Answer, FhirClient
from rwe.fhir.smart import SmartCredential, discover
from rwe.site_settings import GroupCohort, PatientsCohort, SmartAuth
from rwe.study import Study

#: What a study reads, whatever it asks: the cohort's patients and all that belongs to them.
NEEDED_TYPES = (
    "Patient",
    "Encounter",
    "Condition",
    "Procedure",
    "MedicationAdministration",
    "MedicationRequest",
    "MedicationDispense",
    "MedicationStatement",
    "Observation",
)
_INDEX_TYPES = ("MedicationAdministration", "Procedure", "MedicationRequest", "MedicationDispense")
_NOBODY = "rwe-check-nobody"
_NO_CODE = "http://example.org/rwe|nothing"
_CLOSED = frozenset({401, 403})
_UNABLE = frozenset({400, 404, 405, 406, 410, 415, 422, 501})

Grade = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class RouteChoice:
    """Search or export, at which level (None: search), and the sentences that say why."""

    route: Literal["search", "export"]
    level: ExportLevel | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do about it."""

    grade: Grade
    subject: str
    text: str
    advice: str | None = None


@dataclass(frozen=True)
class TypeReport:
    """What a server offers for a type. None: not known, because it lists nothing."""

    name: str
    is_listed: bool | None
    is_readable: bool | None
    by_code: bool | None
    by_last_updated: bool | None
    history: bool | None


@dataclass(frozen=True)
class SiteReport:
    """A site, looked at. `route` is None where the server could not be asked."""

    site: str
    base_url: str | None
    software: str | None = None
    version: str | None = None
    fhir_version: str | None = None
    auth: str = "none"
    offers_smart: bool | None = None
    takes_post: bool | None = None
    export_levels: tuple[ExportLevel, ...] = ()
    types: tuple[TypeReport, ...] = ()
    route: RouteChoice | None = None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed."""
        return all(f.grade != "failed" for f in self.findings)


def choose_route(
    site: Site, capability: Capability, index_types: Collection[str] = _INDEX_TYPES
) -> RouteChoice:
    """Which way to take: what the settings demand, else the way that pulls least.

    `index_types` are the resource types that may hold index events. Search finds the cohort and takes only
    its records; an export of a Group does too; an export of all patients reads the whole hospital.
    """
    if site.route == "search":
        return RouteChoice("search", None, ("the settings say route: search",))
    if site.route == "export":
        level = _level(site, capability.export_levels)
        reasons = ["the settings say route: export", _why_level(site, level)]
        if level not in capability.export_levels:
            reasons.append(
                f"the server does not declare $export at the level {level}: it is tried all the same"
            )
        return RouteChoice("export", level, tuple(reasons))
    if site.cohort.source == "search":
        return _choose_for_search(site, capability, index_types)
    if site.cohort.source == "patients":
        reason = "the cohort is a list of patients: search takes only their records"
        return RouteChoice("search", None, (reason,))
    if "group" in capability.export_levels and site.export_level in ("auto", "group"):
        return RouteChoice("export", "group", ("the cohort is a Group, and the server exports Groups",))
    reason = "the cohort is a Group, and the server does not declare to export Groups"
    return RouteChoice("search", None, (reason,))


def _choose_for_search(site: Site, capability: Capability, index_types: Collection[str]) -> RouteChoice:
    """Where the cohort must be found: by search if the server can, else in an export of everybody."""
    levels = capability.export_levels
    level = site.export_level
    if level != "auto" and level in levels:
        reason = f"the settings say export_level: {level}, and the server offers it"
        return RouteChoice("export", level, (reason,))
    missing = () if level == "auto" else (f"the server does not declare $export at the level {level}",)
    if any(capability.searches(t, "code") for t in index_types if capability.offers(t)):
        reason = "index events can be searched by code: search takes only the cohort's records"
        return RouteChoice("search", None, (*missing, reason))
    if level == "auto" and levels - {"group"}:
        wide = _level(site, levels)
        reason = "index events cannot be searched by code: everybody is exported, the cohort picked here"
        return RouteChoice("export", wide, (reason, _why_level(site, wide)))
    reason = "neither search by code nor a wide $export is declared: search is tried"
    return RouteChoice("search", None, (*missing, reason))


def try_code_search(
    client: FhirClient, capability: Capability, index_types: Collection[str] = _INDEX_TYPES
) -> Capability:
    """The capability without `code` where the server declares it and will not have it.

    Seen: `code` is listed, and a search without a patient is refused (Oracle), or the parameter is ignored.
    The code asked for does not exist. Raises SiteError as every request does.
    """
    types = dict(capability.types)
    for name in index_types:
        if "code" not in types.get(name, ()):
            continue
        query = urlencode({"code": _NO_CODE, "_count": "1"})
        answer = client.request(name, f"{client.base_url}/{name}?{query}", accept=_CLOSED | _UNABLE)
        if answer.status in _UNABLE or _finds_something(answer):
            types[name] = types[name] - {"code"}
    return replace(capability, types=types)


def _finds_something(answer: Answer) -> bool:
    try:
        return any(e.mode in (None, "match") for e in read_bundle(answer.body).entries)
    except NotAResourceError:
        return False


def _level(site: Site, levels: Collection[ExportLevel]) -> ExportLevel:
    if site.export_level != "auto":
        return site.export_level
    if isinstance(site.cohort, GroupCohort):
        return "group"
    return "system" if "patient" not in levels and "system" in levels else "patient"


def _why_level(site: Site, level: ExportLevel) -> str:
    if site.export_level != "auto":
        return f"the settings say export_level: {level}"
    return {
        "group": "the cohort is a Group",
        "patient": "the level patient holds all that belongs to patients, and no more",
        "system": "of the wide levels the server offers the system's alone",
    }[level]


def check_sites(
    workspace: Workspace, names: Sequence[str], studies: Sequence[Study] = ()
) -> list[SiteReport]:
    """Look at each site. What one fails at is in its report. Raises ConfigError for a name not declared."""
    sites = [(name, workspace.site(name)) for name in names]
    return [check_site(name, site, studies) for name, site in sites]


def check_site(name: str, site: Site, studies: Sequence[Study] = ()) -> SiteReport:
    """Look at one site. Never raises RweError: what fails is a finding with advice."""
    try:
        client = FhirClient(name, site)
    except UsageError as e:
        return SiteReport(name, site.base_url, auth=site.auth.kind, findings=(_failed("settings", e),))
    with client:
        return _Check(client, site, studies).report()


def _failed(subject: str, error: RweError) -> Finding:
    place = (error.where or "").rpartition(", ")[2]
    told = f"{place}: {error.what}" if place and not place.startswith("site ") else error.what
    return Finding("failed", subject, told, error.advice)


class _Check:
    """One site under examination."""

    def __init__(self, client: FhirClient, site: Site, studies: Sequence[Study]) -> None:
        self._client, self._site = client, site
        sources = {s for study in studies for s in study.protocol.index_event.sources}
        self._index_types = tuple(sorted(sources)) or _INDEX_TYPES
        self._findings: list[Finding] = []

    def report(self) -> SiteReport:
        client, site = self._client, self._site
        base = SiteReport(client.name, site.base_url, auth=site.auth.kind)
        try:
            capability = read_capability(client)
        except SiteError as e:
            return SiteReport(base.site, base.base_url, auth=base.auth, findings=(_failed("server", e),))
        may_in = self._look_at_access()
        readable = self._look_at_types(capability) if may_in else {"Patient": False}
        takes_post = self._post() if may_in else None
        if may_in:
            capability = self._tried(capability)
        choice = choose_route(site, capability, self._index_types)
        self._look_at_needs(capability, choice)
        if may_in:
            self._look_at_cohort()
        return SiteReport(
            site=base.site,
            base_url=base.base_url,
            software=capability.software,
            version=capability.version,
            fhir_version=capability.fhir_version,
            auth=base.auth,
            offers_smart=self._offers_smart(capability),
            takes_post=takes_post,
            export_levels=tuple(level for level in _LEVELS if level in capability.export_levels),
            types=tuple(_type_report(t, capability, readable.get(t)) for t in NEEDED_TYPES),
            route=choice,
            findings=tuple(self._findings),
        )

    def _say(self, grade: Grade, subject: str, text: str, advice: str | None = None) -> None:
        self._findings.append(Finding(grade, subject, text, advice))

    def _look_at_access(self) -> bool:
        """Whether a token can be had, and a search of a patient who does not exist is answered."""
        credential = self._client.credential
        try:
            if isinstance(credential, SmartCredential):
                credential.header()
                scopes = ", ".join(self._site.auth.scopes) if isinstance(self._site.auth, SmartAuth) else ""
                self._say("ok", "token", f"granted for {scopes}")
            status = self._probe("Patient", f"_id={_NOBODY}")
        except SiteError as e:
            self._findings.append(_failed("access", e))
            return False
        if status in _CLOSED:
            advice = {
                401: "the server wants a login: set auth, see docs/sites.md",
                403: "ask the hospital for the right to read Patient",
            }[status]
            self._say("failed", "access", f"the server answers with status {status}", advice)
            return False
        if status >= 400:
            self._say("note", "access", f"a search of Patient by _id is refused with status {status}")
        else:
            self._say("ok", "access", "a search of Patient is answered")
        return True

    def _probe(self, resource_type: str, query: str) -> int:
        url = f"{self._client.base_url}/{resource_type}?{query}&_count=1"
        return self._client.request(resource_type, url, accept=_CLOSED | _UNABLE).status

    def _look_at_types(self, capability: Capability) -> dict[str, bool]:
        readable = {"Patient": True}
        consent = ("Consent",) if self._site.consent == "required" else ()
        try:
            needed = (*NEEDED_TYPES, "Medication", *consent)
            self._client.check_scopes(filter(capability.offers, needed))
        except SiteError as e:
            self._findings.append(_failed("scopes", e))
        for resource_type in NEEDED_TYPES[1:]:
            if not capability.offers(resource_type):
                continue
            try:
                status = self._probe(resource_type, f"patient={_NOBODY}")
            except SiteError as e:
                self._findings.append(_failed(resource_type, e))
                continue
            readable[resource_type] = status < 400
            if status in _CLOSED:
                advice = "ask the hospital for the right to read it (scope system/" + resource_type + ".read)"
                self._say("failed", resource_type, f"may not be read (status {status})", advice)
            elif status >= 400:
                self._say("note", resource_type, f"a search by patient alone is refused (status {status})")
        return readable

    def _tried(self, capability: Capability) -> Capability:
        try:
            tried = try_code_search(self._client, capability, self._index_types)
        except SiteError as e:
            self._findings.append(_failed("search by code", e))
            return capability
        for name in self._index_types:
            if capability.types.get(name) != tried.types.get(name):
                self._say("note", name, "a search by code is declared, and refused or ignored")
        return tried

    def _post(self) -> bool | None:
        url = f"{self._client.base_url}/Patient/_search"
        try:
            form = f"_id={_NOBODY}&_count=1"
            return self._client.request("Patient", url, form=form, accept=_CLOSED | _UNABLE).status < 400
        except SiteError:
            return None

    def _offers_smart(self, capability: Capability) -> bool | None:
        if capability.declares_smart:
            return True
        try:
            return discover(self._client) is not None
        except SiteError:
            return None

    def _look_at_needs(self, capability: Capability, choice: RouteChoice) -> None:
        lacking = [t for t in NEEDED_TYPES if not capability.offers(t)]
        if "Patient" in lacking:
            self._say("failed", "Patient", "the server does not list it", "check base_url with the hospital")
        if not any(capability.offers(t) for t in self._index_types):
            kinds = ", ".join(self._index_types)
            advice = "ask the hospital where it records infusions, and set sources of the study's index event"
            self._say("failed", "index events", f"the server lists none of {kinds}", advice)
        for resource_type in lacking:
            if resource_type != "Patient":
                self._say("note", resource_type, "the server does not list it, so it is not asked for")
        if choice.route == "export" and choice.level not in capability.export_levels:
            advice = "ask the hospital to enable Bulk Data, or set route: search"
            self._say("failed", "$export", f"not declared at the level {choice.level}", advice)
        is_by_code = any(capability.searches(t, "code") for t in self._index_types if capability.offers(t))
        if choice.route == "search" and self._site.cohort.source == "search" and not is_by_code:
            advice = "name the cohort: a Group of the hospital's, or a file of patients (cohort in rwe.yaml)"
            self._say("failed", "cohort", "index events cannot be searched by code", advice)
        if self._site.consent == "required" and not capability.offers("Consent"):
            advice = "ask the hospital where consent is recorded; nobody could enter"
            self._say("failed", "Consent", "consent is required, and the server does not list it", advice)

    def _look_at_cohort(self) -> None:
        cohort = self._site.cohort
        if isinstance(cohort, PatientsCohort) and not cohort.file.is_file():
            self._say("failed", "cohort", f"there is no file {cohort.file}", "check cohort.file in rwe.yaml")
        if not isinstance(cohort, GroupCohort):
            return
        url = f"{self._client.base_url}/Group/{quote(cohort.id)}"
        try:
            status = self._client.request("Group", url, accept=_CLOSED | _UNABLE).status
        except SiteError as e:
            self._findings.append(_failed("Group", e))
            return
        if status in (404, 410):
            self._say("failed", "Group", "the server has no Group of this id", "ask the hospital for its id")
        elif status >= 400:
            self._say("note", "Group", f"it cannot be read (status {status}); an export may still be allowed")


_LEVELS: tuple[ExportLevel, ...] = ("system", "patient", "group")


def _type_report(name: str, capability: Capability, is_readable: bool | None) -> TypeReport:
    if not capability.types:
        return TypeReport(name, None, is_readable, None, None, None)
    return TypeReport(
        name=name,
        is_listed=capability.offers(name),
        is_readable=is_readable,
        by_code=capability.searches(name, "code"),
        by_last_updated=capability.searches(name, "_lastUpdated"),
        history=capability.has_history(name) or capability.has_history(),
    )
