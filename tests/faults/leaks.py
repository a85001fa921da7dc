"""Looks for canaries in bytes: as they are, URL-encoded, in base64, in gzip, and in mixtures of these."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

_GZIP = b"\x1f\x8b\x08"
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_DEPTH = 3


def leaks(content: bytes, canaries: Iterable[str]) -> set[str]:
    """The canaries that the content holds, in whichever form."""
    wanted = {c: _forms(c) for c in canaries}
    texts = _unwrapped(content, _DEPTH)
    return {c for c, forms in wanted.items() if any(form in text for form in forms for text in texts)}


def leaks_in_files(folder: Path, canaries: Iterable[str], *, but: tuple[str, ...]) -> dict[str, set[str]]:
    """By file name, what leaked; files with one of the endings `but` are where records belong."""
    found = {
        str(path.relative_to(folder)): leaks(path.read_bytes(), canaries)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(but)
    }
    return {name: what for name, what in found.items() if what}


def _forms(canary: str) -> set[bytes]:
    raw = canary.encode()
    percent = "".join(f"%{b:02x}" for b in raw).encode()
    return {raw, quote(canary, safe="").encode(), percent, percent.upper(), raw.hex().encode(), *_base64(raw)}


def _base64(raw: bytes) -> set[bytes]:
    """What base64 of any text around it is sure to contain, at each of the three alignments."""
    forms = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).rstrip(b"=")
        inner = encoded[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6]
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def _unwrapped(content: bytes, depth: int) -> list[bytes]:
    """The content, and what it becomes when it is decoded and unpacked."""
    texts = [content]
    if depth == 0:
        return texts
    inner = [unquote_to_bytes(content)] if b"%" in content else []
    inner += [plain for at in _starts(content) if (plain := _gunzip(content[at:]))]
    inner += [d for m in _BASE64.finditer(content) if _GZIP in (d := _decoded(m[0]))]
    return texts + [t for one in inner if one != content for t in _unwrapped(one, depth - 1)]


def _starts(content: bytes) -> list[int]:
    return [m.start() for m in re.finditer(re.escape(_GZIP), content)]


def _gunzip(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(content)
    except zlib.error:
        return b""


def _decoded(text: bytes) -> bytes:
    text = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return b""
