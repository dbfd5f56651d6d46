"""Tokens as an identity provider signs them for PanDA: RS256, with the groups of whom they are for."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

VO, CLIENT = "voluntary", "volunteer-cloud"
#: What a token is used with, which says as whom.
PRODUCTION, USER = f"{VO}.production", VO


class Issuer:
    """An identity provider's key, and what it signs."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.url = ""

    def public_key(self) -> dict[str, str]:
        """Give the key that tokens are checked with, as it is published."""
        numbers = self._key.public_key().public_numbers()
        return {"kty": "RSA", "kid": "test", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e)}

    def token(self, name: str, *groups: str, lasts_s: float = 3600) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": name,
            "name": name,
            "groups": groups,
            "exp": int(now + lasts_s),
        }
        body = f"{_part({'alg': 'RS256', 'kid': 'test', 'typ': 'JWT'})}.{_part({**claims, 'iat': now})}"
        return f"{body}.{_encoded(self._key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def pilot(self, lasts_s: float = 3600) -> str:
        return self.token("Pilot", f"{VO}/production", lasts_s=lasts_s)

    def user(self, name: str = "Alice") -> str:
        return self.token(name, VO)


def claims_of(token: str) -> dict[str, Any]:
    """Read a token, believing whatever it says."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def _part(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value).encode())


def _number(value: int) -> str:
    return _encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
