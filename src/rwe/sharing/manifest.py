"""What a share says of itself, signed: the folder that leaves a site and arrives at the hub.

share=STUDY.SITE.ID/manifest.json      this, as text a person can read
share=STUDY.SITE.ID/manifest.sig       the Ed25519 signature over its bytes, hex
share=STUDY.SITE.ID/TABLE.parquet      as `rwe.sharing.frames` says, each hashed in the manifest
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from rwe.config import SITE_NAME
from rwe.identity import Identity, PublicIdentity
from rwe.sharing.frames import LAYOUTS, ShareError, broken_share

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
FORMAT: Final = "rwe share 2"
MOST_BYTES: Final = 1 << 20
#: What a signature is over begins with this, so that it is a signature of a share and of nothing else.
_DOMAIN: Final = b"rwe share 2|"

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, msgspec.Meta(pattern=SITE_NAME.pattern)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the share. The hash is of its bytes."""

    rows: _Count
    sha256: _Sha256


class StepCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the attrition. Counts are rounded to midpoints of 6: who was left out is not in the rows."""

    step: Annotated[str, msgspec.Meta(max_length=200)]
    n_before: _Count
    n_after: _Count


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`content_sha256` is of the tables as they leave, under the pseudonyms of this study: the hash of the
    site's own database, which has exact dates, is not in it."""

    format: Literal["rwe share 2"]
    study: Annotated[str, msgspec.Meta(max_length=200)]
    study_version: Annotated[str, msgspec.Meta(max_length=200)]
    protocol_sha256: _Sha256
    site: _Name
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    code_version: Annotated[str, msgspec.Meta(max_length=100)]
    dates: Literal["anchored", "exact"]
    ages: Literal["whole_years", "exact"]
    oldest_age: int | None
    tables: dict[str, TableEntry]
    content_sha256: _Sha256
    attrition: list[StepCount]

    @property
    def is_guessable(self) -> bool:
        """Whether its link tokens would give index dates away that it keeps back, to who has the link key."""
        return self.dates == "anchored" and "link" in self.tables

    @property
    def share(self) -> str:
        """The name of this share: of its content and when it was made."""
        text = f"{self.content_sha256}|{self.created_at.isoformat()}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_manifest(manifest: Manifest, identity: Identity) -> tuple[bytes, bytes]:
    """The manifest as JSON, and its signature as hex."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    return content, identity.sign(_DOMAIN + content).hex().encode() + b"\n"


def read_manifest(content: bytes, where: str) -> Manifest:
    """A manifest that somebody else made; nothing of it is believed before `verify`.

    Raises ShareError where it is none, of another version, or names a table that a share does not have.
    """
    try:
        found = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ShareError(
            "the manifest is not that of a share of this version",
            where=where,
            advice="ask the site to share with the hub's version of rwe",
        ) from None
    if not found.tables.keys() <= LAYOUTS.keys():
        raise broken_share("the manifest names a table that no share has", where)
    if (found.dates == "exact") != ("index_date" in found.tables):
        raise broken_share("the manifest's dates are not those of its tables", where)
    return found


def verify(content: bytes, signature: bytes, public: PublicIdentity, where: str) -> None:
    """Raises SignatureError where the manifest is not signed with this key, ShareError where the signature
    is none."""
    try:
        raw = bytes.fromhex(signature.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        raise ShareError("the signature is not one", where=where, advice="ask for the share again") from None
    public.verify(_DOMAIN + content, raw, where=where)
