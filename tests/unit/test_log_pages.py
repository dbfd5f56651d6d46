"""Pages of a log: where something is left out a line says how much, and nothing is said where nothing is."""

from __future__ import annotations

import pytest

from schemas.looks import LogPiece, VmLogReply
from volcloud.client.looks import _began_at, _page


@pytest.mark.parametrize(
    ("pieces", "lines", "text", "cut"),
    [
        ([(10, b"b\nc\n")], 2, b"b\nc\n", 0),
        ([(10, b"b\nc\n")], 100, b"\n[10 bytes are left out here]\nb\nc\n", 10),
        ([(0, b"a\n"), (7, b"c\n")], 2, b"a\n\n[5 bytes are left out here]\nc\n", 5),
        ([], 100, b"", 0),
    ],
)
def test_what_is_left_out_is_told(pieces: list[tuple[int, bytes]], lines: int, text: bytes, cut: int) -> None:
    answer = VmLogReply(call="01936f5e-7b2a-7c3d-8e4f-5a6b7c8d9e0f", pieces=[LogPiece(at=a, data=d) for a, d in pieces])

    page = _page("host-a", "vm-a", answer, _began_at(answer.pieces, lines))

    assert (page.text, page.cut_bytes) == (text, cut)
