"""``python -m deploy.image.build --output DIR``: make the guest image, or copy it out of the cache.

Two layers are cached by the hash of all that goes into them: the Debian base (fetched, minutes on a slow line), and
the image with our agent (seconds). A build that is interrupted leaves the cache as it was. See ``--help``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from broker import durable
from deploy.image import debian, disk, distributions, initramfs, tools, tree
from deploy.image.errors import BuildError
from host_agent.images import MANIFEST, ImageManifest, describe_file, read_manifest

#: ``quiet`` since printing costs most of the boot under emulation; a panic ends the VM instead of hanging it.
CMDLINE = "console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 random.trust_cpu=on"
NAME = "volunteer-cloud-guest"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to build and where."""

    #: Receives ``manifest.json`` and the files that it names.
    output: Path
    #: Kept between builds; safe to delete.
    cache: Path
    #: Wheels to take instead of the installed distributions of the same packages.
    wheels: tuple[Path, ...] = ()
    #: Fetch Debian's packages again, for their security updates.
    refresh: bool = False


def build(request: Request) -> Path:
    """Make the image unless the cache has it; return its manifest's path, for ``host_agent.images``.

    After a failure (BuildError) the output is as it was.
    """
    request.cache.mkdir(parents=True, exist_ok=True)
    base_key = _key("base", [_recipe_bytes(_BASE_RECIPE)])
    if request.refresh:
        shutil.rmtree(request.cache / f"base-{base_key}", ignore_errors=True)
    base = _cached(request.cache / f"base-{base_key}", _make_base)
    with tempfile.TemporaryDirectory(dir=request.cache, prefix="packages-") as scratch:
        packages = Path(scratch, "packages")
        distributions.install(packages, request.wheels, Path(scratch))
        key = _key("image", [_recipe_bytes(None), (base / "packages.txt").read_bytes(), *_contents(packages)])
        image = _cached(request.cache / f"image-{key}", lambda target: _make_image(target, base, packages))
    _copy_out(image, request.output)
    return request.output / MANIFEST


#: The modules and scripts that decide what the base contains.
_BASE_RECIPE = ("debian.py", "tree.py", "inittab.conf", "rc.sh", "agent.sh", "stop.sh", "power.sh")


def _recipe_bytes(names: Iterable[str] | None) -> bytes:
    here = files("deploy.image")
    chosen = names or sorted(entry.name for entry in here.iterdir() if entry.name.endswith((".py", ".sh", ".conf")))
    return b"\0".join(here.joinpath(name).read_bytes() for name in chosen)


def _contents(directory: Path) -> list[bytes]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes() for path in paths]


def _key(kind: str, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256(f"{kind} {sys.version_info[:2]} root={os.geteuid() == 0}".encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:24]


def _cached(place: Path, make: Callable[[Path], None]) -> Path:
    """Return ``place``, made first if need be, at once or not at all; of two builders at a time, one wins."""
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        make(made)
        try:
            made.rename(place)
        except OSError:
            if not place.exists():
                raise
    return place


def _make_base(target: Path) -> None:
    tools.progress("fetching Debian's packages")
    archive = target / "packages.tar"
    debian.fetch(archive)
    tools.progress("unpacking and compiling")
    debian.unpack(archive, target)
    archive.unlink()
    tree.prepare_base(target / "tree")
    shutil.copyfile(target / "packages.txt", target / "tree/etc/volunteer-cloud/packages.txt")


def _make_image(target: Path, base: Path, packages: Path) -> None:
    tools.progress("putting the agent in")
    root = target / "tree"
    tree.copy(base / "tree", root)
    shutil.copytree(packages, root / tree.MODULE_PATH, dirs_exist_ok=True)
    tree.compile_python(root, tree.MODULE_PATH)
    tree.make_readable(root / "usr/local")
    tools.progress("writing the disk")
    disk.write(root, target / "disk.qcow2")
    shutil.rmtree(root)
    initramfs.write(target / "initrd", base / "tree/usr/bin/busybox", base / "modules", tree.recipe("initramfs.sh"))
    shutil.copyfile(base / "vmlinuz", target / "vmlinuz")
    shutil.copyfile(base / "packages.txt", target / "packages.txt")
    body = msgspec.json.format(msgspec.json.encode(_manifest(target))) + b"\n"
    durable.replace(target / MANIFEST, body, mode=0o644)


def _manifest(image: Path) -> ImageManifest:
    return ImageManifest(
        name=NAME,
        disk=describe_file(image / "disk.qcow2"),
        kernel=describe_file(image / "vmlinuz"),
        initrd=describe_file(image / "initrd"),
        cmdline=CMDLINE,
    )


def _copy_out(image: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # The manifest comes last: while it is missing, the output is not an image.
    for entry in sorted(image.iterdir(), key=lambda path: path.name == MANIFEST):
        making = output / f".{entry.name}.tmp"
        making.unlink(missing_ok=True)
        durable.copy(entry, making, mode=0o644)
        making.replace(output / entry.name)
        durable.sync_directory(output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build from the command line; print the image's id."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image.build", description="Build the guest image.")
    parser.add_argument("--output", type=Path, required=True, help="directory that receives the image")
    parser.add_argument("--cache", type=Path, help="directory kept between builds (default: OUTPUT/.cache)")
    parser.add_argument("--wheel", type=Path, nargs="*", default=[], help="wheels to use instead of what is installed")
    parser.add_argument("--refresh", action="store_true", help="fetch Debian's packages again")
    given = parser.parse_args(arguments)
    cache = given.cache or given.output / ".cache"
    request = Request(output=given.output, cache=cache, wheels=tuple(given.wheel), refresh=given.refresh)
    try:
        manifest = build(request)
    except (BuildError, OSError) as error:
        tools.progress(str(error))
        return 1
    sys.stdout.write(f"{read_manifest(manifest).id}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
