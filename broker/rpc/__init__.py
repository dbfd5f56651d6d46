"""Calls over queues: commands journalled before they are acknowledged, answers that can be trusted.

The end that asks is ``broker.rpc.caller``, which agents have no use for.
"""

from broker.rpc.clock import ServerClock
from broker.rpc.entries import Entry
from broker.rpc.handler import Call, Handler
from broker.rpc.journal import Journal
from broker.rpc.responder import Responder
from broker.rpc.uplink import Uplink

__all__ = ["Call", "Entry", "Handler", "Journal", "Responder", "ServerClock", "Uplink"]
