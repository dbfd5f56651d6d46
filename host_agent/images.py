"""The images on this host: named by SHA-256, checked before use, never changed.

An image is a manifest and the files that it names; its id is the SHA-256 of the manifest in canonical form. A single
disk file is an image too, and its own SHA-256 is the id. Only ids on the allow-list resolve. Everything here blocks on
files or the network: call it in a thread. Which VM uses which image is the inventory's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from broker import durable
from broker.errors import PartialTaken
from broker.transfer.locks import open_locked
from host_agent.downloads import download, read_url, sha256_of
from host_agent.errors import ImageError
from host_agent.hypervisors.contract import ImageFiles

#: Name of the manifest in the store; anywhere else it is known by its suffix.
MANIFEST = "manifest.json"

#: The only file of an image that has no manifest.
_PLAIN_DISK = "disk.qcow2"
#: A manifest is a few hundred bytes; what is longer is not one.
_MANIFEST_LIMIT_BYTES = 64 * 1024
#: A download that broke off is kept for so long after its last try, seconds.
_KEEP_DOWNLOAD_S = 7 * 86400.0
#: Mode of what is in the store: a hypervisor may run as somebody else; the umask has its say.
_READABLE = 0o666

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_FileName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class ImageFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of an image; it lies beside the manifest."""

    name: _FileName
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an image consists of. With a kernel it is booted directly, otherwise the disk boots itself."""

    name: str
    format: Literal["qcow2"] = "qcow2"
    disk: ImageFile
    kernel: ImageFile | None = None
    initrd: ImageFile | None = None
    cmdline: str = ""

    @property
    def id(self) -> str:
        """The image's name everywhere else: SHA-256 of the canonical form."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """Every file that the manifest names."""
        return tuple(file for file in (self.disk, self.kernel, self.initrd) if file is not None)


def read_manifest(path: Path) -> ImageManifest:
    """Read and check a manifest; raise ImageError naming what is wrong in it."""
    try:
        return _parse_manifest(path.read_bytes())
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error}; give the path of a manifest (.json) or of a qcow2") from error


def describe_file(path: Path) -> ImageFile:
    """Make a manifest's entry for a file that lies beside it."""
    return ImageFile(name=path.name, size=path.stat().st_size, sha256=sha256_of(path))


class ImageStore:
    """A directory of verified images. Several processes may share it; what is in it is complete."""

    def __init__(self, directory: Path, allowed: frozenset[str] | None) -> None:
        """``allowed`` None lets every image in the store resolve."""
        self._directory = directory
        self._allowed = allowed
        self._resolved: dict[str, ImageFiles] = {}
        self._lock = threading.Lock()

    def add(self, source: Path) -> str:
        """Take in a manifest with its files, or one qcow2; return the id. Nothing stays behind after a failure.

        Files are hard links where the file system allows it. An image that is there already succeeds at once.
        """
        if source.suffix == ".json":
            manifest = read_manifest(source)
            origins = {file.name: source.parent / file.name for file in manifest.files}
            return self._keep(manifest.id, manifest, origins)
        if not source.is_file():
            raise ImageError(f"there is no file {source}; give the path of a manifest (.json) or of a qcow2")
        return self._keep(sha256_of(source), None, {_PLAIN_DISK: source})

    def fetch(self, url: str, image: str) -> str:
        """Download an image unless the store has it; an interrupted download goes on where it stopped.

        A URL ending in ``.json`` is a manifest, its files are looked for beside it. Raises ImageError if what comes
        is not ``image``; then the wrong bytes are thrown away, otherwise they are kept for the next try.
        """
        _check_id(image)
        if (self._directory / image).exists():
            return image
        partial = self._directory / f".fetching-{image}"
        with _alone_with(partial, image):
            self._remove_given_up()
            names, manifest = self._download_all(url, image, partial)
            self._keep(image, manifest, {name: partial / name for name in names})
            shutil.rmtree(partial)
        return image

    def resolve(self, image: str) -> ImageFiles:
        """Give an image's files, verified by this process once. Raises ImageError saying what to do."""
        _check_id(image)
        if self._allowed is not None and image not in self._allowed:
            raise ImageError(f"image {image} is not on this host's allow-list; its owner must add it there first")
        with self._lock:
            if image not in self._resolved:
                self._resolved[image] = self._verify(image)
            return self._resolved[image]

    def list(self) -> list[str]:
        """Name the images in the store, allowed or not."""
        if not self._directory.exists():
            return []
        return sorted(entry.name for entry in self._directory.iterdir() if not entry.name.startswith("."))

    def _remove_given_up(self) -> None:
        """Remove downloads that broke off and were not taken up again for long."""
        for partial in self._directory.glob(".fetching-*"):
            if time.time() - partial.stat().st_mtime > _KEEP_DOWNLOAD_S:
                shutil.rmtree(partial, ignore_errors=True)

    def _keep(self, image: str, manifest: ImageManifest | None, origins: dict[str, Path]) -> str:
        home = self._directory / image
        if home.exists():
            return image
        making = self._directory / f".making-{image}-{os.getpid()}"
        try:
            _lay_out(making, manifest, origins)
            _verified_files(image, making)
            _move_into_place(making, home)
        except OSError as error:
            raise ImageError(f"cannot store image {image}: {error}") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return image

    def _download_all(self, url: str, image: str, partial: Path) -> tuple[tuple[str, ...], ImageManifest | None]:
        if urllib.parse.urlsplit(url).path.endswith(".json"):
            manifest = self._fetch_manifest(url, image, partial)
            return tuple(file.name for file in manifest.files), manifest
        download(url, partial / _PLAIN_DISK, image)
        return (_PLAIN_DISK,), None

    def _fetch_manifest(self, url: str, image: str, partial: Path) -> ImageManifest:
        manifest = _parse_manifest(read_url(url, _MANIFEST_LIMIT_BYTES))
        if manifest.id != image:
            raise ImageError(f"{url} describes image {manifest.id}, not {image}; correct the URL or the id")
        for file in manifest.files:
            download(urllib.parse.urljoin(url, file.name), partial / file.name, file.sha256, file.size)
        return manifest

    def _verify(self, image: str) -> ImageFiles:
        home = self._directory / image
        if not home.is_dir():
            raise ImageError(f"image {image} is not in {self._directory}; add or fetch it first")
        return _verified_files(image, home)


