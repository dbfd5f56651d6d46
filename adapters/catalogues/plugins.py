"""Catalogues by kind, ours and those that others install: an entry point of ``volunteer_cloud.catalogues``.

It leads to a ``Plugin`` whose ``make`` is given the catalogue's settings and gives a ``Catalogue``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.catalogues.contract import Catalogue
from adapters.errors import CatalogueRefused
from broker.daemon.plugins import Plugins

GROUP = "volunteer_cloud.catalogues"

CATALOGUES = Plugins(GROUP, "catalogue", CatalogueRefused, has_secrets=True)


def make_catalogue(table: Mapping[str, Any], where: str = "catalogue") -> Catalogue:
    """Make the catalogue that a table of the settings names. Nobody is asked anything yet: that is ``try_out``.

    Raises ConfigError, and CatalogueRefused where a package or a file that it needs is missing.
    """
    catalogue: Catalogue = CATALOGUES.make(table, where)
    return catalogue
