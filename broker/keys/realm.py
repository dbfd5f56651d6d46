"""What the key manager does to the broker: a port of eight verbs, the real one, and one in memory for tests.

Every verb blocks, is idempotent, and raises BrokerError (ManagementError with its HTTP status where there is one).
"""

from __future__ import annotations

from typing import Protocol

from broker.address import AdminAddress
from broker.entities import Declarer, administrator, declare
from broker.errors import ManagementError
from broker.management import MAX_CONNECTIONS, ConnectionInfo, Management
from broker.minting import give_rights, grant, limit, mint, unmint
from broker.principals import EVENTS, Principal, parse_principal
from broker.routes import queue_of
from broker.topology import Profile, owner_of
from schemas.ids import Kind


class Realm(Protocol):
    """The broker's principals."""

    def mint(self, principal: Principal, password: str) -> None:
        """Make it exist with its queues, rights and that password; it may connect then."""

    def unmint(self, principal: Principal) -> None:
        """Delete it with its connections and queues."""

    def lock_out(self, principal: Principal) -> None:
        """Delete its login and drop its connections; its queues and what is in them stay."""

    def named(self, kind: Kind) -> list[Principal]:
        """Give the principals of a kind that exist."""

    def ownerless(self) -> list[Principal]:
        """Give principals that have queues and no login: half deleted, or about to be made."""

    def shut_out(self, principal: Principal) -> None:
        """Let it open no connection; login and queues stay, and so do the connections that it has."""

    def let_in(self, principal: Principal) -> None:
        """Let it connect again."""

    def out(self) -> list[Principal]:
        """Give those that are shut out."""


class BrokerRealm:
    """A real broker, through its management API and an administrator's AMQP connection."""

    def __init__(self, address: AdminAddress, profile: Profile) -> None:
        self.address = address
        self.management = Management(address)
        self._profile = profile

    def prepare(self) -> None:
        """Make virtual host, exchanges and the centre's queues exist, and give sites that an earlier release has made
        the rights of this one. Raises BrokerError saying what is missing."""
        self.management.ensure_vhost()
        if EVENTS not in self.management.topology.exchanges():
            raise ManagementError(
                f"exchange {EVENTS} does not exist: enable the plugin rabbitmq_event_exchange and set "
                "event_exchange.vhost to this virtual host"
            )
        with self._declarer() as connection:
            declare(connection, self._profile)
        with self.management.together():
            queues = {info.name for info in self.management.topology.queues()}
            for site in filter(None, map(_ours, self.management.users.names())):
                if site.kind is Kind.SITE and queue_of(site.name) in queues:
                    give_rights(self.management, site)

    def mint(self, principal: Principal, password: str) -> None:
        """See ``Realm``; one-time logins and consoles have no queues to declare."""
        if principal.kind in (Kind.ONCE, Kind.CONSOLE, Kind.KEYS):
            grant(self.management, principal, password)
            return
        with self._declarer() as connection:
            mint(self.management, connection, principal, password, profile=self._profile)

    def unmint(self, principal: Principal) -> None:
        """See ``Realm``."""
        unmint(self.management, principal)

    def lock_out(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.management.users.delete(principal.name)

    def named(self, kind: Kind) -> list[Principal]:
        """See ``Realm``."""
        return [Principal(kind, name) for name in self.management.users.names() if name.startswith(f"{kind}-")]

    def ownerless(self) -> list[Principal]:
        """See ``Realm``."""
        users = set(self.management.users.names())
        owners = {owner_of(info.name) for info in self.management.topology.queues()}
        return sorted(one for one in owners if one is not None and one.name not in users)

    def shut_out(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.management.users.put_limit(principal.name, MAX_CONNECTIONS, 0)

    def let_in(self, principal: Principal) -> None:
        """See ``Realm``."""
        limit(self.management, principal)

    def out(self) -> list[Principal]:
        """See ``Realm``."""
        return [one for name in self.management.users.shut_out() if (one := _ours(name)) is not None]

    def connections(self) -> list[ConnectionInfo]:
        """Give the live connections, oldest first."""
        return self.management.connections.all()

    def close_connection(self, name: str, reason: str) -> bool:
        """Close one connection; False for one that is not known: gone, or too young."""
        return self.management.connections.close(name, reason)

    def _declarer(self) -> Declarer:
        address = self.address
        return administrator(address)


class FakeRealm:
    """Principals in memory; public, and the documentation of what the verbs mean."""

    def __init__(self) -> None:
        #: Passwords by principal.
        self.passwords: dict[str, str] = {}
        #: Principals that have queues.
        self.queues: set[str] = set()
        #: Principals that may not connect.
        self.kept_out: set[str] = set()
        #: Whose connections were dropped, in order.
        self.drops: list[str] = []

    def mint(self, principal: Principal, password: str) -> None:
        """See ``Realm``."""
        self.passwords[principal.name] = password
        self.queues.add(principal.name)
        self.kept_out.discard(principal.name)

    def unmint(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.lock_out(principal)
        self.queues.discard(principal.name)

    def lock_out(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.passwords.pop(principal.name, None)
        self.kept_out.discard(principal.name)
        self.drops.append(principal.name)

    def named(self, kind: Kind) -> list[Principal]:
        """See ``Realm``."""
        return [Principal(kind, name) for name in self.passwords if name.startswith(f"{kind}-")]

    def ownerless(self) -> list[Principal]:
        """See ``Realm``."""
        return [parse_principal(name) for name in sorted(self.queues) if name not in self.passwords]

    def shut_out(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.kept_out.add(principal.name)

    def let_in(self, principal: Principal) -> None:
        """See ``Realm``."""
        self.kept_out.discard(principal.name)

    def out(self) -> list[Principal]:
        """See ``Realm``."""
        return [parse_principal(name) for name in sorted(self.kept_out)]


def _ours(name: str) -> Principal | None:
    """Read a user's name; None for one that is nobody of ours: whom an operator shuts out is his affair."""
    try:
        return parse_principal(name)
    except ValueError:
        return None
