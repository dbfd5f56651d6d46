"""A payload does its worst in a real guest: the next job on the same VM is right, in time, and has seen nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_agent.disk import MOST_FILES
from schemas.ledger import JobState
from tests.system.running import System, running, until
from volcloud import Client

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

VM = "worker-1"
#: A next job takes no longer than this, seconds: under emulation, beside other work.
PROMPT_S = 60.0

#: Each fills what it names until it is stopped; all of them run at once, and none ends by itself.
FILLERS = """
(while :; do (setsid sh -c 'while :; do (sleep 600 &) ; done' &) 2> /dev/null; done) &
(cat /dev/zero > disk) 2> /dev/null &
(i=0; while :; do i=$((i + 1)); mkdir -p /tmp/d/$i; : > /tmp/d/$i/f; cat /dev/zero > /tmp/zeros; done) 2> /dev/null &
(cat /dev/zero > /var/tmp/zeros) 2> /dev/null &
(cat /dev/zero > /dev/shm/zeros) 2> /dev/null &
python3 -c 'import os
for _ in range(3000): os.mkdir("d"); os.chdir("d")' &
python3 -c 'x = []
while True: x.append(bytearray(1 << 20))' &
python3 -c 'import os
while True:
    if os.fork(): os._exit(0)' &
sleep 600
"""

#: Makes more files than one job may have, and fails where it can make no more.
FILES = "python3 -c 'import os\nfor number in range(1 << 20): os.mknod(str(number))'"

#: What a job may not see, each with how it is tried. What comes out is what was seen.
#: The job before it, ``{first}`` by the name of its directory, has opened that to everybody.
#: ``timeout`` is named by its path: the one within the image's shell leaves a watcher behind at each call, which looks
#: once a second whether its work is done, and counts among the job's own processes until then.
PEEPING = """
exec 2> /dev/null
for secret in /var/lib/volunteer-cloud/credential.json /var/lib/volunteer-cloud/journal \\
    /sys/firmware/qemu_fw_cfg/by_name/opt/org.volunteer-cloud/seed/raw /dev/vda /dev/mem /proc/1/environ \\
    /var/lib/volunteer-cloud/inputs/* /var/lib/volunteer-cloud/jobs/slot-0/work/{first}/secret.dat /dev/vport*; do
    /usr/bin/timeout 5 head -c 100 "$secret"
done
ln -s /var/lib/volunteer-cloud there && cat there/credential.json
ls -A /tmp /var/tmp /dev/shm /var/lib/volunteer-cloud | grep -v -e : -e '^$' -e '^jobs$'
ls /proc | grep -c '^[0-9]*$' | grep -v -x -e '[1-6]'
for pid in $(ls /proc | grep '^[0-9]*$'); do grep -H . /proc/$pid/environ | grep -a password; done
kill -9 -1 1 $PPID
true
"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "qemu", "--vms", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


def submit(client: Client, name: str, script: str, **fields: object) -> None:
    arguments = ["-c", script]
    client.jobs.submit({"id": name, "executable": "/bin/sh", "arguments": arguments, "grace_s": 2, **fields})


def ended(client: Client, name: str, timeout_s: float = 180) -> str:
    (row,) = client.jobs.wait(name, timeout_s=timeout_s)
    return row.state


def check_next(client: Client, name: str, boot: str) -> None:
    """The next job is right, and soon, in the same boot of the same VM."""
    began = time.monotonic()
    submit(
        client, name, "date > /tmp/mine && head -c 3000000 /dev/zero > big && wc -c < big && python3 -c 'print(6 * 7)'"
    )

    assert ended(client, name) == JobState.DONE, client.jobs.why(f"{name}.1")
    assert client.jobs.logs(f"{name}.1")["stdout"].split() == [b"3000000", b"42"]
    assert client.jobs.show(f"{name}.1").attempts[-1].boot_id == boot
    assert time.monotonic() - began < PROMPT_S


def test_a_payload_that_does_its_worst_leaves_the_next_job_as_it_was(client: Client, tmp_path: Path) -> None:
    (tmp_path / "secret.dat").write_bytes(b"another owner's bytes" * 10_000)
    sha256 = client.files.upload(tmp_path / "secret.dat")
    inputs = [{"name": "secret.dat", "sha256": sha256, "size": 210_000}]
    submit(client, "first", "chmod 777 .; pwd; id -un; wc -c < secret.dat", inputs=inputs)
    assert ended(client, "first") == JobState.DONE
    boot = client.jobs.show("first.1").attempts[-1].boot_id
    first = Path(client.jobs.logs("first.1")["stdout"].splitlines()[0].decode()).name

    submit(client, "worst", FILLERS, wall_time_s=30, attempts=1)
    until(lambda: client.jobs.show("worst.1").job.state == "running", "it runs", 90)
    worst = ended(client, "worst", 300)
    check_next(client, "after-worst", boot)

    submit(client, "peeping", PEEPING.replace("{first}", first))
    peeping = ended(client, "peeping")
    check_next(client, "after-peeping", boot)

    assert worst == JobState.HELD, client.jobs.why("worst.1")
    assert "wall time" in client.jobs.show("worst.1").attempts[-1].cause
    assert peeping == JobState.DONE, client.jobs.why("peeping.1")
    assert client.jobs.logs("peeping.1")["stdout"] == b""


def test_limits_are_the_kernels_and_the_blame_is_where_it_belongs(client: Client) -> None:
    take = "python3 -c 'x = bytearray(200 << 20)'"
    submit(client, "memory", take, requirements={"memory_mib": 64})
    submit(client, "reserve", "python3 -c 'import mmap; mmap.mmap(-1, 8 << 30)'", requirements={"memory_mib": 64})
    submit(client, "disk", "cat /dev/zero > big", requirements={"disk_mib": 16})
    submit(client, "files", FILES)
    submit(client, "plain", "exit 137")

    states = {name: ended(client, name, 300) for name in ("memory", "reserve", "disk", "files", "plain")}
    causes = {name: client.jobs.show(f"{name}.1").attempts[-1].cause for name in ("memory", "disk", "files", "plain")}

    assert states["reserve"] == JobState.DONE
    assert JobState.DONE not in (states["memory"], states["disk"], states["files"], states["plain"])
    assert "out of memory" in causes["memory"]
    assert "its disk was full: it may use" in causes["disk"]
    assert f"it had as many files and directories as it may have: {MOST_FILES}" in causes["files"]
    assert "ended with exit status 137" in causes["plain"]
    assert "memory: it was" not in causes["plain"]
    usage = client.jobs.show("reserve.1").attempts[-1].usage
    assert 0 < usage.peak_rss_bytes < 64 << 20


def test_a_job_that_takes_all_the_memory_that_it_was_promised_is_not_ended_for_it(client: Client) -> None:
    limits = "cat /sys/fs/cgroup/jobs/memory.max /sys/fs/cgroup/jobs/slot-0/memory.max"
    submit(client, "promise", limits)
    assert ended(client, "promise") == JobState.DONE, client.jobs.why("promise.1")
    given, promised = map(int, client.jobs.logs("promise.1")["stdout"].split())

    submit(client, "all", f"python3 -c 'x = bytearray({promised - (24 << 20)})'")
    state = ended(client, "all")

    assert promised == given >> 20 << 20
    assert state == JobState.DONE, client.jobs.why("all.1")
