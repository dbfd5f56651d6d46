"""The topology as a table: what every queue promises, and that each kind of message has exactly one way to go."""

from __future__ import annotations

import re

import pytest

from broker.principals import parse_principal
from broker.routes import CALLS, DEAD, DOWN, UP
from broker.topology import Overflow, Profile, QueueSpec, centre_queues, exchanges, queues_of

PRINCIPALS = ("host-a", "vm-a", "site-a", "adapter-job-1", "adapter-store-1", "adapter-store-2", "console-a", "keys")


def every_queue(profile: Profile) -> list[QueueSpec]:
    own = [spec for name in PRINCIPALS for spec in queues_of(parse_principal(name), profile)]
    return [*centre_queues(profile), *own]


def reached(exchange: str, key: str) -> list[str]:
    """Match as a topic exchange does, for the one wildcard that the table uses."""
    return [
        spec.name
        for spec in every_queue(Profile.SINGLE)
        for binding in spec.bindings
        if binding.exchange == exchange
        and re.fullmatch(re.escape(binding.key).replace(r"\*", r"[^.]*"), key) is not None
    ]


@pytest.mark.parametrize("profile", Profile)
def test_every_queue_is_bounded_and_has_a_name_of_its_own(profile: Profile) -> None:
    specs = every_queue(profile)

    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.arguments["x-max-length-bytes"] >= 1 << 20
        assert spec.arguments["x-overflow"] in ("reject-publish", "drop-head")


@pytest.mark.parametrize("profile", Profile)
def test_a_delivery_limit_is_said_wherever_the_type_knows_one(profile: Profile) -> None:
    for spec in every_queue(profile):
        few = 1_000_000_000 if spec.name == "vc.dead" else 20
        assert spec.arguments.get("x-delivery-limit") == (few if spec.type == "quorum" else None)


def test_what_overflows_is_never_dead_lettered() -> None:
    for spec in every_queue(Profile.SINGLE):
        assert not (spec.overflow is Overflow.DROP and spec.dead_letters)
    assert next(spec for spec in every_queue(Profile.SINGLE) if spec.name == "vc.dead").bindings[0].exchange == DEAD


def test_in_a_cluster_only_what_may_be_lost_is_classic() -> None:
    names = {spec.name for spec in every_queue(Profile.CLUSTER) if spec.type == "classic"}

    assert names == {
        "vc.inventory",
        "host.a.files",
        "vm.a.files",
        "vc.chunks.adapter-store-1",
        "vc.chunks.adapter-store-2",
    }


def test_on_one_machine_the_many_queues_of_vms_are_classic_too() -> None:
    both = [{spec.name for spec in every_queue(profile) if spec.type == "classic"} for profile in Profile]

    assert both[0] - both[1] == {"vm.a"}


def test_commands_have_one_consumer_at_a_time() -> None:
    names = {spec.name for spec in every_queue(Profile.SINGLE) if spec.single_active}

    assert names == {"host.a", "vm.a"}


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        (UP, "site-a.submit", "vc.submissions"),
        (UP, "site-a.ask", "vc.asks"),
        (UP, "site-a.read", "vc.reads"),
        (UP, "vm-a.request", "vc.requests"),
        (UP, "vm-a.beat", "vc.beats"),
        (UP, "vm-a.completion", "vc.completions"),
        (UP, "vm-a.offer", "vc.offers"),
        (UP, "vm-a.inventory", "vc.inventory"),
        (UP, "host-a.enrol", "vc.enrol"),
        (UP, "vm-a.chunk.adapter-store-1", "vc.chunks.adapter-store-1"),
        (UP, "vm-a.control.adapter-store-2", "vc.control.adapter-store-2"),
        (CALLS, "console-a.call", "vc.calls"),
        (CALLS, "adapter-job-1.cut", "vc.cuts"),
        (CALLS, "console-a.submit", "vc.submissions"),
        (CALLS, "console-a.offer", "vc.offers"),
        (CALLS, "console-a.keys", "vc.enrol"),
        (CALLS, "console-a.chunk.adapter-store-1", "vc.chunks.adapter-store-1"),
        (CALLS, "console-a.control.adapter-store-1", "vc.control.adapter-store-1"),
        (DOWN, "host.a", "host.a"),
        (DOWN, "vm.a", "vm.a"),
        (DOWN, "vm.a.files", "vm.a.files"),
        (DOWN, "site.a", "site.a"),
    ],
)
def test_a_kind_of_message_has_one_way_to_go(exchange: str, key: str, queue: str) -> None:
    assert reached(exchange, key) == [queue]


@pytest.mark.parametrize(
    "key",
    [
        "vm-a.call",
        "vm-a.keys",
        "vm-a.cut",
        "vm-a",
        "vm-a.beat.x",
        "vm-a.chunk.adapter-job-1",
        "vm-a.reply.console-a-1",
        "",
    ],
)
def test_what_volunteers_may_write_but_nobody_wants_goes_nowhere(key: str) -> None:
    assert reached(UP, key) == []


def test_only_queues_of_the_centre_hear_what_volunteers_write() -> None:
    listening = {spec.name for spec in every_queue(Profile.SINGLE) if any(one.exchange == UP for one in spec.bindings)}

    assert all(name.startswith("vc.") for name in listening)


def test_every_exchange_that_is_bound_exists() -> None:
    known = {one.name for one in exchanges()}

    assert {binding.exchange for spec in every_queue(Profile.SINGLE) for binding in spec.bindings} == known
