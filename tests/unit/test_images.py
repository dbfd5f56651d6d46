"""The image store: ids are hashes, nothing unverified resolves, an interrupted download goes on."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker import durable, reserve
from broker.transfer.locks import open_locked
from broker.transfer.sending import digest_file
from host_agent.errors import ImageError
from host_agent.images import MANIFEST, ImageManifest, ImageStore, describe_file, read_manifest
from tests.unit.disks import fill, small_disk

DISK = b"disk" * 1000
NOWHERE = "0" * 64


def make_image(directory: Path, disk: bytes = DISK) -> Path:
    """Write an image with all three files; give the manifest's path."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("disk.qcow2", disk), ("vmlinuz", b"kernel"), ("initrd", b"initrd")):
        (directory / name).write_bytes(content)
    manifest = ImageManifest(
        name="small",
        disk=describe_file(directory / "disk.qcow2"),
        kernel=describe_file(directory / "vmlinuz"),
        initrd=describe_file(directory / "initrd"),
        cmdline="quiet",
    )
    path = directory / MANIFEST
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return path


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store", None)


def test_an_image_that_was_added_resolves_to_its_files(store, tmp_path):
    image = store.add(make_image(tmp_path / "origin"))

    files = store.resolve(image)

    assert (files.id, files.cmdline) == (image, "quiet")
    assert files.disk.read_bytes() == DISK
    assert files.kernel.read_bytes() == b"kernel"
    assert files.initrd.read_bytes() == b"initrd"
    assert store.list() == [image]


def test_the_id_does_not_depend_on_how_the_manifest_is_laid_out(tmp_path):
    path = make_image(tmp_path)
    before = read_manifest(path).id

    path.write_bytes(msgspec.json.format(path.read_bytes(), indent=7))

    assert read_manifest(path).id == before


def test_a_plain_disk_is_an_image_named_by_its_own_hash(store, tmp_path):
    (tmp_path / "some.qcow2").write_bytes(DISK)

    image = store.add(tmp_path / "some.qcow2")

    assert image == hashlib.sha256(DISK).hexdigest()
    assert store.resolve(image).disk.read_bytes() == DISK
    assert store.resolve(image).kernel is None


def test_adding_twice_succeeds(store, tmp_path):
    path = make_image(tmp_path / "origin")

    assert store.add(path) == store.add(path)


def test_only_images_on_the_allow_list_resolve(tmp_path):
    image = ImageStore(tmp_path / "store", None).add(make_image(tmp_path / "origin"))

    with pytest.raises(ImageError, match="allow-list"):
        ImageStore(tmp_path / "store", frozenset()).resolve(image)
    assert ImageStore(tmp_path / "store", frozenset({image})).resolve(image).id == image


def test_an_image_that_is_not_there_says_what_to_do(store):
    with pytest.raises(ImageError, match="add or fetch it first"):
        store.resolve(NOWHERE)


@pytest.mark.parametrize("image", ["", "short", "../../etc/passwd", "Z" * 64, "0" * 65])
def test_what_is_no_hash_is_refused_before_any_file_is_touched(store, image):
    with pytest.raises(ImageError, match="not an image id"):
        store.resolve(image)


def test_a_file_that_was_changed_in_the_store_does_not_resolve(store, tmp_path):
    image = store.add(make_image(tmp_path / "origin"))
    disk = tmp_path / "store" / image / "disk.qcow2"
    disk.unlink()
    disk.write_bytes(b"other" * 800)

    with pytest.raises(ImageError, match="fetch the image again"):
        store.resolve(image)


def test_files_that_do_not_match_the_manifest_are_not_added(store, tmp_path):
    path = make_image(tmp_path / "origin")
    (tmp_path / "origin" / "vmlinuz").write_bytes(b"other!")

    with pytest.raises(ImageError, match="SHA-256"):
        store.add(path)

    assert store.list() == []
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_that_the_manifest_names_but_is_missing_is_named(store, tmp_path):
    path = make_image(tmp_path / "origin")
    (tmp_path / "origin" / "initrd").unlink()

    with pytest.raises(ImageError, match="initrd"):
        store.add(path)


@pytest.mark.parametrize("name", ["../disk", "/etc/passwd", ".hidden", "", "a/b"])
def test_a_manifest_may_not_name_files_elsewhere(store, tmp_path, name):
    path = make_image(tmp_path / "origin")
    raw = msgspec.json.decode(path.read_bytes())
    raw["disk"]["name"] = name
    path.write_bytes(msgspec.json.encode(raw))

    with pytest.raises(ImageError, match="not an image manifest"):
        store.add(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"name": "x", "disk": 3}', b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(store, tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)

    with pytest.raises(ImageError, match="not an image manifest"):
        store.add(tmp_path / "bad.json")


