"""The known word that is nearest to one that nobody knows, for people who mistype."""

from __future__ import annotations

from collections.abc import Sequence


def nearest(word: str, known: Sequence[str], *, cutoff: float = 0.5) -> str:
    """Give the known word that is most like ``word``; empty where none is like it."""
    from difflib import get_close_matches  # here: it takes memory that most processes, guests above all, never need

    return next(iter(get_close_matches(word, known, n=1, cutoff=cutoff)), "")
