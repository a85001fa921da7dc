"""Who a workspace is to others: an Ed25519 key to sign with, an X25519 key to agree on masks, and the pins of
those it trusts.

    KEY.identity            0600, beside the pseudonym key: the two private keys (or RWE_IDENTITY_KEY), hex
    WORKSPACE/pins.json     0600: name → public keys, each checked by its fingerprint

The private keys never lie in the workspace. A public document is handed over by any way; its fingerprint is
compared by another one (by telephone), and only then is it pinned. Ed25519: RFC 8032; X25519: RFC 7748.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rwe.config import SITE_NAME, Workspace
from rwe.durable import write_new, write_whole
from rwe.errors import ConfigError, RweError, UsageError
from rwe.scratch import locked

#: The variable that holds the private keys where they lie in no file: 128 hex digits.
VARIABLE = "RWE_IDENTITY_KEY"
FORMAT = "rwe identity 1"
PINS = "pins.json"
_RAW_BYTES = 32
_FINGERPRINT_CHARS = 32


class SignatureError(RweError):
    """A signature is not of the key that it should be of: the content is not to be believed."""


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    ed25519: str
    x25519: str


class _Pins(msgspec.Struct, forbid_unknown_fields=True):
    format: str = "rwe pins 1"
    pins: dict[str, _Document] = {}


@dataclass(frozen=True)
class PublicIdentity:
    """The public halves, 32 raw bytes each."""

    ed25519: bytes
    x25519: bytes

    @property
    def fingerprint(self) -> str:
        """What two people compare: 128 bits of SHA-256 over both keys, as eight groups of four hex digits."""
        digest = hashlib.sha256(FORMAT.encode() + b"|" + self.ed25519 + self.x25519).hexdigest()
        short = digest[:_FINGERPRINT_CHARS]
        return " ".join(short[i : i + 4] for i in range(0, _FINGERPRINT_CHARS, 4))

    def verify(self, message: bytes, signature: bytes, *, where: str) -> None:
        """Raises SignatureError where the signature is not of this key over these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise SignatureError(
                "the signature is not that of the pinned key",
                where=where,
                advice="ask for the file again, and compare fingerprints before you pin another key",
            ) from None

    def agreement_key(self) -> X25519PublicKey:
        """The key that a shared secret is agreed on with."""
        return X25519PublicKey.from_public_bytes(self.x25519)

    def document(self) -> str:
        """The public document as JSON, to be handed over and pinned."""
        found = _Document(FORMAT, self.ed25519.hex(), self.x25519.hex())
        return msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n"


