"""Making and unmaking principals on a broker, in the order that leaves no gap.

A user without a topic permission may use every key of that exchange, also on channels that are open already: so a
fresh user gets a password that nobody knows, then its rights and limits, and only then the password that is handed out.
"""

from __future__ import annotations

import secrets

from broker.entities import Declarer, declare_queues
from broker.management import MAX_CONNECTIONS, Management
from broker.principals import Principal, limits, permissions
from broker.topology import Profile, queues_of


def new_password() -> str:
    """Make a password that nobody guesses: 192 random bits."""
    return secrets.token_urlsafe(24)


def mint(
    management: Management,
    connection: Declarer,
    principal: Principal,
    password: str,
    *,
    profile: Profile = Profile.SINGLE,
) -> None:
    """Make a principal exist with its queues, rights, limits and that password. Idempotent.

    An existing one keeps its live connections and what is in its queues. After a failure it may exist, but nobody
    knows its password and it has no right that it should not have; call again. Raises ManagementError or BrokerError.
    """
    declare_queues(connection, queues_of(principal, profile))
    grant(management, principal, password)


def grant(management: Management, principal: Principal, password: str) -> None:
    """Do the part of ``mint`` that is not queues."""
    with management.together():
        if not management.users.exists(principal.name):
            management.users.put(principal.name, new_password())
        give_rights(management, principal)
        limit(management, principal)
        management.users.put(principal.name, password)


def give_rights(management: Management, principal: Principal) -> None:
    """Let a principal do what its kind may, whatever it could before. Idempotent. Raises ManagementError."""
    rights = permissions(principal)
    for exchange, topic in rights.topic.items():
        management.permissions.put_topic(principal.name, exchange, topic.write, topic.read)
    management.permissions.put(principal.name, rights.configure, rights.write, rights.read)


def limit(management: Management, principal: Principal) -> None:
    """Let a principal hold open what its kind may. Idempotent. Raises ManagementError."""
    its = limits(principal)
    management.users.put_limit(principal.name, MAX_CONNECTIONS, its.max_connections)
    management.users.put_limit(principal.name, "max-channels", its.max_channels)


def unmint(management: Management, principal: Principal) -> None:
    """Delete a principal: its login, its live connections, its queues. Idempotent. Raises ManagementError."""
    with management.together():
        management.users.delete(principal.name)
        for spec in queues_of(principal, Profile.SINGLE):
            management.topology.delete_queue(spec.name)
