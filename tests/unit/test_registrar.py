"""Who gets which credential: hosts ask for their VMs, VMs trade and confirm, consoles mint and delete."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.address import Address, read_address
from broker.delivery import Properties
from broker.errors import ManagementError
from broker.keys import service, vouching
from broker.keys.realm import FakeRealm
from broker.keys.registrar import Quotas, Registrar
from broker.keys.spares import MOST
from broker.keys.store import EnrolledVm, EnrolmentStore, reading
from broker.memory import MemoryCarrier
from broker.principals import Principal
from schemas.codec import decode, encode
from schemas.endpoints import Endpoint
from schemas.enrol import (
    Credential,
    EnrolConfirm,
    EnrolGrant,
    EnrolGranted,
    EnrolRevoke,
    EnrolTrade,
    EnrolVouch,
    KeysDelete,
    KeysList,
    KeysMint,
    PrincipalCut,
)
from schemas.envelope import Done, Failed, Message, Ping
from schemas.errors import DecodeError, ErrorCode
from schemas.ids import Kind
from tests.broker.polling import until

VM_A, VM_B, VM_C, VM_D = (f"vm-{host}-{number:010x}" for number, host in enumerate("aabd", start=10))
BROKER = Address(endpoints=(Endpoint("broker", 5672),), user="", password="")


class Desk:
    """A registrar with its realm, and the questions that a test asks it."""

    def __init__(self, directory: Path) -> None:
        self.realm = FakeRealm()
        self.directory = directory
        self.store = EnrolmentStore(directory / "keys.sqlite")
        self.registrar = Registrar(self.realm, self.store, directory / "credentials", BROKER)
        self.now_s = 1000.0

    def restart(self) -> None:
        self.store.close()
        self.store = EnrolmentStore(self.directory / "keys.sqlite")
        self.registrar = Registrar(self.realm, self.store, self.directory / "credentials", BROKER)

    def ask(self, sender: str, message: Message) -> Any:
        return self.registrar.handle(sender, message, self.now_s)

    def grant(self, generation: int = 1, host: str = "host-a", vm: str = VM_A) -> Any:
        return self.ask(host, EnrolGrant(vm=vm, generation=generation))

    def trade(self, granted: EnrolGranted) -> Any:
        return self.ask(granted.user, EnrolTrade(generation=granted.generation))

    def enrol(self, generation: int = 1, host: str = "host-a", vm: str = VM_A) -> Credential:
        credential = self.trade(self.grant(generation, host, vm))
        self.ask(vm, EnrolConfirm(generation=generation))
        assert isinstance(credential, Credential)
        return credential


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path)
    yield one
    one.store.close()


def code_of(answer: Any) -> ErrorCode:
    assert isinstance(answer, Failed), answer
    return answer.code


def test_a_vm_gets_its_own_login_for_the_one_in_its_seed(desk: Desk) -> None:
    granted = desk.grant()
    credential = desk.trade(granted)

    assert granted.user.startswith("once-")
    assert credential.user == VM_A
    assert desk.realm.passwords == {granted.user: granted.password, VM_A: credential.password}


def test_the_same_question_gets_the_same_answer_until_the_vm_has_confirmed(desk: Desk) -> None:
    first = desk.grant()
    assert desk.grant().user == first.user
    traded = desk.trade(first)
    desk.restart()

    again = desk.trade(desk.grant())

    assert (again.user, again.password) == (traded.user, traded.password)


def test_a_confirmed_vm_leaves_no_one_time_login_and_no_password_behind(desk: Desk) -> None:
    granted = desk.grant()
    credential = desk.trade(granted)

    assert desk.ask(VM_A, EnrolConfirm(generation=1)) is None

    assert desk.realm.passwords == {VM_A: credential.password}
    assert code_of(desk.trade(granted)) is ErrorCode.NOT_FOUND
    record = desk.store.by_vm(VM_A)
    assert record is not None
    assert (record.once_user, record.once_password, record.password) == ("", "", "")
    files = [path for path in desk.directory.iterdir() if path.is_file()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_confirming_twice_or_too_early_changes_nothing(desk: Desk) -> None:
    desk.ask(VM_A, EnrolConfirm())
    granted = desk.grant()
    desk.ask(VM_A, EnrolConfirm(generation=1))

    assert granted.user in desk.realm.passwords
    desk.trade(granted)
    desk.ask(VM_A, EnrolConfirm(generation=1))
    desk.ask(VM_A, EnrolConfirm(generation=1))
    assert list(desk.realm.passwords) == [VM_A]


def test_a_newer_generation_locks_the_older_one_out_and_keeps_its_queues(desk: Desk) -> None:
    old = desk.enrol(generation=1)

    granted = desk.grant(generation=2)
    assert desk.realm.passwords[VM_A] == old.password, "a boot that never comes locks nobody out"
    new = desk.trade(granted)

    assert desk.realm.passwords[VM_A] == new.password != old.password
    assert VM_A in desk.realm.queues


def test_a_confirmation_of_the_older_generation_does_not_end_the_newer_ones_login(desk: Desk) -> None:
    desk.enrol(generation=1)
    granted = desk.grant(generation=2)
    desk.trade(granted)

    desk.ask(VM_A, EnrolConfirm(generation=1))

    assert granted.user in desk.realm.passwords


def test_an_older_generation_gets_nothing(desk: Desk) -> None:
    old = desk.grant(generation=1)
    desk.grant(generation=2)

    assert code_of(desk.grant(generation=1)) is ErrorCode.STALE_GENERATION
    assert code_of(desk.trade(old)) is ErrorCode.NOT_FOUND
    assert old.user not in desk.realm.passwords


def test_a_trade_for_another_generation_than_the_logins_is_stale(desk: Desk) -> None:
    granted = desk.grant(generation=2)

    assert code_of(desk.ask(granted.user, EnrolTrade(generation=1))) is ErrorCode.STALE_GENERATION
    assert VM_A not in desk.realm.passwords


def test_a_vm_that_lost_its_credential_gets_another_and_the_old_one_is_dropped(desk: Desk) -> None:
    old = desk.enrol(generation=1)

    new = desk.trade(desk.grant(generation=1))

    assert new.password != old.password
    assert desk.realm.passwords[VM_A] == new.password
    assert VM_A in desk.realm.drops


def test_a_vm_belongs_to_the_host_that_its_name_says_also_before_that_one_has_asked(desk: Desk) -> None:
    assert code_of(desk.grant(host="host-b")) is ErrorCode.FORBIDDEN
    assert code_of(desk.ask("host-b", EnrolRevoke(vm=VM_A))) is ErrorCode.FORBIDDEN
    desk.ask("host-b", EnrolVouch(vms=[VM_A]))
    assert desk.store.by_vm(VM_A) is None

    credential = desk.enrol(host="host-a")

    assert code_of(desk.grant(generation=9, host="host-b")) is ErrorCode.FORBIDDEN
    assert code_of(desk.ask("host-b", EnrolRevoke(vm=VM_A))) is ErrorCode.FORBIDDEN
    assert desk.realm.passwords == {VM_A: credential.password}


@pytest.mark.parametrize("vm", ["vm-a", "vm-a-b", "vm-b-a-0000000001", "vm-a-0000000001-x", "vm-a-b-0000000001"])
def test_a_name_that_only_looks_like_that_of_a_hosts_vm_is_not(desk: Desk, vm: str) -> None:
    assert code_of(desk.grant(host="host-a", vm=vm)) is ErrorCode.FORBIDDEN


@pytest.mark.parametrize("name", ["host-b", "once-1", "keys", "vm-", "vm-A", "vm-a.b", "adapter-job-1", "", "vm-a\n"])
def test_a_host_gets_a_login_for_nothing_but_a_vm(desk: Desk, name: str) -> None:
    assert code_of(desk.grant(vm=name)) is ErrorCode.BAD_REQUEST
    assert desk.realm.passwords == {}


def test_a_deleted_vm_is_gone_with_its_queues_and_its_login(desk: Desk) -> None:
    desk.trade(desk.grant())

    assert isinstance(desk.ask("host-a", EnrolRevoke(vm=VM_A)), Done)
    assert isinstance(desk.ask("host-a", EnrolRevoke(vm=VM_A)), Done)

    assert desk.realm.passwords == {}
    assert VM_A not in desk.realm.queues
    assert desk.store.by_vm(VM_A) is None


def test_a_login_that_nobody_used_to_the_end_goes_when_its_time_is_up(desk: Desk) -> None:
    granted = desk.grant()

    desk.registrar.upkeep.sweep(600, 600)
    assert granted.user in desk.realm.passwords
    desk.registrar.upkeep.sweep(1, 600)
    assert granted.user not in desk.realm.passwords

    assert desk.grant().user != granted.user


def test_a_login_does_not_grow_older_while_nobody_could_have_used_it(desk: Desk) -> None:
    """The key manager was away for half an hour while a VM booted; it once swept first, and the login was gone."""
    granted = desk.grant()
    desk.registrar.upkeep.sweep(300, 600)
    desk.now_s += 1800
    desk.restart()

    desk.registrar.upkeep.sweep(0, 600)

    assert isinstance(desk.trade(granted), Credential)


def test_a_later_generations_login_is_as_young_as_it_is(desk: Desk) -> None:
    desk.grant(generation=1)
    desk.registrar.upkeep.sweep(599, 600)
    granted = desk.grant(generation=2)

    desk.registrar.upkeep.sweep(599, 600)

    assert granted.user in desk.realm.passwords


def test_a_host_has_no_more_vms_than_its_quota(desk: Desk) -> None:
    """300 grants once gave a stolen host 300 users."""
    answers = [desk.grant(vm=f"vm-a-{number:010x}") for number in range(300)]

    assert sum(isinstance(answer, EnrolGranted) for answer in answers) == 128 == len(desk.realm.passwords)
    assert answers[-1].message == "vm = 'vm-a-000000012b': host-a has 128 VMs already, the most that a host may have"
    desk.ask("host-a", EnrolRevoke(vm=f"vm-a-{7:010x}"))
    assert isinstance(desk.grant(vm=f"vm-a-{299:010x}"), EnrolGranted)
    assert isinstance(desk.grant(vm=f"vm-b-{300:010x}", host="host-b"), EnrolGranted)
    assert isinstance(desk.grant(vm=f"vm-a-{0:010x}", generation=2), EnrolGranted), (
        "a VM that is there may be started again"
    )


def test_there_are_no_more_sites_than_their_quota(desk: Desk) -> None:
    registrar = Registrar(desk.realm, desk.store, desk.directory / "credentials", BROKER, Quotas(sites=2))
    answers = [registrar.handle("console-op", KeysMint(site=name), 0) for name in ("a", "b", "c", "a")]

    assert [type(answer) for answer in answers] == [Credential, Credential, Failed, Credential]


@pytest.mark.parametrize(
    "message", [EnrolGrant(vm="vm-" + "x" * 78), KeysDelete(principal="x" * 81), EnrolRevoke(vm="x" * 81)]
)
def test_a_name_that_is_too_long_is_refused_at_the_door(message: Message) -> None:
    """A name of 1 MiB once made an answer that was too long to be sent."""
    with pytest.raises(DecodeError, match="at most 80 characters"):
        decode(encode(message))


def test_a_vm_that_its_host_has_forgotten_goes(desk: Desk) -> None:
    """It once kept its user and queues for ever."""
    desk.enrol(vm=VM_A)
    desk.enrol(vm=VM_B)
    desk.ask("host-a", EnrolVouch(vms=[VM_B]))
    desk.registrar.upkeep.sweep(vouching.DISOWNED_S, 600)
    desk.registrar.upkeep.review()
    assert VM_A in desk.realm.passwords

    desk.registrar.upkeep.sweep(1, 600)
    desk.ask("host-a", EnrolVouch(vms=[VM_B]))
    desk.registrar.upkeep.review()

    assert list(desk.realm.passwords) == [VM_B]
    assert VM_A not in desk.realm.queues


def test_a_vm_whose_host_never_comes_back_goes_much_later(desk: Desk) -> None:
    desk.enrol(vm=VM_A)
    for _ in range(45):
        desk.registrar.upkeep.sweep(86400, 600)
        desk.registrar.upkeep.review()
    assert VM_A in desk.realm.passwords

    desk.registrar.upkeep.sweep(86400, 600)
    desk.registrar.upkeep.review()

    assert desk.realm.passwords == {}


def test_a_vm_that_its_host_has_after_all_is_not_disowned_any_more(desk: Desk) -> None:
    desk.enrol(vm=VM_A)
    desk.ask("host-a", EnrolVouch(vms=[]))
    desk.registrar.upkeep.sweep(vouching.DISOWNED_S / 2, 600)
    desk.ask("host-a", EnrolVouch(vms=[VM_A]))
    desk.registrar.upkeep.sweep(vouching.DISOWNED_S, 600)
    desk.registrar.upkeep.review()

    assert VM_A in desk.realm.passwords
    desk.ask("host-a", EnrolVouch(vms=[]))
    desk.grant(vm=VM_A, generation=2)
    record = desk.store.by_vm(VM_A)
    assert record is not None
    assert not record.disowned, "who asks for a login vouches"


def test_a_vm_that_is_not_remembered_belongs_to_the_host_that_vouches_for_it(desk: Desk) -> None:
    """A key manager whose memory was lost ends nobody at once, and nobody for ever."""
    desk.realm.mint(Principal(Kind.VM, VM_C), "x")
    desk.registrar.upkeep.review()

    desk.ask("host-a", EnrolVouch(vms=[VM_C]))
    desk.ask("host-b", EnrolVouch(vms=[VM_C]))

    record = desk.store.by_vm(VM_C)
    assert record is not None
    assert record.host == "host-b"
    assert code_of(desk.grant(vm=VM_C, host="host-a")) is ErrorCode.FORBIDDEN
    assert isinstance(desk.grant(vm=VM_C, host="host-b", generation=4), EnrolGranted)


def test_a_vm_from_before_names_said_whose_they_are_stays_its_hosts(desk: Desk) -> None:
    desk.store.put(EnrolledVm(vm="vm-of-old", host="host-a", generation=1))
    desk.realm.mint(Principal(Kind.VM, "vm-of-old"), "x")

    for host in ("host-a", "host-b"):
        desk.ask(host, EnrolVouch(vms=["vm-of-old"]))
    desk.registrar.upkeep.sweep(vouching.DISOWNED_S + 1, 600)
    desk.registrar.upkeep.review()

    assert "vm-of-old" in desk.realm.passwords
    refused = desk.grant(vm="vm-of-old", generation=2)
    assert isinstance(refused, Failed)
    assert "create it again" in refused.hint


def test_nobody_vouches_or_disowns_for_another(desk: Desk) -> None:
    desk.enrol(vm=VM_A, host="host-a")

    desk.ask("host-b", EnrolVouch(vms=[VM_A]))
    desk.ask("host-b", EnrolVouch(vms=[]))

    record = desk.store.by_vm(VM_A)
    assert record is not None
    assert (record.host, record.disowned) == ("host-a", False)


def test_who_is_cut_off_does_not_come_in_by_a_new_login(desk: Desk) -> None:
    """A host that floods through its VM would only have to start it again, and itself to outlive the key manager."""
    desk.registrar.ensure(["host-a"])
    desk.enrol(generation=1)
    for name in ("host-a", VM_A):
        assert desk.ask("adapter-job-1", PrincipalCut(principal=name, reason="flood")) is None
    desk.restart()

    desk.enrol(generation=2)
    desk.registrar.ensure(["host-a"])

    assert desk.realm.kept_out == {"host-a", VM_A}


def test_an_operator_is_told_of_vms_that_nobody_vouches_for(desk: Desk) -> None:
    for vm in (VM_A, VM_B):
        desk.enrol(vm=vm)
    desk.enrol(vm=VM_C, host="host-b")
    desk.realm.mint(Principal(Kind.VM, VM_D), "x")
    desk.ask("host-a", EnrolVouch(vms=[VM_B]))
    desk.registrar.upkeep.review()

    with reading(desk.directory / "keys.sqlite") as records:
        told = {record.vm: vouching.complaint(record) for record in records}

    assert told == {
        VM_A: "host-a says that it has no such VM; it goes in 60 min",
        VM_B: "",
        VM_C: "",
        VM_D: "no host has vouched for it for 0 h",
    }
    desk.registrar.upkeep.sweep(8 * 86400, 600)
    with reading(desk.directory / "keys.sqlite") as records:
        assert vouching.complaint(records[2]) == "host-b has not vouched for it for 8 days"


def test_queues_without_an_owner_go_when_they_are_seen_twice(desk: Desk) -> None:
    """Once may be in the midst of a minting, which makes the queues first."""
    desk.realm.queues.add("vm-half")

    desk.registrar.upkeep.review()
    assert "vm-half" in desk.realm.queues
    desk.registrar.upkeep.review()

    assert "vm-half" not in desk.realm.queues


def test_an_older_memory_gets_its_new_columns(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "keys.sqlite")) as database:
        database.execute(
            "CREATE TABLE vms (vm TEXT PRIMARY KEY, host TEXT NOT NULL, generation INTEGER NOT NULL, "
            "once_user TEXT NOT NULL DEFAULT '', once_password TEXT NOT NULL DEFAULT '', "
            "once_made_s REAL NOT NULL DEFAULT 0, password TEXT NOT NULL DEFAULT '') STRICT"
        )
        database.execute("INSERT INTO vms (vm, host, generation) VALUES (?, 'host-a', 3)", [VM_A])
        database.commit()

    store = EnrolmentStore(tmp_path / "keys.sqlite")

    assert store.by_vm(VM_A) == EnrolledVm(vm=VM_A, host="host-a", generation=3)
    store.close()


def test_several_threads_leave_one_vm_one_login(desk: Desk) -> None:
    """What principals ask is done side by side; whoever decides about one VM is alone with it."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: desk.grant(), range(40)))
        credentials = list(threads.map(lambda _: desk.trade(answers[0]), range(40)))

    assert len({answer.user for answer in answers}) == 1
    assert len({credential.password for credential in credentials}) == 1
    assert len(desk.realm.passwords) == 2


