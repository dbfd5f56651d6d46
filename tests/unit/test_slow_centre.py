"""A centre that takes long over a question is waited for while it answers others; one that falls silent is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.delivery import Delivery
from broker.inbound import Letter, take_in
from broker.memory import MemoryBroker, MemoryCarrier
from broker.outbound import send
from broker.routes import CALLS, reply
from broker.rpc import caller as caller_module
from broker.rpc.caller import Caller
from schemas.description import JobDescription
from schemas.envelope import Reply
from schemas.ledger import HostList, Hosts, JobSubmit, JobVerdict
from volcloud.client import centre_caller
from volcloud.client.centre_caller import CentreCaller
from volcloud.errors import Unreachable

JOB = JobDescription(id="j", executable="/bin/true")


class Adapter:
    """Answers small questions at once, as often as it is to, and a submission once it is told to."""

    def __init__(self, broker: MemoryBroker, answers: int) -> None:
        self._carrier = MemoryCarrier("adapter-job-1", broker)
        self._left = answers
        self.small = 0
        self.submitted: list[Letter] = []

    async def open(self) -> None:
        self._carrier.broker.bind("vc.calls", CALLS, "#")
        await self._carrier.consume("vc.calls", self._take)

    def _take(self, delivery: Delivery) -> None:
        delivery.ack()
        letter = take_in(delivery)
        assert isinstance(letter, Letter)
        if isinstance(letter.message, JobSubmit):
            self.submitted.append(letter)
        elif isinstance(letter.message, HostList) and self.small < self._left:
            self.small += 1
            self._answer(letter, Hosts(call=letter.message.id, hosts=[]))

    def decide(self) -> None:
        letter = self.submitted[0]
        self._answer(letter, JobVerdict(call=letter.message.id, accepted=True, job="console-a/j.1"))

    def _answer(self, letter: Letter, answer: Reply) -> None:
        send(self._carrier, reply(self._carrier.user, letter.sender, letter.message.reply), answer)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the waits of a person a twentieth."""
    monkeypatch.setattr(caller_module, "ACCEPT_TIMEOUT_S", 0.4)
    monkeypatch.setattr(caller_module, "STATE_EVERY_S", 0.25)
    monkeypatch.setattr(centre_caller, "QUIET_S", 0.2)
    monkeypatch.setattr(centre_caller, "AWAKE_S", 0.2)


async def console_and(adapter: Adapter, broker: MemoryBroker) -> CentreCaller:
    caller = Caller(MemoryCarrier("console-a", broker))
    await caller.open("console-a")
    await adapter.open()
    return CentreCaller(lambda: caller)


async def test_a_submission_is_waited_for_longer_than_an_agent_is_while_the_centre_answers() -> None:
    broker = MemoryBroker()
    adapter = Adapter(broker, answers=1000)
    centre = await console_and(adapter, broker)

    verdict = asyncio.ensure_future(centre.ask(JobSubmit(job=JOB), JobVerdict, "submit"))
    while adapter.small < 6:
        await asyncio.wait([verdict], timeout=0.02)
        assert not verdict.done()
    adapter.decide()

    assert (await verdict).job == "console-a/j.1"
    assert {letter.message.id for letter in adapter.submitted} == {adapter.submitted[0].message.id}
    assert len(adapter.submitted) > 1  # asked again, as the same


async def test_a_centre_that_falls_silent_while_it_is_waited_for_is_told_in_time() -> None:
    broker = MemoryBroker()
    adapter = Adapter(broker, answers=2)
    centre = await console_and(adapter, broker)
    began = time.monotonic()

    with pytest.raises(Unreachable, match="no job adapter has answered"):
        await centre.ask(JobSubmit(job=JOB), JobVerdict, "submit")

    assert adapter.small == 2
    assert time.monotonic() - began < centre_caller.ANSWER_S / 2
