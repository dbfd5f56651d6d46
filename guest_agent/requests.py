"""Requests for jobs: what a slot asks the centre for, with what the machine is and what the guest holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from broker.daemon.tasks import OwnedTasks
from broker.rpc import Uplink
from guest_agent.slot import Slot
from schemas.jobs import AttemptRef, JobRequest, JobWithdraw, Machine


class Requests:
    """See the module. ``tasks`` owns what is being said."""

    def __init__(
        self,
        uplink: Uplink,
        machine: Callable[[], Machine],
        holding: Callable[[], list[AttemptRef]],
        tasks: OwnedTasks,
    ) -> None:
        self._uplink, self._holding, self._tasks = uplink, holding, tasks
        self._describe = machine
        self._machine = machine()
        #: A beat waits for nobody: the default threads may all be at outputs of jobs, which take as long as they are.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="machine")

    def look(self) -> None:
        """Look at the machine anew."""
        self._machine = self._describe()

    async def look_in_thread(self) -> None:
        """Look at the machine anew, without holding up the loop."""
        self._machine = await asyncio.get_running_loop().run_in_executor(self._thread, self._describe)

    def make(self, slot: Slot, lanes: Sequence[int]) -> JobRequest:
        """Make a request for these lanes of a slot, to be said by the caller."""
        request = JobRequest(
            slot=lanes[0],
            more=list(lanes[1:]),
            ahead=slot.ahead,
            machine=self._machine,
            holding=self._holding(),
            generation=self._uplink.generation,
        )
        slot.ask(lanes)
        return request

    def say(self, slot: Slot, lanes: Sequence[int]) -> None:
        """Ask for a job on each of these lanes of a slot."""
        self._tasks.spawn(self._uplink.say("request", self.make(slot, lanes)))

    def withdraw(self, lanes: list[int]) -> None:
        """Ask no more for jobs on these lanes."""
        self._tasks.spawn(self._uplink.say("request", JobWithdraw(slots=lanes)))