def test_logins_that_nobody_remembers_are_swept(desk: Desk) -> None:
    granted = desk.grant()
    desk.realm.mint(Principal(Kind.ONCE, "once-left"), "x")

    desk.registrar.upkeep.sweep(0, 600)

    assert list(desk.realm.passwords) == [granted.user]


def test_a_console_mints_a_site_once_and_reads_the_same_credential_each_time(desk: Desk) -> None:
    first = desk.ask("console-op", KeysMint(site="cern"))
    desk.restart()
    second = desk.ask("console-op", KeysMint(site="cern"))

    assert first.user == "site-cern"
    assert second.password == first.password == desk.realm.passwords["site-cern"]


def test_a_console_is_told_which_sites_there_are(desk: Desk) -> None:
    assert desk.ask("console-op", KeysList()).sites == []
    for name in ("oslo", "cern"):
        desk.ask("console-op", KeysMint(site=name))
    desk.registrar.ensure(["host-a"])

    assert desk.ask("console-op", KeysList()).sites == ["site-cern", "site-oslo"]


def test_a_console_deletes_a_site_for_good(desk: Desk) -> None:
    first = desk.ask("console-op", KeysMint(site="cern"))

    assert isinstance(desk.ask("console-op", KeysDelete(principal="site-cern")), Done)
    assert isinstance(desk.ask("console-op", KeysDelete(principal="site-cern")), Done)

    assert desk.realm.passwords == {}
    assert desk.ask("console-op", KeysMint(site="cern")).password != first.password


