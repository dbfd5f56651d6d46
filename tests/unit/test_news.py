"""Which change of a VM is news: what a driver does and sees goes in, what is to be told comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from host_agent.hypervisors.news import News
from schemas.vms import VmState

_S = VmState
#: One thing that a driver does or sees; gives what is to be told of it.
Step = Callable[[News], VmState | None]


def begin(news: News) -> None:
    news.begin()


def finish(news: News) -> VmState | None:
    return news.finish()


def ends(news: News) -> VmState | None:
    return news.ends()


def lives_on(news: News) -> None:
    news.lives_on()


def caused(state: VmState) -> Step:
    return lambda news: news.caused(state)


def sees(state: VmState) -> Step:
    return lambda news: news.sees(state)


def will_end(state: VmState) -> Step:
    return lambda news: news.will_end(state)


STARTED: list[Step] = [begin, caused(_S.RUNNING), finish]

#: What happens, in order, and all that is told of it.
TABLE: dict[str, tuple[list[Step], list[VmState]]] = {
    "the first look at a VM that was adopted": ([sees(_S.RUNNING)], []),
    "a change after that look": ([sees(_S.RUNNING), sees(_S.PAUSED)], [_S.PAUSED]),
    "the same state again": ([sees(_S.RUNNING), sees(_S.PAUSED), sees(_S.PAUSED)], [_S.PAUSED]),
    "a change there and back": ([*STARTED, sees(_S.STUCK), sees(_S.RUNNING)], [_S.STUCK, _S.RUNNING]),
    "what a verb has caused": ([*STARTED, begin, caused(_S.PAUSED), finish, sees(_S.PAUSED)], []),
    "what is seen while a verb is at work": ([*STARTED, begin, sees(_S.PAUSED), caused(_S.PAUSED), finish], []),
    "what a verb that failed has left behind": ([*STARTED, begin, finish, sees(_S.STUCK)], [_S.STUCK]),
    "a look that says nothing": ([*STARTED, sees(_S.UNKNOWN)], []),
    "a look after one that said nothing": ([*STARTED, sees(_S.UNKNOWN), sees(_S.RUNNING)], []),
    "a crash": ([*STARTED, ends], [_S.ABORTED]),
    "a crash of a VM at which nobody has looked": ([ends], [_S.ABORTED]),
    "a guest that shuts down by itself": ([*STARTED, will_end(_S.POWEREDOFF), ends], [_S.POWEREDOFF]),
    "a poweroff": ([*STARTED, begin, will_end(_S.POWEREDOFF), ends, finish], []),
    "a poweroff at whose end the process still goes": ([begin, will_end(_S.POWEREDOFF), finish, ends], [_S.POWEREDOFF]),
    "a save": ([*STARTED, begin, will_end(_S.SAVED), ends, finish], []),
    "a save whose process goes after it": ([*STARTED, begin, will_end(_S.SAVED), finish, ends], []),
    "a crash while a verb is at work": ([*STARTED, begin, ends, finish], [_S.ABORTED]),
    "a stop that times out": ([*STARTED, begin, will_end(_S.POWEREDOFF), lives_on, finish], []),
    "a crash after a stop that timed out": (
        [*STARTED, begin, will_end(_S.POWEREDOFF), lives_on, finish, ends],
        [_S.ABORTED],
    ),
    "a stop that times out as the guest obeys": (
        [begin, will_end(_S.POWEREDOFF), ends, lives_on, finish],
        [],
    ),
    "a crash in the midst of a start": ([begin, ends, finish], [_S.ABORTED]),
}


@pytest.mark.parametrize("what", TABLE)
def test_what_is_told_is_what_no_verb_has_caused(what: str) -> None:
    steps, expected = TABLE[what]
    news = News()

    told = [state for step in steps if (state := step(news)) is not None]

    assert told == expected


@pytest.mark.parametrize("after_end", [_S.ABORTED, _S.POWEREDOFF, _S.SAVED])
def test_what_a_vm_is_after_its_end_was_decided_before_it(after_end: VmState) -> None:
    news = News()
    news.will_end(after_end)
    news.ends()

    news.lives_on()

    assert (news.after_end, news.has_ended, news.is_busy) == (after_end, True, False)
