"""The code lists of a study in words: the first codes of each, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

from rwe import codes
from rwe.codes import Code
from rwe.study import Study
from rwe.wording import counted

_FIRST = 3
_SYSTEMS = {
    codes.RXNORM: "RxNorm",
    codes.ATC: "ATC",
    codes.ATC_BFARM: "ATC (BfArM)",
    codes.LOINC: "LOINC",
    codes.SNOMED: "SNOMED CT",
    codes.NDC: "NDC",
    codes.ICD_10_CM: "ICD-10-CM",
    codes.ICD_10_GM: "ICD-10-GM",
    codes.ICD_10_PCS: "ICD-10-PCS",
    codes.HCPCS: "HCPCS",
    codes.CPT: "CPT",
}


def first_codes(study: Study) -> list[str]:
    """A sentence for each code list: how many codes it has, of which systems, and the first of them."""
    return [_first_of(name, study.codes(name)) for name in study.protocol.codelist_names()]


def every_code(study: Study) -> dict[str, list[str]]:
    """The lines of each code list by its name, a code a line, as the file orders them."""
    return {n: [_line(c) for c in study.codes(n)] for n in study.protocol.codelist_names()}


def _first_of(name: str, found: Sequence[Code]) -> str:
    shown = ", ".join(_line(c) for c in found[:_FIRST])
    rest = found[_FIRST:]
    if not rest:
        return f"{name}: {shown}."
    others = ", ".join(dict.fromkeys(_system(c) for c in rest))
    return f"{name}: {shown}, and {counted(len(rest), 'code')} more ({others})."


def _line(code: Code) -> str:
    """`ICD-10-CM C83.3* (lymphoma)`: a prefix with its star, and the days between which the code is valid."""
    written = f"{_system(code)} {code.code}{'*' if code.is_prefix else ''}"
    notes = [code.display] if code.display else []
    notes += [f"from {code.valid_from}"] if code.valid_from else []
    notes += [f"until {code.valid_to}"] if code.valid_to else []
    return f"{written} ({', '.join(notes)})" if notes else written


def _system(code: Code) -> str:
    return _SYSTEMS.get(code.system, code.system)
