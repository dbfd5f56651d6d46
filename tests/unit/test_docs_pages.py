"""The pages agree with the code and with each other: reference as generated, one word for one thing, no dead link."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adapters.catalogues.rucio import RucioSettings
from adapters.config import JobAdapterConfig, StorageAdapterConfig
from adapters.grid_stores.local import LocalGridSettings
from adapters.grid_stores.xrootd import XrootdSettings
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.plugins import GROUP
from broker.keys.config import KeysConfig
from docs.generate import HERE, PAGES, SOURCES, _comments, _meaning, _unit
from docs.words import CODES
from host_agent.config import HostConfig, WantedVm
from host_agent.hypervisors.process.settings import ProcessSettings
from host_agent.hypervisors.qemu.settings import QemuSettings
from schemas.description import Input, JobDescription, Output, Requirements
from schemas.errors import ErrorCode

ROOT = Path(__file__).parents[2]
MARKDOWN = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = ("schemas", "broker", "host_agent", "guest_agent", "adapters", "volcloud")
PACKAGES = (*OURS, "deploy", "benchmarks", "examples")
TEXTS = [
    *MARKDOWN,
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*")) if path.suffix in (".py", ".toml")),
]
GLOSSARY = ROOT / "docs" / "glossary.md"
DAEMONS = (HostConfig, WantedVm, QemuSettings, ProcessSettings, JobAdapterConfig, StorageAdapterConfig, KeysConfig)
SETTINGS = (*DAEMONS, SourceAdapterConfig, LocalGridSettings, XrootdSettings, RucioSettings, *SOURCES.values())
DESCRIBED = (*SETTINGS, JobDescription, Input, Output, Requirements)

#: Words that another word of ours stands for, and lines where they mean something else.
STRAYS = {
    r"heartbeat": r"heartbeat_s|heartbeat=|AMQP|missed|starv|connection|/api/jobs/heartbeat",
    r"\bcredits?\b": r"BOINC",
    r"destroy": "",
    r"\bhibernat": "",
    r"\bsuspend(?!ed\b)": "",
    r"\bworkunits?\b": "",
    r"\bDLQ\b|\bDLX\b|poison message": "",
    r"\bcontrol plane\b|\bhead node\b|\bworker nodes?\b|\bcompute nodes?\b": "",
    r"\btenants?\b": "",
    r"\b(white|black)list": "",
    r"\bincarnation": "",
    r"\bwrite-ahead log\b|\bcommand log\b": "",
    r"\bjob database\b|\btask store\b": "",
    r"\bbootstrap token\b|\benrolment token\b": "",
}
#: Words that are BOINC's own, and where its words are used.
BOINCS_WORDS = {"heartbeat", r"\bcredits?\b", "destroy", r"\bsuspend(?!ed\b)", r"\bworkunits?\b"}
BOINCS_ROOMS = (
    "host_agent/boinc/",
    "deploy/boinc/",
    "benchmarks/boinc/",
    "docs/howto/boinc.md",
    "docs/reference/boinc.md",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_a_reference_page_is_what_the_code_gives(page: str) -> None:
    assert (HERE / page).read_text() == PAGES[page](), "run `python -m docs.generate`"


def test_no_reference_page_is_left_over() -> None:
    assert sorted(path.name for path in HERE.iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("kind", DESCRIBED)
def test_every_setting_has_a_meaning(kind: type[msgspec.Struct]) -> None:
    texts = _comments(kind)

    assert [name for name in kind.__struct_fields__ if not (texts.get(name) or _meaning(kind, name))] == []


def test_every_kind_of_source_has_its_settings_on_the_page() -> None:
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    kinds = [line.partition("=")[0].strip() for line in declared["options.entry_points"][GROUP].splitlines() if line]

    assert set(kinds) == set(SOURCES)


def test_a_rate_is_no_time() -> None:
    assert [_unit(name) for name in ("updates_per_s", "beat_s", "name")] == ["1/s", "s", ""]


def test_every_error_code_has_a_meaning() -> None:
    assert set(CODES) == set(ErrorCode)


@pytest.mark.parametrize("stray", STRAYS)
def test_one_word_for_one_thing(stray: str) -> None:
    allowed = re.compile(STRAYS[stray]) if STRAYS[stray] else None

    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in TEXTS
        if path != GLOSSARY and not (stray in BOINCS_WORDS and name_of(path).startswith(BOINCS_ROOMS))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(stray, line) and not (allowed and allowed.search(line))
    ]

    assert found == []


def test_the_glossary_is_in_order_and_names_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+?) \| [^|]+\| [^|]*\|$", GLOSSARY.read_text(), re.MULTILINE)[2:]

    assert words == sorted(set(words), key=str.lower)


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"`[^`\n]*`", "", page.read_text()))

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_page_is_linked_from_another_one() -> None:
    linked = {
        (page.parent / link).resolve() for page in MARKDOWN for link in re.findall(r"\]\(([^)#]+)", page.read_text())
    }

    assert [name_of(page) for page in MARKDOWN if page.name != "README.md" and page not in linked] == []


def test_paths_that_pages_name_exist() -> None:
    named = {
        (name_of(page), path)
        for page in MARKDOWN
        for path in re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|docs)/[\w./-]+)`", page.read_text())
    }

    assert [(page, path) for page, path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_page_on_performance_shows_how_to_measure() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    told = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True
    ).stdout

    assert " ".join(told.split()) in " ".join((ROOT / "docs/explanation/performance.md").read_text().split())
