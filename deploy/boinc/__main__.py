"""``python -m deploy.boinc DIRECTORY``: what a project copies to its server."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from deploy.boinc.freeze import NotFrozen, freeze, needed_libc
from deploy.boinc.version import JOB_FILE, image_files, write_templates, write_version
from host_agent.errors import ImageError

#: As BOINC's server takes it.
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}")
_LOGICAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def main() -> None:
    """Build the directory of a version, and templates; exits 1 with the reason where that fails, 2 for wrong words."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.boinc",
        description="Make the directory of an application's version for a BOINC project: the agent as one program, "
        "the project's own programs, version.xml, and templates of a job.",
    )
    parser.add_argument("directory", type=Path, help="where to write it, such as apps/APPLICATION of the project")
    parser.add_argument("--version", default="1.0", help="of the application, MAJOR.MINOR (%(default)s)")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a program of the project's, by the name that job files have for it; no others are run by the agent",
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="MANIFEST",
        help="of the virtual machines in which tasks run: its manifest, as `python -m deploy.image.build` makes it",
    )
    parser.add_argument("--templates", type=Path, help="where to write templates of a job (DIRECTORY/templates)")
    parser.add_argument("--job", type=Path, help="the job file, one of the version's files (the template's)")
    options = parser.parse_args()
    if not _VERSION.fullmatch(options.version):
        parser.error(f"--version {options.version!r}: must be MAJOR.MINOR, such as 1.0")
    files = dict(_named(parser, word) for word in options.file)
    if options.image is not None:
        _check_image(parser, options.image, files)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _say("freezing the agent, which takes half a minute")
            agent = Path(scratch) / "host_agent"
            freeze(agent)
            templates = options.templates or options.directory / "templates"
            write_templates(templates, next(iter(files), "PROGRAM"), in_guest=options.image is not None)
            files[JOB_FILE] = options.job or templates / JOB_FILE
            made = write_version(options.directory, options.version, agent, files, options.image)
        except (NotFrozen, ImageError, OSError) as error:
            sys.exit(f"python -m deploy.boinc: {error}")
    for path in sorted(made.iterdir()):
        _say(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
    _say(
        f"it runs where there is {needed_libc()} or newer; next: sign and add it with the project's bin/update_versions"
    )


def _named(parser: argparse.ArgumentParser, word: str) -> tuple[str, Path]:
    name, sign, path = word.partition("=")
    if not sign or not _LOGICAL.fullmatch(name):
        parser.error(f"--file {word!r}: must be NAME=PATH, NAME of letters, digits, dots, dashes and underscores")
    if name in ("host_agent", JOB_FILE):
        parser.error(f"--file {word!r}: {name} is the agent itself, or the job file; call the program otherwise")
    if not Path(path).is_file():
        parser.error(f"--file {word!r}: {path} is no file")
    return name, Path(path)


def _check_image(parser: argparse.ArgumentParser, manifest: Path, files: dict[str, Path]) -> None:
    try:
        found = image_files(manifest)
    except ImageError as error:
        parser.error(f"--image {manifest}: {error}")
    if missing := [str(path) for path in found.values() if not path.is_file()]:
        parser.error(f"--image {manifest}: {missing[0]} is not there, which the manifest names")
    if both := sorted(set(found) & set(files)):
        parser.error(f"--file {both[0]}=...: a file of the image is called so; call the program otherwise")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
