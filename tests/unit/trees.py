"""Trees for tests: one with everything that a name or a kind can be, what two have in common, and one moved by hand."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from broker.trees import TreeLanding, TreePlace, TreeSource, into_tree
from schemas.files import FileOffer, GuestTree

NAMES = (b"plain", b"with space", b"quote\"s'", b"new\nline", b"no\xff\xfeutf8", "umläut".encode(), b"-rf", b"*")


def opener(path: Path) -> Callable[[], int]:
    return partial(os.open, path, os.O_RDONLY | os.O_DIRECTORY)


def make_tree(root: Path, content: Callable[[int], bytes] = os.urandom) -> Path:
    """Make a tree with files of any name, empty directories, links in and out of it, and a file with a hole."""
    root.mkdir()
    top = os.fsencode(root)
    (root / "deep" / "er" / "est").mkdir(parents=True)
    (root / "empty").mkdir()
    for number, name in enumerate(NAMES):
        directory = (top, top + b"/deep", top + b"/deep/er/est")[number % 3]
        path = Path(os.fsdecode(directory + b"/" + name))
        path.write_bytes(content(number * 1000))
        path.chmod((0o644, 0o755, 0o600, 0o440)[number % 4])
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + number))
    for name, target in (("out", "/etc/passwd"), ("in\udcff", "deep/er"), ("deep/dangling", "no such thing")):
        (root / name).symlink_to(target)
    with (root / "sparse").open("wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(content(100))
    (root / "deep" / "er").chmod(0o751)
    os.utime(top + b"/empty", ns=(0, 1_600_000_000_000_000_001))
    return root


def seen(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Say what is below a directory, and it itself: kinds, modes, times and contents; of holes only where they end."""
    found = {}
    for here, directories, files, descriptor in os.fwalk(os.fsencode(root)):
        for name in (b".", *directories, *files):
            one = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            path = os.path.relpath(here + b"/" + name, os.fsencode(root))
            what: object = one.st_size
            if stat.S_ISLNK(one.st_mode):
                what = os.readlink(name, dir_fd=descriptor)
            elif stat.S_ISREG(one.st_mode) and one.st_size < 1 << 24:
                what = Path(os.fsdecode(here + b"/" + name)).read_bytes()
            elif stat.S_ISDIR(one.st_mode):
                what = None
            found[path] = (stat.S_IFMT(one.st_mode), stat.S_IMODE(one.st_mode), one.st_mtime_ns, what)
    return found


def disk_of(root: Path) -> int:
    """Give what a tree takes of the disk."""
    return sum(one.lstat().st_blocks * 512 for one in root.rglob("*"))


def place_in(directory: Path, name: str = "target") -> TreePlace:
    return TreePlace(
        parent=opener(directory),
        make_parent=opener(directory),
        name=os.fsencode(name),
        told=name,
        gathering=directory / ".gathering",
        kept=0,
    )


def offer_of(source: TreeSource) -> FileOffer:
    tree = GuestTree(path="x", manifest=source.manifest.length)
    return FileOffer(file=tree, size=source.manifest.size, sha256=source.sha256)


def read_of(root: Path) -> TreeSource:
    return TreeSource(root.name, opener(root))


def feed(source: TreeSource, landing: TreeLanding, most: int | None = None) -> int:
    """Hand over what is wanted, up to ``most`` bytes; give how many went."""
    source.open()
    sent = 0
    while landing.written < source.manifest.size and (most is None or sent < most):
        offset = landing.gaps.skip(landing.written)
        end = landing.gaps.next_start(offset, landing.bound)
        data = source.read(offset, min(65536, end - offset))
        landing.write([data])
        sent += len(data)
    source.close()
    return sent


def move(source: TreeSource, place: TreePlace) -> int:
    """Have a tree land; give how many bytes went, its manifest included."""
    landing = into_tree(place, offer_of(source))
    try:
        sent = feed(source, landing)
        landing.commit(source.sha256)
    except BaseException:
        landing.discard()
        raise
    landing.close()
    return sent
