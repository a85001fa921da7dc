"""The primitives behind the masks against the vectors of their RFCs, and the masks themselves."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rwe.errors import UsageError
from rwe.federate import fixed_point
from rwe.federate.masks import derive_key, keystream, pairwise_masks, shared_secret

ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SECRET = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_the_secret_is_that_of_rfc_7748_section_6_1() -> None:
    alice = X25519PrivateKey.from_private_bytes(bytes.fromhex(ALICE))
    bob = X25519PrivateKey.from_private_bytes(bytes.fromhex(BOB))
    assert alice.public_key().public_bytes_raw().hex() == ALICE_PUBLIC
    assert bob.public_key().public_bytes_raw().hex() == BOB_PUBLIC
    assert shared_secret(alice, bob.public_key()).hex() == SECRET
    assert shared_secret(bob, alice.public_key()).hex() == SECRET


@pytest.mark.parametrize("point", ["00" * 32, "01" + "00" * 31])
def test_a_point_of_low_order_agrees_on_no_secret(point: str) -> None:
    alice = X25519PrivateKey.from_private_bytes(bytes.fromhex(ALICE))
    with pytest.raises(UsageError, match="agrees on no secret"):
        shared_secret(alice, X25519PublicKey.from_public_bytes(bytes.fromhex(point)))


@pytest.mark.parametrize(
    ("salt", "info", "output"),
    [
        (
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        ("", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
    ],
)
def test_the_key_is_that_of_rfc_5869_appendix_a(salt: str, info: str, output: str) -> None:
    """Cases 1 and 3: the first 32 of their 42 bytes, which do not depend on the length asked for."""
    made = derive_key(bytes.fromhex("0b" * 22), bytes.fromhex(info), salt=bytes.fromhex(salt))
    assert made.hex() == output


def test_the_stream_is_that_of_rfc_8439_section_2_3_2() -> None:
    stream = keystream(bytes(range(32)), bytes.fromhex("000000090000004a00000000"), 1, 64)
    assert stream.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_stream_encrypts_as_in_rfc_8439_section_2_4_2() -> None:
    """Over a block's end: the counter goes on by itself."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    stream = keystream(bytes(range(32)), bytes.fromhex("000000000000004a00000000"), 1, len(plain))
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)).hex() == (
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )


def _masks_of_all(
    names: list[str], binding: bytes = b"request", length: int = 5
) -> dict[str, tuple[int, ...]]:
    keys = {n: X25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i, n in enumerate(names)}
    return {
        n: pairwise_masks(
            n, k, {o: keys[o].public_key() for o in names if o != n}, binding=binding, length=length
        )
        for n, k in keys.items()
    }


@pytest.mark.parametrize("count", [2, 3, 7])
def test_masks_of_all_sites_cancel_and_of_fewer_do_not(count: int) -> None:
    masks = _masks_of_all([f"site{i}" for i in range(count)])
    for place in range(5):
        assert fixed_point.total(m[place] for m in masks.values()) == 0
        for fewer in range(1, count):
            for some in itertools.combinations(masks.values(), fewer):
                assert fixed_point.total(m[place] for m in some) != 0


def test_sites_that_were_shown_different_requests_do_not_cancel() -> None:
    names = ["a", "b", "c"]
    one, other = _masks_of_all(names), _masks_of_all(names, binding=b"another request")
    for place in range(5):
        assert fixed_point.total((one["a"][place], one["b"][place], other["c"][place])) != 0


def test_each_number_has_a_mask_of_its_own() -> None:
    masks = _masks_of_all(["a", "b", "c"], length=200)
    assert len({number for m in masks.values() for number in m}) == 600
