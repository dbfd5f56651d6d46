"""The real system in one directory, for tests that break it: a private broker and real processes around it.

Principals are minted directly, so no key manager and no host agent is needed. Names of processes are their principals'
(``adapter-job-1``, ``vm-a``). Each writes its log to a file; ``close`` leaves nothing behind, payloads included.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from broker.address import Address, write_address
from broker.connection import Connection
from broker.entities import Declarer, administrator, declare
from broker.management import Management
from broker.minting import mint, new_password
from broker.node import LOOPBACK, NodeAddress, PrivateNode
from broker.ports import free_ports
from broker.principals import parse_principal
from broker.rpc.caller import Caller
from broker.topology import Profile
from guest_agent.identity import KeptCredential
from schemas.ledger import JobList, Jobs
from schemas.seed import Seed, encode_seed

#: How long a process may take to end on SIGTERM before it is killed, seconds.
STOP_S = 15.0
#: Settings of every adapter that a test does not set: a system that notices things soon.
SOON: dict[str, object] = {"lease_s": 10.0, "sweep_s": 0.5, "beat_s": 1.0}

Command = tuple[str, ...]


class Rig:
    """See the module. A context manager; its methods belong to one thread."""

    def __init__(self, directory: Path, *, ledger: str = "") -> None:
        """``ledger`` is the SQLAlchemy URL of an empty database; SQLite in the directory by default."""
        self.directory = directory
        self.node = PrivateNode(directory / "node")
        self.ledger = ledger or f"sqlite:///{directory}/ledger.db"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Command] = {}
        self._minted: dict[str, Address] = {}

    def __enter__(self) -> Rig:
        try:
            self.node.start()
            with self._administrator() as declarer:
                declare(declarer, Profile.SINGLE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, guests first, and the broker; idempotent."""
        for name in sorted(self.processes, reverse=True):
            self.stop(name)
        for pid in self.strays():
            os.kill(pid, signal.SIGKILL)
        self.node.stop()

    @property
    def address(self) -> NodeAddress:
        """Where the broker listens."""
        return self.node.address

    def mint(self, name: str) -> Address:
        """Make a principal with its queues; its credential lies in ``credentials/<name>.json``. Idempotent."""
        if name not in self._minted:
            password = new_password()
            with self._administrator() as declarer:
                mint(Management(self.address.administration), declarer, parse_principal(name), password)
            where = self.address
            self._minted[name] = where.login(name, password)
            write_address(self.credential(name), self._minted[name])
        return self._minted[name]

    def credential(self, name: str) -> Path:
        """The file with a principal's credential."""
        return self.directory / "credentials" / f"{name}.json"

    def job_adapter(self, name: str = "adapter-job-1", **settings: object) -> str:
        """Start a job adapter; gives the ``host:port`` of its metrics."""
        return self._adapter(name, "adapters.job.main", SOON | settings)

    def storage_adapter(self, name: str = "adapter-store-1", **settings: object) -> str:
        """Start a storage adapter; gives the ``host:port`` of its metrics."""
        usual = {"staging": f"{self.directory}/staging", "lease_s": SOON["lease_s"], "beat_s": SOON["beat_s"]}
        return self._adapter(name, "adapters.storage.main", usual | settings)

    def guest(self, name: str, *, slots: int = 1, **settings: float) -> None:
        """Start a guest agent that has its credential already; a second start of the name finds its old state."""
        credential = self.mint(name)
        state = self.directory / name
        seed = Seed(
            vm=name,
            name=name,
            generation=1,
            endpoints=credential.endpoints,
            vhost=credential.vhost,
            login_user="once-none",
            login_password="none",
            slots=slots,
            settings={"beat_s": 1.0} | settings,
        )
        state.mkdir(exist_ok=True)
        (state / "credential.json").write_bytes(msgspec.json.encode(KeptCredential(name, 1, credential)))
        (self.directory / f"{name}.seed").write_bytes(encode_seed(seed))
        self.spawn(name, *_python("guest_agent.main"), "--seed", f"{state}.seed", "--state-dir", str(state))

    def start(self, name: str, module: str, config: dict[str, object]) -> None:
        """Start ``python -m module --config FILE`` with these settings."""
        path = self.directory / f"{name}.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
        self.spawn(name, *_python(module), "--config", str(path))

    def spawn(self, name: str, *command: str) -> None:
        """Start any command as a process of the rig, in a session of its own; its log is appended to."""
        self._commands[name] = command
        with self.log_file(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def again(self, name: str) -> None:
        """Start a process again as it was started last."""
        self.spawn(name, *self._commands[name])

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL and wait until it is gone; its payloads, if it is a guest, live on."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self, name: str) -> int:
        """Stop a process with SIGTERM, with SIGKILL when its time is up, and give its exit code. Idempotent."""
        process = self.processes[name]
        process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def log_file(self, name: str) -> Path:
        """Where a process's log is."""
        return self.directory / f"{name}.log"

    def logs(self, last: int = 1500) -> str:
        """The ends of all logs, for a failure's message."""
        return "\n".join(f"== {name}\n{self.log_file(name).read_text()[-last:]}" for name in self.processes)

    def strays(self) -> list[int]:
        """Processes that work in a guest's directory: payloads whose guest was killed."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cwd") if self._is_of_guest(path)]

    def _is_of_guest(self, cwd: Path) -> bool:
        try:
            return str(cwd.readlink()).startswith(f"{self.directory}/vm-")
        except OSError:
            return False  # it is gone, or nobody's business

    @asynccontextmanager
    async def console(self, name: str = "console-operator") -> AsyncIterator[Caller]:
        """Have a console's end of calls."""
        async with Connection(self.mint(name), name=name) as connection:
            caller = Caller(connection)
            await caller.open(name)
            yield caller

    def _administrator(self) -> Declarer:
        where = self.address
        return administrator(where.administration)

    def _adapter(self, name: str, module: str, settings: dict[str, object]) -> str:
        self.mint(name)
        (port,) = free_ports(LOOPBACK, [0])
        usual = {
            "credential": str(self.credential(name)),
            "ledger": self.ledger,
            "store": f"file://{self.directory}/store",
            "metrics_port": port,
        }
        self.start(name, module, usual | settings)
        return f"{LOOPBACK}:{port}"


async def counted(caller: Caller, job: str, done: Callable[[dict[str, int]], bool], patience_s: float = 30.0) -> None:
    """Ask for the numbers of a job's array by state until they are as wanted. Raises TimeoutError naming the last."""
    counts: dict[str, int] = {}
    try:
        async with asyncio.timeout(patience_s):
            while not done(counts):
                await asyncio.sleep(0.1)
                counts = (await caller.call_centre("call", JobList(job=job, limit=1), Jobs)).counts
    except TimeoutError as error:
        raise TimeoutError(f"{job} is at {counts} after {patience_s:.0f} s") from error


def _python(module: str) -> Command:
    return (sys.executable, "-m", module)
