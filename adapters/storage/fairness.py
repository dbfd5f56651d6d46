"""How owners share a bound: whoever has the most gives first, until all are within it together. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def to_give(stored: Mapping[str, int], most: int) -> dict[str, int]:
    """Say how much each owner has to give so that all have at most ``most`` together.

    Nobody gives before those who have more than it: afterwards the givers have the same. Rounded up.
    """
    level = _level(stored, most)
    return {owner: size - level for owner, size in stored.items() if size > level}


def _level(stored: Mapping[str, int], most: int) -> int:
    """Give what the largest may have."""
    sizes = sorted(size for size in stored.values() if size > 0)
    left = max(0, most)
    for number, size in enumerate(sizes):
        even = left // (len(sizes) - number)
        if size > even:
            return even
        left -= size
    return max(sizes, default=0)
