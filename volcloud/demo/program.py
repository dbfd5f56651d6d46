"""The demo from end to end; see ``python -m volcloud.demo --help``.

A signal at any point cancels the one task, and every step puts away what it has: the system goes down in order, the
programs end. What a SIGKILL leaves, the next run ends first.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from broker.daemon.process_identity import boot_id
from broker.daemon.tasks import wait_out
from schemas.ledger import JobRecord, JobRow, JobState
from volcloud.centre.guest_image import cache_directory, provide_image
from volcloud.centre.interruption import Interruption, ended_from_outside
from volcloud.centre.plan import Plan
from volcloud.centre.supervisor import Supervisor
from volcloud.client import AsyncClient
from volcloud.demo import evidence, material
from volcloud.demo.place import DemoPlace, clear, occupied
from volcloud.demo.steps import DemoSteps
from volcloud.errors import CommandFailed, Failure
from volcloud.screen import screen
from volcloud.telling import silence, tell

JOB = "z-decays"
JOBS = 4
#: How long the jobs may take, seconds; 20 are usual.
JOBS_TIMEOUT_S = 600.0
#: Columns where the output is no terminal: the table's.
LOG_WIDTH = 120
#: Parts of the run, as the summary adds them up.
_RUN = ("clean", "wheel", "up", "submit", "wait", "fetch", "native", "merge", "down")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo is asked for."""

    hypervisor: str
    place: DemoPlace
    #: What the set-up before the demo took, seconds.
    packages_s: float = 0.0


class Demo:
    """One run. ``play`` once."""

    def __init__(self, options: Options) -> None:
        self._options, self._place = options, options.place
        self._out = screen()
        if not self._out.is_terminal:
            self._out.width = LOG_WIDTH
        self._is_heard = True
        self._steps = DemoSteps(self._print)

    async def play(self) -> bool:
        """Do all of it and say whether every check was met. Raises VolcloudError or BrokerError; nothing runs then."""
        with occupied(self._place):
            with self._steps.step("clean", "what a killed run may have left"):
                await asyncio.to_thread(clear, self._place, self._steps.say)
            await self._provide_image()
            with self._steps.step("wheel", f"{material.GENERATOR}, an input of the job"):
                wheel = await material.provide_wheel(cache_directory() / "wheels")
                description = material.lay_out(self._place, wheel)
            seen = await self._run(wheel, description)
            self._summarize(seen)
            return evidence.is_convincing(seen)

    async def _provide_image(self) -> None:
        if self._options.hypervisor != "qemu":
            return
        with self._steps.step("image", "a guest image, built or from the cache"):
            self._place.layout.make()
            await provide_image(self._place.layout, self._steps.say)

    async def _run(self, wheel: Path, description: Path) -> evidence.Seen:
        async with self._system(), await AsyncClient.connect(self._place.layout.root) as client:
            records = await self._feed(client, description)
            live = await asyncio.to_thread(_live, records)
        with self._steps.step("native", "seed 1 once more, without VM or broker"):
            mean = await self._native_mean(wheel)
        with self._steps.step("merge", "four results into one"):
            self._print(await material.merge(self._place))
        return evidence.Seen(
            records=records,
            merged=json.loads(self._place.merged.read_text()),
            native_mean=mean,
            hypervisor=self._options.hypervisor,
            host_boot_id=await asyncio.to_thread(boot_id),
            live_pids=live,
        )

    @asynccontextmanager
    async def _system(self) -> AsyncIterator[None]:
        """Hold a system up while the block runs. It is down afterwards, however the block ends."""
        ready = asyncio.Event()
        plan = msgspec.convert(
            {"data": str(self._place.layout.root), "hypervisor": self._options.hypervisor, "vms": 2}, Plan
        )
        holding = asyncio.create_task(Supervisor(plan, self._steps.say).hold(ready.set), name="system")
        try:
            with self._steps.step("up", "broker, key manager, adapters, host agent, two VMs"):
                await _first_of(ready, holding)
            yield
        finally:
            with self._steps.step("down", "everything, in order"):
                holding.cancel()
                await wait_out(holding)
        if not holding.cancelled() and (error := holding.exception()):
            raise error

    async def _feed(self, client: AsyncClient, description: Path) -> list[JobRecord]:
        with self._steps.step("submit", f"an array of {JOBS} jobs"):
            verdict = await client.jobs.submit(description)
            self._steps.say(f"accepted: {verdict.job}, {verdict.count} jobs")
        with self._steps.step("wait", "until they are done"):
            rows = await client.jobs.wait(JOB, timeout_s=JOBS_TIMEOUT_S, on_change=self._tell_counts)
        if any(row.state is not JobState.DONE for row in rows):
            raise await _explained(client, rows)
        names = [f"{JOB}.{index}" for index in range(1, JOBS + 1)]
        with self._steps.step("fetch", "the outputs"):
            for index, name in enumerate(names, start=1):
                await client.jobs.fetch(name, self._place.results / str(index))
        return [await client.jobs.show(name) for name in names]

    async def _native_mean(self, wheel: Path) -> float:
        if not material.can_run_natively():
            self._steps.say(f"this Python cannot load the wheel; {material.KNOWN_MEAN} is what others give")
            return material.KNOWN_MEAN
        return await material.native_mean(self._place, wheel)

    def _summarize(self, seen: evidence.Seen) -> None:
        self._out.print(evidence.places_table(seen.records, seen.merged))
        self._print("")
        for check in evidence.checks(seen):
            self._print(f"{'ok     ' if check.is_met else 'NOT OK '} {check.name}: {check.detail}")
        self._print(f"\nhistogram as a picture: {self._place.picture}")
        image, run = self._steps.total("image"), self._steps.total(*_RUN)
        packages = self._options.packages_s
        parts = f"packages {packages:.1f} s, image {image:.1f} s, run {run:.1f} s"
        self._print(f"{parts}, whole {packages + image + run:.1f} s")
        self._print("  " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in self._steps.seconds.items()))

    def _tell_counts(self, counts: dict[str, int]) -> None:
        self._steps.say(", ".join(f"{number} {state}" for state, number in counts.items() if number))

    def say(self, text: str) -> None:
        """Tell how it goes."""
        self._steps.say(text)

    def _print(self, text: str) -> None:
        """Print a line, as long as somebody reads: a closed pipe must not keep us from taking everything down."""
        try:
            if self._is_heard:
                self._out.print(text, soft_wrap=True)
        except OSError:
            self._is_heard = False
            silence(sys.stdout)


