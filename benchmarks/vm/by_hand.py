"""The peer: QEMU as a person with a script runs it, with the command line, the image and the QMP commands of ours.

The guest finds the seed and the credential that it had when ours was put down, so it logs in at once. Between its relay
and the broker is a listener that notices the login.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from qemu.qmp import ConnectError, QMPClient

from benchmarks.vm.login import LoginWatch
from benchmarks.vm.ours import PATIENCE_S, Life
from broker.node import LOOPBACK, read_node_address
from host_agent.hypervisors.qemu.command import OVERLAY, QMP_SOCKET, SEED_FILE, MachineCommand, restoring

#: As our driver looks.
_LOOK_S = 0.02
#: How long a guest may take to log in, under emulation, seconds.
LOGIN_S = 120.0
_MEMORY = "memory"
#: QEMU holds a migration to 128 MiB/s otherwise, which is meant for networks.
_BYTES_PER_S = 1 << 40


def live_by_hand(of: Path, home: Path, data: Path) -> Life:
    """Boot a copy of a VM that is off, save its memory, load it; nothing is left running."""
    home.mkdir()
    for name in (OVERLAY, SEED_FILE):
        shutil.copyfile(of / name, home / name)
    command = msgspec.json.decode((of / "command.json").read_bytes(), type=MachineCommand)
    return asyncio.run(_live(home, command, read_node_address(data / "node").amqp_port))


async def _live(home: Path, command: MachineCommand, broker_port: int) -> Life:
    async with asyncio.timeout(PATIENCE_S), LoginWatch(broker_port) as watch:
        (home / "broker.json").write_text(f'{{"endpoints": [{{"host": "{LOOPBACK}", "port": {watch.port}}}]}}')
        by_hand = MachineCommand(command.accelerator, [_ours_to_hand(one, home) for one in command.arguments])
        began = time.perf_counter()
        async with _running(home, by_hand.arguments) as (qemu, qmp):
            await _seen(watch, home)
            start_s = time.perf_counter() - began
            began = time.perf_counter()
            await _save(home, qmp)
            await qmp.execute("quit")
            await qemu.wait()
            savestate_s = time.perf_counter() - began
        began = time.perf_counter()
        async with _running(home, restoring(by_hand)) as (_, qmp):
            await _load(home, qmp)
            return Life(start_s, savestate_s, time.perf_counter() - began)


async def _seen(watch: LoginWatch, home: Path) -> None:
    """Wait for the guest's login. Raises RuntimeError."""
    try:
        async with asyncio.timeout(LOGIN_S):
            await watch.seen.wait()
    except TimeoutError as error:
        said = (home / "qemu.log").read_text()[-2000:]
        raise RuntimeError(f"the guest by hand did not log in within {LOGIN_S:.0f} s: {said}") from error


def _ours_to_hand(argument: str, home: Path) -> str:
    """Point the guest's relay at our listener; all else stays. Its last words are the credential and its place."""
    if "guestfwd=" not in argument:
        return argument
    words, _, place = argument.rsplit(" ", 2)
    return f"{words} {home / 'broker.json'} {place}"


@asynccontextmanager
async def _running(home: Path, arguments: list[str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, QMPClient]]:
    """Run QEMU, with a monitor that is connected, for as long as the block lasts."""
    (home / QMP_SOCKET).unlink(missing_ok=True)
    with (home / "qemu.log").open("ab") as log:
        qemu = await asyncio.create_subprocess_exec(*arguments, cwd=home, stdin=log, stdout=log, stderr=log)
    qmp = QMPClient("by hand")
    try:
        await _connect(qmp, home, qemu)
        yield qemu, qmp
    finally:
        with suppress(Exception):
            await qmp.disconnect()
        with suppress(ProcessLookupError):
            qemu.kill()
        await qemu.wait()


async def _connect(qmp: QMPClient, home: Path, qemu: asyncio.subprocess.Process) -> None:
    while qemu.returncode is None:
        with suppress(ConnectError):
            await qmp.connect(str(home / QMP_SOCKET))
            return
        await asyncio.sleep(_LOOK_S)
    raise RuntimeError(f"QEMU ended with {qemu.returncode}: {(home / 'qemu.log').read_text()[-2000:]}")


async def _save(home: Path, qmp: QMPClient) -> None:
    """Write the memory, as durably as ours is."""
    await qmp.execute("stop")
    descriptor = os.open(home / _MEMORY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        await qmp.execute("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_S})
        await _pass(qmp, descriptor)
        await qmp.execute("migrate", {"uri": f"fd:{_MEMORY}"})
        while (found := await qmp.execute("query-migrate"))["status"] != "completed":  # type: ignore[call-overload,index]
            if found["status"] in ("failed", "cancelled"):  # type: ignore[call-overload,index]
                raise RuntimeError(f"the memory could not be written: {found}")
            await asyncio.sleep(_LOOK_S)
        await asyncio.to_thread(os.fsync, descriptor)
    finally:
        os.close(descriptor)


async def _load(home: Path, qmp: QMPClient) -> None:
    """Load the memory and let the guest go on."""
    descriptor = os.open(home / _MEMORY, os.O_RDONLY)
    try:
        await _pass(qmp, descriptor)
        await qmp.execute("migrate-incoming", {"uri": f"fd:{_MEMORY}"})
    finally:
        os.close(descriptor)
    while True:
        found = await qmp.execute("query-status")
        if found["status"] != "inmigrate":  # type: ignore[call-overload,index]
            break
        await asyncio.sleep(_LOOK_S)
    await qmp.execute("cont")


async def _pass(qmp: QMPClient, descriptor: int) -> None:
    qmp.send_fd_scm(descriptor)
    await qmp.execute("getfd", {"fdname": _MEMORY})
