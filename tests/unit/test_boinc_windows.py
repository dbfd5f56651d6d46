"""The Windows half beside a kernel32 that is played, and what of the rest must not need a Unix."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from host_agent.boinc.channels import SEGMENT_BYTES, Channel, receive, send
from host_agent.boinc.init_data import read_init_data
from host_agent.boinc.windows import WindowsSlotLock, attach, open_standard_error
from tests.source import ROOT

#: What is neither the wire to the client nor a decision needs the system that it is on; these do not.
CORE = (
    "app_status", "arguments", "channels", "client_will", "command_words", "fields", "init_data", "job_xml", "markup",
    "plan", "slot_files", "vbox_job", "windows",
)  # fmt: skip
#: Of the standard library, what Windows lacks.
UNIX_ONLY = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")


class FakeKernel32:
    """Named mappings and files that are opened alone. It proves nothing of Windows."""

    def __init__(self, *mappings: str) -> None:
        self.memory = {name: ctypes.create_string_buffer(SEGMENT_BYTES) for name in mappings}
        self.handles: dict[int, str] = {}
        self.asked: list[str] = []

    def OpenFileMappingW(self, access: int, inherit: bool, name: str) -> int:  # noqa: N802
        assert (access, inherit) == (0xF001F, False)
        self.asked.append(name)
        return self._handle(name) if name in self.memory else 0

    def MapViewOfFile(self, mapping: int, access: int, high: int, low: int, octets: int) -> int:  # noqa: N802
        assert (access, high, low, octets) == (0xF001F, 0, 0, SEGMENT_BYTES)
        return ctypes.addressof(self.memory[self.handles[mapping]])

    def CreateFileW(  # noqa: N802
        self, name: str, access: int, sharing: int, security: None, how: int, attributes: int, template: None
    ) -> int:
        assert (access, sharing, how) == (0x40000000, 0, 4)
        if name in self.handles.values():
            return 0xFFFFFFFF
        Path(name).touch()
        return self._handle(name)

    def CloseHandle(self, handle: int) -> int:  # noqa: N802
        del self.handles[handle]
        return 1

    def _handle(self, name: str) -> int:
        self.handles[handle := 4 * (len(self.handles) + 1)] = name
        return handle


def test_the_memory_of_a_service_is_looked_for_first_and_then_the_users() -> None:
    kernel32 = FakeKernel32("shm_boinc_0")
    memory = attach(read_init_data(b"<app_init_data>\n<comm_obj_name>boinc_0</comm_obj_name>\n"), kernel32)

    assert kernel32.asked == ["Global\\shm_boinc_0", "shm_boinc_0"]
    assert send(memory, Channel.APP_STATUS, "<fraction_done>1</fraction_done>")
    seen = memoryview(kernel32.memory["shm_boinc_0"]).cast("B")
    assert receive(seen, Channel.APP_STATUS) == "<fraction_done>1</fraction_done>"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (b"<app_init_data>\n", "<comm_obj_name> is missing"),
        (b"<comm_obj_name>boinc_9</comm_obj_name>\n", "shm_boinc_9"),
    ],
)
def test_a_memory_that_is_not_there_is_told(told: bytes, why: str) -> None:
    with pytest.raises(FileNotFoundError, match=why):
        attach(read_init_data(told), FakeKernel32())


def test_a_slot_is_one_processs(tmp_path: Path) -> None:
    kernel32 = FakeKernel32()
    one, other = WindowsSlotLock(tmp_path, kernel32), WindowsSlotLock(tmp_path, kernel32)

    assert one.take()
    assert not other.take()
    other.release()
    one.release()
    one.release()
    assert list(tmp_path.iterdir()) == []
    assert other.take()


def test_standard_error_goes_behind_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "stderr.txt").write_text("before\n")
    spare = os.open(os.devnull, os.O_WRONLY)
    try:
        open_standard_error(tmp_path / "stderr.txt", spare)
        os.write(spare, b"after\n")
    finally:
        os.close(spare)

    assert (tmp_path / "stderr.txt").read_text() == "before\nafter\n"


def test_the_core_imports_nothing_that_windows_lacks() -> None:
    """``posix`` is under ``os`` here and is not asked for; what a module of ours asks for by name is."""
    modules = [f"host_agent.boinc.{name}" for name in CORE]
    blocked = [name for name in UNIX_ONLY if name != "posix"]
    script = f"import sys\nfor n in {blocked}: sys.modules[n] = None\nfor m in {modules}: __import__(m)\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
