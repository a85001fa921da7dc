"""Who may enter: consent, opt-out, and (in the lake) security labels. Policies are the site's.

Each applies twice. Where patients are asked for, those who opted out or do not permit are not asked for. And
when the database is built, whatever landed of them before is in no table: a withdrawal takes effect at the
next build, and so does a consent given anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime

import msgspec

from rwe.blocklist import Gate
from rwe.config import Site, Workspace
from rwe.errors import ConfigError
from rwe.fhir.bundle import reference_id
from rwe.lake.dates import DateShapeError, read_fhir_date
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.lake.schema import ConsentIn

_RESEARCH = "research"
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


@dataclass(frozen=True)
class SiteAdmission:
    """Who of one site may be in the database built on `today` (the site's day).

    `opted_out` are pseudonyms of patients. With `needs_consent` only those patients are, whose latest Consent
    to research that is active and in force today permits; of two given on one day, a denial counts.
    """

    today: date
    needs_consent: bool = False
    opted_out: frozenset[str] = frozenset()


def patient_ids(lines: Sequence[str], where: str) -> list[str]:
    """Patient ids of the server, one a line, `Patient/` before them or not; `#` begins a remark.

    Raises ConfigError with the line's number where it holds no id.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip().removeprefix("Patient/")
        if not text:
            continue
        if not _ID.fullmatch(text):
            raise ConfigError(f"line {number} holds no Patient id", where=where, advice="one id a line")
        found[text] = None
    return list(found)


def opted_out(name: str, site: Site) -> frozenset[str]:
    """The Patient ids of the site's opt-out file; none where it has no such file.

    Raises ConfigError where the file cannot be read: without it nobody may be asked for.
    """
    if site.opt_out_file is None:
        return frozenset()
    where = f"site {name}, opt_out_file"
    try:
        lines = site.opt_out_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "the opt-out file cannot be read",
            where=where,
            advice="restore it: without it nobody may be asked for",
        ) from None
    return frozenset(patient_ids(lines, where))


class KeptOut(frozenset[str]):
    """The Patient ids that nobody asks for: those who opted out, and whoever was erased.

    The erased are known by their HMACs only. So they are found when asked about (`in`), and are none of the
    members that one can list.
    """

    gate: Gate | None

    def __new__(cls, patient_ids: Iterable[str] = (), gate: Gate | None = None) -> KeptOut:
        made = super().__new__(cls, patient_ids)
        made.gate = gate
        return made

    def __contains__(self, patient_id: object) -> bool:
        if super().__contains__(patient_id):
            return True
        return (
            self.gate is not None and isinstance(patient_id, str) and bool(self.gate.patients([patient_id]))
        )

    def __or__(self, other: Set[object]) -> KeptOut:
        return KeptOut({*self, *(o for o in other if isinstance(o, str))}, self.gate)


def admissions(workspace: Workspace, now: datetime | None = None) -> dict[str, SiteAdmission]:
    """What the build needs to know of each declared site's policies. Raises ConfigError as `opted_out`."""
    at = now or datetime.now(UTC)
    found = {}
    for name, site in workspace.settings.sites.items():
        out = opted_out(name, site)
        pseudonyms = Pseudonymiser(workspace.pseudonym_key(), name) if out else None
        found[name] = SiteAdmission(
            today=at.astimezone(site.zone).date(),
            needs_consent=site.consent == "required",
            opted_out=frozenset(pseudonyms.of("Patient", i) for i in out) if pseudonyms else frozenset(),
        )
    return found


def permitted(consents: Iterable[bytes], site: Site, today: date) -> frozenset[str]:
    """The ids of patients whose latest Consent to research, active and in force on `today`, permits.

    Of two given on one day a denial counts. The build asks the same of the lake (`lake_views`).
    """
    decisions: dict[str, list[tuple[date, bool]]] = {}
    for line in consents:
        try:
            consent = msgspec.json.decode(line, type=ConsentIn)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        patient = reference_id((consent.patient and consent.patient.reference) or "", "Patient")
        if patient and _is_in_force(consent, site, today):
            permits = consent.provision is not None and consent.provision.type == "permit"
            if permits and not _is_plain(line):
                continue  # what modifies it is not understood: it permits nothing
            given = _days(consent.dateTime, site)[1] or date.min
            decisions.setdefault(patient, []).append((given, permits))
    return frozenset(p for p, found in decisions.items() if _permits(found))


def _is_plain(line: bytes) -> bool:
    """Whether nothing in the Consent says that it means something else, or is test data."""
    content = msgspec.json.decode(line)
    provision, meta = content.get("provision") or {}, content.get("meta") or {}
    marks = [*(meta.get("security") or ()), *(meta.get("tag") or ())]
    return not (
        "modifierExtension" in content
        or "implicitRules" in content
        or "modifierExtension" in provision
        or any(isinstance(m, dict) and m.get("code") == "HTEST" for m in marks)
    )


def _permits(decisions: list[tuple[date, bool]]) -> bool:
    latest = max(given for given, _ in decisions)
    return all(permits for given, permits in decisions if given == latest)


def _is_in_force(consent: ConsentIn, site: Site, today: date) -> bool:
    codes = [c.code for c in (consent.scope.coding or ()) if c] if consent.scope else []
    if consent.status != "active" or next((c for c in codes if c), _RESEARCH) != _RESEARCH:
        return False
    period = consent.provision.period if consent.provision else None
    if period is None:
        return True
    first, last = _days(period.start, site)[0], _days(period.end, site)[1]
    return (first is None or first <= today) and (last is None or last >= today)


def _days(text: str | None, site: Site) -> tuple[date | None, date | None]:
    """First and last possible day of a FHIR date; nothing where it is absent."""
    if not text:
        return None, None
    try:
        read = read_fhir_date(text, site.zone)
    except DateShapeError:
        return None, None
    return read.first_day, read.last_day
