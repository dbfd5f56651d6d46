"""What runs as a VM's account and has no link to the VM: whatever it says of itself and however it forks, it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.vm_mark import MARK
from host_agent.hypervisors.qemu import account_killer, strays
from host_agent.hypervisors.qemu.account_processes import by_user, cut_off, is_shared
from host_agent.hypervisors.qemu.accounts import FIRST_UID, UIDS, VmAccounts
from host_agent.hypervisors.qemu.command import OVERLAY, SEED_FILE
from host_agent.hypervisors.qemu.strays import kill_strays
from host_agent.hypervisors.vm_account import VmAccount, of_process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as an account")

#: Is another process at every look; gives up by itself.
HOPS = """
import os, time
ends = time.monotonic() + 40
os.write(1, b"x")
while time.monotonic() < ends:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


def vm(root: Path, name: str) -> Path:
    home = root / name
    home.mkdir(parents=True, mode=0o700)
    for file in (OVERLAY, SEED_FILE):
        (home / file).touch(0o600)
    return home


def account_in(home: Path) -> VmAccount:
    account = VmAccounts(FIRST_UID + UIDS - 300, 200).hand_over(home)
    assert account is not None
    return account


@contextmanager
def running_as(account: VmAccount, *command: str, mark: str = "", stdout: int | None = None) -> Iterator[int]:
    environment = {MARK: mark} if mark else {}
    more = of_process(account)
    with subprocess.Popen(command, env=environment, stdout=stdout, start_new_session=True, **more) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("form", ["{home}/", "{home}/../vm-a", "/tmp/../{home}", "{own}", "{link}"])
async def test_what_bears_a_mark_of_its_own_making_is_not_spared(tmp_path: Path, form: str) -> None:
    home, own = vm(tmp_path, "vm-a"), tmp_path / "own"
    account = account_in(home)
    own.mkdir()
    (own / OVERLAY).touch()
    (tmp_path / "link").symlink_to(home)
    for path in (own, own / OVERLAY):
        os.chown(path, account.uid, account.uid)
    mark = form.format(home=home, own=own, link=tmp_path / "link")

    with running_as(account, "sleep", "600", mark=mark) as pid:
        found = cut_off(home, account.uid)
        await kill_strays(home, None)
        left = by_user().get(account.uid, set())

    assert (found, left) == ({pid}, set())


async def test_another_agents_vm_that_has_the_same_account_goes_on(tmp_path: Path) -> None:
    home, other = vm(tmp_path / "a", "vm-a"), vm(tmp_path / "b", "vm-b")
    account = account_in(home)
    os.chown(other, 0, account.uid)

    with (
        running_as(account, "sleep", "600", mark=str(other)) as spared,
        running_as(account, "sleep", "600", mark=f"{home}/"),
    ):
        shared = is_shared(home, account.uid)
        await kill_strays(home, None)
        left = by_user().get(account.uid, set())

    assert (shared, left) == (True, {spared})


async def test_where_nobody_can_become_the_account_the_vm_still_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = vm(tmp_path, "vm-a")
    account = account_in(home)
    monkeypatch.setattr(strays, "KILL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(account_killer, "__file__", str(tmp_path / "none"))

    with running_as(account, "sleep", "600"):
        await kill_strays(home, None)
        left = by_user().get(account.uid, set())

    assert left == set()
    assert f"nobody could become user {account.uid}" in caplog.text


async def test_what_is_another_process_at_every_look_ends(tmp_path: Path) -> None:
    home = vm(tmp_path, "vm-a")
    account = account_in(home)
    # The account may not be able to come to our Python.
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    alive, write = os.pipe()

    with running_as(account, python, "-c", HOPS, stdout=write):
        os.close(write)
        began = os.read(alive, 1)
        await kill_strays(home, None)
    os.set_blocking(alive, False)

    assert began == b"x"
    assert os.read(alive, 1) == b"", "somebody still holds the other end"
    os.close(alive)