@contextlib.contextmanager
def _alone_with(partial: Path, image: str) -> Iterator[None]:
    """Be the only one who downloads an image, in this process or another: two would write into the same files.

    Raises ImageError while somebody else is at it.
    """
    durable.make_directory(partial)
    os.utime(partial)
    try:
        lock = open_locked(partial / ".lock")
    except PartialTaken as error:
        raise ImageError(f"image {image} is being downloaded already; try again when that has ended") from error
    try:
        yield
    finally:
        os.close(lock)


def _check_id(image: str) -> None:
    try:
        msgspec.convert(image, Sha256)
    except msgspec.ValidationError as error:
        raise ImageError(f"{image!r} is not an image id: 64 hexadecimal digits, a SHA-256") from error


def _parse_manifest(encoded: bytes) -> ImageManifest:
    try:
        return msgspec.json.decode(encoded, type=ImageManifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ImageError(f"not an image manifest: {error}") from error


def _lay_out(directory: Path, manifest: ImageManifest | None, origins: dict[str, Path]) -> None:
    directory.mkdir(parents=True)
    _remove_left_behind(directory)
    for name, origin in origins.items():
        _link_or_copy(origin, directory / name)
    if manifest is not None:
        durable.replace(directory / MANIFEST, msgspec.json.encode(manifest, order="deterministic"), mode=_READABLE)


def _remove_left_behind(making: Path) -> None:
    """Remove what processes that were killed had begun to lay out: all of the name but ours that nobody is."""
    for other in making.parent.glob(".making-*"):
        pid = other.name.rpartition("-")[2]
        if other != making and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(other, ignore_errors=True)


def _link_or_copy(origin: Path, copy: Path) -> None:
    try:
        os.link(origin, copy)
    except FileNotFoundError as error:
        raise ImageError(f"the manifest names {origin}, which is not there") from error
    except OSError:
        durable.copy(origin, copy, mode=_READABLE)


def _move_into_place(making: Path, home: Path) -> None:
    """Let the image appear under its id when its files are on the disk: they are believed from then on."""
    for file in making.iterdir():
        durable.sync_file(file)
    durable.sync_directory(making)
    try:
        making.rename(home)
    except OSError:
        # Another process stored the same image meanwhile; equal ids mean equal files.
        if not home.is_dir():
            raise
    durable.sync_directory(home.parent)


def _verified_files(image: str, home: Path) -> ImageFiles:
    if not (home / MANIFEST).exists():
        _verify_file(home / _PLAIN_DISK, image)
        return ImageFiles(id=image, disk=home / _PLAIN_DISK)
    manifest = read_manifest(home / MANIFEST)
    if manifest.id != image:
        raise ImageError(f"the manifest in {home} is that of image {manifest.id}; remove the directory and fetch again")
    for file in manifest.files:
        _verify_file(home / file.name, file.sha256)
    return ImageFiles(
        id=image,
        disk=home / manifest.disk.name,
        kernel=home / manifest.kernel.name if manifest.kernel else None,
        initrd=home / manifest.initrd.name if manifest.initrd else None,
        cmdline=manifest.cmdline,
    )


def _verify_file(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error}; remove its directory and fetch the image again") from error
    if found != expected:
        raise ImageError(f"{path} has SHA-256 {found}, not {expected}; remove its directory and fetch the image again")
