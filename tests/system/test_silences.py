"""A part that is frozen: every command ends within ten seconds, and says which part, since when, and what mends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.node import find_server
from tests.system.running import System, processes_of
from volcloud import Client
from volcloud.centre.process_state import read_state
from volcloud.centre.stopping import node_record
from volcloud.errors import Unreachable

#: What a person waits for at most, beside what any command takes on this machine just now, seconds.
MOST_S = 10.0
JOB = str(Path(__file__).parents[2] / "examples" / "hello.toml")
Told = tuple[float, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    find_server()
    directory = Path(tempfile.mkdtemp(prefix="vc-"))
    system = System(directory)
    try:
        system.up("--hypervisor", "process", "--vms", "1")
        yield system
    finally:
        system.down()
        left = processes_of(directory)
        shutil.rmtree(directory)
        assert left == []


def pid_of(system: System, part: str) -> int:
    if part == "broker":
        record = node_record(system.layout)
        assert record is not None
        return record.pid
    state = read_state(system.layout.record(part))
    assert state is not None
    return state.record.pid


@contextmanager
def frozen(system: System, part: str) -> Iterator[int]:
    pid = pid_of(system, part)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def told(system: System, *words: str) -> Told:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "volcloud.main", *words],
        env={**os.environ, "VOLCLOUD_DATA": str(system.directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return time.monotonic() - began, done


def all_told(system: System, commands: tuple[tuple[str, ...], ...]) -> list[Told]:
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda words: told(system, *words), commands))


CASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "broker": (("job", "list"), ("job", "submit", JOB), ("dead", "list"), ("site", "add", "x"), ("vm", "stop", "*")),
    "job_adapter-1": (
        ("job", "list"),
        ("job", "submit", JOB),
        ("host", "list"),
        ("vm", "run", "worker-1", "--", "true"),
    ),
    "key_manager": (("site", "add", "x"), ("site", "delete", "x")),
}


@pytest.mark.parametrize("part", CASES)
def test_a_frozen_part_is_named_in_time(system: System, part: str) -> None:
    commands = CASES[part]
    usual_s = max(took for took, _ in all_told(system, (("host", "list"),) * len(commands)))

    with frozen(system, part) as pid:
        answers = all_told(system, commands)

    for words, (took, done) in zip(commands, answers, strict=True):
        assert done.returncode == (125 if words[1] == "run" else 3), (words, done.stderr)
        assert took < MOST_S + usual_s, words
        assert f"{part} is frozen: somebody has stopped it (" in done.stderr, words
        assert f"`kill -CONT {pid}`" in done.stderr, words
    assert told(system, "job", "list")[1].returncode == 0


def test_a_frozen_host_agent_is_named_with_the_time_of_its_last_word(system: System) -> None:
    usual_s, _ = told(system, "host", "list")

    with frozen(system, "host_agent"):
        took, done = told(system, "vm", "pause", "worker-1")
    told(system, "vm", "resume", "worker-1")

    assert done.returncode == 1
    assert took < MOST_S + usual_s
    assert "does not answer: vm.pause is in its queue" in done.stderr
    assert "the centre heard of it last" in done.stderr


def test_a_client_too_hears_of_a_frozen_broker_in_time(system: System) -> None:
    with frozen(system, "broker"):
        began = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer in"):
            Client.connect(system.directory)

    assert time.monotonic() - began < MOST_S


def test_an_order_that_takes_long_is_waited_for_while_the_centre_answers(system: System) -> None:
    """Its adapter is held for less than what counts as gone: the order is carried out, and nothing is said."""
    with ThreadPoolExecutor(1) as pool:
        with frozen(system, "job_adapter-1"):
            order = pool.submit(told, system, "job", "submit", JOB, "--id", "late")
            time.sleep(4)
        _, done = order.result()

    assert (done.returncode, done.stderr) == (0, "")


def test_who_sends_a_file_hears_in_time_that_the_storage_adapter_is_silent(system: System, tmp_path: Path) -> None:
    """It was told after 45 s. The word comes while the file waits, and when the adapter goes on, so does the file."""
    (tmp_path / "card.dat").write_bytes(b"card")
    (tmp_path / "job.toml").write_text(
        'id = "with-a-file"\nexecutable = "/bin/true"\n[[inputs]]\nname = "card.dat"\npath = "card.dat"\n'
    )
    usual_s, _ = told(system, "host", "list")
    command = [sys.executable, "-m", "volcloud.main", "job", "submit", str(tmp_path / "job.toml")]
    environment = {**os.environ, "VOLCLOUD_DATA": str(system.directory)}

    began = time.monotonic()
    with frozen(system, "storage_adapter-1"):
        submitting = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert submitting.stderr is not None
        word = submitting.stderr.readline()
        took = time.monotonic() - began
    rest = submitting.communicate(timeout=120)[1]

    assert "card.dat: no word of the storage adapter for 8 s; given up after 45 s; `volcloud status` tells" in word
    assert took < MOST_S + usual_s
    assert (submitting.returncode, rest) == (0, "")
