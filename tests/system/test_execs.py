"""``volcloud vm run`` and its neighbours on a real system with VMs of the process driver."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system.person import Person, person
from tests.system.running import System, running, until

#: Memory that neither an agent nor a console may need, KiB.
MOST_KIB = 60 * 1024
VOLCLOUD = (sys.executable, "-m", "volcloud.main")

Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def cloud() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as system:
        yield system


def environment(cloud: System) -> dict[str, str]:
    return {**os.environ, "VOLCLOUD_DATA": str(cloud.directory)}


def vm(cloud: System, *words: str, stdin: bytes = b"", timeout_s: float = 120) -> Done:
    return subprocess.run(
        [*VOLCLOUD, "vm", *words],
        env=environment(cloud),
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def agents(cloud: System) -> dict[str, int]:
    """Give the process id of the agent of each VM, by name."""
    with cloud.client() as client:
        return {row.status.name: row.status.pid for row in client.vms.list()}


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_command_reads_our_standard_input(cloud: System) -> None:
    done = vm(cloud, "run", "worker-1", "--", "sort", stdin=b"b\na\n")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\nb\n", b"")


def test_all_of_several_vms_get_all_of_it(cloud: System) -> None:
    data = os.urandom(2_000_000)
    done = vm(cloud, "run", "worker-[12]", "--", "sha256sum", stdin=data)

    digest = hashlib.sha256(data).hexdigest()
    assert sorted(done.stdout.decode().splitlines()) == [f"worker-{n} | {digest}  -" for n in (1, 2)]


def test_much_input_and_output_come_whole_through_little_memory(cloud: System, tmp_path: Path) -> None:
    """Neither the agent nor the console holds more than a window of it."""
    digest = hashlib.sha256()
    with (tmp_path / "data").open("wb") as file:
        for _ in range(100):
            file.write(block := os.urandom(1_000_000))
            digest.update(block)
    script = 'cat "$0" | "$@" | sha256sum'
    watched = (
        "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(status)"
    )

    done = subprocess.run(
        [
            *("bash", "-o", "pipefail", "-c", script, str(tmp_path / "data")),
            *(sys.executable, "-c", watched, *VOLCLOUD, "vm", "run", "worker-1", "--", "cat"),
        ],
        env=environment(cloud),
        capture_output=True,
        timeout=300,
        check=False,
    )

    assert (done.returncode, done.stdout.split()[0].decode()) == (0, digest.hexdigest())
    assert int(done.stderr) < MOST_KIB
    assert peak_kib(agents(cloud)["worker-1"]) < MOST_KIB


def test_two_hundred_commands_have_their_own_exit_status(cloud: System) -> None:
    with cloud.client() as client:
        statuses = [client.execs.run("worker-1", ["sh", "-c", "exit 3"]).exit_status for _ in range(200)]

    assert statuses == [3] * 200


def test_what_a_vm_is_told_for_programs(cloud: System) -> None:
    script = "pwd; echo e >&2; exit 4"
    done = vm(cloud, "run", "--json", "-w", "/", "worker-[12]", "--", "sh", "-c", script)

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (4, b"")
    assert [(one["name"], one["exit_status"], one["output"], one["stderr"]) for one in lines] == [
        ("worker-1", 4, "/\n", "e\n"),
        ("worker-2", 4, "/\n", "e\n"),
    ]
    assert all(one["peak_rss_bytes"] > 0 and one["host"] and one["vm"] for one in lines)


def test_who_cannot_answer_is_named_and_the_others_run(cloud: System) -> None:
    with cloud.client() as client:
        for name in ("worker-8", "worker-9"):
            client.vms.create(name)
            until(lambda name=name: client.vms.list(name), "the centre knows it")
            client.vms.start(name)
        until(lambda: vm(cloud, "run", "worker-[89]", "--", "true").returncode == 0, "they run commands")
        client.vms.pause("worker-2")
        os.kill(agents(cloud)["worker-9"], signal.SIGKILL)
        try:
            done = vm(cloud, "run", "--patience", "5", "worker-*", "--", "uname", "-n")
            told = vm(cloud, "run", "--json", "--patience", "5", "worker-*", "--", "uname", "-n")
        finally:
            client.vms.resume("worker-2")
            client.vms.poweroff("worker-8")
            client.vms.delete("worker-8")
            client.vms.delete("worker-9")

    said = done.stderr.decode()
    assert done.returncode == 125
    assert sorted(line.split(" ")[0] for line in done.stdout.decode().splitlines()) == ["worker-1", "worker-8"]
    assert "Error: worker-2: VM worker-2 is paused" in said
    assert "Next: `volcloud vm resume" in said
    assert "Error: worker-9: " in said
    assert "Next: `volcloud vm reset" in said or "Next: `volcloud vm start" in said
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(one["name"], one["exit_status"]) for one in lines] == [
        ("worker-1", 0),
        ("worker-2", 125),
        ("worker-8", 0),
        ("worker-9", 125),
    ]
    assert all(one["error"] and one["next_step"] for one in lines if one["exit_status"] == 125)


def test_a_detached_command_is_followed_listed_and_killed(cloud: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo one; echo two >&2; while [ ! -e {gate} ]; do sleep 0.05; done; exit 3"
    exec_id = vm(cloud, "run", "--detach", "worker-1", "--", "sh", "-c", script).stdout.decode().strip()
    gate.touch()
    first = vm(cloud, "attach", "worker-1", exec_id)
    second = vm(cloud, "attach", "worker-1", exec_id)
    other = vm(cloud, "run", "-d", "worker-1", "--", "sleep", "4714.1").stdout.decode().strip()
    killed = vm(cloud, "kill", "-s", "INT", "worker-1", other)
    end = vm(cloud, "attach", "worker-1", other)
    rows = {one["command"]["id"]: one["command"] for one in json.loads(vm(cloud, "ps", "worker-1", "--json").stdout)}
    listed = vm(cloud, "ps").stdout.decode()

    for done in (first, second):
        assert (done.returncode, done.stdout, done.stderr) == (3, b"one\n", b"two\n")
    assert (killed.returncode, end.returncode) == (0, 130)
    assert (rows[exec_id]["state"], rows[exec_id]["exit_status"]) == ("ended", 3)
    assert (rows[other]["exit_status"], rows[other]["command"]) == (130, ["sleep", "4714.1"])
    assert exec_id in listed
    assert "console" in listed


def test_a_detached_command_of_a_killed_agent_is_interrupted_and_gone(cloud: System) -> None:
    exec_id = vm(cloud, "run", "--detach", "worker-1", "--", "sh", "-c", "echo begun; setsid sleep 4714.2")
    words = exec_id.stdout.decode().strip()
    until(lambda: asleep("4714.2"), "it sleeps")
    os.kill(agents(cloud)["worker-1"], signal.SIGKILL)
    until(lambda: not asleep("4714.2"), "nothing of it is left")
    until(lambda: vm(cloud, "run", "worker-1", "--", "true").returncode == 0, "the VM is back", 120)
    done = vm(cloud, "attach", "worker-1", words)

    assert (done.returncode, done.stdout) == (125, b"begun\n")
    assert b"was interrupted" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("attach", "worker-1", "no such id"), 125, "id = 'no such id'"),
        (("attach", "worker-1", "019a2b3c-4d5e-7f60"), 125, "id = '019a2b3c-4d5e-7f60'"),
        (("kill", "-s", "NOPE", "worker-1", "x"), 2, "'NOPE' must be the name of a signal"),
        (("run", "-u", "nobody-there", "worker-1", "--", "id"), 125, "user = 'nobody-there'"),
        (("run", "-w", "/no/where", "worker-1", "--", "id"), 125, "directory = '/no/where'"),
    ],
)
def test_what_is_wrong_is_named(cloud: System, words: tuple[str, ...], status: int, said: str) -> None:
    done = vm(cloud, *words)

    assert (done.returncode, done.stdout) == (status, b"")
    assert said in done.stderr.decode()


def asleep(mark: str) -> bool:
    return subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True, check=False).returncode == 0


def at(cloud: System, *words: str) -> AbstractContextManager[Person]:
    return person([*VOLCLOUD, "vm", "shell", *words], environment(cloud), rows=50, columns=132)


def test_a_shell_follows_the_size_of_the_terminal_and_gives_its_exit_status(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("echo size $(stty size)\r")
        somebody.sees("size 50 132")
        somebody.resize(20, 77)
        until(lambda: (somebody.type("echo size $(stty size)\r"), "size 20 77" in somebody.said)[1], "it has followed")
        somebody.type("exit 3\r")

        assert somebody.ends() == 3
        assert somebody.has_modes_back


def test_ctrl_c_ends_what_runs_in_the_shell_and_not_the_shell(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("echo pid=$$; sleep 4712.1\r")
        until(lambda: asleep("4712.1"), "it sleeps")
        somebody.type("\x03")
        until(lambda: not asleep("4712.1"), "it was interrupted")
        somebody.type("echo still=$$\r")
        somebody.sees("still=")
        pid = somebody.said.split("pid=")[-1].split()[0]
        somebody.sees(f"still={pid}")
        somebody.type("\x04")

        assert somebody.ends() in (0, 130)


def test_a_program_that_redraws_the_screen_does_so(cloud: System) -> None:
    with at(cloud, "worker-1", "top", "-d", "0.2") as somebody:
        somebody.sees("load average")
        seen = somebody.said.count("load average")
        until(lambda: somebody.said.count("load average") > seen + 1 or somebody.said.count("\x1b[H") > 2, "it redraws")
        somebody.type("q")

        assert somebody.ends() == 0


def test_a_person_leaves_and_nothing_is_left(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("setsid sleep 4712.2 &\rsleep 4712.2\r")
        until(lambda: asleep("4712.2"), "it sleeps")
        somebody.type("\r~.")

        assert somebody.ends() == 125
        assert "left by ~." in somebody.said
        assert somebody.has_modes_back
        until(lambda: not asleep("4712.2"), "nothing is left")


def test_a_shell_whose_console_is_killed_leaves_nothing_in_the_vm(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("sleep 4712.4 & sleep 4712.4\r")
        until(lambda: asleep("4712.4"), "it sleeps")
        os.kill(child_of(somebody.process.pid), signal.SIGKILL)
        somebody.ends()

        until(lambda: not asleep("4712.4"), "nothing is left", 90)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_shell_that_is_told_to_end_puts_the_terminal_back(cloud: System, number: signal.Signals) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("sleep 4712.3\r")
        until(lambda: asleep("4712.3"), "it sleeps")
        assert not somebody.has_modes_back
        os.kill(child_of(somebody.process.pid), number)

        assert somebody.ends() == 128 + number
        assert somebody.has_modes_back
        until(lambda: not asleep("4712.3"), "nothing is left")


def test_a_shell_wants_a_terminal(cloud: System) -> None:
    done = vm(cloud, "shell", "worker-1")

    assert done.returncode == 2
    assert b"no terminal" in done.stderr
    assert b"vm run worker-1" in done.stderr


def child_of(pid: int) -> int:
    """Give the only child of a process: that of ``setsid``, if it has forked, or it is the program itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children and b"setsid" in Path(f"/proc/{pid}/cmdline").read_bytes() else pid
