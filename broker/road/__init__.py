"""The local road: a carrier between a host's agent and a guest's, over a byte stream that is theirs alone."""

from broker.road.road import Road, Stream

__all__ = ["Road", "Stream"]
