"""The Python packages of the guest: our own three, and what they import.

If this Python is the guest's (CPython 3.11 on x86_64 Linux) the installed files are copied, which works offline;
otherwise, and for wheels that the caller names, wheels are unpacked. Nothing is executed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from deploy.image import tools
from deploy.image.errors import BuildError

#: What ``install_requires`` of this distribution names; an image carries these and nothing else.
REQUIRED = ("pika", "msgspec", "msgpack")
OWN_PACKAGES = ("schemas", "broker", "guest_agent")

#: The Python of the guest's Debian.
GUEST_PYTHON = (3, 11)
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def is_like_guest() -> bool:
    """Say whether files of this Python, compiled ones included, run in the guest."""
    return (
        sys.version_info[:2] == GUEST_PYTHON
        and sys.implementation.name == "cpython"
        and sys.platform == "linux"
        and platform.machine() == "x86_64"
        and platform.libc_ver()[0] == "glibc"
    )


def install(target: Path, wheels: Sequence[Path], scratch: Path) -> None:
    """Put everything that the agent imports under ``target``, a directory on the guest's module path."""
    for wheel in wheels:
        _unpack(wheel, target)
    _copy_missing_own(target)
    missing = [name for name in REQUIRED if not (target / name).exists()]
    if missing and is_like_guest():
        for name in missing:
            _copy_installed(name, target)
    elif missing:
        for wheel in _download(missing, scratch):
            _unpack(wheel, target)


def _unpack(wheel: Path, target: Path) -> None:
    if not zipfile.is_zipfile(wheel):
        raise BuildError(f"{wheel} is not a wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def _copy_missing_own(target: Path) -> None:
    for name in OWN_PACKAGES:
        if not (target / name).exists():
            shutil.copytree(_package_directory(name), target / name, ignore=_LEFT_OUT)


def _package_directory(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise BuildError(f"the package {name} is not installed beside this one")
    return Path(next(iter(found.submodule_search_locations)))


def _copy_installed(name: str, target: Path) -> None:
    try:
        files = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildError(f"{name} is not installed: pip install {name}") from error
    for file in files or ():
        if not file.parts[0].startswith("..") and "__pycache__" not in file.parts:
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), copy)


def _download(names: Sequence[str], scratch: Path) -> list[Path]:
    version = ".".join(map(str, GUEST_PYTHON))
    choice = ["--python-version", version, "--platform", "manylinux2014_x86_64", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), *choice]
    tools.run([*command, *_pinned(names)])
    return sorted(scratch.glob("*.whl"))


def _pinned(names: Sequence[str]) -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]
