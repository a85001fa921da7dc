"""How three kinds of hospital write the same facts: code systems, time zones, habits of their clocks.

Hospital kind a (New York) has RxNorm, a drug formulary and infusions as MedicationAdministration; b (Berlin)
has the BfArM catalogues, prescriptions and dispensings; c (London) has infusions as Procedure in ICD-10-PCS
and drugs as statements. All three exist nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from random import Random
from typing import Any, Literal
from zoneinfo import ZoneInfo

from rwe import codes

DialectName = Literal["a", "b", "c"]
Product = Literal["axi", "tisa", "liso", "brexu"]
Resource = dict[str, Any]

LOCAL_CODES = "http://example.org/rwe/codes"
CART_COPIES = "cart-copies-per-ug-dna"
_NEW_PCS_CODES = date(2021, 10, 1)  # before, XW033C3 and XW043C3 stood for several products
_NEW_ATC_CODES = date(2020, 1, 1)

_NAMES: dict[Product, str] = {
    "axi": "axicabtagene ciloleucel",
    "tisa": "tisagenlecleucel",
    "liso": "lisocabtagene maraleucel",
    "brexu": "brexucabtagene autoleucel",
}
_RXNORM: dict[Product, str] = {"axi": "1987402", "liso": "2479140", "brexu": "2387347"}
_ATC: dict[Product, str] = {"axi": "L01XL03", "tisa": "L01XL04", "liso": "L01XL08", "brexu": "L01XL06"}
_OLD_ATC: dict[Product, str] = {"axi": "L01XX70", "tisa": "L01XX71"}
_PCS: dict[Product, str] = {"axi": "XW033H7", "tisa": "XW033J7", "liso": "XW033N7", "brexu": "XW033M7"}
_PCS_CENTRAL: dict[Product, str] = {"axi": "XW043H7", "tisa": "XW043J7", "brexu": "XW043M7"}

#: Every code under which a CAR-T infusion of any product is recorded.
CAR_T_CODES: frozenset[tuple[str, str]] = frozenset(
    [(codes.RXNORM, c) for c in _RXNORM.values()]
    + [(s, c) for s in (codes.ATC, codes.ATC_BFARM) for c in (*_ATC.values(), *_OLD_ATC.values())]
    + [(codes.ICD_10_PCS, c) for c in (*_PCS.values(), *_PCS_CENTRAL.values(), "XW033C3", "XW043C3")]
)

#: Drugs of everyday care: ATC code and name. None of them is in a code list of the study.
OTHER_DRUGS = {
    "fludarabine": "L01BB05",
    "cyclophosphamide": "L01AA01",
    "rituximab": "L01FA01",
    "dexamethasone": "H02AB02",
    "tocilizumab": "L04AC07",
    "filgrastim": "L03AA02",
    "aciclovir": "J05AB01",
    "levetiracetam": "N03AX14",
}


@dataclass(frozen=True)
class Dialect:
    """The habits of one kind of hospital.

    share_of_dates: timestamps written as a bare day. share_of_utc: written in Z although the hospital lives
    in `time_zone`; the rest carries the local offset. `go_live`: day on which an earlier system was migrated,
    so that all older resources share one `lastUpdated`.
    """

    name: DialectName
    time_zone: str
    software: str
    software_version: str
    share_of_dates: float
    share_of_utc: float
    go_live: date | None = None

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


DIALECTS: dict[DialectName, Dialect] = {
    "a": Dialect("a", "America/New_York", "Meridian Clinical Repository", "5.2.1", 0.15, 0.15),
    "b": Dialect("b", "Europe/Berlin", "KlinikHub FHIR-Server", "2024.3", 0.35, 0.25, date(2021, 3, 1)),
    "c": Dialect("c", "Europe/London", "Trustwide Interoperability Engine", "3.0.7", 0.30, 0.45),
}

# Late and early hours on purpose: there the local day and the day in UTC differ. Hours 1 to 3 are left out,
# for in the nights when clocks change some of them do not exist and others exist twice.
_HOURS = (0, 0, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 23)


def moment(rng: Random, dialect: Dialect, zone: ZoneInfo, day: date) -> str:
    """A FHIR dateTime on the local calendar day `day`: a date, an instant with offset, or one in Z."""
    style = rng.random()
    if style < dialect.share_of_dates:
        return day.isoformat()
    return _written(dialect, local_time(rng, zone, day), style)


def period(rng: Random, dialect: Dialect, zone: ZoneInfo, first: date, last: date) -> dict[str, str]:
    """A FHIR Period from the local day `first` to the local day `last`, in order within a day too."""
    style = rng.random()
    if style < dialect.share_of_dates:
        return {"start": first.isoformat(), "end": last.isoformat()}
    start, end = local_time(rng, zone, first), local_time(rng, zone, last)
    if end < start:
        start, end = end, start
    return {"start": _written(dialect, start, style), "end": _written(dialect, end, style)}


def local_time(rng: Random, zone: ZoneInfo, day: date) -> datetime:
    """Some time of day, on the hospital's own clock."""
    hour = _HOURS[int(rng.random() * len(_HOURS))]
    minute, second = divmod(int(rng.random() * 3600), 60)
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone)


