"""Which account a VM's QEMU runs as: one of the VM's own where the agent is root, else the agent's.

A VM's account is the owner of its disk; nothing else says which it is. The VM's directory stays root's: in it QEMU
changes the content of what it was given, and can make, rename, replace and link nothing, so that the agent goes on to
believe every name there.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from broker import durable
from host_agent.errors import HypervisorError
from host_agent.hypervisors.qemu.account_processes import by_user
from host_agent.hypervisors.qemu.command import OVERLAY, SEED_FILE
from host_agent.hypervisors.qemu.kept_snapshots import memories
from host_agent.hypervisors.vm_account import VmAccount

#: Ids that no usual system has, below those of payloads on the driver ``process`` (``guest_agent.accounts``) and above
#: those that containers of ordinary users map.
FIRST_UID, UIDS = (1 << 30) - (1 << 16), (1 << 16) - 1
_ROOT = 0
_KVM_DEVICE = Path("/dev/kvm")


class VmAccounts:
    """The accounts of one driver's VMs: ``count`` ids behind ``first``; none: VMs run as the agent does.

    ``first`` is no VM's. It is the group that all are in, and what is tried before there is a VM is tried as that.
    """

    def __init__(self, first: int = FIRST_UID, count: int = UIDS) -> None:
        self._all, self._count = first, count

    @property
    def in_use(self) -> bool:
        """Whether VMs run as accounts of their own: only root can give them any."""
        return self._count > 0 and os.geteuid() == _ROOT

    @property
    def _first(self) -> int:
        return self._all + 1

    @property
    def _last(self) -> int:
        return self._all + self._count

    def told(self) -> str:
        """Say as whom VMs run that are started now."""
        if self.in_use:
            return f"an account for each VM, {self._first} to {self._last}"
        return "root" if os.geteuid() == _ROOT else f"the agent's user, {_name(os.geteuid())}"

    def for_trying(self) -> VmAccount | None:
        """Give the account that is no VM's; None where VMs have none."""
        return VmAccount(self._all, (self._all,)) if self.in_use else None

    def hand_over(self, home: Path) -> VmAccount | None:
        """Make a VM's account owner of what its QEMU changes, and let it read the rest; None where it has none.

        Idempotent; what an agent has left that ran VMs as root becomes the account's too. Raises HypervisorError where
        no id is free, or files have no owners; and where it shall run as root and an account had its disk.
        """
        if not self.in_use:
            _refuse_rewritten(home)
            return None
        uid = self._choose(home)
        try:
            os.chown(home, _ROOT, uid)
            home.chmod(0o710)
            for file in (home / OVERLAY, *memories(home)):
                give(file, uid)
            _set(home / SEED_FILE, _ROOT, uid, 0o640)
        except OSError as error:
            what = f"{error.filename or home} cannot be given to the account of {home.name}, {uid}: {error.strerror}"
            raise HypervisorError(
                f"{what}; keep VMs where files have owners, or say uids = 0 in [hypervisor]"
            ) from error
        return VmAccount(uid, (self._all,))

    def _choose(self, home: Path) -> int:
        """Give the id of a VM, of which nothing runs: the one it has, unless it is of others, or an other's as well."""
        mine, taken = _owner(home), {_owner(other) for other in home.parent.iterdir() if other != home}
        # VMs of other agents, and what may be left of one that is gone.
        taken |= set(by_user())
        if self._first <= mine <= self._last and mine not in taken:
            return mine
        for uid in self._from(home):
            if uid not in taken and not _is_somebody(uid):
                return uid
        taken_all = f"all of {self._first} to {self._last} are taken"
        raise HypervisorError(f"{home.name} gets no account: {taken_all}; raise uids of [hypervisor], {self._count}")

    def _from(self, home: Path) -> Iterator[int]:
        """Give all ids, beginning where another agent's VMs most likely do not."""
        begin = zlib.crc32(os.fsencode(home.resolve()))
        return (self._first + (begin + n) % self._count for n in range(self._count))


def account_of(home: Path) -> VmAccount | None:
    """Give the account of a VM that was started once, as the owner of its disk; None: the agent's own."""
    uid = _owner(home)
    return VmAccount(uid) if os.geteuid() == _ROOT and uid != _ROOT else None


def handed_over(home: Path) -> int | None:
    """Give the id of a VM's account, if its directory has been handed over to one; None else, also where it is gone."""
    uid = _owner(home)
    with contextlib.suppress(OSError):
        found = home.stat()
        if os.geteuid() == _ROOT == found.st_uid and found.st_gid == uid != _ROOT and not _is_somebody(uid):
            return uid
    return None


def give(file: Path, uid: int) -> None:
    """Let an account alone read and change a file, which is no link. Raises OSError."""
    _set(file, uid, uid, 0o600)


def let_read(descriptor: int, account: VmAccount) -> None:
    """Let an account read an open file that not everybody may: by the first of its groups, which all VMs have and
    nobody else. Raises OSError."""
    found, group = os.fstat(descriptor), account.groups[0]
    if not found.st_mode & stat.S_IROTH and not (found.st_gid == group and found.st_mode & stat.S_IRGRP):
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IRGRP)


def for_kvm(account: VmAccount) -> VmAccount:
    """Give an account as it can use KVM, if that takes no more than a group."""
    return account._replace(groups=(*account.groups, *_kvm_groups()))


def _set(file: Path, uid: int, gid: int, mode: int) -> None:
    # A directory that was not root's before may hold links.
    with durable.naming(file):
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def _kvm_groups() -> tuple[int, ...]:
    try:
        found = _KVM_DEVICE.stat()
    except OSError:
        return ()
    needs = stat.S_IRGRP | stat.S_IWGRP
    return (found.st_gid,) if found.st_gid != _ROOT and found.st_mode & needs == needs else ()


def may_use_kvm(device: Path) -> bool:
    """Say whether an account could open the device. Raises OSError."""
    needs, mode = stat.S_IROTH | stat.S_IWOTH, device.stat().st_mode
    return mode & needs == needs or bool(_kvm_groups())


def _refuse_rewritten(home: Path) -> None:
    """What a QEMU owned that was broken into may refer to any file of the host, and root's would open that. Raises
    HypervisorError."""
    uid = home.stat().st_gid if home.exists() else _ROOT
    if os.geteuid() != _ROOT or uid == _ROOT or _is_somebody(uid):
        return
    if any(file.exists() and file.lstat().st_uid == uid for file in (home / OVERLAY, *memories(home))):
        raise HypervisorError(
            f"{home.name} has run as an account of its own, {uid}, which may have made its disk refer to files of the"
            f" host: it is not run as root. Raise uids of [hypervisor] above 0; or, if you trust what ran in it, `chown"
            f" root:root {home}/*.qcow2`, then start it again"
        )


def _owner(home: Path) -> int:
    try:
        return (home / OVERLAY).stat().st_uid
    except OSError:
        return _ROOT


def _is_somebody(uid: int) -> bool:
    for find in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            find(uid)
            return True
    return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
