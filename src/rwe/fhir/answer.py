"""Answers of a server: read to the end, or still to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
import urllib3

from rwe.errors import SiteError
from rwe.fhir.failures import BrokenAnswerError


@dataclass(frozen=True)
class Answer:
    """An answer read to its end. `date` is the server's clock from the Date header."""

    status: int
    body: bytes = field(repr=False)
    date: datetime | None
    url: str = field(repr=False)


class Stream:
    """An answer whose body has not been read yet. `headers` ignore case; `date` is the server's clock."""

    def __init__(self, response: requests.Response, where: str) -> None:
        self._response, self._where = response, where
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.date = _http_date(response.headers.get("Date"))
        self.url = response.url

    def chunks(self, size: int = 1 << 20, *, decode: bool = True) -> Iterator[bytes]:
        """The body in pieces, unpacked if `decode`. Raises BrokenAnswerError where it breaks off."""
        # Told to unpack, urllib3 copies once more what is not packed.
        is_packed = decode and "Content-Encoding" in self.headers
        try:
            yield from self._response.raw.stream(size, decode_content=is_packed)
        except (urllib3.exceptions.HTTPError, OSError):
            raise BrokenAnswerError("the answer broke off", where=self._where, advice="try again") from None

    def read(self, most: int = 512 * 1024 * 1024) -> bytes:
        """The whole body, unpacked. Raises SiteError beyond `most` bytes, BrokenAnswerError."""
        pieces: list[bytes] = []
        size = 0
        for chunk in self.chunks():
            pieces.append(chunk)
            size += len(chunk)
            if size > most:
                raise SiteError(
                    f"an answer is larger than {most >> 20} MiB",
                    where=self._where,
                    advice="set a smaller page_size",
                )
        # A byte order mark is no JSON, but seen. One piece is not copied.
        return b"".join(pieces).removeprefix(b"\xef\xbb\xbf")


def _http_date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return date if date is None or date.tzinfo else date.replace(tzinfo=UTC)
