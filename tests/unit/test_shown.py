"""What the client gives shows itself in a notebook and at a prompt, and is what it was to everybody else."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from schemas.codec import MESSAGES
from schemas.enrol import Credential
from schemas.envelope import Message
from schemas.ledger import HostRow, JobRecord, JobRow, Jobs, RegistryRow
from schemas.plain_text import plain_all
from schemas.vms import VmState, VmStatus
from tests.unit.test_plain_text import HOSTILE, bad_characters, filled
from volcloud.client.shown import FACES, JobPage, Table, shown
from volcloud.why import Explanation

#: What a page that is shown could be made to do.
SCRIPT = f"<script>alert(1)</script><img src=x onerror=alert(1)>&lt; \" ' {HOSTILE}"
TABLED = (RegistryRow, HostRow, JobRow)


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, frozenset[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, frozenset(name for name, _ in attrs)))


def page_of(value: Any) -> str:
    return str(value._repr_html_())


def assert_harmless(page: str) -> None:
    assert set(Tags(page).seen) <= {("pre", frozenset({"style"})), ("span", frozenset({"style"}))}
    assert bad_characters(unescape(page)) == set()
    assert "url(" not in re.sub(r">[^<]*<", "><", page)


@pytest.mark.parametrize("kind", FACES, ids=lambda kind: kind.__name__)
def test_hostile_words_are_text_wherever_a_value_is_shown(kind: type) -> None:
    value = shown(filled(kind, SCRIPT))

    assert_harmless(page_of(value))
    assert bad_characters(repr(value)) == set()
    assert "\n" not in repr(value)


@pytest.mark.parametrize("kind", TABLED, ids=lambda kind: kind.__name__)
def test_hostile_words_are_text_in_a_table(kind: type) -> None:
    table = Table(map(shown, [filled(kind, SCRIPT)] * 3))

    assert_harmless(page_of(table))
    assert "<script>" in unescape(re.sub(r"\s", "", page_of(table)))
    assert bad_characters(repr(table)) == set()


def test_hostile_words_are_text_in_a_page_of_jobs() -> None:
    page = JobPage.of(filled(Jobs, SCRIPT))

    assert_harmless(page_of(page))
    assert bad_characters(repr(page)) == set()


@pytest.mark.parametrize("kind", FACES, ids=lambda kind: kind.__name__)
def test_a_shown_value_is_what_it_was(kind: type) -> None:
    value: Any = filled(kind, "word")

    face: Any = shown(value)

    assert face != msgspec.structs.replace(face, **{face.__struct_fields__[-1]: "another"})
    assert isinstance(face, kind)
    assert type(face) is not kind
    assert face == value
    assert value == face
    assert msgspec.json.encode(face) == msgspec.json.encode(value)
    assert type(plain_all(face)) is type(face)
    assert repr(face) != repr(value)


def test_a_page_of_jobs_is_a_sequence_and_what_it_was() -> None:
    answer = filled(Jobs, "word")

    page = JobPage.of(answer)

    assert page == answer
    assert msgspec.json.encode(page) == msgspec.json.encode(answer)
    assert [*page] == answer.jobs == [page[0]]
    assert len(page) == 1


def test_a_face_is_no_message_of_its_own_on_the_wire() -> None:
    assert {kind for kind in MESSAGES.values() if kind.__module__.startswith("volcloud")} == set()
    record = filled(JobRecord, "word")
    assert isinstance(record, Message)


def test_a_table_is_a_list_and_short_at_a_prompt() -> None:
    rows = [filled(JobRow, "j") for _ in range(300)]

    table = Table(map(shown, rows))

    assert table == rows
    assert msgspec.json.encode(table) == msgspec.json.encode(rows)
    assert repr(table) == f"[{', '.join(['<job j done>'] * 5)}, … 295 more]"
    assert "and 100 more" in page_of(table)
    assert isinstance(plain_all(table), Table)


def test_what_is_shown_reads_as_in_a_terminal() -> None:
    vm = VmStatus(
        vm="v", name="a", state=VmState.RUNNING, generation=1, hypervisor="x", cpus=1, memory_mib=1, disk_mib=1
    )
    table = Table(map(shown, [RegistryRow(host="host-a", status=vm, seen_ms=1)]))

    assert repr(table) == "[<VM a running on host-a>]"
    assert repr(shown(vm)) == repr(table[0].status) == "<VM a running>"
    assert re.sub("<[^>]*>", " ", page_of(table)).split()[:3] == ["VM", "NAME", "STATE"]
    assert "none" in page_of(Table[RegistryRow]())


def test_a_slice_of_a_table_is_a_table() -> None:
    table = Table([1, 2, 3])

    assert isinstance(table[1:], Table)
    assert (table[1:], table[-1]) == ([2, 3], 3)


def test_in_a_notebook_it_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")

    displayed: list[object] = []
    monkeypatch.setattr("rich.jupyter.display", lambda *said: displayed.append(said))

    page = page_of(shown(filled(Explanation, "a word of more than twenty columns")))

    assert "a word of more than twenty columns" in page
    assert displayed == []


def test_why_a_job_is_where_it_is_names_the_next_step() -> None:
    explanation = shown(filled(Explanation, "word"))

    assert repr(explanation) == "<job word is done: word>"
    assert "next step" in page_of(explanation)


def test_a_login_does_not_show_its_password() -> None:
    login = shown(Credential(call="c", user="site-cern", password="secret"))

    assert repr(login) == "<login site-cern>"
    assert "secret" not in page_of(login)
