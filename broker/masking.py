"""Hiding secrets in what is shown: the one place through which every log line and every word to a person goes.

It knows what a secret looks like where people put them (a URL's password, a signature that makes of a URL a key,
``password=…``), not which secrets there are.
It hides too much rather than too little: of what is named like a secret it shows nothing but an absolute path, and that
only where the name says that it is a file's.
"""

from __future__ import annotations

import re

#: What stands in a secret's place.
MASK = "***"
#: ``scheme://user:SECRET@host``, up to the last ``@`` of the word: a password may hold one that nobody has quoted.
_IN_URL = re.compile(r"(\w://[^\s:@/]*:)[^\s]+(?=@)")
#: ``scheme://host/path?SIGNED``: whoever has such a URL may do what it says.
_SIGNED = re.compile(r"(\w://[^\s?\"']*\?)(?=[^\s\"']*(?:signature|sig=|credential|authz=))[^\s\"']+", re.IGNORECASE)
#: ``password=SECRET``, ``"password": "SECRET"``, ``login_password='SECRET'``.
_NAMED = re.compile(
    r"""(\w*(?:password|passwd|secret|token)\w*\\*["']?\s*[=:]\s*)"""
    # Within quotes of another text, within its own, within some that were cut off, and without any.
    r"""(\\+"[^"]*"|\\+'[^']*'|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\\*["'].*|[^\s"',;&})\]]+)""",
    re.IGNORECASE,
)

#: ``secret_file='/etc/x'``: a name that says that its value is a place, and a value that is one. A secret may begin
#: with a stroke too, so that the value alone shows nothing.
_FILE = re.compile(r"""\w*_(?:file|path|directory)["']?\s*[=:]\s*(["']?)/[\w./~@%+,-]*\1$""", re.IGNORECASE)

_QUOTE = re.compile(r"""\\*["']""")

#: Without one of these a text in ASCII, in small letters, names no secret. Looking is much cheaper than the patterns.
_WORDS = ("passw", "secret", "token")


def mask(text: str) -> str:
    """Give the text with a mask in place of every secret that it shows. Idempotent."""
    if "://" in text:
        text = _SIGNED.sub(rf"\g<1>{MASK}", _IN_URL.sub(rf"\g<1>{MASK}", text))
    return _NAMED.sub(_masked, text) if _may_name(text) else text


def _may_name(text: str) -> bool:
    """Say whether a secret may be named: other alphabets have letters that a pattern takes for one of ASCII."""
    small = text.lower()
    return not text.isascii() or any(word in small for word in _WORDS)


def _masked(found: re.Match[str]) -> str:
    if _FILE.fullmatch(found[0]):
        return found[0]
    quote = _QUOTE.match(found[2])
    sign = quote[0] if quote is not None else ""
    return f"{found[1]}{sign}{MASK}{sign}"
