"""What holds a payload together: whatever it forks ends with it, and the next one meets nothing of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guest_agent import starter_client
from guest_agent.accounts import Account
from guest_agent.process_tree import descendants
from schemas.description import Output
from schemas.jobs import Outcome
from tests import reaper
from tests.broker.polling import until
from tests.unit.guests import Guest, content_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a payload another account")
ACCOUNT = Account(64018, 64018)
#: A Python that every account may run.
PYTHON = "/usr/bin/python3"

#: Forks a child that does the same, and exits, for ever; twenty of these at once.
CHAINS = """
import os, sys, time
for chain in range(20):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
            try:
                with open("../forged", "w") as f: f.write("forged")
            except OSError:
                pass
time.sleep(0.3)
"""


@pytest.fixture(params=[ACCOUNT, None], ids=["an account of its own", "the agent's own account"])
async def guest(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guest]:
    if request.param is not None and os.geteuid() != 0:
        pytest.skip("only root can give a payload another account")
    made = Guest(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
async def rooted(tmp_path: Path) -> AsyncIterator[Guest]:
    made = Guest(tmp_path, ACCOUNT)
    yield made
    made.close()


def processes_of(directory: Path) -> list[str]:
    """List live processes whose working directory is below a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # Of one in mounts of its own the kernel gives the place from their root, which is above ours in a chroot.
            if f"{directory}/jobs/slot-0/work/" in str((process / "cwd").readlink()):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@as_root
async def test_chains_of_forks_end_with_their_job(rooted: Guest) -> None:
    completion = await rooted.run(PYTHON, "-c", CHAINS)

    assert completion.outcome == Outcome.DONE, completion.cause
    assert processes_of(rooted.directory) == []
    assert [pid for pid in reaper.descendants(os.getppid(), reaper.parents()) if owner_of(pid) == ACCOUNT.uid] == []


def owner_of(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return -1


async def test_a_child_in_a_session_of_its_own_ends_with_its_job(guest: Guest) -> None:
    completion = await guest.run("/bin/sh", "-c", "setsid sleep 600 < /dev/null > /dev/null 2>&1 & sleep 0.2")

    assert completion.outcome == Outcome.DONE, completion.cause
    assert processes_of(guest.directory) == []


async def test_a_job_ends_when_its_agent_is_killed_and_nothing_of_it_lives_on(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from tests.unit.guests import Guest\n"
        "asyncio.run(Guest(Path(sys.argv[1])).run('/bin/sh', '-c', 'setsid sleep 600 & touch begun; sleep 600'))"
    )
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), cwd=Path(__file__).parents[2]
    )
    await until(lambda: list(tmp_path.glob("jobs/slot-0/work/*/begun")) != [], 30)

    agent.kill()
    await agent.wait()
    after = Guest(tmp_path)
    try:
        await after.container.open()
        assert processes_of(tmp_path) == []
    finally:
        after.close()


@as_root
async def test_a_secret_is_out_of_reach_by_path_link_and_chmod(rooted: Guest) -> None:
    secret = rooted.directory / "credential.json"
    secret.write_text("sesame")
    secret.chmod(0o600)
    rooted.directory.chmod(0o755)
    script = f"""
        mkdir d; cp check.sh d/; rm -rf e; mv d e; ln -s {rooted.directory} d
        cat {secret} {rooted.directory}/cache/* ../*/* d/credential.json > out 2> err
        ls {rooted.directory} {rooted.directory}/jobs/slot-0/work >> out 2>> err
        ln {secret} hard 2>> err; true
    """
    check = rooted.input("check.sh", b"#!/bin/sh\nexit 0\n")
    completion = await rooted.run(
        "/bin/sh", "-c", script, inputs=[check], validation="check.sh", outputs=[Output(name="out")]
    )

    assert completion.outcome == Outcome.DONE, completion.cause
    assert b"sesame" not in content_of(completion, "out")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert rooted.directory.stat().st_mode & 0o777 == 0o755


@as_root
@pytest.mark.parametrize(
    "script", ["ln -s {secret} out", "mkfifo out", "mkdir out", "ln -s /dev/zero out", "ln {secret} out || ln -s x out"]
)
async def test_an_output_that_is_nothing_of_the_jobs_own_is_not_handed_out(rooted: Guest, script: str) -> None:
    secret = rooted.directory / "credential.json"
    secret.write_text("sesame")
    secret.chmod(0o600)

    completion = await rooted.run("/bin/sh", "-c", script.format(secret=secret), outputs=[Output(name="out")])

    assert completion.outcome == Outcome.FAILED
    assert [entry.name for entry in completion.outputs] == ["stdout", "stderr"]


