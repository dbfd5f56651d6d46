"""What one end of a road keeps, and does, while the other end takes nothing, or says nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.road import road as road_module
from broker.road.publisher import RoadPublisher
from broker.road.road import Road
from broker.road.session import Session
from broker.road.streams import Listener, to_socket
from tests.broker.polling import until


async def test_what_is_given_up_is_not_kept_however_long_the_other_end_is_mute() -> None:
    publisher = RoadPublisher(Session(), lambda frame: None)  # nobody has said yet that he is there

    for _ in range(1000):
        publisher.publish("vc.down", "vm.a", "m", bytes(1000)).cancel()
    kept = publisher.publish("vc.down", "vm.a", "m", b"kept")
    await asyncio.sleep(0)  # callbacks of futures run then

    assert [one.body for one in publisher._waiting.values()] == [b"kept"]
    publisher.break_off("it is over")
    assert kept.done()


async def test_a_stream_of_which_one_half_is_dead_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guest wrote never came, and nobody told either end of it."""
    monkeypatch.setattr(road_module, "HELLO_S", 0.02)
    monkeypatch.setattr(road_module, "SILENT_S", 0.2)
    listener = Listener(tmp_path / "road.sock")
    host = Road(to_socket(tmp_path / "road.sock"), user="host-a", peer="vm-a-0123456789")
    host.start()
    for _ in range(2):
        mute = await asyncio.wait_for(listener.connect(), 20)  # says nothing
        assert (await mute.reader.read(1)) == b"\xc0"

    guest = Road(listener.connect, user="vm-a-0123456789", peer="host-a")
    guest.start()
    await until(lambda: host.is_up and guest.is_up)

    for end in (host, guest):
        await end.close()
    await listener.close()
