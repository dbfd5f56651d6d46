"""BOINC's client, played: a slot with what the real one lays into it, and both sides of the channels.

Public, for whoever tests an application of BOINC's without a client: it starts one in a slot, wants things of it, and
reads what it says. Made from the client's source and seen beside the real one, 7.20.5; it proves nothing of scheduling,
of time-outs of minutes, or of what a server does with a result.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from host_agent.boinc.channels import SEGMENT_BYTES, Channel, receive, send
from host_agent.boinc.slot_files import INIT_DATA, SHARED_MEMORY, TRICKLE_UP, UPLOAD_NOW, UPLOAD_STATUS

#: Between two looks, seconds.
LOOK_S = 0.02


class FakeClient:
    """One task of a project, in a directory of its own, or in another slot of one that there is; ``signed`` are the
    names of the files that it has signed."""

    def __init__(self, directory: Path, signed: Sequence[str] = (), number: int = 0, **init_data: object) -> None:
        self.slot, self.project = directory / "slots" / str(number), directory / "projects" / "example.org"
        self.slot.mkdir(parents=True)
        self.project.mkdir(parents=True, exist_ok=True)
        self.signed = list(signed)
        result = f"task_{number + 1}"
        ours = {"shm_key": -1, "client_pid": os.getpid(), "fraction_done_end": 1, "result_name": result}
        self.init_data = {**ours, **init_data}
        self.process: subprocess.Popen[bytes] | None = None
        #: Every status that came, whole.
        self.said: list[str] = []
        #: Trickles up as they were taken, and outputs whose upload was asked for.
        self.trickles: list[str] = []
        self.uploads: list[str] = []
        self.graphics: list[str] = []
        self.write_init_data()
        path = self.slot / SHARED_MEMORY
        path.write_bytes(bytes(SEGMENT_BYTES))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SEGMENT_BYTES)

    def add(self, logical: str, content: bytes = b"", *, physical: str = "", mode: int = 0o755) -> Path:
        """Put a file into the project's directory, and a link of the client's to it into the slot."""
        path = self.project / (physical or logical.replace("/", "_"))
        path.write_bytes(content)
        path.chmod(mode)
        self.link(logical, path.name)
        return path

    def link(self, logical: str, physical: str) -> Path:
        """Put a link of the client's into the slot, and give where it leads: for an output nothing is there yet."""
        link = self.slot / logical
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(f"<soft_link>../../projects/{self.project.name}/{physical}</soft_link>\n")
        return self.project / physical

    def write_init_data(self) -> None:
        """Write ``init_data.xml`` as it is to be now."""
        told = {"project_dir": str(self.project), "boinc_dir": str(self.project.parent.parent), **self.init_data}
        lines = [f"<{name}>{escape(str(value))}</{name}>" for name, value in told.items()]
        lines += [f"<app_file>{escape(name)}</app_file>" for name in self.signed]
        (self.slot / INIT_DATA).write_text("\n".join(["<app_init_data>", *lines, "</app_init_data>", ""]))

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start the application as the client does: in the slot, with its standard error kept."""
        self._memory[:] = bytes(SEGMENT_BYTES)
        with (self.slot / "stderr.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.slot,
                env=dict(os.environ if environment is None else environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def start_from(self, source: Path, command: Sequence[str]) -> None:
        """Start an application whose modules of Python lie there."""
        self.start(command, {**os.environ, "PYTHONPATH": str(source)})

    def want(self, tag: str) -> None:
        """Say ``suspend``, ``resume``, ``quit``, ``abort`` or ``reread_app_info``, once the last word was read. To an
        application that has ended meanwhile it is not said."""
        word = f"<{tag}/>\n"
        self.until(lambda: self._has_ended or send(self._memory, Channel.CONTROL_REQUEST, word), f"{word} can be said")

    def beat(self, text: str = "<heartbeat/>\n") -> None:
        """Say that the client lives, and whatever goes with it."""
        self.until(lambda: send(self._memory, Channel.HEARTBEAT, text), "a beat can be said")

    def poll(self) -> None:
        """Take what the application has said since the last time, as the client does once a second."""
        if (status := receive(self._memory, Channel.APP_STATUS)) is not None:
            self.said.append(status)
        if (reply := receive(self._memory, Channel.GRAPHICS_REPLY)) is not None:
            self.graphics.append(reply.strip())
        news = receive(self._memory, Channel.TRICKLE_UP) or ""
        if "<have_new_trickle_up/>" in news:
            path = self.slot / TRICKLE_UP
            self.trickles.append(path.read_text())
            path.unlink()
        if "<have_new_upload_file/>" in news:
            for path in self.slot.glob(f"{UPLOAD_NOW}*"):
                name = path.name.removeprefix(UPLOAD_NOW)
                self.uploads.append(name)
                path.unlink()
                (self.slot / f"{UPLOAD_STATUS}{name}").write_text("<status>0</status>\n")
                self.until(lambda: send(self._memory, Channel.TRICKLE_DOWN, "<upload_file_status/>\n"), "it is told")

    def last(self, tag: str) -> float:
        """Give a number of the last status; -1 before there is one that has it."""
        found = re.search(rf"<{tag}>([^<]*)</{tag}>", self.said[-1]) if self.said else None
        return float(found[1]) if found else -1.0

    def until(self, is_so: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
        """Poll until it is so. Raises TimeoutError that says what was waited for, with what the application logged."""
        deadline = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {patience_s:g} s: {what}; it said:\n{self.stderr}")
            time.sleep(LOOK_S)
            self.poll()

    def end(self, patience_s: float = 60.0) -> int:
        """Wait until the application has ended; give its exit status."""
        process = self.process
        if process is None:
            raise RuntimeError("nothing was started")
        self.until(lambda: process.poll() is not None, "the application ends", patience_s)
        self.poll()
        return process.wait()

    def give_up(self) -> None:
        """Have the application end, if it runs, with all that it has started, and remove the slot."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.want("abort")
                self.end()
        finally:
            self.close()

    @property
    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def close(self) -> None:
        """Kill what runs, and remove the slot."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._memory.close()
        shutil.rmtree(self.slot.parent.parent, ignore_errors=True)

    @property
    def stderr(self) -> str:
        """What the application has logged so far."""
        path = self.slot / "stderr.txt"
        return path.read_text(errors="replace") if path.exists() else ""
