"""What each principal may do, against a reference that knows no regular expressions, with hostile names."""

from __future__ import annotations

import re
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.keys.realm import BrokerRealm
from broker.management import Management
from broker.management.api import Api
from broker.management.users import Users
from broker.node import NodeAddress
from broker.principals import TOPIC_EXCHANGES, Permissions, Principal, parse_principal, permissions
from broker.routes import down, down_files, queue_of, reply, reply_queue, up, within
from broker.topology import Profile, queues_of
from schemas.ids import Kind, host_of, new_vm

_ALNUM = string.ascii_lowercase + string.digits

#: Ids that look like patterns, prefixes, suffixes and other principals' names.
ids = st.one_of(
    st.sampled_from(["a", "a-b", "a-reply", "reply", "files", "1", "a1", "a-1", "a--1", "up", "host-a", "store-1"]),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True),
)
suffixes = st.text(_ALNUM, min_size=1, max_size=32)
words = st.text(_ALNUM + "-.*#|$^\\()[]\n", max_size=24)


def principal(kind: str, name: str) -> Principal:
    return parse_principal(f"{kind}-{name}")


def allows(pattern: str, text: str) -> bool:
    """Match as the broker does: anywhere in the text, by a pattern that must anchor itself."""
    return re.search(pattern, text) is not None


def every_pattern(rights: Permissions) -> list[str]:
    topic = [one for permission in rights.topic.values() for one in (permission.write, permission.read)]
    return [rights.configure, rights.write, rights.read, *topic]


def every_name(name: str) -> list[Principal]:
    kinds = [kind for kind in Kind if kind is not Kind.KEYS]
    return [*(principal(kind, name) for kind in kinds), parse_principal("keys")]


@given(ids)
def test_every_pattern_is_anchored_and_every_topic_exchange_has_a_permission(name: str) -> None:
    for who in every_name(name):
        rights = permissions(who)
        assert set(rights.topic) == set(TOPIC_EXCHANGES)
        for pattern in every_pattern(rights):
            assert pattern.startswith("^")
            assert pattern.endswith(("$", r"\."))
            assert "|" not in re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", pattern), "an alternative escapes its anchor"


@pytest.mark.parametrize("kind", ["host", "vm"])
@given(mine=ids, other=ids, key=words)
def test_an_agent_reads_its_two_queues_and_writes_keys_of_its_own(kind: str, mine: str, other: str, key: str) -> None:
    me, them = principal(kind, mine), principal(kind, other)
    rights = permissions(me)
    own = {queue_of(me.name), f"{queue_of(me.name)}.files"}

    for queue in (queue_of(them.name), f"{queue_of(them.name)}.files", "vc.submissions", "vc.enrol", key):
        assert allows(rights.read, queue) == (queue in own)
    for text in (f"{me.name}.{key}", f"{them.name}.{key}", key):
        assert allows(rights.topic["vc.up"].write, text) == text.startswith(f"{me.name}.")
    assert {one for one in ("vc.up", "vc.down", "vc.calls", "vc.dead", "", key) if allows(rights.write, one)} <= {
        "vc.up"
    }
    assert (rights.configure, rights.topic["vc.down"].write) == ("^$", "^$")


@given(mine=ids, other=ids)
def test_a_vms_name_says_whose_it_is(mine: str, other: str) -> None:
    me, them = principal("host", mine), principal("host", other)

    assert host_of(new_vm(me.name)) == me.name
    assert (host_of(new_vm(them.name)) == me.name) == (me == them)


@given(mine=ids, other=ids, key=words)
def test_a_site_submits_asks_and_reads_its_own_queue_and_nothing_else(mine: str, other: str, key: str) -> None:
    rights = permissions(principal("site", mine))

    for text in (f"site-{mine}.submit", f"site-{other}.submit", f"site-{mine}.{key}", f"site-{mine}.submit.{key}"):
        own = {f"site-{mine}.{kind}" for kind in ("submit", "ask", "read")}
        assert allows(rights.topic["vc.up"].write, text) == (text in own)
    for queue in (f"site.{mine}", f"site.{other}", f"site.{mine}.files", key):
        assert allows(rights.read, queue) == (queue == f"site.{mine}")


@given(mine=ids, key=words)
def test_a_one_time_login_asks_for_its_credential_and_nothing_else(mine: str, key: str) -> None:
    rights = permissions(principal("once", mine))

    for text in (f"once-{mine}.enrol", f"once-{mine}.enrol.{key}", f"once-{mine}.{key}", key):
        assert allows(rights.topic["vc.up"].write, text) == (text == f"once-{mine}.enrol")
    assert (rights.configure, rights.read) == ("^$", "^$")


