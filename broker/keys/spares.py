"""One-time logins that are made ahead, so that nobody waits while one is made: what a VM may do with it is the same for
each. They are known here and nowhere else. Those of a key manager that has ended are nobody's, and swept.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from broker.keys.realm import Realm
from broker.minting import new_password
from broker.principals import parse_principal
from schemas.ids import Kind, unguessable

#: So many are kept: a person starts one VM, and then another. Who starts many at once waits as before.
MOST = 2


class OnceLogin(NamedTuple):
    """A login, which nobody has been told."""

    user: str
    password: str


class SpareLogins:
    """See the module. For several threads."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._lock, self._filling = threading.Lock(), threading.Lock()
        self._ready: list[OnceLogin] = []
        #: Those that are being made, or handed out.
        self._between: set[str] = set()
        self._forgotten = 0

    def names(self) -> set[str]:
        """Name those that are somebody's though no VM has one yet."""
        with self._lock:
            return {one.user for one in self._ready} | self._between

    def take(self) -> OnceLogin | None:
        """Give one, if there is one; it stays named until it is ``noted`` whose it is."""
        with self._lock:
            one = self._ready.pop() if self._ready else None
            self._between |= {one.user} if one else set()
            return one

    def noted(self, user: str) -> None:
        """It is known otherwise from now on."""
        with self._lock:
            self._between.discard(user)

    def fill(self) -> None:
        """Make what is missing. Raises BrokerError; what was made by then is there."""
        with self._filling:
            while len(self._ready) < MOST:
                self._make(OnceLogin(unguessable(Kind.ONCE), new_password()))

    def forget(self) -> None:
        """Give none of those any more that were made until now: the broker may have lost them."""
        with self._lock:
            self._ready.clear()
            self._forgotten += 1

    def _make(self, login: OnceLogin) -> None:
        with self._lock:
            self._between.add(login.user)
            forgotten = self._forgotten
        try:
            self._realm.mint(parse_principal(login.user), login.password)
            with self._lock:
                self._ready += [login] if forgotten == self._forgotten else []
        finally:
            self.noted(login.user)
