"""What a guest says of its machine with each beat is had in time, whatever else its threads are at."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from broker.daemon.tasks import OwnedTasks
from guest_agent.requests import Requests


async def test_a_beat_does_not_wait_for_threads_that_are_at_jobs_outputs() -> None:
    looks: list[str] = []
    requests = Requests(cast(Any, None), lambda: cast(Any, looks.append("looked")), list, OwnedTasks("test"))
    goes_on = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    reading = asyncio.ensure_future(asyncio.to_thread(goes_on.wait, 60))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(20):
            await requests.look_in_thread()
    finally:
        goes_on.set()
        await reading

    assert looks == ["looked", "looked"]
