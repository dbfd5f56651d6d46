"""The local road: a carrier between a host's agent and a guest's, over a byte stream that is theirs alone."""

from broker.road.road import Road
from broker.road.wire import ByteStream, Connect

__all__ = ["ByteStream", "Connect", "Road"]
