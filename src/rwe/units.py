"""Units as they are written → one unit a kind of quantity, by UCUM (https://ucum.org/ucum, version 2.1).

`mg/dl`, `mg/dL` and `0.01 g/L` are one unit; `K/uL`, `x10E3/uL`, `10^9/L` and `G/l` are one too. A value in
the unit is `value * factor + offset` in the canonical one. What UCUM does not make comparable stays apart:
international and other arbitrary units (`[IU]`, each of a procedure of its own), equivalents (`meq/L`: it
takes the ion's charge to compare them with moles), moles and grams (it takes the molar mass of what was
measured).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class CanonicalUnit:
    """What a unit is in the canonical unit of its kind: value · factor + offset. `ucum`: the unit in UCUM."""

    ucum: str
    canonical: str
    factor: float
    offset: float = 0.0


#: Spellings that laboratories use and UCUM does not know, or knows as something else (`K` is kelvin, `G`
#: gauss, `T` tesla): (pattern over the whole unit, UCUM). The first that fits is taken.
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ucum)
    for pattern, ucum in (
        (r"(?i)x?10(?:\*\*|\^|\*|e|exp|(?=\())\(?\+?(\d{1,2})\)?(?:cells?)?/(.+)", r"10*\1/\2"),
        (r"(?i)x?1000/(.+)", r"10*3/\1"),
        (r"(?i)x?1,?000,?000/(.+)", r"10*6/\1"),
        (r"(?:K|k|[Tt]hou|[Tt]sd)(?:\.)?/(u[lL]|mm3|cumm|cmm|mcL)", r"10*3/\1"),
        (r"(?:M|[Mm]ill?|[Mm]io)(?:\.)?/(u[lL]|mm3|cumm|cmm|mcL)", r"10*6/\1"),
        (r"(?:G|Gpt|Giga)/([lL])", r"10*9/\1"),
        (r"(?:T|Tpt|Tera)/([lL])", r"10*12/\1"),
        (r"(?i)(?:cells?|count|\#)/(.+)", r"/\1"),
        (r"(?i)copies/ug(?:dna|gdna)?", r"{copies}/ug"),
        (r"(?i)copies/(ml|l)", r"{copies}/\1"),
        (r"(?i)gms?/(.+)", r"g/\1"),
        (r"(?i)g(?:ms?)?%", "g/dL"),
        (r"(?i)mg%", "mg/dL"),
        (r"(.+)/100_?m[lL]", r"\1/dL"),
        (r"m[Ee][Qq]/([lL])", r"meq/\1"),
        (r"([mukn]?)(?:IU|I\.U\.|UI|iU)/(.+)", r"\1[IU]/\2"),
        (r"([mukn]?)(?:IU|I\.U\.|UI|iU)", r"\1[IU]"),
        (r"(?i)ml/min/1[.,]73_?m(?:2|\^2|\*2|\*\*2)", "mL/min/{1.73_m2}"),
        (r"(?i)kg/m(?:\^|\*|\*\*)2", "kg/m2"),
        (r"(?i)percent|pct", "%"),
        (r"(?i)mm_?hg", "mm[Hg]"),
        (r"°C|(?i:deg_?c|celsius)", "Cel"),
        (r"°F|(?i:deg_?f|fahrenheit)", "[degF]"),
        (r"(?i)lbs?|pounds?", "[lb_av]"),
        (r"(?i)inch(?:es)?|in", "[in_i]"),
        (r"(?i)cc", "mL"),
        (r"(?i)secs?|seconds?", "s"),
        (r"(?i)minutes?|mins", "min"),
        (r"(?i)hrs?|hours?", "h"),
        (r"(?i)days?", "d"),
        (r"(?i)weeks?", "wk"),
        (r"(?i)months?", "mo"),
        (r"(?i)yrs?|years?", "a"),
        (r"(?i)score|points?|ratio|inr|index", "1"),
    )
)

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_LETTERS = str.maketrans({"µ": "u", "μ": "u", "×": "x", "·": ".", "−": "-"})
_NOT_UCUM = {"mcg": "ug", "mcL": "uL", "mcl": "uL", "mcmol": "umol", "cumm": "mm3", "cmm": "mm3"}
#: Atoms that UCUM calls arbitrary, and equivalents: what has them compares only with what has them too.
_APART = re.compile(
    r"\[(?!degF|degR|degRe|lb_|oz_|in_|ft_|yd_|mi_|gr\]|ston_|lton_|Hg)[^\]]*\]|(?<![a-z])m?eq\b"
)
#: Lower-case `u` is the unified atomic mass in UCUM, and a mistyped enzyme unit in a hospital; `109/L` is a
#: power that lost its mark.
_DOUBTFUL = re.compile(r"(?<![A-Za-z])u(?![A-Za-z])|^(?!10\*)\d{2,}[/.]")
_PER_BODY_SURFACE = "{1.73_m2}"
_LONGEST = 60
_DIGITS = 15  # of a factor: what a conversion in binary leaves beyond them is noise

#: Kind of quantity (dimensions, atoms that stay apart) → its canonical unit.
_Dimensions = tuple[tuple[str, float], ...]
_CANONICAL: dict[_Dimensions, str] = {
    (("[length]", -3), ("[mass]", 1)): "g/L",
    (("[length]", -3), ("[substance]", 1)): "mmol/L",
    (("[length]", -3), ("[substance]", 1), ("[time]", -1)): "U/L",
    (("[length]", -3),): "10*9/L",
    (("[length]", -2), ("[mass]", 1)): "kg/m2",
    (("[length]", -1), ("[mass]", 1), ("[time]", -2)): "mm[Hg]",
    (("[length]", 3), ("[time]", -1)): "mL/min",
    (("[length]", 1),): "cm",
    (("[length]", 2),): "m2",
    (("[length]", 3),): "L",
    (("[mass]", -1),): "/ug",
    (("[mass]", 1),): "g",
    (("[substance]", 1),): "mmol",
    (("[temperature]", 1),): "Cel",
    (("[time]", -1),): "/min",
    (("[time]", 1),): "d",
    (): "1",
}
_CANONICAL_APART: dict[tuple[_Dimensions, frozenset[str]], str] = {
    ((("[length]", -3), ("[substance]", 1)), frozenset({"eq"})): "meq/L",
    ((("[length]", -3),), frozenset({"[IU]"})): "[IU]/L",
    ((), frozenset({"[IU]"})): "[IU]",
    ((("[length]", 3), ("[time]", -1)), frozenset({_PER_BODY_SURFACE})): "mL/min/{1.73_m2}",
}
_BASES = {"[mass]": "g", "[length]": "m", "[time]": "s", "[temperature]": "K", "[substance]": "mol",
          "[current]": "A", "[luminosity]": "cd"}  # fmt: skip


@cache
def canonical_unit(text: str) -> CanonicalUnit | None:
    """The canonical unit of a unit as it is written; None where it is none that is understood.

    `canonical_unit("mg/dl")` is `CanonicalUnit("mg/dl", "g/L", 0.01, 0.0)`.
    """
    if not text or len(text) > _LONGEST:
        return None
    ucum = _as_ucum(text)
    bare = _without_annotations(ucum)
    quantity = None if _DOUBTFUL.search(bare) else _quantity(bare)
    if quantity is None:
        return None
    apart = {_atom(a) for a in _APART.findall(bare)}
    if _PER_BODY_SURFACE in ucum:
        apart.add(_PER_BODY_SURFACE)
    dimensions = tuple(sorted((d, power) for d, power in quantity.dimensionality.items() if power))
    return _measured_in(ucum, bare, _canonical_of(dimensions, frozenset(apart), ucum))


def _as_ucum(text: str) -> str:
    found = re.sub(r"10([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "10*" + m[1].translate(_SUPERSCRIPTS), text)
    found = "".join(found.translate(_SUPERSCRIPTS).translate(_LETTERS).split())
    for spelling, ucum in _NOT_UCUM.items():
        found = re.sub(rf"(?<![A-Za-z]){spelling}(?![a-z])", ucum, found)
    for pattern, ucum in _SPELLINGS:
        if pattern.fullmatch(found):
            return pattern.sub(ucum, found, count=1)
    return found


def _without_annotations(ucum: str) -> str:
    """`{copies}/ug` counts as `1/ug`, `mg{total}` as `mg` (UCUM §6)."""
    return re.sub(r"\{[^}]*\}", "", re.sub(r"(^|[/.])\{[^}]*\}", r"\g<1>1", ucum))


def _atom(found: str) -> str:
    return "eq" if found.endswith("eq") else found.upper()


@cache
def _registry() -> Any:
    # Its grammar and units take a second to load: only where a build meets a unit.
    from ucumvert import PintUcumRegistry  # type: ignore[import-untyped]  # noqa: PLC0415

    return PintUcumRegistry()


@cache
def _quantity(ucum: str) -> Any:
    try:
        found = _registry().from_ucum(ucum)
    except Exception:  # a parser of grammar, tree and units, each with errors of its own
        return None
    return found if hasattr(found, "dimensionality") else None


def _canonical_of(dimensions: _Dimensions, apart: frozenset[str], ucum: str) -> str:
    if not apart:
        by_base = ".".join(f"{_BASES.get(d, d)}{'' if n == 1 else f'{n:g}'}" for d, n in dimensions)
        return _CANONICAL.get(dimensions, by_base)
    # Else of a procedure of its own: it compares with itself alone.
    return _CANONICAL_APART.get((dimensions, apart), ucum)


def _measured_in(ucum: str, bare: str, canonical: str) -> CanonicalUnit:
    """The affine map between two units: temperatures have an offset. What has none stays as it is."""
    target = _quantity(_without_annotations(canonical))
    if ucum == canonical or target is None:
        return CanonicalUnit(ucum, canonical, 1.0)
    unit, registry = _quantity(bare), _registry()
    try:
        zero, middle, far = (
            registry.Quantity(x, unit.units).to(target.units).magnitude / target.magnitude
            for x in (0.0, 500.0, 1000.0)
        )
    except Exception:  # units that pint cannot convert
        return CanonicalUnit(ucum, bare, 1.0)
    if not math.isclose(far - middle, middle - zero, rel_tol=1e-9):  # a logarithm
        return CanonicalUnit(ucum, bare, 1.0)
    factor = (far - zero) / 1000 * unit.magnitude
    return CanonicalUnit(ucum, canonical, float(f"{factor:.{_DIGITS}g}"), float(f"{zero:.{_DIGITS}g}"))
