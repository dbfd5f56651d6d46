"""What is wrong with a system, part by part: each is asked by itself, all at once, and none for longer than seconds.

A part that cannot be asked says so in its own name, with what to do about it. Reads, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from broker import durable
from broker.errors import BrokerError
from broker.management import Management
from broker.masking import mask
from broker.node import LOOPBACK, is_answering, read_node_address
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Names, Plan, read_names, read_plan
from volcloud.centre.process_state import BROKER, read_states
from volcloud.centre.stopping import Say, live_supervisor, node_record
from volcloud.errors import VolcloudError

log = logging.getLogger(__name__)

#: How long one part may take to answer, seconds; all are asked at once.
ANSWER_S = 4.0
#: How often the supervisor asks, seconds.
LOOK_S = 10.0
#: Free space below which the node takes no messages, bytes; its configuration says so (``disk_free_limit``).
DISK_LIMIT_BYTES = 256_000_000

#: The part that is in trouble where nothing runs, and those that are looked at without being asked.
SYSTEM, DISK, PROCESSES, PARTS = "system", "disk", "processes", "parts"
#: Asks one part: empty when it is well, else what is wrong with it.
Question = Callable[[], str]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A part that is not as it should be."""

    part: str
    what: str
    #: What a person does about it.
    mend: str
    #: Since when, ms since 1970, as far as the supervisor has seen it; 0 = it has not.
    since_ms: int = 0


class _Seen(msgspec.Struct, frozen=True):
    """Since when each part is in trouble, as the supervisor writes it down."""

    since_ms: dict[str, int] = {}


def troubles(layout: Layout) -> list[Trouble]:
    """Name what is wrong, causes before what follows from them. Blocks for some seconds at most; never raises.

    A system of which nothing runs has one trouble only.
    """
    seen = at_a_glance(layout)
    if any(trouble.part == SYSTEM for trouble in seen):
        return seen
    excused = {trouble.part for trouble in seen}
    return [*seen, *_looked_at(PARTS, layout, lambda: _asked(layout, excused))]


def at_a_glance(layout: Layout) -> list[Trouble]:
    """As ``troubles``, but ask nobody: the disk, and which processes are gone or frozen. Empty where no system is."""
    lying = _looked_at(SYSTEM, layout, lambda: _of_system(layout))
    if lying or not layout.run.is_dir():
        return lying
    disk = _looked_at(DISK, layout, lambda: _of_disk(layout))
    return [*disk, *_looked_at(PROCESSES, layout, lambda: _of_processes(layout))]


def _looked_at(part: str, layout: Layout, look: Callable[[], list[Trouble]]) -> list[Trouble]:
    """Look, and take what stands in the way of looking for a trouble of that part."""
    try:
        return look()
    except OSError as error:
        mend = f"see that {layout.root} is there and yours, and what its disk has to say"
        return [Trouble(part=part, what=f"cannot be looked at: {error}", mend=mend)]


def _asked(layout: Layout, excused: set[str]) -> list[Trouble]:
    questions, mends = _questions(layout, excused)
    return [Trouble(part=part, what=what, mend=mends[part]) for part, what in ask_all(questions).items() if what]


def _of_system(layout: Layout) -> list[Trouble]:
    if not layout.run.is_dir():
        return []
    if any(state.is_alive for state in read_states(layout.run)) or node_record(layout) is not None:
        return []
    return [Trouble(part=SYSTEM, what=f"nothing runs in {layout.root}", mend="`volcloud up` starts it")]


def since(layout: Layout, found: list[Trouble]) -> list[Trouble]:
    """Say of each trouble since when it lasts, where the supervisor has seen it."""
    seen = _read_seen(layout).since_ms
    return [msgspec.structs.replace(one, since_ms=seen.get(one.part, 0)) for one in found]


async def keep_watch(layout: Layout, say: Say) -> None:
    """Say when a part gets into trouble and when it is well again, and keep since when, until cancelled."""
    known: dict[str, int] = {}
    said: dict[str, str] = {}
    while True:
        found = await asyncio.to_thread(troubles, layout)
        now_ms = int(time.time() * 1000)
        for one in [one for one in found if said.get(one.part) != _kind_of(one)]:
            say(f"{one.part}: {one.what}; {one.mend}")
        said = {one.part: _kind_of(one) for one in found}
        for part in known.keys() - {one.part for one in found}:
            say(f"{part}: is well again")
        known = {one.part: known.get(one.part, now_ms) for one in found}
        await asyncio.to_thread(_keep_seen, layout, _Seen(known))
        await asyncio.sleep(LOOK_S)


def _kind_of(trouble: Trouble) -> str:
    """Tell one trouble of a part from another one: by its words, whose numbers may change with each look."""
    return re.sub(r"\d+", "", trouble.what)


