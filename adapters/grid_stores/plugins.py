"""Grid stores by kind, ours and those that others install: an entry point of ``volunteer_cloud.grid_stores``.

It leads to a ``Plugin`` whose ``make`` is given the store's settings and gives a ``GridStore``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.errors import GridStoreRefused
from adapters.grid_stores.contract import GridStore
from broker.daemon.plugins import Plugins

GROUP = "volunteer_cloud.grid_stores"

GRID_STORES = Plugins(GROUP, "grid store", GridStoreRefused, has_secrets=True)


def make_grid_store(table: Mapping[str, Any], where: str = "grid_store") -> GridStore:
    """Make the store that a table of the settings names. Nobody is asked anything yet: that is ``try_out``.

    Raises ConfigError, and GridStoreRefused where a package or a file that it needs is missing.
    """
    store: GridStore = GRID_STORES.make(table, where)
    return store
