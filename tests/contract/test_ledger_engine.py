"""The ledger opens, migrates, writes whole transactions or nothing, and says what went wrong in its own words."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, text

from adapters.errors import Conflict, Contended, LedgerError, LedgerUnavailable
from adapters.ledger import connections, tables
from adapters.ledger import engine as engine_module
from adapters.ledger.connections import connect
from adapters.ledger.engine import Ledger
from adapters.ledger.migrations import migrate, revisions
from adapters.ledger.migrations.upgrading import config
from adapters.ledger.transaction import Tx
from tests.contract.ledger_fixtures import Cluster, cluster, empty_url, url

__all__ = ["cluster", "empty_url", "url"]

#: Sorts more than fits the memory that the test leaves it.
MANY_ROWS_SORTED = "SELECT md5(n::text) AS word FROM generate_series(1, 200000) AS n ORDER BY word OFFSET 1"
ADD_HOST = "INSERT INTO hosts (host, facts, reported_ms, seen_ms, present) VALUES (:host, :facts, 1, 1, :present)"


def add_host(tx: Tx, host: str = "host-1", facts: bytes = b"") -> None:
    tx.connection.execute(text(ADD_HOST), {"host": host, "facts": facts, "present": True})


def count_hosts(tx: Tx) -> int:
    return int(tx.connection.scalar(text("SELECT count(*) FROM hosts")) or 0)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    made.open()
    yield made
    made.close()


@pytest.fixture
def bare(empty_url: str) -> Iterator[Engine]:
    engines = connect(empty_url, "FULL")
    yield engines.durable
    for engine in engines:
        engine.dispose()


#: Opens a ledger, and says what of Alembic that has loaded.
OPEN_AND_TELL = """
import sys
from adapters.ledger.engine import Ledger
Ledger(sys.argv[1]).open()
print([name for name in sys.modules if name.startswith("alembic")])
"""


def test_the_files_of_the_migrations_are_the_revisions_in_turn() -> None:
    assert revisions() == [one.revision for one in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


def test_a_ledger_that_is_of_this_release_is_opened_without_alembic(url: str) -> None:
    assert subprocess.run([sys.executable, "-c", OPEN_AND_TELL, url], check=True, capture_output=True).stdout == b"[]\n"


def test_the_migrations_make_the_tables_that_the_code_has(bare: Engine) -> None:
    migrate(bare)

    with bare.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    assert differences == []


def test_the_migrations_make_the_same_indexes_and_conditions_as_the_code(bare: Engine) -> None:
    migrate(bare)
    migrated = shapes_of(bare)
    drop_all(bare)

    with bare.begin() as connection:
        tables.metadata.create_all(connection)

    assert shapes_of(bare) == migrated


def shapes_of(engine: Engine) -> list[str]:
    """Write tables and indexes as the database itself does."""
    query = (
        "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE '%alembic%'"
        if engine.dialect.name == "sqlite"
        else "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE '%alembic%'"
    )
    with engine.connect() as connection:
        return sorted(" ".join(str(row).split()) for row in connection.execute(text(query)).scalars())


def drop_all(engine: Engine) -> None:
    with engine.begin() as connection:
        everything = MetaData()
        everything.reflect(connection)
        everything.drop_all(connection)


def test_opening_again_changes_nothing(url: str) -> None:
    ledger = Ledger(url)
    ledger.open()
    ledger.write(add_host)
    ledger.open()
    ledger.close()
    ledger.close()

    ledger.open()

    assert ledger.read(count_hosts) == 1
    ledger.close()


OPEN = "import sys; from adapters.ledger.engine import Ledger; l = Ledger(sys.argv[1]); l.open(); l.close()"


def test_processes_that_open_an_empty_ledger_at_once_all_succeed(empty_url: str) -> None:
    begun = [subprocess.Popen([sys.executable, "-c", OPEN, empty_url], stderr=subprocess.PIPE) for _ in range(4)]

    ended = [process.communicate(timeout=60)[1].decode() for process in begun]

    assert [process.returncode for process in begun] == [0, 0, 0, 0], ended
    ledger = Ledger(empty_url)
    ledger.open()
    assert ledger.read(count_hosts) == 0
    ledger.close()


def test_a_ledger_of_a_newer_release_is_not_touched(bare: Engine, empty_url: str) -> None:
    migrate(bare)
    with bare.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(LedgerError, match="9999, which this release does not know"):
        Ledger(empty_url).open()


def test_work_that_raises_leaves_nothing(ledger: Ledger) -> None:
    def work(tx: Tx) -> None:
        add_host(tx)
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        ledger.write(work)

    assert ledger.read(count_hosts) == 0


def test_a_light_write_is_there_for_the_next_reader(ledger: Ledger) -> None:
    ledger.write_lightly(add_host)

    assert ledger.read(count_hosts) == 1


def test_a_row_that_the_tables_refuse_is_a_conflict(ledger: Ledger) -> None:
    ledger.write(add_host)

    with pytest.raises(Conflict):
        ledger.write(add_host)


def test_a_number_beyond_the_databases_is_our_error(ledger: Ledger) -> None:
    def work(tx: Tx) -> None:
        tx.connection.execute(text("SELECT 1 FROM hosts WHERE seen_ms = :number"), {"number": 1 << 70}).all()
        tx.connection.execute(text("UPDATE hosts SET seen_ms = :number"), {"number": 1 << 70})

    ledger.write(add_host)

    with pytest.raises(LedgerError):
        ledger.write(work)


def test_a_reader_does_not_wait_for_a_writer(ledger: Ledger) -> None:
    def work(tx: Tx) -> int:
        add_host(tx)
        return ledger.read(count_hosts)

    assert ledger.write(work) == 0


def test_contended_work_is_tried_again_and_what_the_loser_did_is_undone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module.time, "sleep", lambda wait_s: None)
    tries: list[int] = []

    def work(tx: Tx) -> int:
        add_host(tx)
        tries.append(count_hosts(tx))
        if len(tries) < 3:
            raise Contended("on purpose")
        return len(tries)

    assert ledger.write(work) == 3
    assert tries == [1, 1, 1]


def test_work_that_stays_contended_is_given_up_after_bounded_tries(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(engine_module.time, "sleep", waits.append)

    def work(tx: Tx) -> None:
        raise Contended("on purpose")

    with pytest.raises(Contended):
        ledger.write(work)

    assert len(waits) == engine_module.TRIES - 1
    assert sum(waits) < 4


def test_the_time_is_the_databases_and_stands_still_within_a_transaction(ledger: Ledger) -> None:
    first, again = ledger.write(lambda tx: (tx.now_ms, tx.now_ms))
    later = ledger.write(lambda tx: tx.now_ms)

    assert first == again
    assert 0 <= later - first < 60_000


def test_what_a_failed_transaction_learnt_is_forgotten(ledger: Ledger) -> None:
    def work(tx: Tx) -> None:
        tx.known.shape_numbers["key"] = 1
        raise LookupError

    with pytest.raises(LookupError):
        ledger.write(work)

    assert ledger.write(lambda tx: dict(tx.known.shape_numbers)) == {}


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ("mysql://x/y", "sqlite:/// or postgresql://"),
        ("sqlite://", "needs a file"),
        ("nonsense", "rfc1738|URL"),
        ("postgresql://nobody@127.0.0.1:1/nothing", "cannot be used"),
        ("sqlite:////nonexistent/ledger.db", "cannot be used"),
    ],
)
def test_a_ledger_that_cannot_be_opened_says_why(bad: str, match: str) -> None:
    with pytest.raises(LedgerError, match=match):
        Ledger(bad).open()


def test_a_ledger_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="not open"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}").read(count_hosts)


def test_a_word_that_is_no_pragma_is_refused() -> None:
    with pytest.raises(LedgerError, match="synchronous = 'MAYBE'"):
        Ledger("sqlite:////tmp/x.db", synchronous="MAYBE")


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    made.open()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("pragma", "durable", "light"), [("journal_mode", "wal", "wal"), ("synchronous", 2, 1), ("foreign_keys", 1, 1)]
)
def test_sqlite_is_set_to_lose_nothing(file_ledger: Ledger, pragma: str, durable: object, light: object) -> None:
    def ask(tx: Tx) -> object:
        return tx.connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()

    assert (file_ledger.write(ask), file_ledger.write_lightly(ask)) == (durable, light)


def test_a_full_disk_is_unavailable_and_nothing_is_half_written(file_ledger: Ledger) -> None:
    def fill(tx: Tx) -> None:
        pages = int(tx.connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        for number in range(100_000):
            add_host(tx, f"host-{number}")

    with pytest.raises(LedgerUnavailable, match="full"):
        file_ledger.write(fill)

    assert file_ledger.read(count_hosts) == 0


def test_a_database_that_drops_its_connections_is_unavailable_once(cluster: Cluster) -> None:
    url = cluster.create()
    ledger, other = Ledger(url), Ledger(url)
    ledger.open()
    other.open()
    ledger.write(count_hosts)

    other.write(drop_other_connections)

    with pytest.raises(LedgerUnavailable):
        ledger.write(count_hosts)
    assert ledger.write(count_hosts) == 0
    ledger.close()
    other.close()


def drop_other_connections(tx: Tx) -> None:
    others = "pid <> pg_backend_pid() AND datname = current_database()"
    tx.connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))


@pytest.mark.parametrize(
    ("setting", "statement"),
    [
        ("default_transaction_read_only = on", ADD_HOST),
        ("statement_timeout = '50ms'", "SELECT pg_sleep(5)"),
        ("work_mem = '64kB'; SET temp_file_limit = '1MB'", "SELECT count(*) FROM (" + MANY_ROWS_SORTED + ") AS sorted"),
    ],
    ids=["read-only", "cancelled", "out of space for temporary files"],
)
def test_a_postgresql_that_cannot_do_it_now_keeps_what_is_asked_of_it(
    cluster: Cluster, setting: str, statement: str
) -> None:
    ledger = Ledger(cluster.create())
    ledger.open()
    values = {"host": "host-1", "facts": b"", "present": True} if statement == ADD_HOST else {}

    def work(tx: Tx) -> None:
        for one in setting.split("; SET "):
            name, _, value = one.partition(" = ")
            local = "transaction_read_only" if name.startswith("default") else name
            tx.execute(text(f"SET LOCAL {local} = {value}"))
        tx.execute(text(statement), values)

    with pytest.raises(LedgerUnavailable):
        ledger.write(work)
    ledger.close()


def test_a_program_that_is_stopped_in_the_midst_of_a_transaction_holds_nobody_up_for_long(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_MS", 300)
    at = cluster.create("template1")
    stopped, other = Ledger(at), Ledger(at)
    for one in (stopped, other):
        one.open()
    holds, goes_on, errors = threading.Event(), threading.Event(), list[Exception]()

    def stop(tx: Tx) -> None:
        tx.serialise_matching()
        holds.set()
        goes_on.wait(60)
        add_host(tx, "host-of-the-stopped")

    def write() -> None:
        try:
            stopped.write(stop)
        except LedgerUnavailable as error:
            errors.append(error)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    assert holds.wait(20)
    other.write(lambda tx: (tx.serialise_matching(), add_host(tx)))
    goes_on.set()
    writing.join(20)

    assert len(errors) == 1
    assert other.read(count_hosts) == 1
    for one in (stopped, other):
        one.close()


def test_an_sqlite_file_that_is_damaged_keeps_what_is_asked_of_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, and long enough to be read as one" * 100)

    with pytest.raises(LedgerUnavailable):
        Ledger(f"sqlite:///{path}").open()


def test_an_sqlite_connection_that_may_only_read_keeps_what_is_asked_of_it(file_ledger: Ledger) -> None:
    def work(tx: Tx) -> None:
        tx.execute(text("PRAGMA query_only = ON"))
        try:
            tx.execute(text(ADD_HOST), {"host": "host-1", "facts": b"", "present": True})
        finally:
            tx.execute(text("PRAGMA query_only = OFF"))

    with pytest.raises(LedgerUnavailable, match="readonly"):
        file_ledger.write(work)


def test_the_log_of_sqlite_stays_short_though_somebody_always_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_LOG_BYTES", 200_000)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.open()
    log, longest, ended = tmp_path / "ledger.db-wal", 0, threading.Event()

    def read_on() -> None:
        while not ended.is_set():
            ledger.read(count_hosts)

    readers = [threading.Thread(target=read_on, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(300):
            ledger.write(lambda tx, number=number: add_host(tx, f"host-{number}", b"x" * 4000))  # type: ignore[misc]
            longest = max(longest, log.stat().st_size)
            ledger.tidy()
    finally:
        ended.set()
        for reader in readers:
            reader.join(30)
    ledger.close()

    assert 200_000 < longest < 2_000_000