@dataclass(frozen=True)
class Identity:
    """The private keys of this workspace. The repr shows none of them."""

    signing: Ed25519PrivateKey = field(repr=False)
    agreement: X25519PrivateKey = field(repr=False)

    @property
    def public(self) -> PublicIdentity:
        return PublicIdentity(
            self.signing.public_key().public_bytes_raw(), self.agreement.public_key().public_bytes_raw()
        )

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature over these bytes: 64 bytes."""
        return self.signing.sign(message)


def identity_file(workspace: Workspace) -> Path:
    """Where the private keys lie: beside the pseudonym key."""
    key = workspace.settings.pseudonyms.key_file.expanduser()
    return key.with_name(f"{key.name}.identity")


def make_identity(workspace: Workspace) -> Identity:
    """Make the keys of this workspace, in a new file of mode 0600.

    Raises ConfigError where there are some already, or the file cannot be written.
    """
    if os.environ.get(VARIABLE):
        raise ConfigError("the identity is given by the environment", where=VARIABLE, advice="unset it first")
    path = identity_file(workspace)
    _refuse_inside(workspace, path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = secrets.token_hex(2 * _RAW_BYTES)
    try:
        write_new(path, f"{text}\n".encode("ascii"))
    except FileExistsError:
        raise ConfigError(
            "there is an identity already",
            where=str(path),
            advice="keep it: whoever pinned it would have to pin the new one",
        ) from None
    except OSError:
        raise ConfigError(
            "the identity cannot be written", where=str(path), advice="check its folder"
        ) from None
    return _identity(text, str(path))


def identity_of(workspace: Workspace) -> Identity:
    """The keys of this workspace, made the first time. Raises ConfigError as `read_identity`."""
    if os.environ.get(VARIABLE) or identity_file(workspace).exists():
        return read_identity(workspace)
    return make_identity(workspace)


def read_identity(workspace: Workspace) -> Identity:
    """The keys of this workspace, from RWE_IDENTITY_KEY or their file.

    Raises ConfigError where there are none, or they lie open or in the workspace.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return _identity(given, VARIABLE)
    path = identity_file(workspace)
    _refuse_inside(workspace, path)
    try:
        text = path.read_text(encoding="ascii")
        is_open = bool(path.stat().st_mode & 0o077)
    except FileNotFoundError:
        raise ConfigError(
            "this workspace has no identity yet", where=str(path), advice="make one with `rwe keys show`"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError("the identity cannot be read", where=str(path), advice="check its owner") from None
    if is_open:
        raise ConfigError("others can read the identity", where=str(path), advice="chmod 600 it")
    return _identity(text, str(path))


def read_public(text: str, where: str) -> PublicIdentity:
    """A public document. Raises UsageError where it is none."""
    try:
        return _public(msgspec.json.decode(text, type=_Document))
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise UsageError(
            "it is no public document of an identity", where=where, advice="ask for it again"
        ) from None


def pin(workspace: Workspace, name: str, public: PublicIdentity, fingerprint: str) -> None:
    """Trust these keys under a name, after their fingerprint was compared; blanks and case do not count.

    Raises UsageError where the fingerprint is another one, the name is none or has other keys already.
    """
    if not SITE_NAME.fullmatch(name):
        raise UsageError(
            "the name of a pin is letters, digits, - and _", where="pin", advice="choose another"
        )
    compared = "".join(fingerprint.split()).lower()
    if not hmac.compare_digest(compared.encode(), public.fingerprint.replace(" ", "").encode()):
        raise UsageError(
            "the fingerprint is not that of the document",
            where=f"pin {name}",
            advice="compare it again with whoever handed the document over; pin nothing until they agree",
        )
    path = workspace.root / PINS
    with locked(workspace.root / f".{PINS}.lock"):
        before = pins(workspace)
        if before.get(name, public) != public:
            raise UsageError(
                "other keys are pinned under this name",
                where=f"pin {name}",
                advice=f"unpin them first, if {name} really has new keys",
            )
        _write_pins(path, {**before, name: public})


def unpin(workspace: Workspace, name: str) -> None:
    """Trust these keys no more. Raises UsageError where nothing is pinned under the name."""
    with locked(workspace.root / f".{PINS}.lock"):
        before = pins(workspace)
        pinned(workspace, name)
        _write_pins(workspace.root / PINS, {n: p for n, p in before.items() if n != name})


def pins(workspace: Workspace) -> dict[str, PublicIdentity]:
    """Everybody who is trusted, by name. Raises ConfigError where the file is not what was written."""
    path = workspace.root / PINS
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Pins)
        return {name: _public(one) for name, one in sorted(found.pins.items())}
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeError, ValueError):
        raise ConfigError("the pins cannot be read", where=str(path), advice="pin the keys again") from None


def pinned(workspace: Workspace, name: str) -> PublicIdentity:
    """The keys pinned under a name. Raises UsageError where there are none."""
    try:
        return pins(workspace)[name]
    except KeyError:
        raise UsageError(
            "no key is pinned for it", where=name, advice="compare fingerprints and pin its public document"
        ) from None


def _refuse_inside(workspace: Workspace, path: Path) -> None:
    if path.resolve().is_relative_to(workspace.root.resolve()):
        raise ConfigError(
            "the identity would lie inside the workspace",
            where=str(path),
            advice="move the pseudonym key outside, the identity lies beside it",
        )


def _identity(text: str, where: str) -> Identity:
    try:
        raw = bytes.fromhex(text.strip())
    except ValueError:
        raw = b""
    if len(raw) != 2 * _RAW_BYTES:
        raise ConfigError(f"the identity is not {2 * _RAW_BYTES} bytes in hex", where=where)
    return Identity(
        Ed25519PrivateKey.from_private_bytes(raw[:_RAW_BYTES]),
        X25519PrivateKey.from_private_bytes(raw[_RAW_BYTES:]),
    )


def _public(document: _Document) -> PublicIdentity:
    if document.format != FORMAT:
        raise ValueError("another format")
    found = PublicIdentity(bytes.fromhex(document.ed25519), bytes.fromhex(document.x25519))
    Ed25519PublicKey.from_public_bytes(found.ed25519)
    X25519PublicKey.from_public_bytes(found.x25519)
    return found


def _write_pins(path: Path, found: dict[str, PublicIdentity]) -> None:
    documents = {n: _Document(FORMAT, p.ed25519.hex(), p.x25519.hex()) for n, p in sorted(found.items())}
    text = msgspec.json.format(msgspec.json.encode(_Pins(pins=documents)), indent=1)
    write_whole(path, text + b"\n")
