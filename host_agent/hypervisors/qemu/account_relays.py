"""What the relays need of a VM that runs as an account of its own: it can read neither the host's credential, which
holds a password, nor for certain our program or the Python that runs it.

So the VM's directory holds the relay as an archive, and of the credential what it says of where the broker is.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import msgspec

import broker
import schemas
from broker import durable
from host_agent import relay
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.detached import environment_of
from host_agent.hypervisors.qemu.disk import put_down
from host_agent.hypervisors.vm_account import VmAccount, of_process

log = logging.getLogger(__name__)

#: The files in the VM's directory.
PROGRAM, WHEREABOUTS = "relay.pyz", "broker.json"
#: The program as a Python in that directory is told: it looks for a name that is not absolute by the whole way to it,
#: which an account may not be able to go.
SCRIPT = f"/proc/self/cwd/{PROGRAM}"
#: What the archive holds beside the relay itself, by the packages' directories.
_MODULES = {broker: ("__init__.py", "peer.py", "errors.py"), schemas: ("__init__.py", "errors.py")}
#: Pythons that are tried, ours first: it may be one that its user alone can run.
_PYTHONS = (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")
#: For one of them to say that it could begin; 0.05 s on an idle host.
_TRY_S = 30.0
#: What a relay answers that is told nothing.
_NOTHING_TOLD = 2
_READABLE = 0o644
#: Between two looks whether the broker has moved.
_LOOK_INTERVAL_S = 1.0


class _Whereabouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What relays are told of a credential; see ``host_agent.relay``."""

    endpoints: list[dict[str, Any]]
    owner: int | None = None


def equip(home: Path, credential: Path) -> list[str]:
    """Put into a VM's directory what its relays need; give program and whereabouts, as named there. Raises OSError.

    A credential that cannot be read keeps no VM from starting: its relays find a broker once it can.
    """
    _show(home / PROGRAM, _archive())
    if trouble := _tell(home, credential):
        log.warning("relays_not_told vm=%s error=%s", home.name, trouble)
    return [SCRIPT, WHEREABOUTS]


async def keep_told(home: Path, credential: Path) -> NoReturn:
    """Tell a VM's relays wherever the broker moves to, until cancelled. Those of one that was not equipped look for
    themselves."""
    told, complaint = None, ""
    while True:
        now = _version(credential)
        if now is not None and now != told and (home / PROGRAM).exists():
            trouble = _tell(home, credential)
            if trouble and trouble != complaint:
                log.warning("relays_not_told vm=%s error=%s", home.name, trouble)
            told, complaint = told if trouble else now, trouble
        await asyncio.sleep(_LOOK_INTERVAL_S)


async def find_python(account: VmAccount) -> str:
    """Find a Python that can run a relay as an account. Raises HypervisorError if there is none, or no such account."""
    troubles = []
    with naming_disk("cannot try how relays run"), tempfile.TemporaryDirectory() as closed:
        # As a VM's directory is: one may be there, and cannot come there.
        home = Path(closed) / "home"
        home.mkdir()
        (home / PROGRAM).write_bytes(_archive())
        for path in (home, home / PROGRAM):
            path.chmod(0o755)
        for python in dict.fromkeys(_PYTHONS):
            trouble = await _try(python, home, account)
            if not trouble:
                return python
            troubles.append(f"{python}: {trouble}")
    raise HypervisorError(
        f"QEMU cannot run as an account of its own ({account.uid}), since its relays could not: {'; '.join(troubles)}."
        " Install a Python 3.11 that every user can run as /usr/bin/python3, or choose other ids (first_uid of"
        " [hypervisor]), or say uids = 0 there: then QEMU runs as root"
    )


async def _try(python: str, directory: Path, account: VmAccount) -> str:
    """Say why a relay does not begin; empty if it does."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(python, "-I", "-S", SCRIPT),
            cwd=directory,
            env=environment_of(None),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            **of_process(account),
        )
    except (OSError, subprocess.SubprocessError) as error:
        return getattr(error, "strerror", None) or str(error)
    try:
        async with asyncio.timeout(_TRY_S):
            status = await process.wait()
    except TimeoutError:
        return f"did not end within {_TRY_S} s"
    finally:
        await put_down(process)
    return "" if status == _NOTHING_TOLD else f"ends with {status}"


def _show(path: Path, body: bytes) -> None:
    """Have a file that every account can read hold this; one that does already is left as it is. Raises OSError."""
    if not _shows(path, body):
        durable.replace(path, body, mode=_READABLE)
        path.chmod(_READABLE)


def _shows(path: Path, body: bytes) -> bool:
    """Whether a file is ours and as it should be. The VM's account may have put there what it likes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == _READABLE
        is_like_it = found.st_uid == os.geteuid() and found.st_size == len(body)
        return is_ours and is_like_it and os.pread(descriptor, len(body), 0) == body
    finally:
        os.close(descriptor)


@functools.cache
def _archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.write(relay.__file__, "__main__.py")
        for package, names in _MODULES.items():
            for name in names:
                archive.write(Path(str(package.__file__)).with_name(name), f"{package.__name__}/{name}")
    return made.getvalue()


def _tell(home: Path, credential: Path) -> str:
    """Write where the broker is, and say why that was not possible; what was written before stays then."""
    try:
        known = msgspec.json.decode(credential.read_bytes(), type=_Whereabouts)
        # Of each endpoint what a relay needs, whatever else a credential may come to hold.
        endpoints = [{"host": one["host"], "port": one["port"]} for one in known.endpoints]
        body = msgspec.json.encode(_Whereabouts(endpoints, known.owner))
        _show(home / WHEREABOUTS, body)
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        return f"{credential}: {error}"
    return ""


def _version(credential: Path) -> tuple[int, int, int] | None:
    try:
        found = credential.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
