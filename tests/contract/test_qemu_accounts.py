"""QEMU as an account of each VM's own, where the agent is root: what it may not reach, and all that works as before."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import Hypervisor
from host_agent.hypervisors.qemu.account_processes import by_user
from host_agent.hypervisors.qemu.account_relays import PROGRAM, SCRIPT, WHEREABOUTS, find_python
from host_agent.hypervisors.qemu.accounts import FIRST_UID, UIDS, VmAccounts
from host_agent.hypervisors.qemu.command import OVERLAY, MachineCommand, relay_command
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, SnapshotRecords
from host_agent.hypervisors.qemu.snapshot_jobs import clean_at_rest
from host_agent.hypervisors.vm_account import VmAccount, of_process
from schemas.vms import VmState
from tests.contract.conftest import QemuRig, eventually, snapshots_of
from tests.contract.test_hypervisors import SEED, running

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a VM as somebody else"),
]


def accounts_of(rig: QemuRig, vm: str) -> set[int]:
    """Give the users as which the VM's processes run."""
    return {Path(f"/proc/{pid}").stat().st_uid for pid in rig.processes(vm)}


def as_account(rig: QemuRig, vm: str, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell as what has broken out of a VM's QEMU: its account, in its directory."""
    account = VmAccount((rig.home(vm) / OVERLAY).stat().st_uid, (VmAccounts().for_trying() or VmAccount(0)).groups)
    return subprocess.run(
        ["sh", "-c", script], cwd=rig.home(vm), capture_output=True, check=False, **of_process(account)
    )


async def test_what_has_broken_out_of_one_reaches_neither_another_vm_nor_the_hosts_password(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    await driver.create(qemu_rig.spec("vm-b"))
    await driver.start("vm-b", SEED)
    await driver.pause("vm-a")
    await driver.pause("vm-b")
    # Else nothing was reached for that reason.
    qemu_rig.directory.chmod(0o755)
    credential = Path(qemu_rig.spec("vm-a").broker)
    credential.chmod(0o600)

    mine = [f"head -c 4 {OVERLAY}", f"test -w {OVERLAY}", f"cat {WHEREABOUTS}", "ls ../../broker-5672.json"]
    others = [
        *(f"head -c 4 ../vm-b/{name}" for name in (OVERLAY, "seed.fw", WHEREABOUTS)),
        "cat ../../broker-5672.json",
        "cat vm.json",
        "cat process.json",
        "touch planted",
        f"ln -s /etc/shadow {OVERLAY}.link",
        "rm -f qmp.sock",
        f"mv {OVERLAY} other",
        f"echo > {WHEREABOUTS}",
        f"echo > {PROGRAM}",
        "ls .",
    ]

    assert [one for one in mine if as_account(qemu_rig, "vm-a", one).returncode] == []
    assert [one for one in others if not as_account(qemu_rig, "vm-a", one).returncode] == []
    users = accounts_of(qemu_rig, "vm-a") | accounts_of(qemu_rig, "vm-b")
    assert len(users) == 2
    assert driver.capabilities.program is not None
    assert driver.capabilities.program.facts().runs_as.startswith("an account for each VM")
    assert all(FIRST_UID < user <= FIRST_UID + UIDS for user in users)
    assert (await running_as(driver, "vm-a")).isdisjoint({0})


async def test_what_has_cut_every_link_to_its_vm_ends_with_it(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    uid = (qemu_rig.home("vm-a") / OVERLAY).stat().st_uid
    as_account(
        qemu_rig, "vm-a", "setsid -f env -i sleep 600 > /dev/null 2>&1; setsid -f env -i sleep 601 > /dev/null 2>&1"
    )
    await eventually(lambda: len(by_user().get(uid, ())) == 3)
    found_by_links = qemu_rig.processes("vm-a")

    await driver.poweroff("vm-a")

    assert len(found_by_links) == 1
    assert by_user().get(uid, set()) == set()


async def test_what_outlives_a_qemu_that_ends_by_itself_ends_then_and_at_the_latest_before_the_next(
    qemu_rig: QemuRig,
) -> None:
    driver = await running(qemu_rig)
    uid = (qemu_rig.home("vm-a") / OVERLAY).stat().st_uid
    stays = "setsid -f env -i sleep 600 > /dev/null 2>&1"
    as_account(qemu_rig, "vm-a", stays)
    await eventually(lambda: len(by_user().get(uid, ())) == 2)

    os.kill((await driver.facts("vm-a")).pid or 0, signal.SIGKILL)
    await eventually(lambda: by_user().get(uid, set()) == set())
    as_account(qemu_rig, "vm-a", stays)
    await eventually(lambda: len(by_user().get(uid, ())) == 1)
    left = by_user()[uid]
    await driver.start("vm-a", SEED)

    assert by_user()[uid] & left == set()
    assert await driver.state("vm-a") is VmState.RUNNING


async def running_as(driver: Hypervisor, vm: str) -> set[int]:
    """Give every user and group, real, effective and saved, that QEMU has."""
    status = Path(f"/proc/{(await driver.facts(vm)).pid}/status").read_text()
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid:", "Gid:", "Groups:"))]
    return {int(word) for line in lines for word in line}


async def test_all_that_qemu_writes_and_reads_later_is_within_its_reach(qemu_rig: QemuRig, tmp_path: Path) -> None:
    driver = await running(qemu_rig)
    inputs, screenshots = driver.capabilities.inputs, driver.capabilities.screenshots
    assert inputs is not None
    assert screenshots is not None
    medium = tmp_path / "medium"
    medium.write_bytes(secrets.token_bytes(4096))
    medium.chmod(0o600)

    picture = await screenshots.take("vm-a")
    await inputs.insert("vm-a", medium)
    await snapshots_of(driver).take("vm-a", "s1")
    await snapshots_of(driver).savestate("vm-a")
    await driver.start("vm-a", SEED)
    gone_on = await driver.state("vm-a"), accounts_of(qemu_rig, "vm-a")
    await snapshots_of(driver).restore("vm-a", "s1", SEED)
    restored = await driver.state("vm-a"), accounts_of(qemu_rig, "vm-a")
    await driver.poweroff("vm-a")
    await snapshots_of(driver).delete("vm-a", "s1")

    assert picture.startswith(b"\x89PNG")
    assert gone_on == restored
    assert gone_on[0] is VmState.RUNNING
    assert 0 not in gone_on[1]
    assert await snapshots_of(driver).list("vm-a") == []
    assert not list(qemu_rig.home("vm-a").glob("memory*"))


async def test_a_vm_that_was_saved_as_root_goes_on_as_an_account(qemu_rig: QemuRig) -> None:
    before = QemuHypervisor(qemu_rig.directory, accelerator="tcg", accounts=VmAccounts(count=0))
    first = await running(qemu_rig, driver=before)
    await snapshots_of(first).take("vm-a", "s1")
    await snapshots_of(first).savestate("vm-a")
    was = (qemu_rig.home("vm-a") / OVERLAY).stat().st_uid
    await first.close()

    second = await qemu_rig.open()
    await second.start("vm-a", SEED)
    gone_on = await second.state("vm-a"), accounts_of(qemu_rig, "vm-a")
    await snapshots_of(second).restore("vm-a", "s1", SEED)

    assert was == 0
    assert gone_on[0] is VmState.RUNNING
    assert 0 not in gone_on[1]
    assert gone_on == (await second.state("vm-a"), accounts_of(qemu_rig, "vm-a"))


async def test_one_that_an_agent_before_runs_as_root_is_adopted_and_an_account_when_it_is_reset(
    qemu_rig: QemuRig, tmp_path: Path
) -> None:
    before = QemuHypervisor(qemu_rig.directory, accelerator="tcg", accounts=VmAccounts(count=0))
    await (await running(qemu_rig, driver=before)).close()

    second = await qemu_rig.open()
    adopted = await second.state("vm-a"), accounts_of(qemu_rig, "vm-a")
    assert second.capabilities.inputs is not None
    (tmp_path / "medium").write_bytes(bytes(2048))
    await second.capabilities.inputs.insert("vm-a", tmp_path / "medium")
    await snapshots_of(second).take("vm-a", "s1")
    await second.reset("vm-a", SEED)

    assert adopted == (VmState.RUNNING, {0})
    assert 0 not in accounts_of(qemu_rig, "vm-a")


async def test_a_relay_finds_a_broker_that_has_moved_and_never_sees_the_password(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    await driver.pause("vm-a")
    home, credential = qemu_rig.home("vm-a"), Path(qemu_rig.spec("vm-a").broker)
    python = await find_python(VmAccounts().for_trying() or VmAccount(0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        port = listener.getsockname()[1]

        credential.write_text(f'{{"endpoints": [{{"host": "127.0.0.1", "port": {port}}}], "password": "hush"}}')
        await eventually(lambda: str(port) in (home / WHEREABOUTS).read_text())
        with heard_by(listener, home, python) as heard:
            await eventually(lambda: (home / "relay.0").stat().st_size)

    assert heard == b"hello"
    assert "hush" not in (home / WHEREABOUTS).read_text()
    assert struct.unpack("<Q", (home / "relay.0").read_bytes()[:8]) == (len(b"hello"),)


@contextlib.contextmanager
def heard_by(listener: socket.socket, home: Path, python: str) -> Iterator[bytes]:
    """Have a relay of a VM's carry a word, as QEMU starts one; it lives for as long as the block lasts."""
    account, command = VmAccount((home / OVERLAY).stat().st_uid), relay_command([python, SCRIPT, WHEREABOUTS])
    process = subprocess.Popen(
        command, shell=True, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **of_process(account)
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(b"hello")
        process.stdin.flush()
        with listener.accept()[0] as connection:
            connection.settimeout(60)
            yield connection.recv(5)
        process.wait(60)


def referring_to(secret: Path, home: Path) -> None:
    """Make of a VM's overlay what only a QEMU that was broken into makes of it."""
    home.mkdir()
    options = f"data_file={secret},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, home / OVERLAY, "1M"], check=True)
    (home / "seed.fw").touch()
    VmAccounts().hand_over(home)


async def test_an_overlay_that_a_qemu_has_made_refer_to_a_file_of_the_host_opens_nothing(tmp_path: Path) -> None:
    home, secret = tmp_path / "vm-a", tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    secret.chmod(0o600)
    referring_to(secret, home)
    snapshot = KeptSnapshot(name="s1", tag="s1", taken_ms=0, was_running=True, command=MachineCommand("tcg", []))
    SnapshotRecords(home).begin(snapshot)

    with pytest.raises(HypervisorError, match=r"secret.*Permission denied"):
        await clean_at_rest(home)


async def test_a_host_that_has_no_such_ids_says_what_to_do() -> None:
    with pytest.raises(HypervisorError, match=r"QEMU cannot run as an account .* uids = 0"):
        await find_python(VmAccount((1 << 32) - 1, ((1 << 32) - 1,)))
