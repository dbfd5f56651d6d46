"""How a received file lands: whole under its name, or there for who goes on, or gone."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from broker.errors import PartialTaken, TransferFailed
from broker.transfer import into_file


def test_a_file_that_is_what_was_offered_is_under_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    landing = into_file(tmp_path / "target", tmp_path / "t.part")(7)

    landing.write([b"con", b"tent"])
    landing.commit(hashlib.sha256(b"content").hexdigest())
    landing.discard()

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("target", b"content")]


def test_a_file_that_is_not_what_was_offered_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"before")
    landing = into_file(tmp_path / "target", tmp_path / "t.part")(7)
    landing.write([b"content"])

    with pytest.raises(TransferFailed, match="SHA-256"):
        landing.commit("0" * 64)
    landing.discard()

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("target", b"before")]


def test_what_was_closed_is_there_for_one_receiver_after_the_other(tmp_path: Path) -> None:
    land = into_file(tmp_path / "target", tmp_path / "t.part")
    first = land(7)
    first.write([b"con"])
    with pytest.raises(PartialTaken):
        land(7)
    first.close()
    first.close()

    second = land(7)

    assert second.written == 3
    assert second.write([b"tent"]) == 7
    second.commit(hashlib.sha256(b"content").hexdigest())
    second.close()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_partial_file_that_can_neither_be_read_nor_removed_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock stayed with the process, and no receiver ever got it again."""
    land = into_file(tmp_path / "target", tmp_path / "t.part")
    first = land(7)
    first.write([b"con"])
    first.close()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", fail)
        broken.setattr(Path, "unlink", fail)
        with pytest.raises(OSError, match="Input/output error"):
            land(7)

    mended = land(7)
    assert mended.written == 3
    mended.discard()
    assert list(tmp_path.iterdir()) == []
