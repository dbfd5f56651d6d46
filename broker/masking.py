"""Hiding secrets in what is shown: the one place through which every log line and every word to a person goes.

It knows what a secret looks like where people put them (a URL's password, ``password=…``), not which secrets there are.
It hides too much rather than too little.
"""

from __future__ import annotations

import re

#: What stands in a secret's place.
MASK = "***"
#: ``scheme://user:SECRET@host``, up to the last ``@`` of the word: a password may hold one that nobody has quoted.
_IN_URL = re.compile(r"(\w://[^\s:@/]*:)[^\s]+(?=@)")
#: ``password=SECRET``, ``"password": "SECRET"``, ``login_password='SECRET'``.
_NAMED = re.compile(
    r"""(\w*(?:password|passwd|secret|token)\w*["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s"',;&})\]]+)""", re.IGNORECASE
)


def mask(text: str) -> str:
    """Give the text with a mask in place of every secret that it shows. Idempotent."""
    return _NAMED.sub(_masked, _IN_URL.sub(rf"\g<1>{MASK}", text))


def _masked(found: re.Match[str]) -> str:
    quote = found[2][0] if found[2][0] in "\"'" else ""
    return f"{found[1]}{quote}{MASK}{quote}"
