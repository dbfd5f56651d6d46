"""The system with a real guest in QEMU: where a job ran, what a killed VM or agent costs, a VM saved under a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import RemoteError
from guest_agent.machine import boot_id
from host_agent.hypervisors.detached import find_tree
from schemas.errors import ErrorCode
from schemas.ledger import JobState, RegistryRow
from schemas.vms import GuestFacts
from tests.system.door import open_door
from tests.system.running import System, running, until
from tests.unit.trees import make_tree, seen
from volcloud import Client
from volcloud.executor import VolunteerExecutor

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]

VM = "worker-1"
WAIT = "while [ ! -e /run/gate ]; do sleep 0.1; done; echo done > out"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "qemu", "--vms", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


@pytest.fixture(autouse=True)
def closed_gate(client: Client) -> None:
    client.execs.run(VM, ["rm", "-f", "/run/gate"])


def vm_of(client: Client) -> RegistryRow:
    return client.vms.list(VM)[0]


def submit(client: Client, name: str, script: str = WAIT) -> None:
    client.jobs.submit({"id": name, "executable": "/bin/sh", "arguments": ["-c", script], "outputs": [{"name": "out"}]})


def state_of(client: Client, name: str) -> str:
    return client.jobs.show(f"{name}.1").job.state


def output_of(client: Client, *command: str) -> bytes:
    said: list[bytes] = []
    client.execs.run(VM, command, on_output=lambda stream, data: said.append(data))
    return b"".join(said)


def open_gate(client: Client) -> None:
    until(lambda: vm_of(client).agent_ready and vm_of(client).status.state == "running", "the agent is ready", 90)
    client.execs.run(VM, ["touch", "/run/gate"])


def test_the_record_of_a_job_shows_the_guests_boot_and_the_qemu_that_ran_it(client: Client) -> None:
    submit(client, "where", "id -un > out")

    client.jobs.wait("where", timeout_s=60)

    attempt = client.jobs.show("where.1").attempts[-1]
    assert attempt.hypervisor == "qemu"
    assert "qemu-system" in Path(f"/proc/{attempt.hypervisor_pid}/cmdline").read_text()
    assert attempt.boot_id not in ("", boot_id())
    assert client.execs.run(VM, ["cat", "/proc/sys/kernel/random/boot_id"]).exit_status == 0


def test_a_payload_runs_as_an_unprivileged_user(client: Client, tmp_path: Path) -> None:
    submit(client, "who", "id -un > out; cat /var/lib/volunteer-cloud/credential.json >> out 2>&1; true")

    client.jobs.wait("who", timeout_s=60)

    client.jobs.fetch("who.1", tmp_path)
    said = (tmp_path / "out").read_text()
    assert said.startswith("job0\n")
    assert "password" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a VM as somebody else")
def test_the_vm_and_its_link_run_as_an_account_of_its_own_and_the_host_says_so(client: Client, system: System) -> None:
    row = vm_of(client)
    qemu = Path(f"/proc/{row.status.pid}")
    users = [Path(f"/proc/{pid}").stat().st_uid for pid in find_tree((qemu / "cwd").readlink(), None)]
    command = [sys.executable, "-m", "volcloud.main", "host", "show", row.host, "--data", str(system.directory)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert len(users) > 1  # QEMU, and the link of its agent
    assert set(users) == {qemu.stat().st_uid}
    assert qemu.stat().st_uid > 1_000_000
    assert "an account for each VM" in " ".join(shown.stdout.split()), shown.stderr


def test_a_guest_is_looked_at_from_outside(client: Client, system: System, tmp_path: Path) -> None:
    before = client.vms.stats(VM).counters
    client.execs.run(VM, ["sh", "-c", "yes volunteer | head -c 300000; echo by-the-console > /dev/console"])
    after = client.vms.stats(VM).counters
    picture = client.vms.screenshot(VM)
    page = client.vms.log(VM, lines=5)
    command = ["vm", "screenshot", VM, str(tmp_path / "screen.png"), "--data", str(system.directory)]
    done = subprocess.run(
        [sys.executable, "-m", "volcloud.main", *command], capture_output=True, text=True, timeout=60, check=False
    )

    assert before.life == after.life
    assert (after.net_tx_bytes or 0) - (before.net_tx_bytes or 0) > 300_000
    assert after.net_rx_bytes
    assert picture.startswith(b"\x89PNG")
    assert b"by-the-console" in page.text
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_a_tree_goes_into_a_guest_and_comes_back_as_it_was(client: Client, system: System, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    for number in range(200):
        (tree / f"small-{number}").write_bytes(os.urandom(4096))
    command = [sys.executable, "-m", "volcloud.main", "vm"]
    before = client.vms.stats(VM).counters.disk_bytes or 0

    for words in (["push", VM, str(tree), "there"], ["pull", VM, "there", str(tmp_path / "back")]):
        subprocess.run([*command, *words, "--data", str(system.directory)], check=True, timeout=300)

    assert seen(tmp_path / "back") == seen(tree)
    assert (client.vms.stats(VM).counters.disk_bytes or 0) - before < 16 << 20
    client.execs.run(VM, ["rm", "-r", "there"])


def test_a_killed_vm_costs_an_attempt_and_no_job(client: Client) -> None:
    submit(client, "vm-kill")
    until(lambda: state_of(client, "vm-kill") == "running", "the job runs", 60)

    before = vm_of(client).status
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: vm_of(client).status.generation > before.generation, "the VM is started again", 90)
    open_gate(client)
    rows = client.jobs.wait("vm-kill", timeout_s=120)

    assert [row.state for row in rows] == [JobState.DONE]
    attempts = client.jobs.show("vm-kill.1").attempts
    assert [a.state for a in attempts].count("done") == 1
    assert len(attempts) == 2
    assert attempts[0].cause
    assert attempts[0].boot_id != attempts[1].boot_id


def test_a_killed_guest_agent_comes_back_and_the_job_is_done_once(client: Client) -> None:
    submit(client, "agent-kill")
    until(lambda: state_of(client, "agent-kill") == "running", "the job runs", 60)

    # A command's parent is its minder, whose parent is the forge of minders, whose parent is the agent.
    killing = "p=$PPID; for n in 1 2; do read -r stat < /proc/$p/stat; set -- $stat; p=$4; done; kill -9 $p; sleep 60"
    with pytest.raises(RemoteError) as caught:
        client.execs.run(VM, ["sh", "-c", f"echo ran | tee -a /tmp/runs; sleep 1; {killing}"])
    assert caught.value.code == ErrorCode.INTERRUPTED
    until(lambda: client.jobs.show("agent-kill.1").job.attempt == 2, "the job is assigned again", 60)
    open_gate(client)
    rows = client.jobs.wait("agent-kill", timeout_s=90)

    assert [row.state for row in rows] == [JobState.DONE]
    assert "restarted" in client.jobs.show("agent-kill.1").attempts[0].cause
    assert output_of(client, "cat", "/tmp/runs") == b"ran\n"


def test_a_vm_saved_under_a_job_goes_on_with_it(client: Client) -> None:
    submit(client, "saved")
    until(lambda: state_of(client, "saved") == "running", "the job runs", 60)

    client.vms.savestate(VM)
    until(lambda: vm_of(client).status.state == "saved", "the VM is saved")
    client.vms.start(VM)
    open_gate(client)
    rows = client.jobs.wait("saved", timeout_s=90)

    assert [(row.state, row.attempt) for row in rows] == [(JobState.DONE, 1)]


def test_a_vm_thrown_back_to_a_snapshot_under_a_job_goes_on_with_it_and_its_clock_is_right(client: Client) -> None:
    submit(client, "thrown-back")
    until(lambda: state_of(client, "thrown-back") == "running", "the job runs", 60)
    client.execs.run(VM, ["sh", "-c", "echo then | tee /root/mark /run/mark; sync"])
    client.vms.take_snapshot(VM, "then")
    client.execs.run(VM, ["sh", "-c", "echo now | tee /root/mark /run/mark"])
    with pytest.raises(RemoteError, match="the VM has none of that name; name one of then") as caught:
        client.vms.restore_snapshot(VM, "gone")

    generation = vm_of(client).status.generation
    client.vms.poweroff(VM)
    client.vms.restore_snapshot(VM, "then")
    until(lambda: vm_of(client).agent_ready and vm_of(client).status.state == "running", "the agent is ready", 90)
    before, told, after = _now_ms() / 1000, float(output_of(client, "date", "+%s.%N")), _now_ms() / 1000
    marks = output_of(client, "cat", "/root/mark", "/run/mark")
    open_gate(client)
    rows = client.jobs.wait("thrown-back", timeout_s=90)
    client.vms.delete_snapshot(VM, "then")

    assert caught.value.code == ErrorCode.NOT_FOUND
    assert before - 1 < told < after + 1
    assert marks == b"then\nthen\n"
    assert [(row.state, row.attempt) for row in rows] == [(JobState.DONE, 1)]
    assert (vm_of(client).status.generation, client.vms.snapshots(VM)) == (generation + 1, [])


def test_a_guests_clock_that_is_slow_is_set_by_the_centres(client: Client) -> None:
    slow = output_of(client, "python3", "-c", "import time; time.clock_settime(0, 1e9); print(time.time())")

    assert float(slow) < 1e9 + 60
    until(lambda: abs(int(output_of(client, "date", "+%s")) - _now_ms() / 1000) < 10, "its clock is right", 60)


def test_a_paused_vm_keeps_its_job_beyond_the_lease(client: Client) -> None:
    submit(client, "paused")
    until(lambda: state_of(client, "paused") == "running", "the job runs", 60)
    leases = client.jobs.show("paused.1").job.losses

    client.vms.pause(VM)
    submit(client, "behind", "echo > out")
    until(lambda: vm_of(client).status.state == "paused", "the VM is paused")
    paused_since = client.jobs.show("behind.1").job.submitted_ms
    until(
        lambda: client.jobs.list(job="behind").jobs[0].submitted_ms + 6000 < _now_ms(), "more than a lease has passed"
    )
    client.vms.resume(VM)
    open_gate(client)
    rows = client.jobs.wait("paused", timeout_s=90)

    assert paused_since
    assert [(row.state, row.attempt, row.losses) for row in rows] == [(JobState.DONE, 1, leases)]


def _now_ms() -> float:
    import time

    return time.time() * 1000


def locally(system: System, *command: str) -> list[str]:
    """Give the words with which the host's owner runs a command in the guest, without the centre."""
    config = system.layout.config("host_agent")
    return [sys.executable, "-m", "host_agent.main", "--config", str(config), "--vm", VM, "exec", "--", *command]


