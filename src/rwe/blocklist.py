"""Who was erased, and must not come back: a list of HMACs under a key of its own.

The key and the list lie outside the workspace, beside the pseudonym key or where
`pseudonyms.blocklist_key_file`
says: a workspace that is restored from an older backup meets the list all the same. A patient
stands in it twice where both are known, by the server's id and by the pseudonym: so the list outlives the
landed files and a change of the pseudonym key. Without the key nobody can tell who is in it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec

from rwe.config import KEY_BYTES, Workspace
from rwe.durable import write_whole
from rwe.errors import ConfigError
from rwe.lake.pseudonyms import Pseudonymiser, reference_target
from rwe.scratch import locked

_REFERENCE = re.compile(rb"(?:Patient\\?/|urn:uuid:|urn:oid:)([A-Za-z0-9\-.]{1,64})")
#: What may be an id in a line that is no JSON: the value of "id", what stands in quotes or after a slash.
#: The line may be cut short just behind it.
_NAMED = re.compile(
    rb"""(?:"id"\s*:\s*"?|["'/]|urn:uuid:|urn:oid:)([A-Za-z0-9\-._]{1,64})(?=["'/\\|?\#<]|\s*[,}]|\s*$)"""
)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]')
_COLON = re.compile(rb"\s*:\s*")
#: What stands in place of a reference to an erased patient in the records of others.
ERASED = b"erased"
_ERASED_REFERENCE = b'{"reference":"Patient/' + ERASED + b'"}'


class Blocklist:
    """The list of one key. `holds` and `add` take what tells a patient: see `by_id` and `by_pseudonym`."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self._key = path, key
        self._entries = frozenset(path.read_text(encoding="ascii").split()) if path.exists() else frozenset()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> frozenset[str]:
        """The HMACs, as hex."""
        return self._entries

    def by_id(self, site: str, patient_id: str) -> str:
        """The entry of a patient by the server's id."""
        return hmac.digest(self._key, f"id|{site}|{patient_id}".encode(), "sha256").hex()

    def by_pseudonym(self, pseudonym: str) -> str:
        """The entry of a patient by the pseudonym."""
        return hmac.digest(self._key, f"pseudonym|{pseudonym}".encode(), "sha256").hex()

    def holds_pseudonym(self, pseudonym: str) -> bool:
        return self.by_pseudonym(pseudonym) in self._entries

    def holds_id(self, site: str, patient_id: str) -> bool:
        return self.by_id(site, patient_id) in self._entries

    def add(self, entries: Collection[str]) -> None:
        """Add entries, synced to disk before this returns. Raises ConfigError where that cannot be done."""
        try:
            with locked(self.path.with_name(f".{self.path.name}.lock")):
                there = self.path.read_text(encoding="ascii").split() if self.path.exists() else []
                self._entries = frozenset({*there, *entries})
                write_whole(self.path, ("\n".join(sorted(self._entries)) + "\n").encode("ascii"))
        except OSError as e:
            raise ConfigError(
                "the list of erased patients cannot be written", where=str(self.path), advice=_ELSEWHERE
            ) from e


_ELSEWHERE = "name a folder that can be written in pseudonyms.blocklist_key_file of rwe.yaml"


def key_path(workspace: Workspace) -> Path:
    """Where the key of the list lies; the list beside it, as `….list`."""
    settings = workspace.settings.pseudonyms
    named = settings.blocklist_key_file
    pseudonym_key = settings.key_file.expanduser()
    path = named.expanduser() if named else pseudonym_key.with_name(f"{pseudonym_key.stem}-blocklist.key")
    if path.resolve().is_relative_to(workspace.root.resolve()):
        raise ConfigError(
            "the key of the list of erased patients would lie inside the workspace",
            where=str(path),
            advice="name a place outside in pseudonyms.blocklist_key_file of rwe.yaml",
        )
    return path


