"""What a transaction leaves to the next ones, since others wait to write: it is done in portions.

``assignments.go_on`` does the next portion. Lost with its adapter, it is found by a sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Deferred:
    """See the module."""

    #: Classes of free slots, and of waiting jobs, of which more can be paired.
    offers: set[int] = field(default_factory=set)
    shapes: set[int] = field(default_factory=set)
    #: There are arrays of which some jobs have no rows.
    is_making: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.offers or self.shapes or self.is_making)

    def take_over(self, other: Deferred) -> None:
        """Take what another transaction has left as well."""
        self.offers |= other.offers
        self.shapes |= other.shapes
        self.is_making |= other.is_making