async def _explained(client: AsyncClient, rows: list[JobRow]) -> CommandFailed:
    """Say of each job that did not end well why it did not."""
    names = [row.job.partition("/")[2] for row in rows if row.state is not JobState.DONE]
    reasons = [f"{name}: {(await client.jobs.why(name)).cause}" for name in names]
    return CommandFailed("jobs that are not done: " + "; ".join(reasons))


async def _first_of(ready: asyncio.Event, holding: asyncio.Task[None]) -> None:
    """Wait until the system is ready; raise its error if it fails first."""
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([waiting, holding], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if holding.done():
        holding.result()
        raise CommandFailed("the system ended before it was ready")


def _live(records: list[JobRecord]) -> frozenset[int]:
    """Find which of the recorded hypervisor processes run and are QEMU."""
    pids = {evidence.last_attempt(record).hypervisor_pid for record in records}
    return frozenset(pid for pid in pids if pid > 0 and _is_qemu(pid))


def _is_qemu(pid: int) -> bool:
    try:
        return b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def run_demo(options: Options) -> int:
    """Play the demo and give its exit status: 0, 1 when a check or a step failed or it was ended from outside, 128 + n
    after signal n. It ends by itself when its directory is removed or whoever started it is gone. Raises whatever a
    step raises; nothing runs then."""
    options.place.root.mkdir(parents=True, exist_ok=True)
    demo = Demo(options)
    work = asyncio.ensure_future(demo.play())
    async with ended_from_outside(work, options.place.root, demo.say, follows_starter=True) as interruption:
        try:
            return 0 if await work else 1
        except asyncio.CancelledError:
            if not interruption.reason:
                raise
            return _interrupted(interruption)


def _interrupted(interruption: Interruption) -> int:
    if not interruption.signal:
        return 1
    status = 128 + interruption.signal
    tell(Failure(status, f"interrupted by {signal.Signals(interruption.signal).name}; everything is stopped"))
    return status
