"""What a host asks of the centre about inputs: one question that nobody answers is one guest's matter."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import TransferFailed
from broker.memory import MemoryCarrier
from host_agent.inputs import centre
from host_agent.inputs.centre import CentreInputs
from schemas.errors import ErrorCode

SHA256 = "0" * 64


def asked(wire: MemoryCarrier) -> list[str]:
    return [message.vm for _, message in wire.sent_to("vc.up")]  # type: ignore[attr-defined]


async def test_a_question_that_nobody_answers_turns_inputs_off_for_its_guest_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(centre, "ANSWER_S", 0.5)
    wire = MemoryCarrier("host-a")
    inputs = CentreInputs(wire, "host-a")

    for vm in ("vm-a", "vm-a", "vm-b"):
        with pytest.raises(TransferFailed) as caught:
            async with asyncio.timeout(30):
                await inputs.demand_right(vm, SHA256)
        assert caught.value.code is ErrorCode.TIMEOUT

    assert asked(wire) == ["vm-a", "vm-b"]


async def test_a_guest_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centre, "ANSWER_S", 0.5)
    monkeypatch.setattr(centre, "NOT_AGAIN_S", 0.0)
    wire = MemoryCarrier("host-a")
    inputs = CentreInputs(wire, "host-a")

    for _ in range(2):
        with pytest.raises(TransferFailed):
            await inputs.demand_right("vm-a", SHA256)

    assert asked(wire) == ["vm-a", "vm-a"]
