"""Which account a VM's QEMU runs as, and what it is handed: ids, files and command lines; no QEMU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from broker.errors import ConfigError
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import ImageFiles, VmSpec
from host_agent.hypervisors.drivers import make_driver
from host_agent.hypervisors.qemu import accounts as qemu_accounts
from host_agent.hypervisors.qemu import program as qemu_program
from host_agent.hypervisors.qemu.accounts import FIRST_UID, UIDS, VmAccounts, account_of, for_kvm
from host_agent.hypervisors.qemu.command import DEVICES_NOW, OVERLAY, SEED_FILE, build
from host_agent.hypervisors.qemu.handed import HandedFiles, handing
from host_agent.hypervisors.qemu.program import TCG, QemuProgram
from host_agent.hypervisors.vm_account import VmAccount, of_process

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
#: None that a test machine has.
FIRST = FIRST_UID + UIDS - 10


def vm(root: Path, name: str) -> Path:
    """Make what an agent has left of a VM that it ran as root."""
    home = root / name
    home.mkdir(parents=True, mode=0o700)
    for file in (OVERLAY, SEED_FILE, "memory-s1.qcow2", "process.json"):
        (home / file).touch(0o600)
    return home


@ROOT_ONLY
def test_what_an_agent_before_has_left_becomes_the_accounts_but_for_the_directory(tmp_path: Path) -> None:
    home = vm(tmp_path, "vm-a")
    before = account_of(home)

    account = VmAccounts().hand_over(home)

    assert before is None
    assert account is not None
    assert FIRST_UID < account.uid <= FIRST_UID + UIDS
    owners = {file.name: (file.stat().st_uid, file.stat().st_mode & 0o777) for file in home.iterdir()}
    mine = (account.uid, 0o600)
    assert owners == {OVERLAY: mine, "memory-s1.qcow2": mine, SEED_FILE: (0, 0o640), "process.json": (0, 0o600)}
    assert (home.stat().st_uid, home.stat().st_gid, home.stat().st_mode & 0o777) == (0, account.uid, 0o710)
    assert account_of(home) == VmAccount(account.uid)


@ROOT_ONLY
def test_a_vm_keeps_its_account_and_no_two_have_one(tmp_path: Path) -> None:
    accounts = VmAccounts(FIRST, 4)
    homes = [vm(tmp_path, f"vm-{n}") for n in range(4)]

    first = [accounts.hand_over(home) for home in homes]
    second = [accounts.hand_over(home) for home in homes]

    assert first == second
    assert sorted(account.uid for account in first if account) == [FIRST + n for n in range(1, 5)]
    assert {account.groups[0] for account in first if account} == {FIRST}


@ROOT_ONLY
def test_a_directory_that_was_copied_with_its_owner_gets_an_account_of_its_own(tmp_path: Path) -> None:
    home, copy = vm(tmp_path, "vm-a"), vm(tmp_path, "vm-b")
    account = VmAccounts().hand_over(home)
    assert account
    os.chown(copy / OVERLAY, account.uid, account.uid)

    other = VmAccounts().hand_over(copy)

    assert other
    assert other.uid != account.uid


@ROOT_ONLY
def test_an_id_as_which_another_agents_vm_runs_is_given_up(tmp_path: Path) -> None:
    home = vm(tmp_path, "vm-a")
    account = VmAccounts().hand_over(home)
    assert account

    with subprocess.Popen(["sleep", "600"], **of_process(account)) as others:
        now = VmAccounts().hand_over(home)
        others.kill()

    assert now
    assert now.uid != account.uid
    assert (home / OVERLAY).stat().st_uid == now.uid


@ROOT_ONLY
@pytest.mark.parametrize("rewritten", [OVERLAY, "memory-s1.qcow2"])
def test_what_an_account_may_have_rewritten_is_not_run_as_root_before_a_person_says_so(
    tmp_path: Path, rewritten: str
) -> None:
    home = vm(tmp_path, "vm-a")
    VmAccounts().hand_over(home)
    for file in (OVERLAY, "memory-s1.qcow2"):
        if file != rewritten:
            os.chown(home / file, 0, 0)

    with pytest.raises(HypervisorError, match=r"vm-a has run as an account.*uids.*`chown root:root .*\*\.qcow2`"):
        VmAccounts(count=0).hand_over(home)
    for file in home.glob("*.qcow2"):
        os.chown(file, 0, 0)

    assert VmAccounts(count=0).hand_over(home) is None


@ROOT_ONLY
def test_ids_that_a_setting_has_taken_back_are_given_up(tmp_path: Path) -> None:
    home = vm(tmp_path, "vm-a")
    VmAccounts().hand_over(home)

    account = VmAccounts(FIRST, 1).hand_over(home)

    assert account
    assert account.uid == FIRST + 1 == (home / OVERLAY).stat().st_uid


@ROOT_ONLY
def test_when_all_ids_are_taken_the_error_names_them_and_the_setting(tmp_path: Path) -> None:
    accounts = VmAccounts(FIRST, 1)
    accounts.hand_over(vm(tmp_path, "vm-a"))

    with pytest.raises(HypervisorError, match=f"vm-b gets no account: all of {FIRST + 1} to .* raise uids"):
        accounts.hand_over(vm(tmp_path, "vm-b"))


@ROOT_ONLY
def test_a_link_in_place_of_a_disk_gives_away_nothing(tmp_path: Path) -> None:
    home, secret = vm(tmp_path, "vm-a"), tmp_path / "secret"
    secret.touch(0o600)
    (home / OVERLAY).unlink()
    (home / OVERLAY).symlink_to(secret)

    with pytest.raises(HypervisorError, match=r"root\.qcow2 cannot be given to the account of vm-a.* uids = 0"):
        VmAccounts().hand_over(home)

    assert secret.stat().st_uid == 0


@ROOT_ONLY
def test_an_account_uses_kvm_by_the_devices_group_or_the_host_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch(0o600)
    for module in (qemu_accounts, qemu_program):
        monkeypatch.setattr(module, "_KVM_DEVICE", device)
    program, account = QemuProgram("qemu", tmp_path, None, VmAccounts()), VmAccount(FIRST + 1, (FIRST,))

    closed, without = program.facts(), for_kvm(account)
    os.chown(device, 0, 4_000)
    device.chmod(0o660)
    open_to_group, within = program.facts(), for_kvm(account)

    assert (closed.accelerator, without.groups) == (TCG, (FIRST,))
    assert "chgrp kvm" in closed.why_no_kvm
    assert (open_to_group.accelerator, within.groups) == (None, (FIRST, 4_000))


@ROOT_ONLY
def test_without_ids_vms_run_as_the_agent(tmp_path: Path) -> None:
    home = vm(tmp_path, "vm-a")
    accounts = VmAccounts(count=0)

    assert accounts.hand_over(home) is None
    assert accounts.for_trying() is None
    assert accounts.told() == "root"
    assert (home.stat().st_mode & 0o777, account_of(home)) == (0o700, None)


def test_an_agent_that_is_not_root_gives_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000)
    home = vm(tmp_path, "vm-a")

    assert VmAccounts().hand_over(home) is None
    assert account_of(home) is None
    assert VmAccounts().told() == "the agent's user, 4000"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"first_uid": 0}, r"first_uid.*0.*1,?000"),
        ({"uids": -1}, r"uids.*-1.*0"),
        ({"uids": 1 << 20}, r"uids.*1,?048,?576.*65,?536"),
        ({"uid": 5}, r"uid = 5: the driver qemu has no such setting: did you mean 'uids'"),
    ],
)
def test_a_wrong_range_is_refused_with_field_value_and_what_is_allowed(
    tmp_path: Path, setting: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_driver({"kind": "qemu", **setting}, tmp_path, "host.toml: hypervisor")


def test_a_command_line_of_whatever_age_names_nothing_that_an_account_cannot_open(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.touch(0o644)
    image = ImageFiles(id="i", disk=kernel, kernel=kernel, initrd=kernel, cmdline="quiet")
    spec = VmSpec(id="a", name="a", cpus=1, memory_mib=256, disk_mib=2048, image=image, broker="/etc/secret.json")
    kept = build("qemu", "q35", "tcg", spec, DEVICES_NOW).arguments

    with HandedFiles(VmAccount(FIRST, (FIRST,))) as files:
        given = handing(kept, tmp_path, spec, ["/usr/bin/python3", "relay.pyz", "broker.json"], files)
        open_now = [os.fstat(descriptor).st_ino for descriptor in files.descriptors]
        listening = [path.name for path in tmp_path.glob("*.sock")]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "qmp.sock"))

    line = " ".join(given)
    assert "secret" in " ".join(kept)
    assert not any(word in line for word in ("secret", str(tmp_path), "path="))
    assert sorted(listening) == ["console.sock", "qmp.sock", "road.sock", "seed.sock"]
    assert len(open_now) == len(listening) + len(("disk", "kernel", "initrd"))
    node = json.loads(given[given.index("-blockdev") + 1])
    assert node["backing"]["file"]["filename"] == "/dev/fdset/0"
    assert node["file"] == json.loads(kept[kept.index("-blockdev") + 1])["file"]
    assert "relay.pyz broker.json 9" in line
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files.descriptors[0])


@ROOT_ONLY
def test_a_kernel_that_is_private_can_be_read_by_vms_and_by_nobody_else(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.touch(0o600)
    image = ImageFiles(id="i", disk=kernel, kernel=kernel, cmdline="quiet")
    spec = VmSpec(id="a", name="a", cpus=1, memory_mib=256, disk_mib=2048, image=image, broker="/etc/secret.json")

    with HandedFiles(VmAccount(FIRST + 1, (FIRST, 4))) as files:
        handing(["-kernel", str(kernel), "-append", "quiet"], tmp_path, spec, ["p", "r", "b"], files)

    assert (kernel.stat().st_uid, kernel.stat().st_gid, kernel.stat().st_mode & 0o777) == (0, FIRST, 0o640)