def run_locally(system: System, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(locally(system, *command), capture_output=True, text=True, timeout=200, check=False)


def connected_guest(client: Client) -> GuestFacts:
    """Wait until the guest has told its host of itself, and give what the host has told of it."""
    told: list[GuestFacts] = []

    def look() -> bool:
        guest = vm_of(client).status.guest
        told[:] = [guest] if guest is not None and guest.is_connected else []
        return bool(told)

    until(look, "the guest has told its host that it is connected", 120)
    return told[0]


def test_the_host_knows_how_its_guest_does(system: System, client: Client) -> None:
    guest = connected_guest(client)

    assert (guest.cpus, guest.memory_mib > 100, guest.memory_free_mib < guest.memory_mib) == (1, True, True)


def test_the_hosts_owner_runs_a_command_in_the_guest_while_the_broker_is_frozen(system: System, client: Client) -> None:
    connected_guest(client)
    system.freeze("broker")
    try:
        ran = run_locally(system, "cat", "/proc/sys/kernel/random/boot_id")
    finally:
        system.thaw("broker")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip() not in ("", boot_id())


def test_a_vm_that_was_saved_meets_its_host_again(system: System, client: Client) -> None:
    client.vms.savestate(VM)
    client.vms.start(VM)

    ran: list[subprocess.CompletedProcess[str]] = []

    def meets() -> bool:
        ran[:] = [run_locally(system, "echo", "here")]
        return ran[0].returncode == 0

    until(meets, "the guest meets its host again", 120)

    assert (ran[0].returncode, ran[0].stdout, ran[0].stderr) == (0, "here\n", "")


def test_the_next_host_agent_meets_the_guest_in_the_midst_of_what_it_says(system: System, client: Client) -> None:
    connected_guest(client)
    script = "touch /run/talks; while [ -e /run/talks ]; do echo what a guest says at length; done"
    talking = subprocess.Popen(locally(system, "sh", "-c", script), stdout=subprocess.DEVNULL)
    until(lambda: client.execs.run(VM, ["test", "-e", "/run/talks"]).exit_status == 0, "the guest talks", 60)
    system.kill("host_agent")

    ran = run_locally(system, "echo", "here")
    client.execs.run(VM, ["rm", "-f", "/run/talks"])
    talking.wait(90)

    assert (ran.returncode, ran.stdout) == (0, "here\n")


def test_a_script_of_the_old_controller_saves_a_vm_and_starts_it_again(system: System, client: Client) -> None:
    with open_door(system.directory) as door, door.proxy() as proxy:
        boot = output_of(client, "cat", "/proc/sys/kernel/random/boot_id")

        assert proxy.saveState(VM) is True
        saved = proxy.getState(VM)
        assert proxy.start(VM) is True
        until(lambda: vm_of(client).agent_ready, "the agent is ready again", 120)

        assert saved == "Saved"
        assert proxy.ping(VM, 30) == f"PONG from {VM}"
        assert proxy.saveSnapshot(VM, "first", "of the old controller") is True
        assert proxy.listSnapshots(VM) == ["first"]
        assert proxy.restoreSnapshot(VM) is True
        until(lambda: vm_of(client).agent_ready, "the agent is ready once more", 120)
        assert proxy.deleteSnapshot(VM, "first") is True
        assert proxy.listSnapshots(VM) == []
        assert output_of(client, "cat", "/proc/sys/kernel/random/boot_id") == boot


def test_python_calls_are_made_in_a_guest(system: System) -> None:
    kernel = os.uname().release

    with VolunteerExecutor(system.directory) as pool:
        assert [*pool.map(lambda n: (n * n, os.uname().release != kernel), range(6))] == [
            (n * n, True) for n in range(6)
        ]
