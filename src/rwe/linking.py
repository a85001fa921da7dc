"""Link tokens: that a patient was treated at two sites, without anybody learning who.

The sites share a key, which is not the hub's. A token is an HMAC under it of what the site's settings name
(`link.inputs`), read from the landed Patient resources: names never enter the lake. Tokens stay at the site,
in lake/_link, 0700. What is shared for a study is the token keyed once more for that study, so that two
studies cannot be joined; it is dropped after use and is in no published database.

    lake/_link/site=S.tokens      zstd of `pseudonym token` lines, sealed (`.enc`) where the lake is
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import zstandard

from rwe.config import KEY_BYTES, Workspace
from rwe.crypt import SUFFIX, UnsealError, place
from rwe.durable import write_whole
from rwe.errors import ConfigError, LakeError
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import list_runs
from rwe.site_settings import Link
from rwe.watermarks import in_order

TOKEN_CHARS = 32
_MERGED = frozenset({"replaced-by", "replaces"})
_BIRTH_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
#: Letters that have no base letter under them, as they are commonly spelt without them.
_SPELT = {"ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}


class _Identifier(msgspec.Struct):
    system: str | None = None
    value: str | None = None


class _Name(msgspec.Struct):
    use: str | None = None
    family: str | None = None
    given: list[str | None] | None = None


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Other(msgspec.Struct):
    other: _Reference | None = None
    type: str | None = None


class PatientIdentity(msgspec.Struct):
    """What a Patient resource says of who it is about. It is read, hashed and forgotten."""

    id: str | None = None
    identifier: list[_Identifier] | None = None
    name: list[_Name] | None = None
    birthDate: str | None = None  # noqa: N815 - FHIR's name
    gender: str | None = None
    link: list[_Other] | None = None


_decode = msgspec.json.Decoder(PatientIdentity).decode


def normalised(text: str) -> str:
    """Letters only, without their marks, in lower case: `Müller-Lüdenscheidt`, `MULLER LUDENSCHEIDT` and
    `Mueller Luedenscheidt` are one. Letters of other scripts stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    spelt = "".join(_SPELT.get(c, c) for c in bare)
    letters = "".join(c for c in spelt if c.isalpha())
    # ü is written ue where there is no ü, and u where somebody forgot: an e after a, o, u counts for nothing.
    return re.sub(r"(?<=[aou])e", "", letters)


def link_token(key: bytes, identity: PatientIdentity, link: Link) -> str | None:
    """The token of a patient: HMAC-SHA256 of the named inputs, as 32 hex characters.

    None where an input is missing, or a birth date is not known to the day: half an identity would tie two
    persons together.
    """
    parts = []
    for name in link.inputs:
        value = _input(name, identity, link)
        if not value:
            return None
        parts.append(f"{name}={len(value)}:{value}")
    return hmac.digest(key, ("rwe link|" + "|".join(parts)).encode(), "sha256").hex()[:TOKEN_CHARS]


def _input(name: str, identity: PatientIdentity, link: Link) -> str | None:
    if name == "identifier":
        found = {
            re.sub(r"[\W_]", "", i.value).casefold()
            for i in identity.identifier or ()
            if i.system == link.identifier_system and i.value
        }
        return found.pop() if len(found) == 1 else None
    if name == "birth_date":
        day = identity.birthDate or ""
        return day if _BIRTH_DATE.fullmatch(day) else None
    if name == "gender":
        return identity.gender if identity.gender in {"male", "female", "other"} else None
    chosen = _official(identity.name or [])
    if chosen is None:
        return None
    if name == "family":
        return normalised(chosen.family or "")
    return normalised(next((g for g in chosen.given or () if g), "").split(" ")[0])


def _official(names: list[_Name]) -> _Name | None:
    """The official name, else the usual one, else one without a use: never a maiden or an old one."""
    for use in ("official", "usual", None):
        found = next((n for n in names if n.use == use), None)
        if found:
            return found
    return None


def study_token(token: str, study: str, protocol_sha256: str) -> str:
    """A token as it is shared for one study: another study's tells nothing of it."""
    message = f"rwe link study|{study}|{protocol_sha256}".encode()
    return hmac.digest(bytes.fromhex(token), message, "sha256").hex()[:TOKEN_CHARS]


