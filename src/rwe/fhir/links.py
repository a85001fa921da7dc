"""Patients that a server merged: `Patient.link` (R4, 8.1.4). Other kinds of link do not make one of two."""

from __future__ import annotations

import msgspec

from rwe.fhir.bundle import reference_id


class _Other(msgspec.Struct):
    reference: str | None = None


class _PatientLink(msgspec.Struct):
    other: _Other | None = None
    type: str | None = None


class _Linked(msgspec.Struct):
    link: list[_PatientLink] | None = None


def linked_patients(raw: bytes) -> frozenset[str]:
    """The ids of the patients that a Patient was merged with (`replaced-by`, `replaces`)."""
    try:
        links = msgspec.json.decode(raw, type=_Linked).link or ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    merges = [x for x in links if x.type in {"replaced-by", "replaces"} and x.other and x.other.reference]
    ids = (reference_id((x.other and x.other.reference) or "", "Patient") for x in merges)
    return frozenset(i for i in ids if i)