@as_root
async def test_a_hard_link_to_somebodys_secret_is_not_handed_out(rooted: Guest) -> None:
    secret = rooted.directory / "credential.json"
    secret.write_text("sesame")
    secret.chmod(0o600)
    attempt = rooted.attempt("/bin/sh", "-c", "touch ready; sleep 1", outputs=[Output(name="out")])

    running = asyncio.ensure_future(attempt.run())
    work = rooted.slot_directory.work / "site-a_j.1.1"
    await until(lambda: (work / "ready").exists())
    os.link(secret, work / "out")
    completion = await running

    assert completion.outcome == Outcome.FAILED
    assert "not the job's own" in completion.cause


@as_root
async def test_what_a_job_leaves_in_scratch_space_and_shared_memory_is_gone_for_the_next(rooted: Guest) -> None:
    leave = (
        "for d in /tmp /var/tmp /dev/shm; do mkdir -p $d/x/y; echo mine > $d/x/y/z; ln -s /etc $d/l; done; ipcmk -M 99"
    )
    look = "ls -A /tmp /var/tmp /dev/shm; cat /proc/sysvipc/shm | wc -l"

    first = await rooted.run("/bin/sh", "-c", look)
    await rooted.run("/bin/sh", "-c", leave, attempt=2)
    after = await rooted.run("/bin/sh", "-c", look, attempt=3)

    assert content_of(after, "stdout") == content_of(first, "stdout")
    assert content_of(after, "stderr") == b""


@as_root
async def test_a_job_writes_beside_its_inputs_and_nobody_else_reads_them(rooted: Guest) -> None:
    completion = await rooted.run(
        "/bin/sh",
        "-c",
        "cat in/deep/a; echo new > in/deep/b; stat -c %a . in; ls -l in/deep",
        inputs=[rooted.input("in/deep/a", b"A\n")],
        outputs=[Output(name="in/deep/b")],
    )

    assert completion.outcome == Outcome.DONE, completion.cause
    assert content_of(completion, "in/deep/b") == b"new\n"
    assert content_of(completion, "stdout").split()[:3] == [b"A", b"700", b"700"]
    assert (rooted.directory / "cache").stat().st_mode & 0o777 == 0o700


@as_root
async def test_a_jobs_files_are_closed_to_the_next_job_while_their_outputs_are_stored(rooted: Guest) -> None:
    rooted.full_for = 3
    first = rooted.attempt("/bin/sh", "-c", "chmod 777 .; head -c 100000 /dev/zero > big", outputs=[Output(name="big")])
    running = asyncio.ensure_future(first.run())
    await until(lambda: first.trouble != "")

    second = await rooted.run("/bin/sh", "-c", "ls ..; cat ../site-a_j.1.1/big | wc -c", job="site-b/k.1")
    await running

    assert content_of(second, "stdout").split() == [b"0"]
    assert b"Permission denied" in content_of(second, "stderr")


async def test_peak_memory_is_the_payloads_and_not_the_agents(guest: Guest) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 200)

    completion = await guest.run("/bin/true")

    assert len(ballast) > 64 << 20 > completion.usage.peak_rss_bytes > 0


async def test_a_payload_that_is_over_its_memory_is_ended_and_one_that_only_reserves_is_not(guest: Guest) -> None:
    reserve = "import mmap; m = mmap.mmap(-1, 8 << 30); print('reserved')"
    fill = "import time; x = b'x' * (200 << 20); time.sleep(60)"

    reserved = await guest.run(PYTHON, "-c", reserve, memory_mib=100)
    filled = await guest.run(PYTHON, "-c", fill, memory_mib=100, attempt=2)

    assert reserved.outcome == Outcome.DONE, reserved.cause
    assert filled.outcome == Outcome.FAILED
    assert "its limit was 100 MiB" in filled.cause


async def test_a_payload_that_is_over_its_disk_is_ended(guest: Guest) -> None:
    script = "head -c 30000000 /dev/zero > a; head -c 30000000 /dev/zero > $TMPDIR/b; sleep 60"

    completion = await guest.run("/bin/sh", "-c", script, disk_mib=40)

    assert completion.outcome == Outcome.FAILED
    assert "disk: it had" in completion.cause


async def test_an_output_that_is_larger_than_the_jobs_disk_is_refused_though_it_takes_nothing(guest: Guest) -> None:
    completion = await guest.run(
        "truncate", "-s", "8T", "huge", disk_mib=10, outputs=[Output(name="huge"), Output(name="h*", optional=True)]
    )

    assert completion.outcome == Outcome.FAILED
    assert "'huge' has 8796093022208" in completion.cause


