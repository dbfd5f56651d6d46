"""What one end of a road keeps of what the other end does not take."""

from __future__ import annotations

import asyncio

from broker.road.publisher import RoadPublisher
from broker.road.session import Session


async def test_what_is_given_up_is_not_kept_however_long_the_other_end_is_mute() -> None:
    publisher = RoadPublisher(Session(), lambda frame: None)  # nobody has said yet that he is there

    for _ in range(1000):
        publisher.publish("vc.down", "vm.a", "m", bytes(1000)).cancel()
    kept = publisher.publish("vc.down", "vm.a", "m", b"kept")
    await asyncio.sleep(0)  # callbacks of futures run then

    assert [one.body for one in publisher._waiting.values()] == [b"kept"]
    publisher.break_off("it is over")
    assert kept.done()
