"""How BOINC takes a command line apart, and what stands in it for something else. Pure.

A quote counts only where a word begins, and nothing escapes one. Source: ``lib/str_util.cpp``, ``wrapper.cpp``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

#: Words of a command line, and its length, as in BOINC on Unix.
MOST_WORDS, MOST_BYTES = 255, 4096

_WORD = re.compile(r"""\s*(?:'([^']*)'?|"([^"]*)"?|(\S+))""")
_RESOLVE = re.compile(r"boinc_resolve\(([^)]*)\)")


def split(line: str) -> list[str]:
    """Take a command line apart."""
    return [next(part for part in found.groups() if part is not None) for found in _WORD.finditer(line.strip())]


def expand(text: str, macros: Mapping[str, str], resolve: Callable[[str], str]) -> str:
    """Put in what macros, such as ``$PWD``, stand for, then the path of each ``boinc_resolve(name)``."""
    for name in sorted(macros, key=len, reverse=True):
        text = text.replace(name, macros[name])
    return _RESOLVE.sub(lambda found: resolve(found[1].strip()), text)
