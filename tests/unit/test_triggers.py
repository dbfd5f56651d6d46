"""Files by which the job of a guest speaks: each has its effect once, and no silence is taken for a job's fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from host_agent.boinc.endings import SlotEnding
from host_agent.boinc.outgoing import Outgoing
from host_agent.boinc.plan import SharedPlan
from host_agent.boinc.triggers import MOST_BETWEEN_BEATS_S, Heartbeat, Triggers, ending_of, read_trigger
from schemas.jobs import Holding, OutputEntry, Phase, ToldFile

SHARED = SharedPlan(
    duration_s=1000.0, heartbeat="", completion="done", temporary_exit="later", trickles=("news",), uploads=("early",)
)
SHA = "0" * 64


class FakeCentre:
    """What a guest has told, as the host has it."""

    def __init__(self) -> None:
        self.files: dict[str, ToldFile] = {}
        self.stored: dict[str, OutputEntry] = {}
        self.holding: Holding | None = Holding(job="local/task.1", attempt=1, phase=Phase.RUNNING)
        self.beats = 0
        self.removed: list[str] = []
        self.wanted: list[str] = []

    def write(self, name: str, content: bytes, mtime_ns: int = 1) -> None:
        self.files[name] = ToldFile(name=name, size=len(content), mtime_ns=mtime_ns, content=content)

    def told(self, name: str) -> ToldFile | None:
        return self.files.get(name)

    def early(self, name: str) -> OutputEntry | None:
        return self.stored.get(name)

    def remove(self, told: ToldFile) -> None:
        self.removed.append(told.name)

    def want(self, told: ToldFile) -> None:
        self.wanted.append(told.name)


class Rig:
    def __init__(self, slot: Path, shared: SharedPlan = SHARED) -> None:
        self.slot, self.centre, self.outgoing = slot, FakeCentre(), Outgoing(slot)
        self.memory = bytearray(8192)
        self.triggers = Triggers(shared, ("result", "early"), self.centre, self.outgoing, slot)  # type: ignore[arg-type]

    def beat(self, runtime_s: float = 1.0) -> SlotEnding | None:
        self.centre.beats += 1
        return self.triggers.look(runtime_s)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_is_said_is_read_however_it_is_written() -> None:
    assert read_trigger(b"3\n1\nit  is\nover\x1b[2J\n").number == 3
    assert read_trigger(b"3\n1\nit  is\nover\n").is_notice
    assert "\x1b" not in read_trigger(b"3\n1\nit is\nover\x1b[2J\n").words
    assert read_trigger(b"\xff\xfe").number is None
    assert (ending_of(b"256").status, ending_of(b"512").status, ending_of(b"").status) == (195, 195, 0)


def test_a_completion_file_that_is_being_written_is_waited_for(rig: Rig) -> None:
    rig.centre.write("done", b"", 1)
    assert rig.beat() is None
    assert rig.beat() is None
    rig.centre.write("done", b"7\n", 2)
    assert rig.beat() is None
    assert rig.beat() is None  # it begins to gather
    ending = rig.beat()
    assert ending is not None
    assert ending.status == 7


def test_outputs_come_before_an_end_and_newer_ones_are_waited_for(rig: Rig) -> None:
    rig.centre.write("result", b"x")
    rig.centre.write("done", b"0\n")
    for _ in range(5):
        assert rig.beat() is None
    assert set(rig.centre.wanted) == {"result"}
    rig.centre.stored["result"] = OutputEntry(name="result", size=1, sha256=SHA)

    assert rig.beat() == SlotEnding(is_finished=True)


def test_what_a_job_wrote_just_before_its_time_was_up_comes_though_it_was_not_told_of_then(rig: Rig) -> None:
    assert rig.beat(1000.0) is None
    assert rig.beat(1001.0) is None  # was on its way when the time was up
    rig.centre.write("result", b"x")
    assert [rig.beat(1002.0), rig.beat(1003.0)] == [None, None]
    assert rig.centre.wanted == ["result", "result"]
    rig.centre.stored["result"] = OutputEntry(name="result", size=1, sha256=SHA)

    assert rig.beat(1004.0) == SlotEnding(is_finished=True)


def test_a_guest_that_tells_no_more_does_not_keep_a_job_whose_time_is_up(rig: Rig) -> None:
    assert rig.beat(1000.0) is None
    assert rig.triggers.look(1599.0) is None

    assert rig.triggers.look(1600.0) == SlotEnding(is_finished=True)


def test_a_job_that_ends_by_itself_meanwhile_is_left_to_its_end(rig: Rig) -> None:
    rig.centre.write("result", b"x")
    rig.centre.write("done", b"0\n")
    rig.beat()
    rig.beat()
    rig.centre.holding = Holding(job="local/task.1", attempt=1, phase=Phase.STAGE_OUT)
    rig.centre.files = {}

    assert [rig.beat(5000.0) for _ in range(5)] == [None] * 5


def test_a_trickle_goes_in_the_guest_once_the_client_has_it(rig: Rig) -> None:
    rig.centre.write("news", b"a\0b", 1)
    rig.beat()
    rig.outgoing.step(rig.memory, 0.0)
    rig.beat()
    assert rig.centre.removed == []
    assert (rig.slot / "trickle_up.xml").read_text() == "<variety>news</variety>\nab"
    rig.centre.write("news", b"next", 2)  # before the first was taken
    rig.beat()
    (rig.slot / "trickle_up.xml").unlink()
    rig.outgoing.step(rig.memory, 10.0)
    rig.beat()
    rig.beat()

    assert rig.centre.removed[0] == "news"
    rig.outgoing.step(rig.memory, 20.0)
    assert (rig.slot / "trickle_up.xml").read_text().endswith("next")


def test_an_upload_is_asked_for_once_over_restarts(rig: Rig) -> None:
    rig.centre.write("early", b"x")
    assert rig.triggers.due_uploads() == []
    assert rig.centre.wanted == ["early"]
    rig.centre.stored["early"] = OutputEntry(name="early", size=1, sha256=SHA)
    assert [name for name, _ in rig.triggers.due_uploads()] == ["early"]
    rig.triggers.note_upload("early", "early")

    assert rig.triggers.due_uploads() == []
    again = Rig(rig.slot)
    again.centre.write("early", b"x")
    again.centre.stored["early"] = OutputEntry(name="early", size=1, sha256=SHA)
    assert again.triggers.due_uploads() == []


def test_one_that_asks_to_be_put_off_is_so_for_a_minute_at_least_and_once_its_word_has_gone(rig: Rig) -> None:
    rig.centre.write("later", b"1\n0\nnot now\n")
    assert rig.beat() is None
    assert rig.centre.removed == ["later"]
    del rig.centre.files["later"]
    ending = rig.beat()

    assert ending is not None
    assert (ending.delay_s, ending.reason) == (60, "not now")


def told(mtime_ns: int) -> ToldFile:
    return ToldFile(name="hb", size=0, mtime_ns=mtime_ns)


def test_a_heartbeat_is_missed_after_its_time_of_beats_that_were_heard() -> None:
    now = [0.0]
    beat = Heartbeat(SharedPlan(heartbeat="hb", heartbeat_s=10.0), lambda: now[0])
    missed = []
    for number in range(14):
        missed.append(beat.is_missed(told(1), number))
        now[0] += 1.0

    assert missed == [False] * 11 + [True] * 3
    assert not beat.is_missed(told(2), 15)


def test_a_silence_of_the_guests_or_of_ours_is_not_the_jobs_fault() -> None:
    now = [0.0]
    beat = Heartbeat(SharedPlan(heartbeat="hb", heartbeat_s=600.0), lambda: now[0])
    assert not beat.is_missed(told(1), 1)
    now[0] = 100_000.0
    assert not beat.is_missed(told(1), 1), "nothing was heard"
    assert not beat.is_missed(told(1), 2), "one beat after a long silence"
    assert beat._same_s == MOST_BETWEEN_BEATS_S
    beat.forget()
    now[0] += 1.0
    assert not beat.is_missed(told(1), 3)
    assert beat._same_s == 0.0
