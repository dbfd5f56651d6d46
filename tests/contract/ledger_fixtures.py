"""Both databases for the ledger's contract, and a desk that speaks for sites, guests and hosts in one line each."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from sqlalchemy import create_engine, func, select, text

from adapters.ledger import (
    assignments,
    completions,
    inventory,
    leases,
    listing,
    orders,
    outbox,
    queries,
    requests,
    submissions,
    tables,
    tallies,
    timetable,
)
from adapters.ledger.deferred import Deferred
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from schemas.codec import decode, unbundle
from schemas.description import JobDescription
from schemas.envelope import Message
from schemas.ids import job_ref
from schemas.jobs import (
    AgentHello,
    AttemptRef,
    Holding,
    JobAssign,
    JobBeat,
    JobBeatAnswer,
    JobCompletion,
    JobCompletionAnswer,
    JobRequest,
    JobWithdraw,
    Machine,
    Outcome,
    Phase,
)
from schemas.ledger import (
    JobCancel,
    JobList,
    JobRecord,
    JobRetry,
    JobRow,
    JobsChanged,
    JobShow,
    JobState,
    JobSubmit,
    JobVerdict,
)
from schemas.vms import HostFacts, HostInventory, VmStatus

T = TypeVar("T")

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
SITE = "site-a"
SMALL = Machine(cpus=1, memory_mib=1024, disk_mib=4096, platform="linux/x86_64")
BIG = Machine(cpus=8, memory_mib=16384, disk_mib=65536, platform="linux/x86_64", features=["gpu"])
FACTS = HostFacts(
    hostname="pc", platform="linux/x86_64", cpus=8, memory_mib=16384, free_disk_mib=90000, hypervisor="fake"
)


class Cluster:
    """A private PostgreSQL on loopback, in a directory of its own; databases are copies of one migrated template."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self._names = (f"ledger{number}" for number in itertools.count(1))

    def url(self, name: str) -> str:
        return f"postgresql://ledger@127.0.0.1:{self.port}/{name}"

    def create(self, template: str = "template") -> str:
        name = next(self._names)
        engine = create_engine(
            self.url("postgres").replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine.dispose()
        return self.url(name)


def _as_owner(command: Sequence[str | Path]) -> None:
    """Run a tool of PostgreSQL, which refuses to run as root."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real PostgreSQL. Without one: skipped on a laptop, a failure in CI."""
    if not (POSTGRESQL / "initdb").exists():
        if os.environ.get("CI"):
            pytest.fail("CI must run the ledger on PostgreSQL; install postgresql-15")
        pytest.skip("no PostgreSQL: install postgresql-15 to run the ledger's contract on it")
    directory = Path(tempfile.mkdtemp(prefix="ledger-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres")
    made, control = Cluster(directory, _free_port()), POSTGRESQL / "pg_ctl"
    settings = f"-p {made.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={directory} -c fsync=on"
    _as_owner([POSTGRESQL / "initdb", "-D", directory / "data", "-U", "ledger", "-A", "trust", "-E", "UTF8"])
    _as_owner([control, "-D", directory / "data", "-l", directory / "log", "-o", settings, "-w", "start"])
    try:
        _migrated(made.create("template1"), made)
        yield made
    finally:
        _as_owner([control, "-D", directory / "data", "-m", "immediate", "-w", "stop"])
        shutil.rmtree(directory)


def _migrated(url: str, cluster: Cluster) -> None:
    ledger = Ledger(url)
    ledger.open()
    ledger.close()
    engine = create_engine(
        cluster.url("postgres").replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.rpartition('/')[2]} RENAME TO template"))
    engine.dispose()


def fresh_sqlite(directory: Path) -> str:
    """Give the URL of a database with the newest tables, made there."""
    (directory / "ledger.db").write_bytes(_migrated_file())
    return f"sqlite:///{directory}/ledger.db"


@functools.cache
def _migrated_file() -> bytes:
    """Give a database of SQLite with the newest tables and nothing in them."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(f"sqlite:///{directory}/ledger.db")
        ledger.open()
        ledger.close()
        return Path(directory, "ledger.db").read_bytes()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An own database with the newest tables, of each kind in turn."""
    if request.param == "sqlite":
        return fresh_sqlite(tmp_path)
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An own database without tables, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create("template1")


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    """A ledger on each database in turn."""
    made = Desk(url)
    yield made
    assert made.ledger.read(tallies.of_all) == made.counted(), "whoever changes a job's state tells ``tallies``"
    made.ledger.close()


class Desk:
    """Speaks to a ledger as sites, guests, hosts and people do; the time is its own and moves only when told.

    Each line is one transaction that ends with ``match``, as in an adapter. ``sent`` holds what came out of the outbox.
    """

    def __init__(self, url: str, policy: Policy | None = None, instance: str = "adapter-test") -> None:
        self.now_ms = 1_000_000_000_000
        #: By how much the machine's clock is off.
        self.wall_off_ms = 0
        self.policy = policy or Policy(first_retry_s=0)
        self.ledger = Ledger(
            url,
            instance=instance,
            policy=self.policy,
            clock=lambda: self.now_ms + self.wall_off_ms,
            lease_clock=lambda: self.now_ms,
        )
        self.ledger.open()
        self.sent: list[Message] = []
        self.counts: dict[str, int] = {}
        self._ids = (f"{number:012}" for number in itertools.count(1))

    def write(self, work: Callable[[Tx], T]) -> T:
        def all_of_it(tx: Tx) -> tuple[T, list[outbox.OutboxRow], dict[str, int], Deferred]:
            result = work(tx)
            assignments.match(tx)
            return result, outbox.fresh(tx), dict(tx.counts), tx.deferred

        result, rows, counts, deferred = self.ledger.write(all_of_it)
        self.sent += [decode(body) for row in rows for body in unbundle(row.body)]
        if deferred:
            self.write(lambda tx: assignments.go_on(tx, deferred))
        self.counts = counts
        return result

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    def set_wall(self, off_days: float) -> None:
        """Set the machine's clock, so many days off what has been served."""
        self.wall_off_ms = int(off_days * 86_400_000)

    def id(self) -> str:
        """A message id that sorts after every earlier one, as one guest's UUIDv7 do."""
        return next(self._ids)

    # As a site or a person.

    def submit(self, job_id: str, owner: str = SITE, *, stored: Sequence[str] = (), **fields: Any) -> JobVerdict:
        job = JobDescription(id=job_id, **{"executable": "run.sh", **fields})
        message = JobSubmit(id=self.id(), job=job)
        checked = submissions.check(message, lambda digest: digest in stored)
        return self.write(lambda tx: submissions.submit(tx, owner, checked))

    def cancel(self, job: str, owner: str = "", by: str = "") -> JobsChanged:
        return self.order(lambda tx: orders.cancel(tx, JobCancel(id=self.id(), job=job), owner, by))

    def retry(self, job: str, owner: str = "") -> JobsChanged:
        return self.order(lambda tx: orders.retry(tx, JobRetry(id=self.id(), job=job), owner))

    def order(self, work: Callable[[Tx], orders.Portion]) -> JobsChanged:
        """Carry an order out, portion by portion."""
        done = [self.write(work)]
        while not done[-1].is_last:
            done.append(self.write(work))
        return JobsChanged(
            call="", changed=sum(portion.changed for portion in done), pending=sum(portion.pending for portion in done)
        )

    # As a guest.

    def ask(
        self, vm: str = "vm-1", slot: int = 0, machine: Machine = SMALL, generation: int = 1, **more: Any
    ) -> JobRequest:
        message = self.request(slot, machine, generation, **more)
        self.write(lambda tx: requests.ask(tx, vm, message))
        return message

    def request(
        self,
        slot: int = 0,
        machine: Machine = SMALL,
        generation: int = 1,
        holding: Sequence[JobAssign] = (),
        more: Sequence[int] = (),
    ) -> JobRequest:
        return JobRequest(
            id=self.id(),
            slot=slot,
            more=list(more),
            machine=machine,
            generation=generation,
            holding=[_ref(job) for job in holding],
        )

    def withdraw(self, vm: str, slots: Sequence[int], message_id: str = "") -> None:
        message = JobWithdraw(id=message_id or self.id(), slots=list(slots))
        self.write(lambda tx: requests.withdraw_all(tx, [(vm, message)]))

    def hello(
        self, vm: str = "vm-1", generation: int = 1, holding: Sequence[JobAssign] = (), boot_id: str = ""
    ) -> AgentHello:
        machine = msgspec.structs.replace(SMALL, boot_id=boot_id)
        held = [_ref(job) for job in holding]
        message = AgentHello(id=self.id(), machine=machine, generation=generation, holding=held)
        self.write(lambda tx: requests.hello(tx, vm, message))
        return message

    def beat(self, *jobs: JobAssign, phase: Phase = Phase.RUNNING, vm: str = "", generation: int = 1) -> JobBeatAnswer:
        message = JobBeat(
            id=self.id(),
            generation=generation,
            holding=[Holding(job=job.job, attempt=job.attempt, phase=phase) for job in jobs],
        )
        return self.write(lambda tx: leases.renew(tx, vm or jobs[0].target, message))

    def complete(
        self, job: JobAssign, outcome: Outcome = Outcome.DONE, vm: str = "", **fields: Any
    ) -> JobCompletionAnswer:
        message = JobCompletion(
            id=self.id(), job=job.job, attempt=job.attempt, generation=job.generation, outcome=outcome, **fields
        )
        return self.write(lambda tx: completions.complete(tx, vm or job.target, message))

    def start(self, vm: str = "vm-1", slot: int = 0) -> JobAssign:
        """Ask and take the job that is given."""
        self.ask(vm, slot)
        return self.assigned()[-1]

    # As a host.

    def report(self, host: str, *vms: VmStatus, at_ms: int | None = None) -> None:
        message = HostInventory(id=self.id(), host=FACTS, vms=list(vms), at_ms=self.now_ms if at_ms is None else at_ms)
        self.write(lambda tx: inventory.report(tx, host, message))

    # As an adapter.

    def expire(self) -> int:
        return self.write(leases.expire)

    def keep_time(self) -> None:
        """Do all that is due, as an adapter's sweep."""

        def sweep(tx: Tx) -> None:
            timetable.keep(tx)
            assignments.match_all(tx)

        self.write(sweep)

    def assigned(self) -> list[JobAssign]:
        return [message for message in self.sent if isinstance(message, JobAssign)]

    def of_kind(self, kind: type[T]) -> list[T]:
        return [message for message in self.sent if isinstance(message, kind)]

    def job(self, name: str, owner: str = SITE) -> JobRow:
        return self.show(name, owner).job

    def show(self, name: str, owner: str = SITE) -> JobRecord:
        job_id, _, index = name.partition(".")
        ref = job_ref(owner, job_id, int(index or 1))
        return self.ledger.read(lambda tx: queries.show(tx, JobShow(job=ref)))

    def counted(self) -> dict[str, int]:
        """Count the jobs by state, one by one."""
        statement = select(tables.jobs.c.state, func.count()).group_by(tables.jobs.c.state)
        return {state: count for state, count in self.ledger.read(lambda tx: tx.execute(statement).all())}  # noqa: C416

    def states(self) -> dict[str, int]:
        return self.ledger.read(lambda tx: listing.list_jobs(tx, JobList())).counts

    def state(self, name: str) -> JobState:
        return self.job(name).state


def _ref(job: JobAssign) -> AttemptRef:
    return AttemptRef(job=job.job, attempt=job.attempt)


def status(vm: str, state: str = "running", generation: int = 1, **more: Any) -> VmStatus:
    """What a host says of a VM."""
    fields: dict[str, Any] = {
        "vm": vm,
        "name": vm.removeprefix("vm-") + "-name",
        "state": state,
        "generation": generation,
        "hypervisor": "fake",
        "cpus": 1,
        "memory_mib": 1024,
        "disk_mib": 4096,
    }
    return VmStatus(**fields | more)