@given(mine=ids, other=ids, suffix=suffixes)
def test_a_console_hears_what_is_addressed_to_it_alone(mine: str, other: str, suffix: str) -> None:
    me, them = principal("console", mine), principal("console", other)
    rights = permissions(me)

    for who in (me, them):
        is_mine = who == me
        assert allows(rights.configure, reply_queue(who.name, suffix)) == is_mine
        assert allows(rights.read, reply_queue(who.name, suffix)) == is_mine
        key = reply("vm-1", who.name, suffix).key.replace("vm-1", "*", 1)
        assert allows(rights.topic["vc.up"].read, key) == is_mine
        assert allows(rights.topic["vc.calls"].write, up(who.name, "call").key) == is_mine
    for key in ("#", "*.reply.#", f"*.reply.console-{mine}-#", f"*.reply.{me.name}-*", f"*.reply.{me.name}-"):
        assert not allows(rights.topic["vc.up"].read, key)


@given(mine=ids, other=ids)
def test_a_console_commands_hosts_and_vms_but_judges_no_site(mine: str, other: str) -> None:
    write = permissions(principal("console", mine)).topic["vc.down"].write

    for kind in ("host", "vm"):
        assert allows(write, down(f"{kind}-{other}").key)
        assert allows(write, down_files(f"{kind}-{other}").key)
    assert not allows(write, down(f"site-{other}").key)
    assert not allows(write, "#")


@given(mine=ids, other=ids, suffix=suffixes)
def test_an_adapter_answers_everyone_in_its_own_name(mine: str, other: str, suffix: str) -> None:
    me, them = principal("adapter", mine), principal("adapter", other)
    rights = permissions(me)

    for kind in ("host", "vm", "site"):
        assert allows(rights.topic["vc.down"].write, down(f"{kind}-{other}").key)
    assert allows(rights.topic["vc.up"].write, reply(me.name, "console-x", suffix).key)
    assert allows(rights.topic["vc.up"].write, reply(them.name, "console-x", suffix).key) == (me == them)
    assert not allows(rights.topic["vc.up"].write, up(me.name, "submit").key)
    for who in (me, them):
        assert allows(rights.topic["vc.calls"].write, within(who.name, "cut").key) == (me == who)
        assert not allows(rights.topic["vc.calls"].write, f"{who.name}.call")
    assert allows(rights.read, "vc.requests")
    assert not allows(rights.read, "vc.enrol")
    for queue in (f"vc.chunks.{them.name}", f"vc.control.{them.name}"):
        assert allows(rights.read, queue) == (me == them and me.takes_files)


@given(mine=ids)
def test_whoever_has_queues_may_read_all_of_them(mine: str) -> None:
    for who in every_name(mine):
        for profile in Profile:
            for spec in queues_of(who, profile):
                assert allows(permissions(who).read, spec.name)


@given(mine=ids)
def test_only_the_key_manager_writes_the_default_exchange(mine: str) -> None:
    writers = {who.name for who in every_name(mine) if allows(permissions(who).write, "amq.default")}

    assert writers == {"keys"}


@given(st.one_of(words, words.map("vm-{}".format), ids.map("guest-{}".format), ids.map("vm-{}\n".format)))
def test_a_name_is_taken_or_refused_as_its_characters_say(name: str) -> None:
    kind, _, rest = name.partition("-")
    inner = bool(rest) and not rest.startswith("-") and not rest.endswith("-") and set(rest) <= set(_ALNUM + "-")
    good = name == "keys" or (kind in set(Kind) - {"keys"} and inner and len(rest) <= 63)

    if good:
        assert parse_principal(name).name == name
    else:
        with pytest.raises(ValueError, match="principal = "):
            parse_principal(name)


def test_an_id_has_at_most_63_characters() -> None:
    assert principal("vm", "a" * 63).id == "a" * 63
    with pytest.raises(ValueError, match="1 to 63 characters"):
        principal("vm", "a" * 64)


def test_users_whom_an_operator_has_shut_out_are_no_affair_of_the_key_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them ended the key manager at each start."""
    node = NodeAddress(host="h", amqp_port=1, management_port=2, prometheus_port=3, admin_user="a", admin_password="b")
    monkeypatch.setattr(Users, "shut_out", lambda _: ["guest", "monitoring", "vm-1f3a"])

    assert [one.name for one in BrokerRealm(node.administration, Profile.SINGLE).out()] == ["vm-1f3a"]


def test_a_broker_that_has_just_started_has_no_figures_and_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ says `[[]]` then; `status` took it for trouble."""
    node = NodeAddress(host="h", amqp_port=1, management_port=2, prometheus_port=3, admin_user="a", admin_password="b")
    said = iter([b"[[]]", b'[{"disk_free_alarm": true, "disk_free": 1048576, "disk_free_limit": 52428800}]'])
    monkeypatch.setattr(Api, "get", lambda _, path, kind: msgspec.json.decode(next(said), type=kind))

    assert Management(node.administration).alarms() == []
    assert Management(node.administration).alarms() == ["only 1 MiB of disk are free, 50 must be"]
