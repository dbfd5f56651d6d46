"""What commands in VMs print, on our own outputs: as it comes, marked by line where it comes from several; or for
programs, a line a VM."""

from __future__ import annotations

import sys
import threading

import msgspec

from schemas.execs import ExecEnded, Stream
from schemas.ledger import RegistryRow
from schemas.plain_text import plain, plain_json
from volcloud.errors import Failure
from volcloud.output import LinePrefixer
from volcloud.rendering.vms import labels_of
from volcloud.screen import OutputStream, echo

#: Output of each stream that a line for programs holds, bytes; what is more is counted.
MOST_OUTPUT_BYTES = 1 << 20


class Printer:
    """Writes output as it comes; marked by line where it comes from several VMs. For several threads."""

    def __init__(self, marked: list[RegistryRow]) -> None:
        outputs = {Stream.STDOUT: sys.stdout, Stream.STDERR: sys.stderr}
        self._streams = {stream: OutputStream(output, is_marked=bool(marked)) for stream, output in outputs.items()}
        labels = labels_of(marked)
        width = max(map(len, labels.values()), default=0)
        self._prefixers = {
            (row.status.vm, stream): LinePrefixer(f"{plain(labels[row.status.vm]):<{width}} | ")
            for row in marked
            for stream in self._streams
        }
        self._lock = threading.Lock()

    def take(self, row: RegistryRow, stream: Stream, data: bytes) -> None:
        """Write some of it. Raises OSError when our output does not take it."""
        prefixer = self._prefixers.get((row.status.vm, stream))
        self._write(stream, prefixer.take(data) if prefixer else data)

    def finish(self) -> None:
        """Write what waited for the end of its line."""
        for (_, stream), prefixer in self._prefixers.items():
            self._write(stream, prefixer.finish())
        for output in self._streams.values():
            output.finish()

    def _write(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            self._streams[stream].write(data)


class ExecLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What programs are told of a command in one VM. Output that is no UTF-8 has U+FFFD in its place."""

    vm: str
    name: str
    host: str
    exit_status: int
    output: str | None = None
    stderr: str | None = None
    #: Output beyond 1 MiB of each, bytes.
    cut_bytes: int = 0
    user_seconds: float | None = None
    system_seconds: float | None = None
    wall_seconds: float | None = None
    peak_rss_bytes: int | None = None
    timed_out: bool = False
    error: str | None = None
    next_step: str | None = None


class Collector:
    """Keeps what commands print, up to a limit, for a line a VM. For several threads."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Stream], bytearray] = {}
        self._cut: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, row: RegistryRow, stream: Stream, data: bytes) -> None:
        """Keep some of it."""
        with self._lock:
            kept = self._kept.setdefault((row.status.vm, stream), bytearray())
            room = MOST_OUTPUT_BYTES - len(kept)
            kept += data[:room]
            self._cut[row.status.vm] = self._cut.get(row.status.vm, 0) + len(data[room:])

    def finish(self) -> None:
        """Do nothing: it is told with the end."""

    def tell(self, row: RegistryRow, end: ExecEnded | Failure) -> None:
        """Print the line of one VM."""
        vm = row.status.vm
        line = ExecLine(vm=vm, name=row.status.name, host=row.host, exit_status=end.exit_status)
        if isinstance(end, Failure):
            line.error, line.next_step = end.message, end.next_step
        else:
            line.user_seconds = round(end.cpu_seconds - end.system_seconds, 6)
            line.system_seconds, line.wall_seconds = end.system_seconds, end.wall_seconds
            line.peak_rss_bytes, line.timed_out = end.peak_rss_bytes, end.timed_out
        if isinstance(end, ExecEnded) or (vm, Stream.STDOUT) in self._kept:
            line.output, line.stderr = self._text(vm, Stream.STDOUT), self._text(vm, Stream.STDERR)
        line.cut_bytes = self._cut.get(vm, 0)
        echo(plain_json(msgspec.json.encode(line).decode()))

    def _text(self, vm: str, stream: Stream) -> str:
        return self._kept.get((vm, stream), bytearray()).decode(errors="replace")
