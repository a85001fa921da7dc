"""Who a workspace is to others: keys outside it, pins only after fingerprints were compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwe.config import Workspace, init_workspace
from rwe.errors import ConfigError, UsageError
from rwe.identity import (
    Identity,
    SignatureError,
    identity_file,
    identity_of,
    make_identity,
    pin,
    pinned,
    pins,
    read_identity,
    read_public,
    unpin,
)


@pytest.fixture
def site(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "site", key_file=tmp_path / "site.key")


def test_the_keys_lie_outside_for_the_owner_alone(site: Workspace) -> None:
    make_identity(site)
    path = identity_file(site)
    assert not path.is_relative_to(site.root)
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text().strip()
    assert not [p for p in site.root.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_an_identity_is_made_once(site: Workspace) -> None:
    first = identity_of(site).public
    assert identity_of(site).public == first == read_identity(site).public
    with pytest.raises(ConfigError, match="already"):
        make_identity(site)


def test_an_identity_that_others_can_read_is_not_used(site: Workspace) -> None:
    make_identity(site)
    identity_file(site).chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        read_identity(site)


def test_it_may_come_from_the_environment(site: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_identity(site)
    text = identity_file(site).read_text().strip()
    identity_file(site).unlink()
    monkeypatch.setenv("RWE_IDENTITY_KEY", text)
    assert read_identity(site).public == made.public
    monkeypatch.setenv("RWE_IDENTITY_KEY", text[:-2])
    with pytest.raises(ConfigError, match="64 bytes") as caught:
        read_identity(site)
    assert text[:16] not in str(caught.value)


def test_no_private_key_shows(site: Workspace) -> None:
    made = make_identity(site)
    assert identity_file(site).read_text()[:16] not in repr(made)
    assert identity_file(site).read_text()[:16] not in made.public.document()


#: RFC 8032, 7.1, test 1.
_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
_SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


def test_keys_and_signatures_are_those_of_the_rfc(site: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWE_IDENTITY_KEY", _SEED + "11" * 32)
    identity: Identity = read_identity(site)
    assert identity.public.ed25519.hex() == _PUBLIC
    assert identity.sign(b"").hex() == _SIGNATURE


def test_a_changed_message_or_signature_is_refused(site: Workspace) -> None:
    made = make_identity(site)
    signature = made.sign(b"content")
    made.public.verify(b"content", signature, where="file")
    for message, wrong in ((b"Content", signature), (b"content", signature[:-1]), (b"content", bytes(64))):
        with pytest.raises(SignatureError, match="pinned key"):
            made.public.verify(message, wrong, where="file")


def test_a_pin_needs_the_fingerprint(site: Workspace, tmp_path: Path) -> None:
    other = make_identity(init_workspace(tmp_path / "hub", key_file=tmp_path / "hub.key")).public
    handed_over = read_public(other.document(), "hub.json")
    with pytest.raises(UsageError, match="fingerprint"):
        pin(site, "hub", handed_over, "0" * 32)
    assert pins(site) == {}
    pin(site, "hub", handed_over, handed_over.fingerprint.upper())
    assert pinned(site, "hub") == other
    assert (site.root / "pins.json").stat().st_mode & 0o777 == 0o600


def test_pinned_keys_are_not_swapped_silently(site: Workspace, tmp_path: Path) -> None:
    one, two = (
        make_identity(init_workspace(tmp_path / n, key_file=tmp_path / f"{n}.key")).public for n in "ab"
    )
    pin(site, "hub", one, one.fingerprint)
    pin(site, "hub", one, one.fingerprint)
    with pytest.raises(UsageError, match="other keys are pinned"):
        pin(site, "hub", two, two.fingerprint)
    unpin(site, "hub")
    pin(site, "hub", two, two.fingerprint)
    assert pinned(site, "hub") == two
    with pytest.raises(UsageError, match="no key is pinned"):
        unpin(site, "elsewhere")


@pytest.mark.parametrize("name", ["../hub", "", "a b", "hub/"])
def test_a_name_of_a_pin_is_a_name(site: Workspace, name: str) -> None:
    public = make_identity(site).public
    with pytest.raises(UsageError, match="letters"):
        pin(site, name, public, public.fingerprint)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"format": "rwe identity 1", "ed25519": "00", "x25519": "00"}', "[1]"],
)
def test_what_is_no_public_document_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="public document"):
        read_public(text, "file")


def test_fingerprints_differ_where_a_bit_does(site: Workspace) -> None:
    public = make_identity(site).public
    assert len(public.fingerprint.replace(" ", "")) == 32
    flipped = bytes([public.x25519[0] ^ 1, *public.x25519[1:]])
    assert type(public)(public.ed25519, flipped).fingerprint != public.fingerprint
