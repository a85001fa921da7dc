"""The shapes of what is coded: a text that has another one could be a sentence about a patient.

The lake is read by models whose tables are published, so a code, a system or a unit enters only in the shape
that its standard gives it. What has another shape is left out and told.
"""

from __future__ import annotations

import re
from functools import lru_cache

UCUM = "http://unitsofmeasure.org"

_LONGEST_CODE = 64
_LONGEST_SYSTEM = 256
_LONGEST_UCUM = 64
_CODE = re.compile(r"[^\s]+(\s[^\s]+)*")  # R4, datatypes, code: single blanks inside, none around
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")  # RFC 3986: a scheme, and no blank
_UCUM = re.compile(r"[!-~]+")  # UCUM 1.9, section 1: the printable characters of ASCII without the blank
# A unit in a hospital's own spelling: a word, not a sentence. Both code points of micro.
_UNIT = re.compile(r"[A-Za-z0-9\u00b5\u03bc%/.*^()\[\]{}_\u00b0-]{1,20}")


@lru_cache(maxsize=65_536)
def is_code(text: str) -> bool:
    """Whether a text has the shape of the FHIR type `code`, at most 64 characters."""
    return len(text) <= _LONGEST_CODE and text.isprintable() and _CODE.fullmatch(text) is not None


@lru_cache(maxsize=4_096)
def is_system(text: str) -> bool:
    """Whether a text is a URI as code systems have them, at most 256 characters."""
    return len(text) <= _LONGEST_SYSTEM and text.isprintable() and _URI.fullmatch(text) is not None


def is_ucum(system: str | None, code: str | None) -> bool:
    """Whether a quantity's code is one of UCUM: it says so, and has its shape."""
    return (
        system == UCUM
        and code is not None
        and len(code) <= _LONGEST_UCUM
        and _UCUM.fullmatch(code) is not None
    )


def is_unit(text: str | None) -> bool:
    """Whether a unit in words is short and without blanks, such as `mg/dl` or `10^9/L`."""
    return text is not None and _UNIT.fullmatch(text) is not None