def merged_with(line: bytes) -> Iterator[str]:
    """The references of a landed Patient to records it was merged with; none where it is unreadable."""
    try:
        patient = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for one in patient.link or ():
        if one.type in _MERGED and one.other and one.other.reference:
            yield one.other.reference


def update_tokens(workspace: Workspace, site: str) -> dict[str, str]:
    """Compute the tokens of a site's landed patients and keep them; those whose raw bytes are gone stay.

    The latest landed version of a patient decides. Returns pseudonym → token: nothing where the site's
    settings name no link. Raises ConfigError where the key cannot be read, LandingError as `Run.open`.
    """
    declared = workspace.settings.sites.get(site)
    if declared is None or declared.link is None:
        return {}
    link, key = declared.link, link_key(workspace, declared.link)
    pseudonyms = Pseudonymiser(workspace.pseudonym_key(), site)
    found: dict[str, str | None] = dict(read_tokens(workspace, site))
    for run in in_order(list_runs(workspace.landing, site, cipher=workspace.cipher())):
        entry = run.file("Patient")
        if entry is None or not entry.is_file():
            continue
        for line in run.open("Patient"):
            try:
                identity = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if identity.id:
                found[pseudonyms.of("Patient", identity.id)] = link_token(key, identity, link)
    tokens = {p: t for p, t in found.items() if t}
    _write_tokens(workspace, site, tokens)
    return tokens


def read_tokens(workspace: Workspace, site: str) -> dict[str, str]:
    """Pseudonym → token as kept. Raises LakeError where the file is damaged or its key is not at hand."""
    path = _path(workspace, site)
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
        if path.suffix == SUFFIX:
            cipher = workspace.cipher()
            if cipher is None:
                raise UnsealError("no key is set")
            content = cipher.unseal(content, place(path))
        lines = zstandard.ZstdDecompressor().decompress(content).decode("ascii").splitlines()
        return dict(line.split(" ", maxsplit=1) for line in lines)
    except (OSError, UnsealError, zstandard.ZstdError, UnicodeDecodeError, ValueError):
        raise LakeError(
            "the link tokens cannot be read",
            where=f"site {site}",
            advice=f"delete {path.name}, they are made again",
        ) from None


def forget(workspace: Workspace, site: str, pseudonyms: Collection[str]) -> None:
    """Drop the tokens of erased patients."""
    tokens = read_tokens(workspace, site)
    if tokens.keys() & set(pseudonyms):
        _write_tokens(workspace, site, {p: t for p, t in tokens.items() if p not in pseudonyms})


def link_key(workspace: Workspace, link: Link) -> bytes:
    """The 32 bytes that the sites share. Raises ConfigError where the file cannot be read, lies open, lies in
    the workspace or is no key."""
    path = link.key_file.expanduser()
    if path.resolve().is_relative_to(workspace.root.resolve()):
        raise ConfigError("the link key lies inside the workspace", where=str(path), advice="move it outside")
    try:
        text = path.read_text(encoding="ascii")
        is_open = bool(path.stat().st_mode & 0o077)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "the link key cannot be read", where=str(path), advice="copy it from another site"
        ) from None
    if is_open:
        raise ConfigError("others can read the link key", where=str(path), advice="chmod 600 it")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the link key is not {KEY_BYTES} bytes in hex", where=str(path))
    return key


def _path(workspace: Workspace, site: str) -> Path:
    name = f"site={site}.tokens" + (SUFFIX if workspace.cipher() else "")
    path: Path = workspace.lake / "_link" / name
    return path


def _write_tokens(workspace: Workspace, site: str, tokens: Mapping[str, str]) -> None:
    path = _path(workspace, site)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    text = "\n".join(f"{p} {t}" for p, t in sorted(tokens.items())).encode("ascii")
    content = zstandard.ZstdCompressor().compress(text)
    cipher = workspace.cipher()
    if cipher:
        content = cipher.seal(content, place(path))
    write_whole(path, content)