async def test_the_agent_opens_no_device_that_a_job_names_as_its_program(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening alone makes a watchdog bark; as root nothing keeps the agent from it."""
    opened: list[str] = []
    real = os.open

    def noting(path: str, flags: int, *rest: object, **more: object) -> int:
        if not flags & os.O_PATH:
            opened.append(str(path))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", noting)
    completion = await guest.run("/dev/full")

    assert completion.outcome == Outcome.FAILED
    assert "'/dev/full'" in completion.cause
    assert "/dev/full" not in opened


async def test_an_order_that_is_longer_than_a_message_is_carried_out_as_a_short_one(guest: Guest) -> None:
    long = "x" * 100_000

    completion = await guest.run(
        "/bin/sh", "-c", 'printf %s "$1" | wc -c; printf %s "$LONG" | wc -c', "sh", long, environment={"LONG": long}
    )

    assert content_of(completion, "stdout").split() == [b"100000", b"100000"], completion.cause


async def test_what_a_short_payload_prints_is_there_to_the_last_byte(guest: Guest) -> None:
    """What a pipe holds is read at its end; one that prints more waits for whoever reads."""
    completions = [
        await guest.run("/bin/sh", "-c", f"head -c {size} /dev/zero; echo end >&2", attempt=n)
        for n, size in enumerate((0, 1, 15_000, 65_536, 1_000_000), start=1)
    ]

    kept = [entry for one in completions for entry in one.outputs if entry.name == "stdout"]
    assert [entry.size for entry in kept] == [0, 1, 15_000, 65_536, 1_000_000]
    assert all(content_of(one, "stderr") == b"end\n" for one in completions)


async def test_a_starter_that_hangs_is_given_up_with_its_payload(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    running = asyncio.ensure_future(guest.run("/bin/sleep", "600"))
    await until(lambda: bool(processes_of(guest.directory)))
    monkeypatch.setattr(starter_client, "ANSWER_S", 1.0)  # now: a machine that others use may take longer to start it
    process = guest.container._starter._process
    assert process is not None
    starters = [process.pid, *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
    for pid in starters[:2]:
        os.kill(pid, signal.SIGSTOP)

    completion = await running

    assert completion.outcome == Outcome.LOST
    assert "did not answer" in completion.cause
    for pid in starters[:2]:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: not processes_of(guest.directory))


async def test_a_program_that_cannot_be_started_leaves_the_slot_as_it_was(guest: Guest) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])

    failed = [await guest.run("/no/such/program", attempt=n) for n in range(1, 4)]
    done = await guest.run("/bin/echo", "fine", attempt=4)

    assert {one.outcome for one in failed} == {Outcome.FAILED}
    assert content_of(done, "stdout") == b"fine\n"
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 1, "the socket of its starter alone"


@pytest.mark.parametrize("length", [1, 100_000], ids=["told in the message", "told in a file"])
async def test_a_payload_has_no_descriptor_but_its_three_streams(guest: Guest, length: int) -> None:
    look = "n=0; while [ $n -lt 64 ]; do [ -e /proc/self/fd/$n ] && echo $n; n=$((n+1)); done; true"

    done = await guest.run("/bin/sh", "-c", look, "x" * length)

    assert content_of(done, "stdout").split() == [b"0", b"1", b"2"]


@as_root
async def test_ipc_that_a_second_job_leaves_is_gone_too(rooted: Guest) -> None:
    leave = "import ctypes; assert ctypes.CDLL(None).shmget(77, 4096, 0o1666) >= 0"
    look = "print(len(open('/proc/sysvipc/shm').readlines()))"

    await rooted.run(PYTHON, "-c", leave)
    await rooted.run(PYTHON, "-c", leave, attempt=2)
    seen = await rooted.run(PYTHON, "-c", look, attempt=3)

    assert content_of(seen, "stdout") == b"1\n"


@as_root
async def test_the_first_of_a_namespace_ends_with_the_process_before_it_also_after_it_has_started_payloads(
    rooted: Guest,
) -> None:
    """Its user changes with each payload, and with that the kernel forgets with whom it shall end."""
    await rooted.run("true")
    outer = rooted.container._starter._process
    assert outer is not None
    (inner,) = descendants(outer.pid)
    os.kill(inner, signal.SIGSTOP)  # else it would hear of its agent's end by its socket

    outer.kill()

    await until(lambda: not alive(inner))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


IN_A_CHROOT = """
import json, os, sys
from guest_agent import namespaces
os.chroot(sys.argv[1])
print(json.dumps(namespaces.separate({"apart": ["mounts", "ipc", "pids"]})))
"""


@as_root
async def test_where_the_root_is_no_mount_nothing_is_left_and_it_is_said(tmp_path: Path) -> None:
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IN_A_CHROOT, str(tmp_path), cwd=Path(__file__).parents[2], stdout=PIPE, stderr=PIPE
    )
    left, said = await done.communicate()

    assert json.loads(left) == []
    assert "payloads share the machine's mounts and processes: " in said.decode()
    assert "is this a chroot?" in said.decode()
