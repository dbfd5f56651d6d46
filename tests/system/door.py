"""``volcloud xmlrpc`` as a process beside a running system, and a script's end of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xmlrpc.client import ServerProxy


class OldDoor:
    """A door that is open."""

    def __init__(self, said: dict[str, str]) -> None:
        self.url = said["url"]
        self.token_file = Path(said["token_file"])

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    def proxy(self, token: str | None = None) -> ServerProxy:
        """Give a script's end, with the door's own token unless another one is given."""
        where = self.url.removeprefix("http://")
        return ServerProxy(f"http://token:{token or self.token}@{where}", use_builtin_types=True)


@contextmanager
def open_door(data: Path, *options: str, cwd: Path | None = None) -> Iterator[OldDoor]:
    """Have a door for as long as the block lasts; Ctrl-C ends it with status 0."""
    command = [sys.executable, "-m", "volcloud.main", "xmlrpc", "--data", str(data), "--port", "0", "--json", *options]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the door ended with {process.wait(30)}"
        yield OldDoor(json.loads(line))
    finally:
        process.terminate()
        assert process.wait(60) == 0