def test_with_a_host_go_its_vms_and_no_others(desk: Desk) -> None:
    desk.registrar.ensure(["host-a"])
    desk.enrol(host="host-a", vm=VM_A)
    desk.grant(host="host-a", vm=VM_B)
    desk.enrol(host="host-b", vm=VM_C)

    desk.ask("console-op", KeysDelete(principal="host-a"))

    assert list(desk.realm.passwords) == [VM_C]
    assert not (desk.directory / "credentials" / "host-a.json").exists()


@pytest.mark.parametrize("name", ["keys", "adapter-job-1", "console-op", "once-1"])
def test_what_a_console_may_not_delete_stays(desk: Desk, name: str) -> None:
    desk.registrar.ensure([name])

    assert code_of(desk.ask("console-op", KeysDelete(principal=name))) is ErrorCode.FORBIDDEN
    assert name in desk.realm.passwords


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        (VM_A, EnrolGrant(vm=VM_B)),
        ("once-1", EnrolGrant(vm=VM_B)),
        ("site-a", KeysMint(site="b")),
        ("site-a", KeysList()),
        ("host-a", KeysDelete(principal="host-b")),
        (VM_A, EnrolRevoke(vm=VM_A)),
        ("host-a", EnrolTrade()),
        ("administrator", KeysMint(site="b")),
        ("host-a", Ping()),
    ],
)
def test_nobody_may_ask_for_what_is_anothers(desk: Desk, sender: str, message: Message) -> None:
    assert code_of(desk.ask(sender, message)) is ErrorCode.FORBIDDEN
    assert desk.realm.passwords == {}