def _written(dialect: Dialect, at: datetime, style: float) -> str:
    if style < dialect.share_of_dates + dialect.share_of_utc:
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return at.isoformat()


def coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def concept(*codings: dict[str, str], text: str | None = None) -> Resource:
    """A CodeableConcept."""
    return {"coding": list(codings), **({"text": text} if text else {})}


def car_t_drug(rng: Random, dialect: Dialect, product: Product, day: date) -> Resource:
    """The drug of an infusion, as hospitals a and b code it on that day."""
    name = _NAMES[product]
    if dialect.name == "a":
        if product in _RXNORM:
            return concept(coding(codes.RXNORM, _RXNORM[product], name), text=name)
        return concept(coding(codes.ATC, _ATC[product], name), text=name)
    if day < _NEW_ATC_CODES and product in _OLD_ATC:
        return concept(coding(codes.ATC, _OLD_ATC[product], name), text=name)
    system = codes.ATC if rng.random() < 0.3 else codes.ATC_BFARM
    return concept(coding(system, _ATC[product], name), text=name)


def car_t_procedure(rng: Random, product: Product, day: date) -> Resource:
    """The procedure of an infusion in ICD-10-PCS, with the code that was valid on that day."""
    is_central = rng.random() < 0.4
    if day < _NEW_PCS_CODES:
        code = "XW043C3" if is_central else "XW033C3"
        return concept(coding(codes.ICD_10_PCS, code, "Introduction of engineered autologous CAR-T"))
    code = _PCS_CENTRAL.get(product, _PCS[product]) if is_central else _PCS[product]
    return concept(coding(codes.ICD_10_PCS, code, f"Introduction of {_NAMES[product]}"))


def lenalidomide(rng: Random, dialect: Dialect) -> Resource:
    """Lenalidomide: a product or the ingredient, with the local hospital's own system beside it."""
    name = "lenalidomide"
    if dialect.name == "a":
        rxnorm = "342369" if rng.random() < 0.5 else rng.choice(["602910", "643712", "643720", "1242231"])
        return concept(
            coding(codes.RXNORM, rxnorm, name), coding(codes.ATC, "L04AX04", name), text="lenalidomide 10 mg"
        )
    if dialect.name == "b":
        pharmacy = coding("http://example.org/rwe/pharmacy", "len-10", "Lenalidomid 10 mg Hartkapseln")
        return concept(pharmacy, coding(codes.ATC_BFARM, "L04AX04", "Lenalidomid"), text="Lenalidomid 10 mg")
    return concept(coding(codes.ATC, "L04AX04", name), text="lenalidomide 10mg caps")


def other_drug(dialect: Dialect, name: str) -> Resource:
    system = codes.ATC_BFARM if dialect.name == "b" else codes.ATC
    return concept(coding(system, OTHER_DRUGS[name], name), text=name)


def diagnosis(dialect: Dialect, disease: Literal["dlbcl", "follicular", "mantle"], rng: Random) -> Resource:
    """A lymphoma in the hospital's edition of ICD-10."""
    if dialect.name == "b":
        code = {"dlbcl": "C83.3", "follicular": "C82.9", "mantle": "C83.1"}[disease]
        return concept(coding(codes.ICD_10_GM, code, disease))
    tail = rng.choice("0123489") if disease == "dlbcl" else "0"
    code = {"dlbcl": "C83.3", "follicular": "C82.9", "mantle": "C83.1"}[disease] + tail
    return concept(coding(codes.ICD_10_CM, code, disease))