def _keep_seen(layout: Layout, seen: _Seen) -> None:
    """Write it down where it can be: the trouble may be that the disk is full, and then the log has it."""
    if seen == _read_seen(layout) or not layout.run.is_dir():
        return
    with contextlib.suppress(OSError):
        durable.replace(_path(layout), msgspec.json.encode(seen))


def ask_all(questions: Mapping[str, Question], answer_s: float = ANSWER_S) -> dict[str, str]:
    """Ask all at once and give what each says, in their order; one that is silent for too long is said to be."""
    said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for part, question in questions.items():
        # A thread that nobody waits for: what is frozen may never answer, and must not hold us up at our end.
        try:
            threading.Thread(target=_ask, args=(part, question, said), daemon=True).start()
        except RuntimeError as error:
            said.put((part, f"cannot be asked: {error}"))
    answers: dict[str, str] = {}
    deadline = time.monotonic() + answer_s
    while len(answers) < len(questions) and (left_s := deadline - time.monotonic()) > 0:
        try:
            part, answer = said.get(timeout=left_s)
        except queue.Empty:
            break
        answers[part] = answer
    return {part: answers.get(part, f"does not answer within {answer_s:.0f} s") for part in questions}


def _ask(part: str, question: Question, said: queue.SimpleQueue[tuple[str, str]]) -> None:
    try:
        said.put((part, question()))
    except (BrokerError, VolcloudError, OSError, ValueError, http.client.HTTPException) as error:
        said.put((part, mask(str(error)) or type(error).__name__))
    except Exception as error:
        # The top of a thread that nobody waits for: whoever asked would hear that nobody answers.
        log.exception("a part cannot be asked", extra={"part": part})
        said.put((part, f"cannot be asked: {type(error).__name__}: {mask(str(error))}"))


def _of_disk(layout: Layout) -> list[Trouble]:
    free = shutil.disk_usage(layout.root).free
    if free >= DISK_LIMIT_BYTES:
        return []
    what = (
        f"{free // 1_000_000} MB are free where {layout.root} is; below {DISK_LIMIT_BYTES // 1_000_000} MB the broker"
    )
    return [Trouble(part=DISK, what=f"{what} takes no messages", mend="free some space; all of it goes on by itself")]


def _of_processes(layout: Layout) -> list[Trouble]:
    found = []
    is_held = live_supervisor(layout) is not None
    for state in read_states(layout.run):
        log = layout.log(state.name)
        if not state.is_alive:
            mend = f"it is started again; if it is not, {log} tells why" if is_held else "`volcloud up` starts all anew"
            found.append(Trouble(part=state.name, what="is gone", mend=mend))
        elif state.record.is_stopped():
            pid = state.record.pid
            found.append(
                Trouble(part=state.name, what="is frozen: somebody has stopped it", mend=f"`kill -CONT {pid}`")
            )
    return found


def _questions(layout: Layout, excused: set[str]) -> tuple[dict[str, Question], dict[str, str]]:
    """Give what to ask, and what to do about each; a process whose trouble is known already is not asked."""
    log = layout.logs
    asked: dict[str, tuple[Question, str]] = {}
    if BROKER not in excused:
        asked[BROKER] = (lambda: _ask_broker(layout), f"see {log / 'supervisor.log'} and {layout.node / 'log'}")
    names, plan = _names(layout), _plan(layout)
    for process, port in (names.metrics if names else {}).items():
        if process not in excused and layout.record(process).exists():
            asked[process] = (_question_of_adapter(port), f"see {log / f'{process}.log'}")
    if plan is not None:
        asked["ledger"] = (lambda: _ask_ledger(plan), "bring its database back; the adapters go on by themselves")
    return {part: one for part, (one, _) in asked.items()}, {part: mend for part, (_, mend) in asked.items()}


def _ask_broker(layout: Layout) -> str:
    address = read_node_address(layout.node)
    if not is_answering(address.host, address.amqp_port):
        return f"does not answer on port {address.amqp_port}"
    alarms = Management(address.administration).alarms()
    return f"takes no messages: {' and '.join(alarms)}" if alarms else ""


def _question_of_adapter(port: int) -> Question:
    def ask() -> str:
        link = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_S)
        try:
            link.request("GET", "/favicon.ico")
            link.getresponse().read()
        finally:
            link.close()
        return ""

    return ask


def _ask_ledger(plan: Plan) -> str:
    # Here: it takes long to load, and most commands ask nobody.
    from volcloud.centre.ledger_look import look_at

    return look_at(plan.ledger_url, ANSWER_S)


def _names(layout: Layout) -> Names | None:
    try:
        return read_names(layout)
    except VolcloudError:
        return None


def _plan(layout: Layout) -> Plan | None:
    try:
        return read_plan(layout.last)
    except VolcloudError:
        return None


def _path(layout: Layout) -> Path:
    return layout.run / "health.json"


def _read_seen(layout: Layout) -> _Seen:
    try:
        return msgspec.json.decode(_path(layout).read_bytes(), type=_Seen)
    except (OSError, msgspec.MsgspecError):
        return _Seen()
