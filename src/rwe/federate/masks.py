"""Pairwise masks: each pair of sites adds and subtracts the same random numbers, so the total shows none.

Two sites agree on a secret (X25519, RFC 7748) from keys that they pinned by hand; HKDF-SHA256 (RFC 5869)
makes a key of it for this one request; ChaCha20 (RFC 8439) with that key gives the numbers. The request's
hash is part of the derivation: two sites that were shown different requests get masks that do not cancel,
and the total is noise. A key is used for one stream, from counter 0 on, with nonce 0.

Source: Bonawitz et al. 2017, Practical secure aggregation (the pairwise masks, without its recovery from
sites that drop out: here such a refresh ends).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rwe.errors import UsageError
from rwe.federate.fixed_point import MODULUS

_KEY_BYTES = 32
_NONCE = bytes(12)
_NUMBER_BYTES = 16
_SALT = b"rwe federate mask 1"

#: From key, nonce (12 bytes), first block's counter and a length to so many bytes.
Stream = Callable[[bytes, bytes, int, int], bytes]


def shared_secret(own: X25519PrivateKey, peer: X25519PublicKey) -> bytes:
    """X25519. Raises UsageError for a peer's key that makes the secret known to all (RFC 7748, 6.1)."""
    try:
        return own.exchange(peer)
    except ValueError:
        raise UsageError(
            "a peer's key agrees on no secret", where="masks", advice="ask that site for a new identity"
        ) from None


def derive_key(secret: bytes, binding: bytes, *, salt: bytes = _SALT) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-SHA256 with `binding` as its info."""
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=binding).derive(secret)


def keystream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    """ChaCha20's key stream from block `counter` on; `nonce` has 12 bytes (RFC 8439, 2.4)."""
    start = counter.to_bytes(4, "little") + nonce
    return Cipher(ChaCha20(key, start), mode=None).encryptor().update(bytes(length))


def pairwise_masks(
    own_name: str,
    own: X25519PrivateKey,
    peers: Mapping[str, X25519PublicKey],
    *,
    binding: bytes,
    length: int,
    stream: Stream = keystream,
) -> tuple[int, ...]:
    """What `own_name` adds to its `length` numbers: + for peers after it in the alphabet, - for those before.

    `binding` is what the masks are for: the same at all sites, and never the same for two requests. Raises
    UsageError as `shared_secret`.
    """
    masks = [0] * length
    for name, key in sorted(peers.items()):
        first, second = sorted((own_name, name))
        pair = f"{first}\n{second}\n".encode() + binding
        made = stream(derive_key(shared_secret(own, key), pair), _NONCE, 0, _NUMBER_BYTES * length)
        sign = 1 if own_name == first else -1
        for i in range(length):
            number = int.from_bytes(made[_NUMBER_BYTES * i : _NUMBER_BYTES * (i + 1)], "little")
            masks[i] = (masks[i] + sign * number) % MODULUS
    return tuple(masks)
