"""``VolunteerExecutor``: Python calls in guests, as ``concurrent.futures`` has them. It needs ``cloudpickle``:
``pip install 'volunteer-cloud[executor]'``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volcloud.executor.executor import VolunteerExecutor

__all__ = ["VolunteerExecutor"]


def __getattr__(name: str) -> Any:
    """Load it. Raises AttributeError for any other name; ImportError says what to install."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("volcloud.executor.executor"), name)
    except ModuleNotFoundError as error:
        if error.name != "cloudpickle":
            raise
        raise ImportError("VolunteerExecutor needs cloudpickle: pip install 'volunteer-cloud[executor]'") from error
