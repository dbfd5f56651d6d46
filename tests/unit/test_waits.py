"""Waits with a limit: Python 3.11's ``wait_for`` swallows a cancel that comes as it ends."""

from __future__ import annotations

import re
from pathlib import Path

import broker

PACKAGE = Path(broker.__file__).parent


def test_the_wire_waits_with_timeouts_that_pass_a_cancel_on() -> None:
    found = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"asyncio\.wait_for\(", path.read_text())]

    assert found == []
