"""What of a valueString may enter: a number with its comparator and unit, or a text that the site permits.

Anything else is free text, and people write names into it. A unit here is one of those laboratories write,
atom by atom; any other word could be a name ("3 Jane").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rwe.errors import ConfigError

#: A text longer than this is not looked at: no number with a unit is that long.
_LONGEST = 64
_PREFIXED = r"[kcdmunpf\u00b5\u03bc]?(?:g|l|mol|eq|osm|m|u|iu|kat|s|pa)"
_ATOM = (
    rf"(?:{_PREFIXED}|mm\[?hg\]?|cells?|copies|min|h|hr|d|day|cel|\u00b0c|%|x?10[*^e]\d{{1,2}}"
    r"|[kmg]/[u\u00b5\u03bc]l|1\.73m2|hpf|score)"
)
_UNIT = rf"{_ATOM}(?:[/.]{_ATOM}){{0,3}}|/[u\u00b5\u03bcmd]?l"
_NUMBER = re.compile(
    r"\s*(?P<comparator><=|>=|<|>|\u2264|\u2265)?\s*"
    r"(?P<number>[+-]?\d{1,9}(?:\.\d{1,6})?(?:[eE][+-]?\d{1,2})?)"
    rf"\s*(?P<unit>{_UNIT})?\s*",
    re.ASCII | re.IGNORECASE,
)
_AS_CODE = {"\u2264": "<=", "\u2265": ">="}


@dataclass(frozen=True, slots=True)
class TextValue:
    """What a text says; all None where it may not enter."""

    number: float | None = None
    comparator: str | None = None
    unit: str | None = None
    text: str | None = None

    @property
    def is_left_out(self) -> bool:
        return self.number is None and self.text is None


@lru_cache(maxsize=65_536)
def read_number(text: str) -> TextValue:
    """A number with its comparator (as R4 codes it) and unit as written, such as `<5 mg/dl`.

    `1,5` is one and a half in one country and fifteen in another: no number.
    """
    found = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        return TextValue()
    comparator = found["comparator"]
    return TextValue(
        number=float(found["number"]),
        comparator=_AS_CODE.get(comparator, comparator) if comparator else None,
        unit=found["unit"],
    )


class PermittedTexts:
    """The texts that a site lets in, by what they are without case and blanks around."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)

    @classmethod
    def read(cls, path: Path | None, site: str) -> PermittedTexts:
        """The lines of the site's file (`permitted_texts`); none where it names none.

        Raises ConfigError where the file cannot be read.
        """
        if path is None:
            return cls({})
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                "the file of permitted_texts cannot be read",
                where=f"site {site}",
                advice="name a UTF-8 file with one text a line",
            ) from None
        return cls({_key(line): line.strip() for line in lines if line.strip()})

    @property
    def sorted(self) -> list[str]:
        """The texts in one order, to tell two lists apart."""
        return sorted(self._texts.values())

    def value(self, text: str) -> TextValue:
        """What of `text` may enter: as the list spells it, else a number, else nothing."""
        permitted = self._texts.get(_key(text)) if self._texts else None
        return read_number(text) if permitted is None else TextValue(text=permitted)


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
