"""A large file on its way to a guest for as long as something is measured beside it, pushed by a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

#: How long the first bytes may take, and the end of a push that is interrupted, seconds.
_PATIENCE_S = 60.0


class Pushing:
    """Pushes a file again and again while the block runs; its first bytes are there when the block begins."""

    def __init__(self, scratch: Path, data: Path, vm: str, size_bytes: int) -> None:
        self._file = scratch / "pushed.bin"
        self._log = scratch / "push.log"
        self._command = [sys.executable, "-m", "benchmarks.exec.push", str(data), vm, str(self._file)]
        self._size_bytes = size_bytes
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Pushing:
        with self._file.open("wb") as file:
            block = bytes(range(256)) * 4096
            for _ in range(self._size_bytes // len(block)):
                file.write(block)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        if self._process.stdout is None or self._process.stdout.readline() != "moving\n":
            raise RuntimeError(f"the file does not move: {self._log.read_text()[-2000:]}")
        return self

    def check(self) -> None:
        """Raise RuntimeError if it is pushed no more: what was measured then was not beside a push."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the push has ended: {self._log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=_PATIENCE_S)
        self._file.unlink(missing_ok=True)
        time.sleep(0.5)  # what the guest had on its way is settled before anything else is measured
