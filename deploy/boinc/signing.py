"""Signatures of a BOINC project's code, as its client checks them: RSA of 1,024 bits over the text of a file's MD5.

For test projects. A real one keeps its key apart from every network, and signs with BOINC's ``sign_executable``.
Source: ``lib/crypt.cpp``.
"""

from __future__ import annotations

import hashlib
import secrets

from msgspec import Struct

BITS = 1024
_EXPONENT = 65537
_BYTES = BITS // 8
#: Rounds of Miller and Rabin: a number that is not prime passes with less than 4 to the power of minus 40.
_ROUNDS = 40


class CodeKey(Struct, frozen=True):
    """A private key."""

    modulus: int
    secret: int

    @property
    def public(self) -> str:
        """The public half, as a scheduler's reply has it."""
        return f"{BITS}\n{_lines(self.modulus.to_bytes(_BYTES) + _EXPONENT.to_bytes(_BYTES))}"

    def sign(self, content: bytes) -> str:
        """Sign a file's content, as its ``file_signature`` has it."""
        text = hashlib.md5(content, usedforsecurity=False).hexdigest().encode()
        padded = b"\0\1" + b"\xff" * (_BYTES - 3 - len(text)) + b"\0" + text
        return _lines(pow(int.from_bytes(padded), self.secret, self.modulus).to_bytes(_BYTES))


def new_code_key() -> CodeKey:
    """Make a key; takes a second."""
    while True:
        p, q = _prime(BITS // 2), _prime(BITS // 2)
        if p != q and (p - 1) % _EXPONENT and (q - 1) % _EXPONENT:
            return CodeKey(p * q, pow(_EXPONENT, -1, (p - 1) * (q - 1)))


def _prime(bits: int) -> int:
    while True:
        candidate = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if all(candidate % small for small in (3, 5, 7, 11, 13, 17, 19, 23)) and _is_prime(candidate):
            return candidate


def _is_prime(number: int) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(number, odd, twos) for _ in range(_ROUNDS))


def _passes(number: int, odd: int, twos: int) -> bool:
    power = pow(secrets.randbelow(number - 3) + 2, odd, number)
    if power in (1, number - 1):
        return True
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return True
    return False


def _lines(data: bytes) -> str:
    text = data.hex()
    return "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64)) + ".\n"