def open_blocklist(workspace: Workspace, *, make: bool = False) -> Blocklist | None:
    """The list; None where nobody was erased yet, unless one is to be made.

    Raises ConfigError where the list is there and its key is not, or lies open: then it cannot be told who
    must not come back, and nothing may land.
    """
    path = key_path(workspace)
    listed = path.with_suffix(".list")
    if not path.exists() and not listed.exists():
        if not make:
            return None
        _make_key(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        is_open = bool(path.stat().st_mode & 0o077)
    except (OSError, ValueError):
        key, is_open = b"", False
    if is_open:
        raise ConfigError(
            "others can read the key of the list of erased patients", where=str(path), advice="chmod 600 it"
        )
    if len(key) != KEY_BYTES:
        raise ConfigError(
            "the key of the list of erased patients is missing or damaged",
            where=str(path),
            advice="restore it: without it nobody can tell who must not come back",
        )
    return Blocklist(listed, key)


def _make_key(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, f"{secrets.token_hex(KEY_BYTES)}\n".encode("ascii"))
    except OSError as e:
        raise ConfigError(
            "the key of the list of erased patients cannot be written", where=str(path), advice=_ELSEWHERE
        ) from e


def blocked_at(workspace: Workspace, site: str) -> Callable[[str], bool] | None:
    """Tells whether a Patient id of a site is of somebody erased; None where nobody is. Each id is looked up
    once. Raises ConfigError as `open_blocklist`."""
    blocklist = open_blocklist(workspace)
    if blocklist is None or not len(blocklist):
        return None
    pseudonyms = Pseudonymiser(workspace.pseudonym_key(), site)
    known: dict[str, bool] = {}

    def is_blocked(patient_id: str) -> bool:
        if patient_id not in known:
            known[patient_id] = blocklist.holds_id(site, patient_id) or blocklist.holds_pseudonym(
                pseudonyms.of("Patient", patient_id)
            )
        return known[patient_id]

    return is_blocked


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Owned(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - FHIR's name
    id: str | None = None
    subject: _Reference | None = None
    patient: _Reference | None = None
    beneficiary: _Reference | None = None


_decode = msgspec.json.Decoder(_Owned).decode


def patients_of(line: bytes) -> tuple[str, str | None, frozenset[str]]:
    """(type, id, Patient ids it belongs to) of a resource's line; ("", None, none) where it is no such."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None, frozenset()
    owners = {found.id} if found.resourceType == "Patient" and found.id else set()
    for named in (found.subject, found.patient, found.beneficiary):
        target = reference_target(named.reference) if named else None
        if target and target[0] in {"Patient", None}:
            owners.add(target[1])
    return found.resourceType, found.id, frozenset(owners)


def without_blocked(
    line: bytes, is_blocked: Callable[[str], bool], *, is_unreadable: bool = False
) -> bytes | None:
    """A landed line as it may stay: None where it belongs to an erased patient, else without references to
    such patients. A Reference goes whole, with its display and identifier. A tombstone of an erased Patient
    goes too, and so does a line that names an erased patient anywhere and whose owner cannot be read
    (`is_unreadable`: it landed as such).
    """
    kind, _, owners = patients_of(line)
    if any(map(is_blocked, owners)):
        return None
    if is_unreadable or not kind:
        return None if any(is_blocked(m.decode("ascii")) for m in _NAMED.findall(line)) else line
    if not _refers(line, is_blocked):
        return line

    def blanked(found: re.Match[bytes]) -> bytes:
        named = _blocked_in(found[1], is_blocked)
        before = found[0].removesuffix(found[1])
        return before + ERASED + found[1].removeprefix(named) if named else found[0]

    return _REFERENCE.sub(blanked, _without_references(line, is_blocked))


def _blocked_in(word: bytes, is_blocked: Callable[[str], bool]) -> bytes | None:
    """The blocked id that a word is; a full stop behind it may end a sentence."""
    tried = (word, word.rstrip(b".")) if word.endswith(b".") else (word,)
    return next((w for w in tried if w and is_blocked(w.decode("ascii"))), None)


def _refers(text: bytes, is_blocked: Callable[[str], bool]) -> bool:
    return any(_blocked_in(word, is_blocked) for word in set(_REFERENCE.findall(text)))


def _without_references(line: bytes, is_blocked: Callable[[str], bool]) -> bytes:
    """A line of JSON with every object that refers to an erased patient replaced; all other bytes as landed:
    a decimal that is parsed and written again may lose its precision."""
    begun: list[int] = []
    blocked: set[int] = set()
    spans: list[tuple[int, int]] = []
    for token in _TOKEN.finditer(line):
        if token[0] == b"{":
            begun.append(token.start())
        elif token[0] == b"}":
            start = begun.pop()
            if start in blocked:
                spans = [s for s in spans if s[0] < start]  # those inside it go with it
                spans.append((start, token.end()))
        elif token[0] == b'"reference"' and (colon := _COLON.match(line, token.end())):
            value = _TOKEN.match(line, colon.end())
            if value and _refers(value[0], is_blocked):
                blocked.add(begun[-1])
    kept, at = bytearray(), 0
    for start, end in spans:
        kept += line[at:start] + _ERASED_REFERENCE
        at = end
    return bytes(kept + line[at:])


class Gate:
    """Stands before a site's landing: whoever was erased does not land again, by whatever way."""

    def __init__(self, is_blocked: Callable[[str], bool], blocklist: Blocklist) -> None:
        self._is_blocked, self._blocklist = is_blocked, blocklist

    def lines(self, raw_lines: Iterable[bytes], *, is_unreadable: bool) -> list[bytes]:
        """The lines that may land, references to erased patients blanked. `is_unreadable`: as no resource."""
        kept = (without_blocked(li, self._is_blocked, is_unreadable=is_unreadable) for li in raw_lines)
        return [line for line in kept if line is not None]

    def patients(self, patient_ids: Iterable[str]) -> frozenset[str]:
        """Those of these Patient ids who were erased: nobody asks for them."""
        return frozenset(filter(self._is_blocked, patient_ids))

    def pseudonyms(self, pseudonyms: Iterable[str]) -> frozenset[str]:
        """Those of these pseudonyms who were not erased."""
        return frozenset(p for p in pseudonyms if not self._blocklist.holds_pseudonym(p))


def gate_of(workspace: Workspace, site: str) -> Gate | None:
    """The gate of a site; None where nobody was erased. Raises ConfigError as `open_blocklist`."""
    is_blocked, blocklist = blocked_at(workspace, site), open_blocklist(workspace)
    return Gate(is_blocked, blocklist) if is_blocked and blocklist else None
