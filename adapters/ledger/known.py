"""What an adapter remembers of rows that never change: shapes, offers and descriptions.

A transaction learns into a layer of its own that is kept only once it has committed, since a number that was rolled
back may be given again to something else. Bounded: a kind that is full is begun anew, beside what transactions of other
threads still look at: what they have found there stays.
"""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import MutableMapping
from typing import TypeVar

from schemas.description import JobDescription, Requirements
from schemas.jobs import Machine

K = TypeVar("K")
V = TypeVar("V")

#: Entries of a kind. A description may hold inline inputs of some 100 KiB, hence fewer of these.
MOST_CLASSES = 20_000
MOST_FITS = 200_000
MOST_DESCRIPTIONS = 256
#: How long a class's number is remembered, seconds, those of a sleep too: one that nothing refers to is deleted after
#: twice this time.
NUMBERS_LIFE_S = 3600.0


class Known:
    """Immutable rows by number, class numbers by key, and which offers meet which shape."""

    def __init__(self, below: Known | None = None) -> None:
        self._numbers_since_s = _now_s()
        self.shapes: MutableMapping[int, Requirements] = ChainMap({}, below.shapes) if below else {}
        self.offers: MutableMapping[int, Machine] = ChainMap({}, below.offers) if below else {}
        self.shape_numbers: MutableMapping[str, int] = ChainMap({}, below.shape_numbers) if below else {}
        self.offer_numbers: MutableMapping[str, int] = ChainMap({}, below.offer_numbers) if below else {}
        self.descriptions: MutableMapping[int, JobDescription] = ChainMap({}, below.descriptions) if below else {}
        #: This process has numbered an event: see ``happenings``.
        self.has_numbered: bool = below.has_numbered if below else False
        #: Whether a shape (first) is met by an offer.
        self.fits: MutableMapping[tuple[int, int], bool] = ChainMap({}, below.fits) if below else {}

    def layer(self) -> Known:
        """Begin to learn on top of what is known; anew with the numbers of classes when it is time."""
        if _now_s() - self._numbers_since_s > NUMBERS_LIFE_S:
            self.shape_numbers, self.offer_numbers = {}, {}
            self._numbers_since_s = _now_s()
        return Known(self)

    def keep(self, layer: Known) -> None:
        """Take over what a committed transaction has learnt."""
        self.shapes = _taken(self.shapes, layer.shapes, MOST_CLASSES)
        self.offers = _taken(self.offers, layer.offers, MOST_CLASSES)
        self.shape_numbers = _taken(self.shape_numbers, layer.shape_numbers, MOST_CLASSES)
        self.offer_numbers = _taken(self.offer_numbers, layer.offer_numbers, MOST_CLASSES)
        self.descriptions = _taken(self.descriptions, layer.descriptions, MOST_DESCRIPTIONS)
        self.has_numbered = self.has_numbered or layer.has_numbered
        self.fits = _taken(self.fits, layer.fits, MOST_FITS)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _taken(base: MutableMapping[K, V], layer: MutableMapping[K, V], most: int) -> MutableMapping[K, V]:
    learnt = layer.maps[0] if isinstance(layer, ChainMap) else layer
    if len(base) + len(learnt) > most:
        return dict(learnt)
    base.update(learnt)
    return base
