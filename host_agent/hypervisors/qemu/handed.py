"""What a QEMU that runs as an account of its own is handed open, instead of names that it could not open or make.

Its sockets listen before it begins, since it may make nothing in its VM's directory; image, kernel and initrd may lie
where it cannot go. The command line that is kept beside a saved memory stays as it is: it is changed at each start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from broker import durable
from broker.road.streams import short_path
from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.qemu.accounts import let_read
from host_agent.hypervisors.qemu.command import DISK, NETWORK, network
from host_agent.hypervisors.vm_account import VmAccount

#: The set of files in which the image's disk is, as ``/dev/fdset/`` names it.
_IMAGE_SET = 0
_SOCKET = re.compile(r"(socket,id=\w+),path=([\w.]+),(server=on,wait=off)")


class HandedFiles:
    """Open files for one process of an account's. Leave the ``with`` block once it was started."""

    def __init__(self, account: VmAccount) -> None:
        self.account = account
        self._closing = contextlib.ExitStack()
        #: Their numbers, which are the same in the process.
        self.descriptors: list[int] = []

    def __enter__(self) -> HandedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def opened(self, path: Path) -> int:
        """Give the number of a file that is open for reading. Raises OSError."""
        return self._keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def listening(self, path: Path) -> int:
        """Give the number of a unix socket that listens there, for the agent alone. Raises OSError."""
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as made, short_path(path) as name:
            made.bind(name)
            path.chmod(0o600)
            made.listen(1)
            return self._keep(made.detach())

    def _keep(self, descriptor: int) -> int:
        self._closing.callback(os.close, descriptor)
        self.descriptors.append(descriptor)
        return descriptor


def handing(arguments: Sequence[str], home: Path, spec: VmSpec, relay: list[str], files: HandedFiles) -> list[str]:
    """Give a command line, of whatever age, as that of a QEMU which is handed ``files``, its network led by ``relay``.

    Raises OSError.
    """
    change: dict[str, Callable[[str], str]] = {
        "-chardev": lambda value: _socket(value, home, files),
        "-blockdev": lambda value: _over_image(value) if spec.image and spec.image.disk else value,
        "-netdev": lambda value: network(relay, spec.ports) if value.startswith(NETWORK) else value,
        "-kernel": lambda value: boot_file(value, files),
        "-initrd": lambda value: boot_file(value, files),
    }
    given = list(arguments)
    for at, name in enumerate(arguments[:-1]):
        if name in change:
            given[at + 1] = change[name](arguments[at + 1])
    if spec.image and spec.image.disk:
        given += ["-add-fd", f"fd={files.opened(spec.image.disk)},set={_IMAGE_SET}"]
    return given


def _socket(value: str, home: Path, files: HandedFiles) -> str:
    found = _SOCKET.fullmatch(value)
    return f"{found[1]},fd={files.listening(home / found[2])},{found[3]}" if found else value


def _over_image(value: str) -> str:
    """Have the VM's disk lie over the image that is handed, whatever a QEMU has written into it as its base."""
    node = json.loads(value)
    if node.get("node-name") != DISK:
        return value
    image = {"driver": "file", "filename": f"/dev/fdset/{_IMAGE_SET}", "read-only": True}
    base = {"driver": "qcow2", "read-only": True, "file": image, "backing": None}
    return json.dumps({**node, "backing": base})


def boot_file(value: str, files: HandedFiles) -> str:
    """Give the name under which QEMU finds a kernel or initrd that it is handed. Raises OSError."""
    # It reads them by a name alone, which opens the file anew: as the account, though without the way to it.
    descriptor = files.opened(Path(value))
    with durable.naming(Path(value)):
        let_read(descriptor, files.account)
    return f"/dev/fd/{descriptor}"
