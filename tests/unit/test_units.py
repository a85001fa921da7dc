"""Units: what laboratories write, what it is in UCUM, and what must never be made one."""

from __future__ import annotations

import pytest

from rwe.units import canonical_unit


def factor(unit: str) -> tuple[str, float]:
    known = canonical_unit(unit)
    assert known is not None, unit
    return known.canonical, known.factor


@pytest.mark.parametrize(
    ("spellings", "canonical", "expected"),
    [
        ("mg/dL mg/dl mg% mg/100mL", "g/L", 0.01),
        ("g/dL gm/dl gms/dL g%", "g/L", 10),
        ("g/L mg/mL mg/ml", "g/L", 1),
        ("ug/L mcg/L µg/L μg/L ng/mL", "g/L", 1e-6),
        ("10*9/L 10^9/L 10E9/L 10e9/l x10^9/L x10E9/L 10⁹/L G/l Gpt/L 10**9/L", "10*9/L", 1),
        ("10*3/uL K/uL k/ul K/mm3 K/cumm x10E3/uL x10^3/µL 10(3)/uL 1000/uL thou/uL", "10*9/L", 1),
        ("10*12/L T/L 10*6/uL M/uL Mio/uL", "10*9/L", 1000),
        ("/uL /mm3 cells/uL #/uL", "10*9/L", 0.001),
        ("U/L U/l", "U/L", 1),
        ("ukat/L µkat/L", "U/L", 60),
        ("mmol/L mmol/l", "mmol/L", 1),
        ("umol/L µmol/L", "mmol/L", 0.001),
        ("meq/L mEq/L mEq/l", "meq/L", 1),
        ("[IU]/L IU/L iU/L [iU]/L UI/L", "[IU]/L", 1),
        ("mIU/mL m[IU]/mL kIU/kL", "[IU]/L", 1),
        ("kg", "g", 1000),
        ("[lb_av] lb lbs", "g", 453.59237),
        ("mm[Hg] mmHg", "mm[Hg]", 1),
        ("kg/m2 kg/m^2 kg/m²", "kg/m2", 1),
        ("{copies}/ug copies/ug copies/µg", "/ug", 1),
        ("mL/min/{1.73_m2} mL/min/1.73m2", "mL/min/{1.73_m2}", 1),
        ("% percent", "1", 0.01),
        ("1 {score} score", "1", 1),
        ("d days", "d", 1),
        ("wk weeks", "d", 7),
    ],
)
def test_the_spellings_of_a_unit_are_one(spellings: str, canonical: str, expected: float) -> None:
    for unit in spellings.split():
        assert factor(unit) == (canonical, pytest.approx(expected, rel=1e-12)), unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mmol/L", "meq/L"),  # it takes the charge of the ion
        ("mmol/L", "mg/dL"),  # it takes the molar mass
        ("U/L", "[IU]/L"),  # a catalytic unit and an arbitrary one
        ("[IU]/L", "10*9/L"),
        ("[IU]/mL", "[arb'U]/mL"),  # each of a procedure of its own
        ("[arb'U]/mL", "[USP'U]/mL"),
        ("/[HPF]", "1"),
        ("mL/min", "mL/min/{1.73_m2}"),
        ("g/L", "g"),
        ("dB", "1"),  # a logarithm
    ],
)
def test_what_ucum_does_not_make_comparable_stays_apart(one: str, other: str) -> None:
    assert factor(one)[0] != factor(other)[0]


@pytest.mark.parametrize(
    "text", ["", "Einheiten", "u/l", "109/L", "mg/dL mg/dL", "(", "x" * 61, "mg//dL", "None", "["]
)
def test_what_is_not_understood_is_none(text: str) -> None:
    assert canonical_unit(text) is None


@pytest.mark.parametrize(("fahrenheit", "celsius"), [(32, 0), (98.6, 37), (212, 100)])
def test_a_temperature_has_an_offset(fahrenheit: float, celsius: float) -> None:
    unit = canonical_unit("[degF]")
    assert unit is not None
    assert fahrenheit * unit.factor + unit.offset == pytest.approx(celsius, abs=1e-10)


def test_every_canonical_unit_is_its_own() -> None:
    for unit in ("mg/dL", "K/uL", "[degF]", "mEq/L", "mIU/mL", "mg/mmol", "kat/L", "/[HPF]", "kg", "mg/h"):
        known = canonical_unit(unit)
        assert known is not None
        again = canonical_unit(known.canonical)
        assert again is not None
        assert (again.canonical, again.factor, again.offset) == (known.canonical, 1.0, 0.0)