def test_ensured_principals_keep_their_password_and_follow_the_broker_to_another_port(desk: Desk) -> None:
    desk.registrar.ensure(["host-a", "adapter-job-1"])
    path = desk.directory / "credentials" / "host-a.json"
    first = read_address(path)
    moved = Address(endpoints=(Endpoint("broker", 7777),), user="", password="")

    Registrar(desk.realm, desk.store, path.parent, moved).ensure(["host-a"])

    assert path.stat().st_mode & 0o777 == 0o600
    assert (read_address(path).endpoints[0].port, read_address(path).password) == (7777, first.password)
    assert desk.realm.passwords["host-a"] == first.password


class BreakingRealm(FakeRealm):
    """Fails at the n-th thing that is asked of it, once."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_at = 0
        self.calls = 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ManagementError("away")

    def mint(self, principal: Principal, password: str) -> None:
        self._count()
        super().mint(principal, password)

    def unmint(self, principal: Principal) -> None:
        self._count()
        super().unmint(principal)

    def lock_out(self, principal: Principal) -> None:
        self._count()
        super().lock_out(principal)


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_whatever_breaks_off_asking_again_brings_it_to_its_end(tmp_path: Path, fails_at: int) -> None:
    desk = Desk(tmp_path)
    realm = desk.realm = BreakingRealm()
    desk.restart()
    realm.fails_at = fails_at
    script: list[tuple[str, Message]] = [
        ("host-a", EnrolGrant(vm=VM_A, generation=1)),
        ("once", EnrolTrade(generation=1)),
        (VM_A, EnrolConfirm(generation=1)),
        ("host-a", EnrolGrant(vm=VM_A, generation=2)),
        ("once", EnrolTrade(generation=2)),
        (VM_A, EnrolConfirm(generation=2)),
    ]
    answers: list[Any] = []

    for sender, message in script:
        who = answers[-1].user if sender == "once" else sender
        try:
            answers.append(desk.ask(who, message))
        except ManagementError:
            desk.restart()
            answers.append(desk.ask(who, message))

    desk.store.close()
    assert realm.passwords == {VM_A: answers[4].password}
    assert realm.queues >= {VM_A}


def test_the_vms_of_a_host_are_kin_and_its_one_time_logins_too(desk: Desk) -> None:
    granted = desk.grant(vm=VM_A)
    desk.enrol(vm=VM_B)
    desk.enrol(vm=VM_C, host="host-b")
    kin = desk.registrar.kin_of

    assert kin(granted.user) == kin(VM_A) == kin(VM_B) == "VMs of host-a"
    assert kin(VM_C) == "VMs of host-b"
    assert [kin(name) for name in ("host-a", "vm-nobodys", "site-a")] == ["host-a", "vm-nobodys", "site-a"]
    desk.restart()
    assert desk.registrar.kin_of(granted.user) == "VMs of host-a"
    desk.ask("host-a", EnrolRevoke(vm=VM_A))
    assert desk.registrar.kin_of(VM_A) == VM_A
    assert desk.registrar.kin_of(granted.user) == granted.user


def test_a_login_that_was_made_ahead_is_handed_out_at_once_and_another_when_there_is_none(desk: Desk) -> None:
    desk.registrar.spares.fill()
    ahead = desk.registrar.spares.names()
    minted: list[str] = []
    desk.realm.mint = lambda principal, password: minted.append(principal.name)  # type: ignore[method-assign]

    given = [desk.grant(vm=vm) for vm in (VM_A, VM_B)]
    again = desk.grant(vm=VM_A)
    other = desk.grant(vm=f"{VM_A[:-1]}f")

    assert {one.user for one in given} == ahead
    assert [desk.realm.passwords[one.user] for one in given] == [one.password for one in given]
    assert (again.user, again.password) == (given[0].user, given[0].password)
    assert other.user not in ahead
    assert minted == [again.user, other.user]
    assert desk.registrar.spares.names() == set()


def test_a_login_that_was_made_ahead_buys_a_credential_and_is_gone_then(desk: Desk) -> None:
    desk.registrar.spares.fill()
    granted = desk.grant()

    credential = desk.trade(granted)
    desk.ask(VM_A, EnrolConfirm(generation=1))

    assert isinstance(credential, Credential)
    assert granted.user not in desk.realm.passwords


def test_logins_that_were_made_ahead_are_kept_from_being_swept_and_go_with_the_key_manager_that_made_them(
    desk: Desk,
) -> None:
    desk.registrar.spares.fill()
    ahead = desk.registrar.spares.names()
    desk.registrar.upkeep.sweep(30.0, 600.0)
    kept = {name for name in desk.realm.passwords if name.startswith("once-")}

    desk.restart()
    desk.registrar.upkeep.sweep(30.0, 600.0)

    assert kept == ahead
    assert len(ahead) == MOST
    assert not [name for name in desk.realm.passwords if name.startswith("once-")]


def test_logins_that_a_broker_may_have_lost_are_not_handed_out(desk: Desk) -> None:
    desk.registrar.spares.fill()
    ahead = desk.registrar.spares.names()
    desk.realm.passwords.clear()
    desk.registrar.spares.forget()

    granted = desk.grant()

    assert granted.user not in ahead
    assert desk.realm.passwords[granted.user] == granted.password


def test_one_that_cannot_be_made_ahead_is_nobodys(desk: Desk) -> None:
    def fail(principal: Principal, password: str) -> None:
        raise ManagementError("away")

    desk.realm.mint = fail  # type: ignore[method-assign]

    with pytest.raises(ManagementError):
        desk.registrar.spares.fill()
    assert desk.registrar.spares.names() == set()


def test_of_logins_that_were_made_ahead_none_is_swept_while_it_is_handed_out(desk: Desk) -> None:
    """The moment between its leaving the shelf and its being remembered."""
    desk.registrar.spares.fill()
    put, swept = desk.store.put, list[str]()

    def put_after_a_sweep(record: EnrolledVm) -> None:
        desk.registrar.upkeep.sweep(0.0, 600.0)
        swept.append(record.once_user)
        put(record)

    desk.store.put = put_after_a_sweep  # type: ignore[method-assign]
    granted = desk.grant()

    assert swept == [granted.user]
    assert granted.user in desk.realm.passwords


@pytest.mark.parametrize("fails", ["unmint", "put"])
def test_a_login_that_was_made_ahead_for_a_grant_that_fails_is_nobodys_and_swept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    desk.grant(generation=1) if fails == "unmint" else desk.enrol(generation=1)
    desk.registrar.spares.fill()

    def fail(*_: object) -> None:
        raise ManagementError("away") if fails == "unmint" else OSError("full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.realm if fails == "unmint" else desk.store, fails, fail)
        for _ in range(3):
            with pytest.raises((ManagementError, OSError)):
                desk.grant(generation=2)
    desk.registrar.upkeep.sweep(0.0, 600.0)
    desk.registrar.spares.fill()

    named = desk.registrar.spares.names() | {record.once_user for record in desk.store.with_once()}
    assert {name for name in desk.realm.passwords if name.startswith("once-")} == named
    assert len(named) == MOST + (fails == "unmint")


async def test_logins_are_made_ahead_after_one_was_given_and_forgotten_when_the_link_is_new(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FILL_AFTER_S", 0.0)
    wire, spares = MemoryCarrier("keys"), desk.registrar.spares
    realm = cast(Any, SimpleNamespace(connections=list))
    keys = service.Service(wire, desk.registrar, realm, lifetime_s=600.0, sweep_s=30.0)
    message = EnrolGrant(vm=VM_A, generation=1)
    running = asyncio.create_task(keys.run())
    await until(lambda: wire.on_up)

    await keys._take(cast(Any, SimpleNamespace(ack=lambda: None, properties=Properties())), "host-a", message)
    await until(lambda: len(spares.names()) == MOST)
    wire.cut()
    wire.mend()
    left = spares.names()
    running.cancel()
    await asyncio.wait([running])

    assert left == set()
