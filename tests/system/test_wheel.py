"""The wheel works outside the checkout: all that the code reads is in it, and a guest agent needs three packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from broker.node import find_server
from tests.system.running import processes_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "broker", "host_agent", "guest_agent", "adapters", "volcloud", "deploy")
COMMANDS = ("volcloud", "host_agent", "guest_agent", "job_adapter", "storage_adapter", "key_manager")
#: What a guest agent may take from outside, and the goals for its memory when idle, bytes.
SMALL = {"pika", "msgspec", "msgpack"}
MOST_RESIDENT, MOST_PRIVATE = 40 << 20, 20 << 20
#: How long an agent is left alone before it counts as idle, seconds.
SETTLE_S = 3.0
#: Imports every module of the packages, in a process that cannot see the checkout.
IMPORT_ALL = f"""
import importlib, pkgutil
for package in {PACKAGES!r}:
    room = importlib.import_module(package)
    for found in pkgutil.walk_packages(room.__path__, package + "."):
        if not found.name.endswith("__main__") and "migrations" not in found.name:
            importlib.import_module(found.name)
    print(room.__file__)
"""
#: Reads what the code reads, the way it does.
READ_DATA = """
from importlib.resources import files
from adapters.ledger.engine import Ledger
from deploy.grafana.dashboard import PATH
from deploy.prometheus.config import package_text, render_config
from schemas.publish import ASYNCAPI, JSON_SCHEMA
render_config(job_adapters=["a:1"], storage_adapters=["b:1"], brokers=["c:1"])
print(len(package_text("rules.yml")), PATH.stat().st_size)
for package, name in (
    ("deploy.rabbitmq", "rabbitmq.conf"), ("deploy.rabbitmq", "enabled_plugins"), ("deploy.image", "rc.sh"),
    ("deploy.image", "inittab.conf"), ("deploy", "packages.txt"), ("schemas", JSON_SCHEMA), ("schemas", ASYNCAPI),
):
    print(name, len(files(package).joinpath(name).read_bytes()))
ledger = Ledger("sqlite:///ledger.db")
ledger.open()
ledger.close()
"""


class Installed:
    """A virtual environment that holds the wheel, and sees other distributions without being theirs."""

    def __init__(self, directory: Path, wheel: Path, others: Path) -> None:
        """``others`` is searched after the environment's own; what it would run at the start is not run."""
        self.bin = directory / "bin"
        run([sys.executable, "-m", "venv", "--without-pip", str(directory)], directory.parent)
        site = sysconfig.get_path("purelib", vars={"base": str(directory)})
        Path(site, "others.pth").write_text(f"{others}\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], directory.parent)

    def python(self, code: str, directory: Path) -> str:
        return run([str(self.bin / "python"), "-I", "-c", code], directory)

    def command(self, name: str, directory: Path, *arguments: str) -> str:
        return run([str(self.bin / name), *arguments], directory)


def run(command: list[str], directory: Path) -> str:
    """Run to the end in a directory, with nothing that leads back to the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VOLCLOUD", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def source_files() -> list[str]:
    """Name the files of the packages, as a clean checkout has them."""
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES], ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="vc-wheel-"))
    try:
        yield made
    finally:
        left = processes_of(made)
        shutil.rmtree(made, ignore_errors=True)
        assert left == [], f"left behind: {left}"


@pytest.fixture(scope="module")
def wheel(scratch: Path) -> Path:
    """Built of a copy, so that the checkout stays as it is."""
    source = scratch / "source"
    for name in [*source_files(), "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", str(scratch / "dist"), str(source)], scratch)
    (made,) = (scratch / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, scratch: Path) -> Installed:
    """With everything that the extra ``all`` asks for: it is in this environment."""
    return Installed(scratch / "venv", wheel, Path(sysconfig.get_path("purelib")))


@pytest.fixture(scope="module")
def small(wheel: Path, scratch: Path) -> Installed:
    """With what the wheel asks for without extras, and nothing else."""
    others = scratch / "small-site"
    others.mkdir()
    for name in SMALL:
        (others / name).symlink_to(Path(sysconfig.get_path("purelib"), name))
    return Installed(scratch / "small", wheel, others)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    missing, strange = sorted(set(source_files()) - held), sorted(held - set(source_files()))
    assert missing == [], "setup.cfg, [options.package_data], lacks a pattern for these"
    assert strange == []


def test_without_extras_it_asks_for_three_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]

    wanted = [word for word in metadata.get_all("Requires-Dist", []) if "extra ==" not in word]
    assert {re.split(r"[^\w.-]", word)[0] for word in wanted} == SMALL
    assert licences != []
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"


def test_every_module_can_be_imported_outside_the_checkout(installed: Installed, elsewhere: Path) -> None:
    places = installed.python(IMPORT_ALL, elsewhere).split()

    assert [place for place in places if not place.startswith(str(installed.bin.parent))] == []


def test_every_file_that_the_code_reads_can_be_read(installed: Installed, elsewhere: Path) -> None:
    sizes = re.findall(r" (\d+)$", installed.python(READ_DATA, elsewhere), re.MULTILINE)

    assert len(sizes) == 8
    assert "0" not in sizes


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_how_it_is_used(command: str, installed: Installed, elsewhere: Path) -> None:
    assert f"usage: {command}" in installed.command(command, elsewhere, "--help").lower()


def test_a_guest_agent_needs_no_more_than_that(small: Installed, elsewhere: Path) -> None:
    said = small.command("guest_agent", elsewhere, "--help")
    code = "import sys, guest_agent.main, importlib.util as u; print([n for n in ('kombu', 'click') if u.find_spec(n)])"

    assert "--state-dir" in said
    assert small.python(code, elsewhere).strip() == "[]"


def test_a_system_runs_from_the_wheel_and_its_idle_guest_is_small(installed: Installed, scratch: Path) -> None:
    find_server()
    place = scratch / "elsewhere"
    place.mkdir()
    (place / "job.toml").write_text('id = "j"\nexecutable = "/bin/true"\n')

    def ours(*words: str) -> str:
        return installed.command("volcloud", place, *words, "--data", str(place / "data"))

    try:
        ours("up", "--hypervisor", "process", "--vms", "1", "--detach")
        ours("job", "submit", "job.toml", "--wait")
        (vm,) = json.loads(ours("vm", "list", "--json"))
        time.sleep(SETTLE_S)
        resident, private = memory_of(vm["status"]["pid"])
    finally:
        ours("down")

    print(f"idle guest agent: {resident / 1e6:.1f} MB resident, {private / 1e6:.1f} MB private")
    assert resident < MOST_RESIDENT
    assert private < MOST_PRIVATE


def memory_of(pid: int) -> tuple[int, int]:
    """Give a process's resident memory and what of it is its own, bytes: pages of programs that it has not changed are
    everybody's, whether or not somebody else has them just now."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    print(f"of which unchanged: {kib['Private_Clean']} kB")
    return kib["Rss"] << 10, kib["Private_Dirty"] << 10
