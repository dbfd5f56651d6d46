"""One contract, every store: files in and out under their names, gone through, and removed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import NotStored, StoreError
from adapters.storage.contents import FsspecContents
from adapters.storage.contract import Store, StoreContents, StoredFile
from adapters.storage.store import FsspecStore
from schemas.files import InputFile, OutputFile

CONTENT = b"result"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
INPUT = InputFile(sha256=DIGEST)
OUTPUT = OutputFile(job="site-a/j.1", attempt=1, name="deep/out")
FILES = [pytest.param(INPUT, id="input"), pytest.param(OUTPUT, id="output")]


class Place:
    """A store, empty at first, and what is in it."""

    def __init__(self, url: str) -> None:
        made = FsspecStore(url)
        self.store: Store = made
        self.contents: StoreContents = FsspecContents(made)


def on_a_local_disk(directory: Path) -> Place:
    return Place(f"file://{directory}/store")


def elsewhere(_: Path) -> Place:
    """Whatever is no local disk goes by fsspec alone."""
    return Place(f"memory://stores-{uuid.uuid4().hex}")


@pytest.fixture(params=[on_a_local_disk, elsewhere], ids=lambda make: make.__name__)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path], Place] = request.param
    return make(tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_what_is_put_is_there_whole(place: Place, file: StoredFile, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(CONTENT)
    before = place.store.holds(file, len(CONTENT))

    place.store.put(local, file)

    assert not before
    assert not local.exists()
    assert place.store.holds(file, len(CONTENT))
    assert not place.store.holds(file, len(CONTENT) + 1)
    assert place.store.size(file) == len(CONTENT)
    assert place.store.digest(file) == (len(CONTENT), DIGEST)


@pytest.mark.parametrize("file", FILES)
def test_what_is_stored_is_had_back(place: Place, file: StoredFile, tmp_path: Path) -> None:
    place.store.put_bytes(CONTENT, file)

    where = place.store.local(file)
    place.store.copy(file, tmp_path / "copy")

    assert where is None or where.read_bytes() == CONTENT
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert place.store.has_input(DIGEST) == isinstance(file, InputFile)


@pytest.mark.parametrize(("offset", "size"), [(0, 3), (2, 2), (4, 10), (6, 1), (100, 1)])
def test_a_part_is_read_and_ends_where_the_file_does(place: Place, offset: int, size: int) -> None:
    place.store.put_bytes(CONTENT, OUTPUT)

    assert place.store.read(OUTPUT, offset, size) == CONTENT[offset : offset + size]


@pytest.mark.parametrize("file", FILES)
def test_what_is_not_there_is_said_not_to_be(place: Place, file: StoredFile, tmp_path: Path) -> None:
    for ask in (place.store.size, place.store.digest, place.store.state, place.store.local):
        with pytest.raises(NotStored):
            ask(file)
    with pytest.raises(NotStored):
        place.store.copy(file, tmp_path / "copy")
    with pytest.raises(NotStored):
        place.store.read(file, 0, 1)

    assert not (tmp_path / "copy").exists()
    assert not place.store.has_input(DIGEST)


def test_a_file_that_is_put_again_takes_the_place_of_the_first_and_has_another_state(place: Place) -> None:
    place.store.put_bytes(b"first", OUTPUT)
    first = place.store.state(OUTPUT)
    unchanged = place.store.state(OUTPUT)
    place.store.put_bytes(CONTENT, OUTPUT)

    assert first == unchanged != place.store.state(OUTPUT)
    assert place.store.size(OUTPUT) == len(CONTENT)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd"])
def test_no_name_leads_out_of_its_attempts_area(place: Place, name: str) -> None:
    with pytest.raises(StoreError):
        place.store.put_bytes(CONTENT, OutputFile(job="site-a/j.1", attempt=1, name=name))


def test_the_other_outputs_of_an_attempt_count(place: Place) -> None:
    for number in (1, 2):
        place.store.put_bytes(CONTENT, OutputFile(job="site-a/j.1", attempt=1, name=f"out-{number}"))
    place.store.put_bytes(CONTENT, OutputFile(job="site-a/j.1", attempt=2, name="out-1"))

    assert place.store.stored_bytes(OutputFile(job="site-a/j.1", attempt=1, name="out-1")) == len(CONTENT)
    assert place.store.stored_bytes(OutputFile(job="site-a/j.9", attempt=1, name="out-1")) == 0


def test_a_store_that_works_is_tried_out_and_left_as_it_was(place: Place) -> None:
    place.store.try_out()

    assert place.store.remove_unfinished(0) == []
    assert list(place.contents.stored_attempts()) == []


def test_outputs_are_gone_through_by_attempt_and_removed(place: Place) -> None:
    for attempt in (1, 2, 3):
        place.store.put_bytes(CONTENT, OutputFile(job="site-a/j.1", attempt=attempt, name="deep/out"))
    found = [(one.job, one.attempt, one.size) for one in place.contents.stored_attempts()]
    of_job = place.contents.bytes_of("site-a/j.1")

    for _ in range(2):  # nothing there is no error
        place.contents.remove_attempts("site-a/j.1", 1)
        place.contents.remove_attempt("site-a/j.1", 3)

    assert found == [("site-a/j.1", attempt, len(CONTENT)) for attempt in (1, 2, 3)]
    assert of_job == 3 * len(CONTENT)
    assert [one.attempt for one in place.contents.stored_attempts()] == [2]


def test_a_store_belongs_to_one_ledger(place: Place) -> None:
    before = place.contents.owner()
    place.contents.own("ledger-1")

    assert (before, place.contents.owner()) == ("", "ledger-1")


def test_an_input_that_is_old_and_needed_by_nobody_goes(place: Place) -> None:
    place.store.put_bytes(CONTENT, INPUT)
    old = list(place.contents.old_inputs(-1))  # at once

    went = [place.contents.remove_input(digest, -1, lambda _: False) for digest in old]

    assert went == [True] * len(old)
    assert place.store.has_input(DIGEST) == (not old)


def test_an_input_that_is_needed_after_all_stays(place: Place) -> None:
    place.store.put_bytes(CONTENT, INPUT)

    went = [place.contents.remove_input(digest, -1, lambda _: True) for digest in place.contents.old_inputs(-1)]
    place.contents.put_back()

    assert not any(went)
    assert place.store.holds(INPUT, len(CONTENT))


def test_room_is_told_where_it_can_be_known(place: Place) -> None:
    room = place.contents.room()

    assert room is None or 0 <= room[1] <= room[0]
