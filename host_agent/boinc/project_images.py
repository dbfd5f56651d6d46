"""Images in the project's directory: never copied, never changed, and read through for their digest once a file.

A manifest names its files; each is found in the slot under that logical name, by a link of the client's. What was found
right is noted in the slot, with what the file system says of the file; a file that has changed since is read again.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker import durable
from host_agent.boinc.slot_names import SlotNames
from host_agent.downloads import sha256_of
from host_agent.errors import BadName, ImageError
from host_agent.hypervisors.contract import ImageFiles
from host_agent.images import ImageFile, read_manifest

log = logging.getLogger(__name__)

#: The manifest of a job that names none.
DEFAULT_IMAGE = "image.json"
_NOTE = "host_agent_images.json"


class _Seen(msgspec.Struct, frozen=True):
    """A file that was found right: what it was then."""

    sha256: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class ProjectImages:
    """See the module."""

    def __init__(self, names: SlotNames, refuse: Callable[[], None] = lambda: None) -> None:
        """``refuse`` is called between pieces of what is read, to break it off."""
        self._names, self._refuse = names, refuse
        self._note = names.slot / _NOTE

    def resolve(self, image: str) -> ImageFiles:
        """Give the files of the image that has this logical name. Blocking. Raises ImageError saying what is wrong."""
        path = self._file(image, "the image")
        if not image.endswith(".json"):
            _refuse_chain(path, image)
            return ImageFiles(id=image, disk=path)
        manifest = read_manifest(path)
        files = {file.name: self._verified(file) for file in manifest.files}
        _refuse_chain(files[manifest.disk.name], manifest.disk.name)
        kernel, initrd = manifest.kernel, manifest.initrd
        return ImageFiles(
            id=manifest.id,
            disk=files[manifest.disk.name],
            kernel=files[kernel.name] if kernel else None,
            initrd=files[initrd.name] if initrd else None,
            cmdline=manifest.cmdline,
        )

    def _file(self, name: str, what: str) -> Path:
        try:
            path = self._names.linked(name) if self._names.has_client else self._names.source(name)
        except (BadName, OSError) as error:
            raise ImageError(f"{what} {name}: {error}") from error
        if path is None or self._names.is_output(path):
            # What lies in the slot, or is an output, the job could change while its machine stands on it.
            text = "must be a file of the project's, by a link of the client's; give it no <copy_file/>"
            raise ImageError(f"{what} {name}: {text}")
        if not path.is_file():
            raise ImageError(f"{what} {name} is not there: {path}; the project is to send it with the application")
        return path.resolve()

    def _verified(self, file: ImageFile) -> Path:
        path = self._file(file.name, "the image's file")
        try:
            found = path.stat()
            now = _Seen(file.sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            if self._seen().get(file.name) == now:
                return path
            if found.st_size != file.size:
                text = f"has {found.st_size} bytes and not {file.size}: it is cut off, or another one"
                raise ImageError(f"the image's file {file.name} {text}; reset the project, and the client gets it anew")
            if (digest := sha256_of(path, self._refuse)) != file.sha256:
                text = f"has SHA-256 {digest} and not {file.sha256}: it is damaged, or another one"
                raise ImageError(f"the image's file {file.name} {text}; reset the project, and the client gets it anew")
        except OSError as error:
            raise ImageError(f"the image's file {file.name} cannot be read: {error}") from error
        self._remember(file.name, now)
        return path

    def _seen(self) -> dict[str, _Seen]:
        try:
            return msgspec.json.decode(self._note.read_bytes(), type=dict[str, _Seen])
        except (OSError, msgspec.MsgspecError):
            return {}

    def _remember(self, name: str, seen: _Seen) -> None:
        try:
            durable.replace(self._note, msgspec.json.encode(self._seen() | {name: seen}))
        except OSError as error:
            log.warning("the image is read through again at the next start: %s", error)


def disk_mib(disk: Path) -> int:
    """Give the size of a qcow2 disk as its guest sees it, MiB. Raises OSError."""
    with disk.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    (size,) = struct.unpack_from(">Q", head, _SIZE_AT)
    return -(-int(size) >> 20)


def _refuse_chain(disk: Path, name: str) -> None:
    """A disk is a whole one: what it lay over, or kept its data in, could be any file of the volunteer's. Raises
    ImageError."""
    try:
        with disk.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ImageError(f"the image's file {name} cannot be read: {error}") from error
    if len(head) < _HEADER_BYTES or head[:4] != _MAGIC:
        raise ImageError(f"the image's file {name} is no qcow2 disk; convert it with qemu-img")
    version, base_at = struct.unpack_from(">IQ", head, 4)
    (features,) = struct.unpack_from(">Q", head, _FEATURES_AT) if version >= 3 else (0,)
    if base_at or features & _EXTERNAL_DATA or version not in (2, 3):
        text = "lies over another file, or keeps its data in one: make one whole disk of it with qemu-img convert"
        raise ImageError(f"the image's file {name} {text}")


#: A qcow2's header, as far as it is looked at: QEMU's docs/interop/qcow2.txt.
_MAGIC, _HEADER_BYTES, _SIZE_AT, _FEATURES_AT, _EXTERNAL_DATA = b"QFI\xfb", 80, 24, 72, 1 << 2
