"""Private keys of SMART clients: read from PEM or JWK, published as a JWK Set."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from rwe.errors import ConfigError
from rwe.fhir.secrets import read_secret
from rwe.site_settings import SmartAuth

Algorithm = Literal["RS384", "ES384"]
_SMALLEST_RSA_BITS = 2048
_ADVICE = "make an RSA key of 3072 bits or an EC key on P-384, see docs/sites.md"


@dataclass(frozen=True)
class SigningKey:
    """A private key with its id and algorithm. The repr shows the id only."""

    kid: str
    algorithm: Algorithm
    private: RSAPrivateKey | EllipticCurvePrivateKey = field(repr=False)

    def public_jwk(self) -> dict[str, str]:
        """The public half as a JWK (RFC 7517), as a hospital registers it."""
        return {
            **_public_members(self.private.public_key()),
            "kid": self.kid,
            "alg": self.algorithm,
            "use": "sig",
        }


def site_keys(name: str, auth: SmartAuth) -> tuple[SigningKey, ...]:
    """The current key and, where there is one, the next. Raises ConfigError naming what is wrong."""
    where = f"site {name}, auth.{'key_file' if auth.key_file else 'key_env'}"
    text = read_secret(where, file=auth.key_file, variable=auth.key_env)
    keys = [read_key(text, where, kid=auth.kid, algorithm=auth.algorithm)]
    if auth.next_key_file:
        where = f"site {name}, auth.next_key_file"
        keys.append(read_key(read_secret(where, file=auth.next_key_file), where))
        if keys[0].kid == keys[1].kid:
            raise ConfigError(
                "the next key has the id of the current one", where=where, advice="give each its own"
            )
    return tuple(keys)


def jwk_set(keys: tuple[SigningKey, ...]) -> str:
    """The JWK Set to host or to send to the hospital: public halves only."""
    return json.dumps({"keys": [key.public_jwk() for key in keys]}, indent=2) + "\n"


def read_key(
    text: str, where: str, *, kid: str | None = None, algorithm: Algorithm | None = None
) -> SigningKey:
    """A private key from PEM or JWK text. `kid` defaults to the JWK's, else to the thumbprint (RFC 7638).

    Raises ConfigError where it is none, is public, encrypted, too short, or does not fit the algorithm.
    """
    jwk = _parse_jwk(text, where) if text.startswith("{") else None
    private = _from_jwk(jwk, where) if jwk is not None else _from_pem(text, where)
    fitting: Algorithm = "RS384" if isinstance(private, RSAPrivateKey) else "ES384"
    if isinstance(private, RSAPrivateKey) and private.key_size < _SMALLEST_RSA_BITS:
        raise ConfigError("the RSA key is shorter than 2048 bits", where=where, advice=_ADVICE)
    if isinstance(private, EllipticCurvePrivateKey) and private.curve.name != "secp384r1":
        raise ConfigError("the EC key is not on the curve P-384", where=where, advice=_ADVICE)
    if algorithm not in (None, fitting):
        raise ConfigError(f"the key is made for {fitting}, and auth.algorithm says {algorithm}", where=where)
    own = jwk.get("kid") if jwk is not None else None
    return SigningKey(
        kid or (own if isinstance(own, str) and own else thumbprint(private.public_key())), fitting, private
    )


def _from_pem(text: str, where: str) -> RSAPrivateKey | EllipticCurvePrivateKey:
    if "PUBLIC KEY" in text or "CERTIFICATE" in text:
        raise ConfigError("it is a public key or certificate", where=where, advice="name the private key")
    if "ENCRYPTED" in text:
        raise ConfigError(
            "the key is encrypted, and nobody is there at night to give the password",
            where=where,
            advice="name a key without a password, in a file of mode 0600",
        )
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("it is no private key in PEM or JWK form", where=where, advice=_ADVICE) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigError("the key is neither RSA nor EC", where=where, advice=_ADVICE)
    return key


def _parse_jwk(text: str, where: str) -> dict[str, Any]:
    try:
        jwk = json.loads(text)
    except ValueError:
        raise ConfigError("it is no private key in PEM or JWK form", where=where, advice=_ADVICE) from None
    if isinstance(jwk.get("keys"), list):
        if len(jwk["keys"]) != 1 or not isinstance(jwk["keys"][0], dict):
            raise ConfigError("it is a set of keys", where=where, advice="name a file with one private key")
        jwk = jwk["keys"][0]
    if "d" not in jwk:
        raise ConfigError("it is a public key", where=where, advice="name the private key")
    return dict(jwk)


def _from_jwk(jwk: dict[str, Any], where: str) -> RSAPrivateKey | EllipticCurvePrivateKey:
    kind = jwk.get("kty")
    if kind not in ("RSA", "EC"):
        raise ConfigError("the key is neither RSA nor EC", where=where, advice=_ADVICE)
    try:
        key = RSAAlgorithm.from_jwk(jwk) if kind == "RSA" else ECAlgorithm.from_jwk(jwk)
    except (PyJWTError, ValueError, TypeError, KeyError):
        raise ConfigError("it is no private key in PEM or JWK form", where=where, advice=_ADVICE) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigError("it is a public key", where=where, advice="name the private key")
    return key


def _public_members(public: RSAPublicKey | EllipticCurvePublicKey) -> dict[str, str]:
    if isinstance(public, RSAPublicKey):
        numbers = public.public_numbers()
        lengths = [(n.bit_length() + 7) // 8 for n in (numbers.n, numbers.e)]
        return {"kty": "RSA", "n": _base64url(numbers.n, lengths[0]), "e": _base64url(numbers.e, lengths[1])}
    point = public.public_numbers()
    return {"kty": "EC", "crv": "P-384", "x": _base64url(point.x, 48), "y": _base64url(point.y, 48)}


def _base64url(number: int, length: int) -> str:
    raw = number.to_bytes(length, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def thumbprint(public: RSAPublicKey | EllipticCurvePublicKey) -> str:
    """SHA-256 of the required public members in the order of RFC 7638, section 3."""
    text = json.dumps(_public_members(public), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode("ascii")
