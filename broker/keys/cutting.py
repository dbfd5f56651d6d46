"""Who is kept off the broker for a while, having gone beyond every bound: no connection, but its login and queues stay.

An agent takes that for what it is, a refusal that passes, and is back when its time is over. The broker itself keeps
who is out, so that a key manager that is started anew lets them in again too. For several threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.keys.realm import Realm
from broker.offences import STRANGERS
from broker.principals import Principal

log = logging.getLogger(__name__)

#: How long a principal is kept off, seconds.
OUT_S = 600.0


class Cutting:
    """See the module. Raises BrokerError where the broker fails: then ask again."""

    def __init__(self, realm: Realm, clock: Callable[[], float] = time.monotonic) -> None:
        self._realm, self._clock = realm, clock
        self._alone = threading.Lock()
        #: When those that are out were cut off, or first seen to be.
        self._since_s: dict[Principal, float] = {}

    def cut_off(self, principal: Principal, reason: str, by: str) -> bool:
        """Keep a stranger off for ``OUT_S`` from now. False for anybody else. Idempotent."""
        if principal.kind not in STRANGERS:
            return False
        with self._alone:
            self._realm.shut_out(principal)
            self._since_s[principal] = self._clock()
        log.error("principal cut off", extra={"sender": principal.name, "by": by, "seconds": OUT_S, "why": reason})
        return True

    @contextmanager
    def staying_out(self, principal: Principal) -> Iterator[None]:
        """Whatever the block does to a principal's login, who is out before is out afterwards."""
        is_out = principal in self._since_s or principal in self._realm.out()
        yield
        if is_out:
            self._realm.shut_out(principal)

    def sweep(self) -> None:
        """Let in those whose time is over."""
        with self._alone:
            for principal in self._realm.out():
                if self._clock() - self._since_s.setdefault(principal, self._clock()) > OUT_S:
                    self._realm.let_in(principal)
                    del self._since_s[principal]
                    log.warning("principal let in again", extra={"sender": principal.name})
