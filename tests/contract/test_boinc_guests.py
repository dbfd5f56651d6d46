"""Virtual machines under BOINC: what the client wants, and what breaks, becomes of a job in a guest what it should."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host_agent.boinc.slot_files import FINISHED, TEMPORARY_EXIT
from host_agent.hypervisors.contract import ImageFiles
from tests.contract.boinc_guest import AGENT, GuestSlot
from tests.source import ROOT
from tests.unit.disks import fill, small_disk

pytestmark = pytest.mark.qemu

Make = Callable[..., GuestSlot]


@pytest.fixture
def make(tmp_path: Path, guest_image: ImageFiles) -> Iterator[Make]:
    slots: list[GuestSlot] = []

    def made(directory: Path | None = None, **init_data: Any) -> GuestSlot:
        slot = GuestSlot(directory or tmp_path / f"client-{len(slots)}", guest_image, **init_data)
        slots.append(slot)
        return slot

    yield made
    for slot in slots:
        left = slot.machines() if slot.process is None or slot.process.poll() is not None else set()
        if slot.process is not None and slot.process.poll() is None:
            slot.process.kill()
            slot.process.wait()
        for pid in slot.machines():
            os.kill(pid, signal.SIGKILL)
        said = slot.stderr
        slot.close()
        assert not left, f"a machine lives on: {said}"


def finished(slot: GuestSlot) -> str:
    path = slot.slot / FINISHED
    assert path.exists(), slot.stderr
    return path.read_text()


def test_a_task_runs_in_a_guest_and_its_outputs_are_where_they_belong(make: Make) -> None:
    slot = make(ncpus=0)  # a preference of none
    slot.job("16")  # some beats long
    image = slot.project / "image_1_disk.qcow2"
    before = image.stat()
    slot.run()
    slot.until_done(0.2)
    cpu_s = slot.last("current_cpu_time")

    assert slot.end(120) == 0, slot.stderr

    assert finished(slot) == "0\n"
    assert "init_data.xml: <ncpus>: 0: a task has more than 0 CPUs; this one has 1" in slot.stderr
    assert slot.out.read_text() == "given\n" + "".join(f"event {n}\n" for n in range(1, 17))
    assert slot.result.read_text() == "16 events\n"
    assert 0 < cpu_s < slot.last("current_cpu_time")
    assert (image.stat().st_mtime_ns, image.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not (slot.slot / "host_agent_machines" / "jobs").exists() or not list(
        (slot.slot / "host_agent_machines" / "jobs").iterdir()
    )


def test_a_machine_that_dies_is_brought_back_and_one_whose_agent_dies_is_taken_over(make: Make) -> None:
    slot = make()
    slot.job("6")
    slot.run()
    slot.until_done(0.15)
    os.kill(int(slot.last("other_pid")), signal.SIGKILL)
    slot.until(lambda: slot.stderr.count("is given its job") == 2, "it begins anew", 120)
    assert "has ended by itself" in slot.stderr

    slot.until_done(0.15)
    assert slot.process is not None
    slot.process.kill()  # here nobody kills the machine, as a client would
    slot.process.wait()
    slot.run()
    assert slot.end(180) == 0, slot.stderr

    assert "is taken over" in slot.stderr
    assert slot.events() == [f"event {n}" for n in range(1, 7)], slot.stderr


def test_a_program_that_fails_ends_the_task_with_its_outputs(make: Make) -> None:
    slot = make()
    slot.job("1 9")
    slot.run()

    assert slot.end(120) != 0

    code, reason, *_ = finished(slot).splitlines()
    assert code == "195"
    assert "ended with status 9" in reason
    assert slot.events() == ["event 1"]
    assert slot.result.read_text() == "1 events\n"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: os.truncate(path, 1000), "has 1000 bytes and not"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "has SHA-256"),
    ],
)
def test_an_image_that_is_not_whole_is_told_with_what_to_do(
    make: Make, damage: Callable[[Path], None], why: str
) -> None:
    slot = make()
    slot.job("1")
    damage(slot.project / "image_1_disk.qcow2")
    slot.run()

    slot.end(60)

    code, reason, *_ = finished(slot).splitlines()
    assert code == "206"
    assert why in reason
    assert "project" in reason


def test_a_job_of_vboxwrapper_speaks_by_files_in_its_shared_directory(make: Make) -> None:
    slot = make()
    (slot.slot / "out").unlink()
    slot.vbox_job(
        "cat cmdline copied > late; echo 0.5 > frac; echo news > told; echo early > out"
        "; while [ -e told ]; do sleep 0.2; done"
        "; echo more >> late; sleep 1; printf '7\\n1\\nit is over\\n' > shutdown; sleep 600",
        "<copy_to_shared>copied</copy_to_shared><copy_cmdline_to_shared/><memory_size_mb>256</memory_size_mb>"
        "<completion_trigger_file>shutdown</completion_trigger_file><trickle_trigger_file>told</trickle_trigger_file>"
        "<fraction_done_filename>frac</fraction_done_filename><disable_automatic_checkpoints/>"
        "<intermediate_upload_file>out</intermediate_upload_file>",
    )
    slot.add("copied", b"of the slot\n")
    slot.link("out", "task_1_0")
    slot.run("--nthreads", "1", "a b")
    slot.until(lambda: slot.trickles, "a trickle comes", 120)
    slot.until(lambda: slot.uploads, "an upload is asked for", 60)
    slot.until_done(0.5)

    slot.end(120)

    assert finished(slot) == "7\nit is over\nnotice\n", slot.stderr
    assert slot.trickles == ["<variety>told</variety>\nnews\n"]
    assert (slot.uploads, slot.out.read_text()) == (["out"], "early\n")
    assert (slot.project / "task_1_late").read_text() == "--nthreads 1 a bof the slot\nmore\n"


def test_a_job_of_vboxwrapper_is_put_off_by_its_own_will_and_goes_on(make: Make) -> None:
    slot = make()
    slot.vbox_job(
        "echo one > late; printf '90\\n0\\nno work now\\n' > later; while [ -e later ]; do sleep 0.2; done"
        "; echo two >> late; touch hb; n=0; while [ $n -lt 6 ]; do sleep 1; n=$((n+1)); done; echo three >> late",
        "<temporary_exit_trigger_file>later</temporary_exit_trigger_file><job_duration>86400</job_duration>"
        "<disable_automatic_checkpoints/>",
    )
    slot.run()
    assert slot.end(120) == 0

    path = slot.slot / TEMPORARY_EXIT
    assert path.read_text() == "90\nno work now\n\n", slot.stderr
    path.unlink()
    assert slot.machines() == set()
    slot.run()
    assert slot.end(120) == 0, slot.stderr

    assert finished(slot) == "0\n"
    assert (slot.project / "task_1_late").read_text() == "one\ntwo\nthree\n"
    assert "goes on from its saved state" in slot.stderr


def test_a_job_of_vboxwrapper_that_has_run_for_its_time_or_stands_still_is_ended(make: Make) -> None:
    done, dead = make(), make()
    done.vbox_job("echo whole > late; sleep 600", "<job_duration>18</job_duration><disable_automatic_checkpoints/>")
    dead.vbox_job(
        "touch hb; sleep 600",
        "<heartbeat_filename>hb</heartbeat_filename><minimum_heartbeat_interval>6</minimum_heartbeat_interval>",
    )
    done.run()
    dead.run()

    assert done.end(120) == 0, done.stderr
    dead.end(120)

    assert (finished(done), (done.project / "task_1_late").read_text()) == ("0\n", "whole\n"), done.stderr
    assert finished(dead).startswith("194\nthe job's hb has not changed for 6 s of running"), dead.stderr


def test_what_cannot_be_on_this_driver_is_told_before_anything_is_made(make: Make) -> None:
    slot = make()
    slot.vbox_job("true", "<enable_network/>")
    slot.run()

    slot.end(60)

    code, reason, *_ = finished(slot).splitlines()
    assert (code, "<enable_network>: cannot be on this driver" in reason) == ("1", True)
    assert not list((slot.slot).glob("host_agent_machines/hypervisor/vms/*"))


@pytest.mark.parametrize("option", ["-b", "data_file"])
def test_a_disk_that_leads_to_a_file_of_the_volunteers_is_refused(make: Make, tmp_path: Path, option: str) -> None:
    secret, disk = tmp_path / "secret", tmp_path / "evil.qcow2"
    secret.write_bytes(b"of the volunteer's" * 1000)
    more = ["-b", str(secret), "-F", "raw"] if option == "-b" else ["-o", f"data_file={secret},data_file_raw=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(disk), "10M"], check=True)
    slot = make()
    slot.job("1", more="<image>evil</image>")
    slot.add("evil", disk.read_bytes())
    slot.run()

    slot.end(60)

    code, reason, *_ = finished(slot).splitlines()
    assert (code, "lies over another file" in reason) == ("206", True), reason


def test_tasks_in_two_machines_and_on_the_host_share_an_output_and_outlive_restarts(make: Make) -> None:
    slot = make()
    slot.add("tool", b"#!/bin/sh\necho from the host\n")
    slot.signed.append("tool")
    slot.write_init_data()
    guest = (
        "<task><virtualmachine>{name}</virtualmachine><application>/bin/sh</application>"
        "<command_line>-c '{script}'</command_line><stdout_filename>out</stdout_filename>"
        "<stderr_filename>out</stderr_filename><memory_size_mb>256</memory_size_mb></task>"
    )
    tasks = [
        guest.format(name="a", script="echo one; echo two >&2; echo kept > /var/tmp/kept; echo kept > kept"),
        "<task><application>tool</application><stdout_filename>out</stdout_filename></task>",
        guest.format(name="b", script="echo b; sleep 6; echo b ends"),
        guest.format(name="a", script="echo last; hostname"),
    ]
    # On one line, as programs write them.
    slot.add("job.xml", f"<job_desc>{''.join(tasks)}</job_desc>".encode())
    slot.run()
    # The wrapper's own count: the third task runs.
    slot.until(lambda: slot.stderr.count("is given its job") == 2, "the second machine has its job", 120)
    cpu_s = slot.last("current_cpu_time")
    slot.want("quit")
    assert slot.end(60) == 0
    slot.init_data["ncpus"] = 2  # the volunteer gives it more: the machines stay as they are
    slot.init_data["wu_cpu_time"] = slot.last("checkpoint_cpu_time")
    slot.write_init_data()
    slot.run()
    slot.until(lambda: slot.last("current_cpu_time") >= 0, "it says how it is")
    assert slot.end(180) == 0, slot.stderr

    assert finished(slot) == "0\n", slot.stderr
    assert slot.out.read_text() == "one\ntwo\nfrom the host\nb\nb ends\nlast\nguest\n"
    assert slot.last("current_cpu_time") > cpu_s > 0
    assert slot.stderr.count("is given its job") == 3, "none was begun anew"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../projects/example.org/job.xml", "init_data.xml", "leads-out"])
def test_no_file_of_the_volunteers_goes_into_a_guest(make: Make, name: str) -> None:
    slot = make()
    (slot.slot / "leads-out").symlink_to("/etc/passwd")
    task = f"<virtualmachine>m</virtualmachine><application>{name}</application><copy_app_to_VM/>"
    slot.add("job.xml", f"<job_desc><task>{task}</task></job_desc>".encode())
    slot.run()

    slot.end(60)

    code, reason, *_ = finished(slot).splitlines()
    assert code == "1", reason
    assert "<application>" in reason
    assert slot.machines() == set()


def test_an_image_that_the_job_could_change_is_refused(make: Make) -> None:
    slot = make()
    slot.job("1", more="<copy_file_from_VM>disk.qcow2</copy_file_from_VM>")
    link = slot.slot / "disk.qcow2"
    disk = slot.project / "image_1_disk.qcow2"
    link.unlink()
    shutil.copyfile(disk, link)  # as the client does for <copy_file/>
    slot.run()

    slot.end(60)

    assert finished(slot).startswith("206\nthe image's file disk.qcow2: must be a file of the project's"), slot.stderr


def test_a_machine_that_needs_more_memory_than_there_is_says_so(make: Make) -> None:
    slot = make()
    task = "<virtualmachine>m</virtualmachine><application>true</application><memory_size_mb>1000000</memory_size_mb>"
    slot.add("job.xml", f"<job_desc><task>{task}</task></job_desc>".encode())
    slot.run()

    slot.end(60)

    assert "needs 1000000 MiB of memory; this computer has" in finished(slot)


def test_a_disk_that_is_full_costs_a_checkpoint_and_no_more(make: Make, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 500 << 20) as disk:
        slot = make(disk / "client")
        try:
            slot.job("14", checkpoint_s=1)
            slot.run()
            slot.until(lambda: "checkpoint-1 is written" in slot.stderr, "a checkpoint is written", 120)
            with contextlib.suppress(OSError):  # the machine writes too
                fill(disk, leaving=4 << 20)
            slot.until(lambda: "no checkpoint: " in slot.stderr, "there is no room for another one", 60)
            assert re.search(r"no checkpoint: .*; checkpoint-\d+ stands", slot.stderr), slot.stderr
            (disk / "ballast").unlink()

            assert slot.end(240) == 0, slot.stderr
            assert slot.events() == [f"event {n}" for n in range(1, 15)]
        finally:
            for pid in slot.machines():
                os.kill(pid, signal.SIGKILL)
            slot.close()


@pytest.mark.parametrize("missing", ["qemu-system-x86_64", "qemu-img"])
def test_without_a_hypervisor_the_task_is_put_off_longer_each_time(make: Make, tmp_path: Path, missing: str) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {"sh", "nice", "flock", "qemu-system-x86_64", "qemu-img"} - {missing}:
        (tools / name).symlink_to(shutil.which(name) or "/none")
    slot = make()
    slot.job("1")
    delays = []
    for _ in range(3):
        slot.start([*AGENT], {"PATH": str(tools), "PYTHONPATH": str(ROOT)})
        assert slot.end(60) == 0
        delay, reason, *_ = (slot.slot / TEMPORARY_EXIT).read_text().splitlines()
        assert reason == f"{missing} is not installed: on Debian, qemu-system-x86 and qemu-utils"
        delays.append(int(delay))

    assert delays == [60, 120, 300]


def test_the_volunteer_is_shown_a_page_of_the_guest_and_its_screen(make: Make) -> None:
    slot = make()
    slot.vbox_job(
        "echo from the guest > index.html; exec python3 -m http.server 8080",
        "<pf_guest_port>8080</pf_guest_port><enable_remotedesktop/><memory_size_mb>256</memory_size_mb>",
    )
    slot.run()
    slot.until(lambda: len(slot.graphics) == 2, "the client is told of both", 60)
    page, screen = (re.sub("<[^>]*>", "", words) for words in slot.graphics)
    assert slot.graphics[0].startswith("<web_graphics_url>http://localhost:")
    assert slot.graphics[1].startswith("<remote_desktop_addr>localhost:")

    slot.until(lambda: got(page) == b"from the guest\n", "the page is there", 120)
    with socket.create_connection(("127.0.0.1", int(screen.rpartition(":")[2])), timeout=10) as viewer:
        assert viewer.recv(4) == b"RFB ", "VNC"
    slot.want("quit")
    assert slot.end(60) == 0
    with socket.create_server(("127.0.0.1", int(page.rpartition(":")[2]))):  # somebody else has it by now
        slot.run()
        slot.until(lambda: len(slot.graphics) == 4, "the client is told again", 60)
        assert slot.graphics[2] != slot.graphics[0]
        assert slot.graphics[3] == slot.graphics[1]
        page = re.sub("<[^>]*>", "", slot.graphics[2])
        slot.until(lambda: got(page) == b"from the guest\n", "the page is there again", 60)
    slot.want("abort")
    slot.end(60)


def got(page: str) -> bytes:
    try:
        with urllib.request.urlopen(f"{page}/index.html", timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return b""
