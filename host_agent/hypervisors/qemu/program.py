"""The QEMU that is installed here: which version and machine type it is, and which accelerator it can really use.

``/dev/kvm`` may exist, open and answer while every guest hangs in it; seen with nested virtualisation, where boot
sectors run and Linux does not. So a kernel is booted once, with a deadline, and the answer is remembered for as long as
the host's kernel and QEMU stay the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import re
import shutil
import sys
from pathlib import Path

import msgspec

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import ProgramFacts
from host_agent.hypervisors.detached import environment_of
from host_agent.hypervisors.directory import read_record, write_record
from host_agent.hypervisors.qemu.account_relays import find_python
from host_agent.hypervisors.qemu.accounts import VmAccounts, for_kvm, may_use_kvm
from host_agent.hypervisors.qemu.disk import put_down, run
from host_agent.hypervisors.qemu.handed import HandedFiles, boot_file
from host_agent.hypervisors.vm_account import of_process

log = logging.getLogger(__name__)

KVM = "kvm"
TCG = "tcg"

#: A kernel without a root disk panics within a second under KVM that works, and within three under emulation.
PROBE_DEADLINE_S = 8.0
#: What a QEMU may not do that a guest has broken into. It starts a guest's relays, each in a session of its own, so
#: ``spawn`` and ``elevateprivileges``, which is about sessions too, stay allowed; no program that it starts gains
#: rights, since whoever filters his system calls gives that up (no_new_privs).
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny")
_KVM_DEVICE = Path("/dev/kvm")
_ANSWER = "accelerator.json"
#: What Linux says last when there is nothing to boot into: it came all the way.
_PROOF = b"Kernel panic"


class Answer(msgspec.Struct, frozen=True):
    """A remembered answer and what it depends on."""

    accelerator: str
    host_kernel: str
    qemu_version: str


class QemuProgram:
    """One QEMU binary. ``identify`` comes first."""

    def __init__(
        self, binary: str, directory: Path, accelerator: str | None, accounts: VmAccounts | None = None
    ) -> None:
        """Remember answers in ``directory``; an ``accelerator`` that is given is not questioned."""
        self.binary = binary
        #: As whom VMs run.
        self.accounts = accounts or VmAccounts(count=0)
        self._python = ""
        #: The exact type that ``q35`` stands for, so that a newer QEMU can still load what this one saves.
        self.machine_type = "q35"
        #: What every start adds to a VM's command line, also to one that was saved before; no guest sees it.
        self.confinement: tuple[str, ...] = ()
        self._version = ""
        self._directory = directory
        self._accelerator = accelerator
        self._is_given = accelerator is not None
        self._has_no_kernel = False
        self._probing, self._finding = asyncio.Lock(), asyncio.Lock()

    async def identify(self) -> None:
        """Ask the binary what it is. Raises HypervisorError if it is not there, or flock."""
        if shutil.which("flock") is None:
            raise HypervisorError("flock is not installed, which bounds a guest's links: on Debian, util-linux")
        self._version = (await run(self.binary, "--version")).decode().splitlines()[0]
        machines = (await run(self.binary, "-machine", "help")).decode()
        alias = re.search(r"^q35 .*\(alias of (\S+)\)", machines, re.MULTILINE)
        self.machine_type = alias[1] if alias else "q35"
        await self._confine()

    async def _confine(self) -> None:
        """Have QEMU filter its own system calls, where it is built with that; say what is left open."""
        self.confinement = SANDBOX if "-sandbox on" in (await run(self.binary, "--help")).decode() else ()
        if not self.confinement:
            log.warning("qemu_not_confined why='it is built without seccomp'")
        if not self.accounts.in_use and os.geteuid() == 0:
            log.warning("qemu_runs_as_root advice='say uids of [hypervisor], or run host_agent as a user of its own'")

    async def python(self) -> str:
        """Give the Python that runs relays. What keeps an account from running any keeps no agent from its VMs: it is
        looked for when one is started, until it is found. Raises HypervisorError."""
        async with self._finding:
            if not self._python:
                account = self.accounts.for_trying()
                self._python = await find_python(account) if account is not None else sys.executable
            return self._python

    def facts(self) -> ProgramFacts:
        """Say what is known of it by now, without asking it anything."""
        known = self._accelerator
        if known is None and self._trouble_of_device():
            known = TCG
        elif known is None:
            known = self._remembered()
        return ProgramFacts(
            version=self._version,
            accelerator=known,
            why_no_kvm=self._why_not(known),
            runs_as=self.accounts.told(),
        )

    def _why_not(self, accelerator: str | None) -> str:
        if accelerator == KVM:
            return ""
        if self._is_given:
            return f"its settings say accelerator = {accelerator}"
        if trouble := self._trouble_of_device():
            return trouble
        if accelerator == TCG:
            return (
                f"{_KVM_DEVICE} is there, but a guest does not start under it: seen where this host is itself a"
                " virtual machine. It is tried again after an update of the kernel or of QEMU"
            )
        if self._has_no_kernel:
            return "KVM was not tried: the image has no kernel of its own to try it with"
        return f"{_KVM_DEVICE} is there; whether guests start under it is tried when the first one starts"

    async def choose_accelerator(self, kernel: Path | None) -> str:
        """Answer ``kvm`` or ``tcg``, from memory if possible. ``kernel`` is any bootable Linux; None: ``tcg``."""
        async with self._probing:
            if self._accelerator is not None:
                return self._accelerator
            if self._trouble_of_device():
                return TCG
            answer = self._remembered() or await self._probe(kernel)
            self._accelerator = answer
            return answer or TCG

    def _remembered(self) -> str | None:
        known = read_record(self._directory / _ANSWER, Answer)
        if known is None or (known.host_kernel, known.qemu_version) != (os.uname().release, self._version):
            return None
        return known.accelerator

    async def _probe(self, kernel: Path | None) -> str | None:
        self._has_no_kernel = kernel is None
        if kernel is None:
            log.warning("kvm_not_probed reason='the image has no kernel of its own to try it with'")
            return None
        accelerator = KVM if await self._boots(kernel) else TCG
        log.info("accelerator_chosen accelerator=%s", accelerator)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_record(self._directory / _ANSWER, Answer(accelerator, os.uname().release, self._version))
        return accelerator

    def _trouble_of_device(self) -> str:
        """Say why KVM cannot be opened; empty if it can."""
        trouble = _trouble_of_device()
        if not trouble and self.accounts.in_use and not may_use_kvm(_KVM_DEVICE):
            return f"no permission for {_KVM_DEVICE}, which VMs' accounts have by its group: chgrp kvm and chmod 660 it"
        return trouble

    async def _boots(self, kernel: Path) -> bool:
        """Boot ``kernel`` under KVM with nothing to boot into, and see whether it says so in time."""
        trying = self.accounts.for_trying()
        account = for_kvm(trying) if trying is not None else None
        with contextlib.ExitStack() as closing:
            files = closing.enter_context(HandedFiles(account)) if account is not None else None
            name = boot_file(str(kernel), files) if files is not None else str(kernel)
            boot = ["-display", "none", "-serial", "stdio", "-kernel", name, "-append", "console=ttyS0 panic=-1 quiet"]
            machine = ["-machine", f"q35,accel={KVM}", "-cpu", "max", "-m", "128M", "-nodefaults", "-no-user-config"]
            process = await asyncio.create_subprocess_exec(
                *(self.binary, *machine, *boot, "-no-reboot", *self.confinement),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment_of(None),
                pass_fds=files.descriptors if files is not None else (),
                **of_process(account),
            )
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                output, _ = await process.communicate()
        except TimeoutError:
            log.warning("kvm_probe_hangs deadline_s=%s", PROBE_DEADLINE_S)
            return False
        finally:
            await put_down(process)
        return _PROOF in output


def _trouble_of_device() -> str:
    """Say why KVM cannot be opened; empty if it can."""
    if not _KVM_DEVICE.exists():
        return (
            f"there is no {_KVM_DEVICE}: turn virtualisation (VT-x, AMD-V) on in the firmware and load kvm_intel or"
            " kvm_amd; in a virtual machine, its host must pass it on"
        )
    if not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        return f"no permission for {_KVM_DEVICE}: add {_me()} to the group kvm, and start the agent again"
    return ""


def _me() -> str:
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"
