"""What a host keeps of inputs: bounded, evicted by last use and never in use, believed again after a restart."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from broker.errors import PartialTaken, TransferFailed
from broker.transfer.landing import MARK, PART
from host_agent.inputs.store import InputStore, KeptInput
from schemas.errors import ErrorCode


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def opened(directory: Path, *, limit: int = 1000, spare: int = 0) -> InputStore:
    store = InputStore(directory / "inputs", limit_bytes=limit, spare_bytes=spare)
    store.open()
    return store


def land(store: InputStore, content: bytes, *, used_s: float = 0.0) -> KeptInput:
    """Have a file come, used last at that time."""
    landing = store.landing(digest_of(content))(len(content))
    landing.write([content])
    landing.commit(digest_of(content))
    landing.close()
    kept = store.find(digest_of(content))
    assert kept is not None
    if used_s:
        os.utime(kept.path, (used_s, used_s))
    return kept


def test_what_came_is_found_by_the_next_agent_without_being_read(tmp_path: Path) -> None:
    land(opened(tmp_path), b"content")

    found = opened(tmp_path).find(digest_of(b"content"))

    assert found is not None
    assert (found.size, found.path.read_bytes()) == (7, b"content")


def test_what_was_used_longest_ago_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=250)
    contents = [b"a" * 100, b"b" * 100, b"c" * 100]
    land(store, contents[0], used_s=1.0)
    land(store, contents[1], used_s=2.0)

    with store.lend(digest_of(contents[0])):
        land(store, contents[2])

    assert [store.find(digest_of(one)) is not None for one in contents] == [True, False, True]
    assert (store.evictions, store.kept()) == (1, (2, 200))


def test_what_fits_beside_what_is_in_use_alone_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=150)
    kept = land(store, b"a" * 100)

    with store.lend(kept.sha256), pytest.raises(TransferFailed) as caught:
        land(store, b"b" * 100)

    assert (caught.value.code, "in use" in str(caught.value)) == (ErrorCode.STORE, True)
    assert kept.path.exists()


def test_what_is_larger_than_the_limit_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=50)

    with pytest.raises(TransferFailed, match="inputs_mib") as caught:
        land(store, b"a" * 51)

    assert caught.value.code is ErrorCode.TOO_LARGE


def test_a_disk_at_its_floor_gives_up_what_is_kept_and_then_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, spare=500)
    kept = land(store, b"a" * 100)
    usage = shutil.disk_usage(tmp_path)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=100_000, free=550))
    with pytest.raises(TransferFailed, match="inputs_spare_mib"):
        land(store, b"b" * 100)

    assert not kept.path.exists()


def test_what_comes_at_once_never_comes_to_more_than_the_limit(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=250)
    coming = [store.landing(digest_of(one))(100) for one in (b"a" * 100, b"b" * 100)]

    with pytest.raises(TransferFailed, match=r"200 of 250 bytes .* on their way") as caught:
        store.landing(digest_of(b"c" * 100))(100)
    coming[0].write([b"a" * 100])
    coming[0].commit(digest_of(b"a" * 100))
    coming[0].close()
    coming[1].discard()
    land(store, b"c" * 100)

    assert caught.value.code is ErrorCode.STORE
    assert store.kept() == (2, 200)


def test_what_comes_at_once_leaves_the_disk_what_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path, limit=10_000, spare=500)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=100_000, free=1500))
    first = store.landing(digest_of(b"a" * 600))(600)

    with pytest.raises(TransferFailed, match="500 stay free and 600 are for others on their way"):
        store.landing(digest_of(b"b" * 600))(600)
    first.discard()
    land(store, b"b" * 600)


def test_a_second_receiver_of_one_file_takes_nothing_from_the_firsts_booking(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=150)
    first = store.landing(digest_of(b"a" * 100))(100)

    with pytest.raises(PartialTaken):
        store.landing(digest_of(b"a" * 100))(100)
    with pytest.raises(TransferFailed, match="on their way"):
        store.landing(digest_of(b"b" * 100))(100)

    first.discard()


def test_what_broke_off_counts_and_goes_when_its_room_is_needed(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=300_000)
    broken = store.landing(digest_of(b"a" * 200_000))(200_000)
    broken.write([b"a" * 200_000])
    broken.close()

    land(store, b"b" * 90_000)
    left = [path for path in (tmp_path / "inputs").iterdir() if path.suffix == PART]
    land(store, b"c" * 90_000)

    assert len(left) == 1
    assert sorted(path.suffix for path in (tmp_path / "inputs").iterdir()) == [".90000", ".90000"]


def test_a_file_that_has_lost_bytes_is_not_found_and_can_come_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept = land(store, b"content")

    os.truncate(kept.path, 3)

    assert store.find(kept.sha256) is None
    assert land(store, b"content").path.read_bytes() == b"content"


def test_what_a_killed_agent_left_in_the_midst_is_nothing_until_it_is_whole(tmp_path: Path) -> None:
    store = opened(tmp_path)
    landing = store.landing(digest_of(b"content"))(7)
    landing.write([b"con"])
    landing.close()

    again = opened(tmp_path)
    before = again.find(digest_of(b"content"))
    landing = again.landing(digest_of(b"content"))(7)
    resumed = landing.written
    landing.write([b"tent"])
    landing.commit(digest_of(b"content"))
    landing.close()

    assert (before, resumed) == (None, 3)
    assert land(again, b"content").size == 7


def test_partial_files_of_long_ago_go(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in (f".x{PART}", f".x{MARK}"):
        (tmp_path / "inputs" / name).touch()
        os.utime(tmp_path / "inputs" / name, (0, 0))

    store.open()

    assert list((tmp_path / "inputs").iterdir()) == []


def test_many_small_files_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host_agent.inputs.store.MOST_FILES", 3)
    store = opened(tmp_path)

    kept = [land(store, b"%d" % number, used_s=number + 1.0) for number in range(5)]

    assert [one.path.exists() for one in kept] == [False, False, True, True, True]
