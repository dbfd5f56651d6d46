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
    """See the module. Raises BrokerError where the broker fails: then ask again.

    Who is out is known here: the broker is asked at the start and at each sweep, since an operator may decide it too.
    """

    def __init__(self, realm: Realm, clock: Callable[[], float] = time.monotonic) -> None:
        self._realm, self._clock = realm, clock
        self._alone = threading.Lock()
        #: When those that are out were cut off, or first seen to be; None: the broker has not been asked yet.
        self._since_s: dict[Principal, float] | None = None

    def cut_off(self, principal: Principal, reason: str, by: str) -> bool:
        """Keep a stranger off for ``OUT_S`` from now. False for anybody else. Idempotent."""
        if principal.kind not in STRANGERS:
            return False
        with self._alone:
            self._realm.shut_out(principal)
            self._out()[principal] = self._clock()
        log.error("principal cut off", extra={"sender": principal.name, "by": by, "seconds": OUT_S, "why": reason})
        return True

    @contextmanager
    def staying_out(self, principal: Principal) -> Iterator[None]:
        """Whatever the block does to a principal's login, also where it fails, who is out stays out, and for as long.

        A sweep meanwhile may find it let in: a login that is made anew has no limits at first."""
        with self._alone:
            since_s = self._out().get(principal)
        try:
            yield
        finally:
            with self._alone:
                out = self._out()
                if since_s is not None:
                    out.setdefault(principal, since_s)
                if principal in out:
                    self._realm.shut_out(principal)

    def sweep(self) -> None:
        """Let in those whose time is over."""
        with self._alone:
            out = self._since_s = self._look()
            for principal in [one for one, since_s in out.items() if self._clock() - since_s > OUT_S]:
                self._realm.let_in(principal)
                del out[principal]
                log.warning("principal let in again", extra={"sender": principal.name})

    def _out(self) -> dict[Principal, float]:
        if self._since_s is None:
            self._since_s = self._look()
        return self._since_s

    def _look(self) -> dict[Principal, float]:
        """Ask the broker who is out. Whoever is in again by somebody else's hand has no time to serve."""
        known, now_s = self._since_s or {}, self._clock()
        return {principal: known.get(principal, now_s) for principal in self._realm.out()}
