"""Numbers as integers modulo 2^128 at scale 2^64, so that masks cancel exactly in a total.

A double is a binary fraction: encoding keeps it to 2^-65, and sums are exact. Negative numbers are the upper
half of the range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rwe.errors import EvidenceError

MODULUS = 1 << 128
SCALE = 1 << 64
_LARGEST_TOTAL = 1 << 62


def encode(value: float, *, addends: int) -> int:
    """The integer of a finite number that is to be added up with those of `addends` sites in all.

    Raises EvidenceError where such a total could leave the range: it would come back as another number.
    """
    if not math.isfinite(value) or abs(value) * addends >= _LARGEST_TOTAL:
        raise EvidenceError(
            "a sum is too large for a total that can be masked",
            where="federated sums",
            advice="give covariates in larger units, such as years instead of seconds",
        )
    return round(math.ldexp(value, 64)) % MODULUS


def total(numbers: Iterable[int]) -> int:
    """The sum modulo 2^128."""
    return sum(numbers) % MODULUS


def decode(number: int) -> float:
    """The nearest double of an encoded number or of a total of them."""
    signed = number - MODULUS if number >= MODULUS // 2 else number
    return signed / SCALE


def to_text(number: int) -> str:
    """32 hex digits."""
    return f"{number % MODULUS:032x}"


def from_text(text: str) -> int:
    """The number of 32 hex digits."""
    return int(text, 16)
