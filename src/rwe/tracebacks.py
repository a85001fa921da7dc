"""Tracebacks without values: where an error arose, and of what type it is, but no text that may quote data.

Texts of pydantic, json, requests and duckdb quote what they refuse, so only our own errors' texts are shown.
"""

from __future__ import annotations

import traceback

from rwe.errors import RweError


def safe_traceback(error: BaseException) -> str:
    """The traceback of an error and of what led to it, oldest first, as lines that end in a newline."""
    parts: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        frames = "".join(traceback.format_tb(one.__traceback__))
        kind = type(one)
        told = f": {one}" if isinstance(one, RweError) else ""
        parts.append(
            f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}{told}\n"
        )
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\nwhich led to\n\n".join(reversed(parts))
