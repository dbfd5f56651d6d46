"""The guest agent put together: identity, connection, commands, files, the job loop, and how they start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from broker import durable
from broker.delivery import Delivery
from broker.errors import Unroutable
from broker.inbound import Refusal, take_in
from broker.rpc import Journal, ServerClock, Uplink
from broker.transfer import Transfers, into_file
from broker.transfer.sending import digest_file
from guest_agent import accounts, quota
from guest_agent.attempt_journal import AttemptJournal
from guest_agent.cache import InputCache
from guest_agent.centre import centre_of
from guest_agent.cgroup import SlotGroup, memory_for_jobs, own_groups
from guest_agent.container import Container
from guest_agent.disk import Disk
from guest_agent.execs import Execs
from guest_agent.files import ConsoleFiles
from guest_agent.host_inputs import InputsFromHost
from guest_agent.identity import Identity
from guest_agent.job_loop import JobLoop, Timing
from guest_agent.leftovers import clear, find_begun, set_aside
from guest_agent.local_road import LocalRoad
from guest_agent.machine import boot_id, describe, free_memory_bytes, load, memory_bytes
from guest_agent.resources import Resources, Store
from guest_agent.seed import SeedSource
from guest_agent.slot_directory import PASS, SlotDirectory
from guest_agent.wall_clock import WallClock
from schemas.files import FileGet, FileOffer, InputFile, OutputFile
from schemas.ids import uuid7
from schemas.jobs import TELLS, AgentHello, Machine, OutputEntry
from schemas.vms import MOST_OF_A_JOB, GuestFacts

log = logging.getLogger(__name__)


#: Where leftovers wait for their removal, in the state directory.
ASIDE = "aside"
#: Traces of attempts that had begun under an agent before us and whose loss is not written down yet, beside it.
TRACES = "begun"
#: Jobs that the host is told by name.
MOST_NAMED = 16


class GuestAgent:
    """One VM's agent. ``run`` until cancelled."""

    def __init__(self, source: SeedSource, state: Path, *, image: str = "", whereabouts: Path | None = None) -> None:
        self._state = state
        self._source = source
        self._image = image
        self.identity = Identity(source, state, whereabouts)
        self._clock, self._wall_clock = ServerClock(), WallClock(is_ours=source.is_a_machines)
        self._host_inputs = InputsFromHost(state)
        self._wall_clock.on_doubt.append(self._clock.forget)

    async def run(self) -> None:
        """Enrol, serve and work until cancelled. VM's broker or centre away: waits, for ever."""
        seed = await self.identity.load()
        self._road = LocalRoad(seed, self._state, self._facts, self._wall_clock, self._host_inputs)
        self._centre = centre_of(self.identity, self._road, self._clock)
        self._uplink = Uplink(self._centre.carrier, lambda: self.identity.generation)
        self._transfers = Transfers(self._centre.carrier)
        self._journal = Journal(self._state / "journal")
        self._journal.open()
        self._attempts = AttemptJournal(self._journal)
        self._slots = seed.slots or os.cpu_count() or 1
        self._settings = seed.settings
        self._build(self._slots, seed.settings)
        try:
            await self._serve()
        finally:
            await self._centre.stop()
            await self._execs.close()
            await self._files.close()
            await self._centre.close()
            await self.identity.close()
            await self._journal.close()
            for container in self._containers:
                container.close()

    def _build(self, slots: int, settings: dict[str, float]) -> None:
        self._execs = Execs(self._state / "files", self._state / "detached")
        self._files = ConsoleFiles(self._transfers, self._state / "files", self._state / "partial")
        self._loop = JobLoop(
            self._uplink,
            self._resources(slots, settings),
            slots=slots,
            machine=self._describe,
            clock=self._clock,
            store=self._storer,
            timing=msgspec.convert({k: v for k, v in settings.items() if k in Timing.__struct_fields__}, Timing),
            refused=lambda: dict(self._centre.refused + self._transfers.refused),
            wall_clock=self._wall_clock,
        )

    def _resources(self, slots: int, settings: dict[str, float]) -> Resources:
        jobs = self._state / "jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        jobs.chmod(PASS)
        past = self._attempts.unanswered()
        unstored = [assign for assign, known in past if known.conclusion is not None]
        boot_before = self._boot_before()
        found = find_begun(jobs, self._state / TRACES, past, is_new_boot=boot_before != boot_id())
        set_aside(jobs, self._state / ASIDE, unstored)
        self._note_boot(boot_before)
        self._containers = self._make_containers(jobs, slots)
        self._cache = InputCache(self._state / "inputs", self._fetch)
        self._disk = Disk(jobs, self._cache, quota.of(jobs), [one.slot_directory.account for one in self._containers])
        return Resources(
            containers=self._containers,
            cache=self._cache,
            journal=self._attempts,
            aside=self._state / ASIDE,
            boot_id=boot_id(),
            boot_before=boot_before,
            found=found,
            disk=self._disk,
            memory_bytes=int(settings.get("payload_memory_mib", 0)) << 20,
            store_patience_s=settings.get("store_patience_s", 3600.0),
        )

    def _make_containers(self, jobs: Path, slots: int) -> list[Container]:
        account = accounts.of_slots(self._state)
        given = memory_for_jobs(memory_bytes(), slots)
        groups = own_groups(given)
        self._memory_bytes = given if groups is not None else memory_bytes()
        cover = accounts.to_be_covered(self._state)
        return [
            Container(
                SlotDirectory(jobs / f"slot-{slot}", account(slot)),
                group=SlotGroup(groups / f"slot-{slot}") if groups is not None else None,
                cover=cover,
            )
            for slot in range(slots)
        ]

    def _boot_before(self) -> str:
        """Give the boot of the agent before us; ours when there was none."""
        note = self._state / "boot"
        return note.read_text() if note.exists() else boot_id()

    def _note_boot(self, before: str) -> None:
        """Note in which boot we run."""
        durable.remove_unfinished(self._state)
        note = self._state / "boot"
        if before != boot_id() or not note.exists():
            try:
                durable.replace(note, boot_id().encode())
            except OSError as error:  # the disk is full of what is removed only now
                log.error("boot not noted", extra={"why": str(error)})

    async def _serve(self) -> None:
        self._road.take(self._execs.handlers())
        await self._centre.serve(self._journal, self._execs.handlers() | self._loop.handlers(), self._on_file)
        self._centre.carrier.on_up.append(self._on_up)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(clear, self._state / ASIDE), name="leftovers")
            group.create_task(self._road.run(self._journal), name="local road")
            await self._centre.open()
            group.create_task(self._loop.run(), name="job loop")
            group.create_task(self._watch_seed(), name="seed watcher")
            group.create_task(self._files.sweep(), name="partial files")
            group.create_task(self._execs.sweep(), name="detached commands")

    def _facts(self) -> GuestFacts:
        holding = self._loop.holding()
        return GuestFacts(
            is_connected=self._centre.carrier.is_up,
            cpus=os.cpu_count() or 1,
            load=load(),
            memory_mib=memory_bytes() >> 20,
            memory_free_mib=free_memory_bytes() >> 20,
            holding=len(holding),
            jobs=[one.job[-MOST_OF_A_JOB:] for one in holding[:MOST_NAMED]],
        )

    def _on_up(self) -> None:
        """A link is new: the one-time login may go, the centre learns what we hold, time is asked for again."""
        self._clock.forget()
        self._wall_clock.doubt()
        self._greeting = asyncio.ensure_future(self._greet())
        self._loop.ask_all()

    async def _greet(self) -> None:
        try:
            hello = AgentHello(machine=self._describe(), holding=self._loop.holding())
            await asyncio.gather(self._uplink.say("request", hello), self._confirm())
        except Unroutable as error:
            log.warning("greeting not delivered", extra={"why": str(error)})

    async def _confirm(self) -> None:
        await self.identity.kept()
        await asyncio.gather(*(self._uplink.say("enrol", word) for word in self._centre.confirms))

    async def _watch_seed(self) -> None:
        """A newer seed comes while we live, after a restore: come back as the new generation."""
        async for body in self._source.watch():
            if self.identity.renew(body):
                log.info("newer generation", extra={"generation": self.identity.generation})
                await self._centre.renew()

    def _on_file(self, delivery: Delivery) -> None:
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            log.warning("message refused", extra={"reason": letter.reason, "detail": letter.detail})
            self._centre.refused[letter.reason] += 1
            delivery.reject()
            return
        delivery.ack()
        sender, message = letter.sender, letter.message
        if isinstance(message, FileOffer | FileGet) and self._files.on_opening(sender, message):
            return
        if not self._transfers.on_message(sender, message):
            self._centre.refused["no_such_transfer"] += 1

    def _describe(self) -> Machine:
        usual_mib = int(self._settings.get("payload_memory_mib", 0))
        return describe(
            memory_mib=self._memory_bytes >> 20,
            disk_mib=self._disk.offered_bytes() >> 20,
            slots=self._slots,
            usual_memory_mib=usual_mib,
            image=self._image,
            features=self._features(),
        )

    def _features(self) -> list[str]:
        """Say what holds payloads together here, so that jobs may ask for it: slots are alike, once they are open."""
        known = next((one for one in self._containers if one.is_open), self._containers[0])
        return [TELLS, *(f"contained:{part}" for part in known.parts)]

    async def _fetch(self, sha256: str, target: Path, partial: Path) -> None:
        """From the host, which has it for all its guests, or else from the centre."""
        if await self._host_inputs.fetch(sha256, target):
            return
        get = FileGet(file=InputFile(sha256=sha256))
        await self._transfers.fetch_file(get, into_file(target, partial), self._centre.storage)

    def _storer(self, output: OutputFile) -> Store:
        async def store(path: Path, name: str) -> OutputEntry:
            size, sha256 = await asyncio.to_thread(digest_file, path)
            file = msgspec.structs.replace(output, name=name)
            offer = FileOffer(id=uuid7(), file=file, size=size, sha256=sha256, generation=self.identity.generation)
            await self._transfers.send_file(path, offer, self._centre.storage)
            return OutputEntry(name=name, size=size, sha256=sha256)

        return store
