"""What people type, ``volcloud …``, and the Python client behind it: ``from volcloud import Client``, or
``AsyncClient`` for asyncio. See ``volcloud.client``.

Both are loaded when they are first asked for, so that the command starts light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volcloud.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Load the client. Raises AttributeError for any other name."""
    if name in __all__:
        return getattr(importlib.import_module("volcloud.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
