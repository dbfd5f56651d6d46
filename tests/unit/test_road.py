"""The local road without a stream: frames, who is there, what may be said, and what nobody may do."""

from __future__ import annotations

import os
import random
from itertools import chain

import pytest

from broker.errors import Breach, FrameTooLong
from broker.road.session import MOST_FLAWS, MOST_SAID, Anew, Event, Session, SessionBounds, Up, size_of
from broker.road.slip import MOST_EMPTY, Unwrapper, wrap
from schemas.road import MAX_FRAME_BYTES, Hello, Say, Settled, Verdict, encode_frame


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    alphabets = [bytes(range(256)), b"\xc0\xdb\xdc\xdd", b"\xdb\xdc", b"a"]
    frames = [bytes(chance.choices(chance.choice(alphabets), k=chance.randint(1, 300))) for _ in range(30)]
    stream = b"".join(map(wrap, frames))
    unwrapper, came = Unwrapper(1000), []
    while stream:
        cut = chance.randint(1, 200)
        came += unwrapper.feed(stream[:cut])
        stream = stream[cut:]

    assert came == frames


def test_a_frame_that_was_cut_spoils_itself_alone() -> None:
    assert Unwrapper(1000).feed(wrap(b"first")[:4] + wrap(b"second")) == [b"fir", b"second"]


def test_a_frame_without_end_is_not_kept() -> None:
    unwrapper = Unwrapper(1000)

    for _ in range(20):
        unwrapper.feed(b"x" * 100)

    with pytest.raises(FrameTooLong):
        unwrapper.feed(b"x")


class Ends:
    """Two sessions, and the bytes between them."""

    def __init__(self, bounds: SessionBounds | None = None) -> None:
        self.host, self.guest = Session(), Session(bounds)
        self.seen: dict[Session, list[Event]] = {self.host: [], self.guest: []}

    def meet(self) -> None:
        self.carry(self.host, self.host.hello())

    def other(self, end: Session) -> Session:
        return self.guest if end is self.host else self.host

    def carry(self, sender: Session, written: bytes) -> None:
        """Bring what one end wrote to the other, and what that one answers back, until there is nothing more."""
        reader = self.other(sender)
        for event in list(reader.receive(written)):
            if isinstance(event, bytes):
                self.carry(reader, event)
            else:
                self.seen[reader].append(event)

    def said_to(self, end: Session) -> list[bytes]:
        return [event.body for event in self.seen[end] if isinstance(event, Say)]


@pytest.fixture
def ends() -> Ends:
    made = Ends()
    made.meet()
    return made


def say(ends: Ends, sender: Session, body: bytes = b"body") -> int:
    number, written = sender.say("vc.down", "vm.a", "m", body)
    ends.carry(sender, written)
    return number


def test_both_ends_are_up_once_each_has_heard_the_other(ends: Ends) -> None:
    assert (ends.host.is_up, ends.guest.is_up) == (True, True)
    assert ends.seen == {ends.host: [Anew(), Up()], ends.guest: [Anew(), Up()]}


def test_a_hello_said_again_changes_nothing(ends: Ends) -> None:
    for end in (ends.host, ends.guest, ends.host):
        ends.carry(end, end.hello())

    assert ends.seen == {ends.host: [Anew(), Up()], ends.guest: [Anew(), Up()]}


def test_what_is_said_is_heard_and_settled(ends: Ends) -> None:
    number = say(ends, ends.host)
    ends.carry(ends.guest, ends.guest.settle(number, Verdict.TAKEN))

    assert ends.said_to(ends.guest) == [b"body"]
    assert ends.seen[ends.host][-1] == Settled(number=number, verdict=Verdict.TAKEN)
    assert ends.guest.settle(number, Verdict.TAKEN) == b""


@pytest.mark.parametrize("whose", ["host", "guest"])
def test_a_new_agent_on_either_side_voids_what_was_under_way(ends: Ends, whose: str) -> None:
    new = getattr(ends, whose)
    stays = ends.other(new)
    lost = stays.say("vc.down", "vm.a", "m", b"lost")[1]  # lies in the stream, unread
    number = say(ends, new)
    stale = stays.settle(number, Verdict.TAKEN)

    hello = new.open()
    for event in new.receive(lost + stale):  # what the stream still held
        ends.seen[new].append(event)  # type: ignore[arg-type]
    ends.carry(new, hello)

    assert (new.is_up, stays.is_up) == (True, True)
    assert [event for event in ends.seen[stays] if not isinstance(event, Say)] == [Anew(), Up(), Anew(), Up()]
    assert [event for event in ends.seen[new] if isinstance(event, Say | Settled)] == []
    say(ends, stays, b"goes on")
    assert ends.said_to(new) == [b"goes on"]


