"""The seed of a guest that is to come up, as a driver is given it: known, or on its way."""

from __future__ import annotations

from collections.abc import Awaitable

#: What the guest is to find, or what will give that. It may be awaited again and again, and raises why there is none.
ComingSeed = bytes | Awaitable[bytes]


async def known(seed: ComingSeed) -> bytes:
    """Wait for a seed. Raises what it raises."""
    return seed if isinstance(seed, bytes) else await seed
