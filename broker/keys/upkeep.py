"""The upkeep of VMs' principals: what is too old, disowned or forgotten goes, and what only the broker knows is noted.

Each VM is dealt with by itself, alone with it. For several threads; ages are time that was served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import msgspec

from broker.keys import vouching
from broker.keys.realm import Realm
from broker.keys.spares import SpareLogins
from broker.keys.store import EnrolledVm, EnrolmentStore
from broker.keys.subjects import Subjects
from broker.principals import Principal, parse_principal
from schemas.ids import Kind

log = logging.getLogger(__name__)


class Upkeep:
    """See the module. Raises BrokerError where the broker fails: then do it again, nothing is half done for good."""

    def __init__(self, realm: Realm, store: EnrolmentStore, subjects: Subjects, spares: SpareLogins) -> None:
        self._realm, self._store, self._subjects, self._spares = realm, store, subjects, spares
        #: Principals that had queues and no login when that was looked at last.
        self._ownerless: set[Principal] = set()

    def sweep(self, served_s: float, lifetime_s: float) -> None:
        """Delete the one-time logins that are too old, and those that nobody remembers.

        ``served_s`` is how long logins could be used, and hosts vouch, since this was called last.
        """
        self._store.grow_older(served_s)
        for record in self._store.with_once():
            if record.once_age_s > lifetime_s:
                self._expire(record.vm, lifetime_s)
        found = self._realm.named(Kind.ONCE)  # first: what is minted after this was remembered before
        # In this order: a spare that is handed out between the two is in one of them at least.
        known = self._spares.names()
        known |= {record.once_user for record in self._store.with_once()}
        for principal in found:
            if principal.name not in known:
                self._realm.unmint(principal)

    def review(self) -> None:
        """Delete VMs for which nobody vouches any more; remember those that are on the broker and unknown here, so that
        they grow old too; delete queues that had no owner now and last time."""
        for record in self._store.everything():
            if vouching.is_nobodys(record):
                log.warning("nobody vouches for it", extra={"vm": record.vm, "host": record.host})
                self.delete(record.vm, vouching.is_nobodys)
        for principal in self._realm.named(Kind.VM):
            self._adopt(principal)
        found = set(self._realm.ownerless())
        for principal in sorted(found & self._ownerless):
            log.warning("queues without an owner deleted", extra={"principal": principal.name})
            self._realm.unmint(principal)
        self._ownerless = found - self._ownerless

    def vouch(self, host: str, named: Collection[str], aside: Collection[str] = ()) -> None:
        """Note which VMs a host has, which it has and does not know, and which of its VMs it has no more."""
        for record in [*self._store.of_host(host), *self._store.of_host("")]:
            with self._subjects.alone_with(record.vm):
                now = self._store.by_vm(record.vm)
                for changed in vouching.vouched(host, [now] if now else [], named, aside):
                    self._store.put(changed)
                    if changed.disowned:
                        log.warning("vm disowned", extra={"vm": changed.vm, "host": host})

    def delete(self, vm: str, is_meant: Callable[[EnrolledVm], bool]) -> None:
        """Delete a VM's principals, if it is known and still meant. The record goes last, so that a failure before
        leaves something to try again with."""
        with self._subjects.alone_with(vm):
            record = self._store.by_vm(vm)
            if record is None or not is_meant(record):
                return
            if record.once_user:
                self._realm.unmint(parse_principal(record.once_user))
            self._realm.unmint(Principal(Kind.VM, record.vm))
            self._store.forget(record.vm)
            log.info("vm revoked", extra={"vm": record.vm, "host": record.host})

    def drop_once(self, record: EnrolledVm) -> None:
        """Delete a VM's one-time login, and forget what it may ask for. The caller is alone with the VM."""
        if record.once_user:
            self._realm.unmint(parse_principal(record.once_user))
        cleared = msgspec.structs.replace(record, once_user="", once_password="", password="", once_age_s=0.0)
        self._store.put(cleared)

    def _expire(self, vm: str, lifetime_s: float) -> None:
        with self._subjects.alone_with(vm):
            record = self._store.by_vm(vm)
            if record is not None and record.once_user and record.once_age_s > lifetime_s:
                log.info("one-time login expired", extra={"vm": record.vm, "generation": record.generation})
                self.drop_once(record)

    def _adopt(self, principal: Principal) -> None:
        """Remember a VM that is on the broker and not here: our memory was lost, or is older. Some host may know it."""
        with self._subjects.alone_with(principal.name):
            if self._store.by_vm(principal.name) is None:
                log.warning("unknown vm on the broker", extra={"vm": principal.name})
                self._store.put(EnrolledVm(vm=principal.name, host="", generation=0))
