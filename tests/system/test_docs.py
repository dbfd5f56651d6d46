"""Every command that README and docs show is run, in its page's order, and its output compared with what they show.

A ``console`` block is run line by line; every line of output that it shows must come, in that order, with ``…`` for
whatever varies. Comments before a block: ``file: NAME`` (it is saved under that name), ``exit status N`` (of its last
command), ``not run: REASON``. A page that ``needs a running system`` shares one; others start their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.node import find_server
from tests.system.running import processes_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: A command that takes longer hangs.
PATIENCE_S = 90.0
_FENCE = re.compile(
    r"(?P<comments>(?:^<!--[^\n]*-->\n)*)^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_NEEDS_SYSTEM = "<!-- needs a running system -->"


@dataclass(frozen=True)
class Block:
    """A fenced block with the comments right before it."""

    info: str
    text: str
    line: int
    comments: tuple[str, ...]

    def note(self, word: str) -> str | None:
        """Give what a comment says after ``word``; None without one."""
        return next((c.removeprefix(word).strip() for c in self.comments if c.startswith(word)), None)

    def steps(self) -> list[tuple[str, list[str]]]:
        """Give each command with the lines that it shows."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() and found:
                found[-1][1].append(line)
        return found


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            found["info"],
            found["text"],
            text[: found.start("fence")].count("\n") + 1,
            tuple(re.findall(r"<!-- *(.*?) *-->", found["comments"])),
        )
        for found in _FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


BLOCKS = [(page, block) for page in PAGES for block in blocks_of(page)]
NOT_RUN = [(page, block) for page, block in BLOCKS if block.note("not run") is not None]
RUN_PAGES = [
    page for page in PAGES if any(p is page and b.info == "console" and b.note("not run") is None for p, b in BLOCKS)
]
OWN = [page for page in RUN_PAGES if _NEEDS_SYSTEM not in page.read_text()]
SHARED = [page for page in RUN_PAGES if page not in OWN]


class Place:
    """A directory with a home of its own and the examples, where pages are played."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)
        (directory / "home").mkdir()
        shutil.copytree(ROOT / "examples", directory / "examples")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VOLCLOUD", "XDG_"))}
        path = f"{Path(sys.executable).parent}:{kept['PATH']}"
        self.environment = {**kept, "HOME": str(directory / "home"), "PATH": path, "COLUMNS": "200"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def play(self, page: Path) -> None:
        """Save a page's files and run its commands, in order."""
        for block in blocks_of(page):
            name = block.note("file:")
            if name is not None:
                (self.directory / name).write_text(block.text)
            if block.info == "console" and block.note("not run") is None:
                self._play_block(page, block)

    def _play_block(self, page: Path, block: Block) -> None:
        steps = block.steps()
        assert steps, f"{name_of(page)}:{block.line}: no line begins with '$ '"
        for command, shown in steps:
            wanted = int(block.note("exit status") or 0) if command == steps[-1][0] else 0
            done = self.run(command)
            told = f"{name_of(page)}:{block.line}: $ {command}\n{done.stdout}"
            assert done.returncode == wanted, f"{told}exit status {done.returncode}"
            missing = first_missing(shown, done.stdout)
            assert missing is None, f"{told}\ndoes not show: {missing}"

    def close(self) -> None:
        """End whatever a page has left up."""
        self.run("volcloud down")
        left = processes_of(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        assert left == [], f"left behind: {left}"


def first_missing(shown: list[str], output: str) -> str | None:
    """Give the first line shown that the output does not have after the ones before it."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in shown:
        if line.strip() == "…":
            continue
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        if not any(re.search(pattern, there) for there in lines):
            return line
    return None


@pytest.fixture
def place() -> Iterator[Place]:
    find_server()
    made = Place(Path(tempfile.mkdtemp(prefix="vc-docs-")))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    find_server()
    made = Place(Path(tempfile.mkdtemp(prefix="vc-docs-")))
    try:
        done = made.run("volcloud up --hypervisor process --detach")
        assert done.returncode == 0, done.stdout
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("page", OWN, ids=name_of)
def test_the_commands_of_a_page_do_what_it_shows(page: Path, place: Place) -> None:
    place.play(page)


@pytest.mark.parametrize("page", SHARED, ids=name_of)
def test_the_commands_of_a_page_that_needs_a_system_do_what_it_shows(page: Path, shared: Place) -> None:
    shared.play(page)


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (["a b", "c…e"], None),
        (["…", "c", "…"], None),
        (["c", "a"], "a"),
        (["c…x"], "c…x"),
    ],
)
def test_what_is_shown_must_come_in_that_order(shown: list[str], missing: str | None) -> None:
    assert first_missing(shown, "a    b\nc and\tc d e\n") == missing


def test_every_block_that_is_not_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {f"{name_of(page)}:{block.line}": (block.note("not run") or "").lstrip(": ") for page, block in NOT_RUN}

    with capsys.disabled():
        print("\nnot run:", *(f"  {where}: {reason}" for where, reason in reasons.items()), sep="\n")

    assert [where for where, reason in reasons.items() if len(reason.split()) < 3] == []


def test_what_a_person_would_type_is_in_a_console_block() -> None:
    strays = [f"{name_of(p)}:{b.line}" for p, b in BLOCKS if b.info in ("", "sh", "bash", "shell")]

    assert strays == []


def test_the_pages_that_show_commands_are_run() -> None:
    assert [name_of(page) for page in OWN] == [
        "README.md",
        "docs/howto/boinc.md",
        "docs/howto/scale.md",
        "docs/howto/sources.md",
        "docs/tutorial.md",
    ]
    assert [name_of(page) for page in SHARED] == [
        "docs/howto/commands.md",
        "docs/howto/dead-letters.md",
        "docs/howto/feed.md",
        "docs/howto/inputs.md",
        "docs/howto/python.md",
        "docs/howto/retention.md",
        "docs/howto/watch.md",
        "docs/howto/xmlrpc.md",
    ]
