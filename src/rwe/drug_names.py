"""What drugs are called: National Drug Codes in one form, and the words that give a drug away in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HYPHENS = re.compile(r"(?P<labeler>\d{4,5})-(?P<product>\d{3,4})-(?P<package>\d{1,2})")
_SHORTEST = 7
#: Words beside the drug's name in what code lists and terminologies call their codes.
_GENERAL = frozenset(
    word
    for line in """
    administration autologous capsule capsules central chewable coated concentrate concentration delayed
    disintegrating earlier engineered extended hydrochloride infusion ingredient injectable injection
    intravenous introduction intravenously liquid milligram milligrams milliliter monohydrate
    percutaneous peripheral pharmacy prefilled product products release several sodium solution subcutaneous
    suspension sustained syringe tablet tablets therapeutic therapy transfusion approach substance treatment
    preparation vein cells immunotherapy kapsel kapseln hartkapsel hartkapseln tablette tabletten
    infusionsdispersion""".splitlines()
    for word in line.split()
)


def normalised_ndc(code: str) -> str:
    """A National Drug Code as eleven digits, 5-4-2 (45 CFR 162.1002): `0002-8215-01` is `00002821501`.

    Ten digits in a row may be three codes (4-4-2, 5-3-2 or 5-4-1): they stay as they are, as does whatever is
    none. staging.medication_code does the same in SQL.
    """
    found = _HYPHENS.fullmatch(code)
    if found is None or sum(map(len, found.groups())) < 10:
        return code
    return found["labeler"].zfill(5) + found["product"].zfill(4) + found["package"].zfill(2)


def drug_words(displays: Iterable[str]) -> list[str]:
    """The words, in lower case, by which a text may name one of these drugs, sorted.

    Long words that are not general ones; an `e` at the end is left off, as languages write it or not
    (prednisone, Prednison). Brands are found only if a display names them.
    """
    words = {w for d in displays for w in re.findall(r"[^\W\d_]+", d.lower())}
    return sorted({w.removesuffix("e") for w in words if len(w) >= _SHORTEST and w not in _GENERAL})