def test_what_may_be_said_is_bounded_by_the_other_end() -> None:
    around = size_of("vc.down", "vm.a", "m", b"")
    ends = Ends(SessionBounds(most_messages=2, most_bytes=100 + 2 * around))
    ends.meet()

    assert ends.host.may_say(1000)  # the first always: else it could never be said
    first = say(ends, ends.host, b"x" * 60)
    allowed = ends.host.may_say(40 + around), ends.host.may_say(41 + around)
    say(ends, ends.host, b"x" * 40)
    full = ends.host.may_say(0)
    ends.carry(ends.guest, ends.guest.settle(first, Verdict.TAKEN))

    assert (allowed, full, ends.host.may_say(60 + around)) == ((True, False), False, True)


def test_an_end_that_allows_everything_is_not_said_more_than_we_bear() -> None:
    ends = Ends(SessionBounds(most_messages=1 << 30, most_bytes=1 << 50))
    ends.meet()

    said = 0
    while ends.host.may_say(100_000):
        ends.host.say("vc.down", "vm.a", "m", bytes(99_988))
        said += 1

    assert said == min(MOST_SAID.most_messages, MOST_SAID.most_bytes // 100_000)


@pytest.mark.parametrize("field", ["exchange", "key", "message_id"])
def test_whatever_a_sender_decides_counts_against_its_bounds(ends: Ends, field: str) -> None:
    names = {"exchange": "", "key": "", "message_id": "", field: "x" * 1_000_000}
    said = b"".join(ends.guest.say(body=b"", **names)[1] for _ in range(9))

    with pytest.raises(Breach, match="a flood"):
        list(ends.host.receive(said))


def flood(end: Session, messages: int, size: int) -> bytes:
    return b"".join(end.say("vc.up", "vm-a.x", "m", bytes(size))[1] for _ in range(messages))


@pytest.mark.parametrize(("messages", "size"), [(257, 1), (9, 1 << 20)])
def test_who_says_more_than_it_may_is_in_breach(ends: Ends, messages: int, size: int) -> None:
    with pytest.raises(Breach, match="a flood"):
        list(ends.host.receive(flood(ends.guest, messages, size)))


def test_a_frame_of_two_gigabytes_is_in_breach_long_before_its_end(ends: Ends) -> None:
    for _ in range(2 * MAX_FRAME_BYTES // 65536):
        list(ends.host.receive(b"x" * 65536))

    with pytest.raises(Breach, match="a frame of more than"):
        list(ends.host.receive(b"x" * 65536))


def test_what_killed_agents_have_left_is_borne_and_more_is_garbage(ends: Ends) -> None:
    for _ in range(MOST_FLAWS):
        assert list(ends.host.receive(wrap(b"the rest of a frame"))) == []

    with pytest.raises(Breach, match="garbage"):
        list(ends.host.receive(wrap(b"and another")))


def test_an_agent_that_is_killed_in_the_midst_of_a_frame_costs_its_host_nothing(ends: Ends) -> None:
    for _ in range(10):
        list(ends.host.receive(ends.guest.say("vc.up", "vm-a.report", "m", b"cut")[1][:20]))
        ends.carry(ends.guest, ends.guest.open())

    assert (ends.host.is_up, ends.guest.is_up) == (True, True)


def test_of_hellos_that_were_said_to_nobody_one_is_answered() -> None:
    host, guest = Session(), Session()
    piled_up = b"".join(host.hello() for _ in range(1000))

    answers = [event for event in guest.receive(piled_up) if isinstance(event, bytes)]

    assert len(answers) == 1
    assert [event for event in host.receive(answers[0]) if not isinstance(event, bytes)] == [Anew(), Up()]


@pytest.mark.parametrize(
    "frame",
    [
        Settled(number=7, verdict=Verdict.TAKEN),
        Say(number=0, exchange="", key="", message_id="", body=b""),
        Hello(version=2, session="s", most_messages=1, most_bytes=1),
    ],
    ids=["settles what was not said", "counts backwards", "another version"],
)
def test_what_makes_no_sense_is_in_breach(ends: Ends, frame: Hello | Say | Settled) -> None:
    with pytest.raises(Breach):
        list(ends.host.receive(wrap(encode_frame(frame))))


@pytest.mark.parametrize("seed", range(200))
def test_no_bytes_raise_anything_but_a_breach(seed: int) -> None:
    chance = random.Random(seed)
    ends = Ends()
    ends.meet()
    frames = [bytearray(ends.guest.hello()), bytearray(flood(ends.guest, 3, 50)), bytearray(os.urandom(200))]
    for octets in frames:
        for _ in range(chance.randint(0, 5)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
    try:
        events = list(chain.from_iterable(ends.host.receive(bytes(octets)) for octets in frames))
    except Breach:
        return

    assert len(events) < 20


def test_delimiters_without_end_are_garbage() -> None:
    unwrapper = Unwrapper(1000)
    assert unwrapper.feed(b"\xc0" * MOST_EMPTY + wrap(b"frame")) == [b"frame"]

    with pytest.raises(FrameTooLong):
        unwrapper.feed(b"\xc0" * (MOST_EMPTY + 2))
