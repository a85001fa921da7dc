"""Codes as types: a code that its system could not have issued is refused when a code list is read.

Sources of the shapes: RxNorm (RxCUI, digits), WHO ATC index (levels 1 to 5), LOINC Users' Guide (mod 10
check digit), SNOMED CT Technical Implementation Guide (Verhoeff check digit), ICD-10-PCS reference manual
(seven characters without I and O), CMS HCPCS level II, AMA CPT.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
ATC = "http://www.whocc.no/atc"
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
NDC = "http://hl7.org/fhir/sid/ndc"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD_10_PCS = "http://www.cms.gov/Medicare/Coding/ICD10"
HCPCS = "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"
CPT = "http://www.ama-assn.org/go/cpt"
ATC_BFARM = "http://fhir.de/CodeSystem/bfarm/atc"
ICD_10_GM = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"


def _loinc_is_valid(code: str) -> bool:
    if not re.fullmatch(r"\d{1,7}-\d", code):
        return False
    digits, check = code.split("-")
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return (10 - total % 10) % 10 == int(check)


_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def _snomed_is_valid(code: str) -> bool:
    if not re.fullmatch(r"[1-9]\d{5,17}", code):
        return False
    check = 0
    for position, digit in enumerate(reversed(code)):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[position % 8][int(digit)])])
    return check == 0


def _shape(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda code: compiled.fullmatch(code) is not None


_ATC_SHAPE = _shape(r"[A-Z](\d{2}([A-Z]([A-Z](\d{2})?)?)?)?")
_ICD_10_SHAPE = _shape(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?")

_RULES: dict[str, tuple[str, Callable[[str], bool]]] = {
    RXNORM: ("an RxNorm concept id is 1 to 8 digits", _shape(r"[1-9]\d{0,7}")),
    ATC: ("an ATC code looks like L04AX04", _ATC_SHAPE),
    ATC_BFARM: ("an ATC code looks like L04AX04", _ATC_SHAPE),
    LOINC: ("a LOINC code looks like 2532-0, the last digit checks the others", _loinc_is_valid),
    SNOMED: ("a SNOMED CT id is 6 to 18 digits, the last checks the others", _snomed_is_valid),
    NDC: ("an NDC is 10 or 11 digits, with or without hyphens", _shape(r"\d{10,11}|\d{4,5}-\d{3,4}-\d{1,2}")),
    ICD_10_CM: ("an ICD-10-CM code looks like C83.30", _ICD_10_SHAPE),
    ICD_10_GM: ("an ICD-10-GM code looks like C83.3", _ICD_10_SHAPE),
    ICD_10_PCS: ("an ICD-10-PCS code is 7 characters without I and O", _shape(r"[0-9A-HJ-NP-Z]{7}")),
    HCPCS: ("an HCPCS code is a letter and 4 digits", _shape(r"[A-V]\d{4}")),
    CPT: ("a CPT code is 4 digits and a digit or letter", _shape(r"\d{4}[0-9A-Z]")),
}

#: Systems whose codes form a tree by prefix, so that `C83.3*` may stand for all codes below it.
_PREFIX_SYSTEMS = {ATC, ATC_BFARM, ICD_10_CM, ICD_10_GM, ICD_10_PCS}


def checked_systems() -> frozenset[str]:
    """The systems whose codes have a shape that is checked."""
    return frozenset(_RULES)


class InvalidCodeError(ValueError):
    """A code that its system could not have issued. The message names the code and the rule."""


@dataclass(frozen=True, order=True)
class Code:
    """One code of one system, valid from a day to a day (both inclusive; None is open).

    `is_prefix` stands for every code that starts with `code` (written `C83.3*` in a code list).
    Validity matters because codes get reused: tisagenlecleucel was HCPCS Q2040 before it was Q2042.
    """

    system: str
    code: str
    display: str = ""
    source: str = ""
    valid_from: date | None = None
    valid_to: date | None = None
    is_prefix: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", self.system):
            raise InvalidCodeError(f"the system {self.system!r} is not a URI")
        if not self.code or self.code != self.code.strip() or "|" in self.code or "," in self.code:
            raise InvalidCodeError(f"the code {self.code!r} is empty or holds a blank, comma or bar")
        if self.is_prefix and self.system not in _PREFIX_SYSTEMS:
            raise InvalidCodeError(f"{self.code}*: codes of {self.system} do not form a tree by prefix")
        rule = _RULES.get(self.system)
        if rule and not rule[1](self.code.rstrip(".") if self.is_prefix else self.code):
            raise InvalidCodeError(f"{self.code!r} is no code of {self.system}: {rule[0]}")
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            raise InvalidCodeError(f"{self.code!r} is valid from a day after the day it is valid to")