def test_a_path_that_is_not_there_says_what_is_wanted(store, tmp_path):
    for name in ("no.json", "no.qcow2"):
        with pytest.raises(ImageError, match="give the path"):
            store.add(tmp_path / name)


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory, with byte ranges; breaks off as often as it is told."""

    asked: list[tuple[str, str | None]]
    breaks: list[int]

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers["Range"]
        self.asked.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        piece = content[start:]
        self.wfile.write(piece[: self.breaks.pop()] if self.breaks and "qcow2" in self.path else piece)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[RangeHandler]]]:
    handler = type("Handler", (RangeHandler,), {"asked": [], "breaks": []})
    (tmp_path / "origin").mkdir()
    bound = functools.partial(handler, directory=str(tmp_path / "origin"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), bound) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join(30)


def test_an_image_is_fetched_by_its_manifest(store, tmp_path, server):
    image = read_manifest(make_image(tmp_path / "origin")).id

    store.fetch(f"{server[0]}/{MANIFEST}", image)

    assert store.resolve(image).disk.read_bytes() == DISK
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == [image]


def test_a_plain_disk_is_fetched(store, tmp_path, server):
    (tmp_path / "origin" / "plain.qcow2").write_bytes(DISK)
    image = hashlib.sha256(DISK).hexdigest()

    store.fetch(f"{server[0]}/plain.qcow2", image)

    assert store.resolve(image).disk.read_bytes() == DISK


@pytest.mark.parametrize("name", [MANIFEST, "disk.qcow2"])
def test_a_download_that_broke_off_goes_on_where_it_stopped(store, tmp_path, server, name):
    url, handler = server
    manifest = read_manifest(make_image(tmp_path / "origin"))
    image = manifest.id if name == MANIFEST else manifest.disk.sha256
    handler.breaks.append(1500)

    with pytest.raises(ImageError):
        store.fetch(f"{url}/{name}", image)
    store.fetch(f"{url}/{name}", image)

    assert store.resolve(image).disk.read_bytes() == DISK
    assert ("/disk.qcow2", "bytes=1500-") in handler.asked


def test_a_manifest_of_another_image_is_refused_before_its_files_are_fetched(store, tmp_path, server):
    url, handler = server
    make_image(tmp_path / "origin")

    with pytest.raises(ImageError, match="correct the URL or the id"):
        store.fetch(f"{url}/{MANIFEST}", NOWHERE)

    assert [path for path, _ in handler.asked] == [f"/{MANIFEST}"]


def test_wrong_bytes_are_thrown_away(store, tmp_path, server):
    image = read_manifest(make_image(tmp_path / "origin")).id
    (tmp_path / "origin" / "disk.qcow2").write_bytes(b"evil" * 1000)

    with pytest.raises(ImageError, match="thrown away"):
        store.fetch(f"{server[0]}/{MANIFEST}", image)

    assert store.list() == []
    assert not list((tmp_path / "store").rglob("disk.qcow2"))


def test_an_image_from_a_file_url_and_a_server_without_ranges(store, tmp_path):
    path = make_image(tmp_path / "origin")
    image = read_manifest(path).id
    partial = tmp_path / "store" / f".fetching-{image}"
    partial.mkdir(parents=True)
    (partial / "disk.qcow2").write_bytes(DISK[:10])

    store.fetch(path.as_uri(), image)

    assert store.resolve(image).disk.read_bytes() == DISK


def test_an_image_in_the_store_is_not_fetched_again(store, tmp_path):
    image = store.add(make_image(tmp_path / "origin"))

    assert store.fetch("http://127.0.0.1:1/never", image) == image


@pytest.mark.parametrize("url", ["ftp://example.org/a.json", "gopher://x/y.qcow2", "/etc/passwd"])
def test_other_schemes_are_refused(store, url):
    with pytest.raises(ImageError, match="use a file, http or https URL"):
        store.fetch(url, NOWHERE)


def test_a_server_that_is_not_there_is_an_image_error(store):
    with pytest.raises(ImageError, match="cannot fetch"):
        store.fetch("http://127.0.0.1:1/manifest.json", NOWHERE)


def test_a_full_disk_leaves_no_image_and_names_the_file(tmp_path):
    """Copies and the manifest are believed by whoever boots from them; the store is on another disk than the origin."""
    manifest = make_image(tmp_path / "origin", os.urandom(300_000))
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store = ImageStore(disk / "store", None)
        fill(disk, leaving=200_000)

        with pytest.raises(ImageError, match=r"No space left on device for .*: '.*/disk\.qcow2'"):
            store.add(manifest)

        assert list((disk / "store").iterdir()) == []


def test_what_killed_processes_and_given_up_downloads_left_goes(store, tmp_path):
    left = {name: tmp_path / "store" / name for name in (".making-x-999999999", ".fetching-old", ".fetching-new")}
    for path in left.values():
        path.mkdir(parents=True)
    os.utime(left[".fetching-old"], (0, 0))

    image = store.fetch((make_image(tmp_path / "origin")).as_uri(), read_manifest(tmp_path / "origin" / MANIFEST).id)

    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == sorted([".fetching-new", image])


def test_a_copy_of_an_image_keeps_its_holes(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")

    durable.copy(path, tmp_path / "copy")

    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20
    assert digest_file(tmp_path / "copy") == digest_file(path)


def test_two_who_download_one_image_do_not_write_into_the_same_files(store, tmp_path):
    url, image = make_image(tmp_path / "origin").as_uri(), read_manifest(tmp_path / "origin" / MANIFEST).id
    partial = tmp_path / "store" / f".fetching-{image}"
    partial.mkdir(parents=True)
    held = open_locked(partial / ".lock")

    with pytest.raises(ImageError, match="is being downloaded already"):
        store.fetch(url, image)
    os.close(held)

    assert store.fetch(url, image) == image
    assert not partial.exists()


def test_a_copy_and_a_download_leave_the_disks_reserve_alone(tmp_path):
    """An image store once filled its disk to the last byte, and with it the registry of the VMs."""
    origin = tmp_path / "origin" / "some.qcow2"
    origin.parent.mkdir()
    origin.write_bytes(os.urandom(2 << 20))
    image = hashlib.sha256(origin.read_bytes()).hexdigest()
    with small_disk(tmp_path / "disk", 40 << 20) as disk:
        store = ImageStore(disk / "store", None)
        fill(disk, leaving=reserve.look(disk).reserve + (1 << 20))

        with pytest.raises(ImageError, match="No space left on device"):
            store.add(origin)
        with pytest.raises(ImageError, match=r"no room for .*2097152|no room for .*1048576"):
            store.fetch(origin.as_uri(), image)

        assert reserve.look(disk).free >= reserve.look(disk).reserve
