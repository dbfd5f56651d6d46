"""What is told of a process that does not come up: its own words since this start, the loud ones, each once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from volcloud.centre import child
from volcloud.centre.child import Child
from volcloud.centre.layout import Layout
from volcloud.centre.log_words import LogMark
from volcloud.errors import CentreFailed


def event(second: int, level: str, text: str) -> str:
    return f"2026-01-01T00:00:{second:02}.000Z {level} source_adapter {text}\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "x.log"
    path.write_text(event(0, "ERROR", "of yesterday"))
    return path


def add(log: Path, *texts: str) -> None:
    with log.open("a") as file:
        file.writelines(texts)


def test_each_fault_of_this_start_is_told_once_and_nothing_else(log: Path) -> None:
    mark = LogMark.of(log)
    for second in (1, 3, 5):
        add(log, event(second, "INFO", "starting"), event(second + 1, "ERROR", "cannot go on why='no secret'"))

    assert mark.words() == "  ERROR source_adapter cannot go on why='no secret'"


def test_of_a_traceback_its_end_is_told_and_of_a_foreign_word_all(log: Path) -> None:
    mark = LogMark.of(log)
    add(
        log,
        "ld.so: not found\n",
        event(1, "ERROR", "nobody foresaw"),
        "  Traceback\n",
        "    File x\n",
        "  KeyError: 5\n",
    )

    assert mark.words() == "  ld.so: not found\n  ERROR source_adapter nobody foresaw … KeyError: 5"


def test_without_a_loud_word_the_last_ones_of_this_start_are_told(log: Path) -> None:
    mark = LogMark.of(log)
    assert mark.words() == ""
    add(log, *(event(n, "INFO", f"n={n}") for n in range(20)))

    assert mark.words(2).splitlines() == [f"  {event(n, 'INFO', f'n={n}').strip()}" for n in (18, 19)]


def test_a_log_that_was_put_aside_is_read_from_its_beginning(log: Path) -> None:
    mark = LogMark.of(log)
    log.write_text(event(1, "ERROR", "new"))

    assert mark.words() == "  ERROR source_adapter new"
    assert LogMark.of(log.with_name("none")).words() == ""


async def test_a_process_that_does_not_come_up_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_WAITS_S", (0.0, 0.01))
    layout = Layout(tmp_path)
    layout.make()
    layout.log("x").write_text(event(0, "ERROR", "of yesterday"))
    code = f"import sys; sys.stderr.write({event(1, 'ERROR', 'no secret')!r}); sys.exit(2)"

    with pytest.raises(CentreFailed) as caught:
        await Child(layout, "x", [sys.executable, "-c", code], lambda _: None).keep_up()

    assert caught.value.message == (
        "x does not come up, it ended 3 times with exit status 2:\n  ERROR source_adapter no secret"
    )
    assert caught.value.next_step == f"see {layout.log('x')}"
