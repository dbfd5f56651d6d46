"""The commands on VMs that a host agent takes, from the message to the answer. What a verb does is control's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from broker.rpc import Call, Handler
from host_agent.control import VmControl
from host_agent.keeper import Keeper
from host_agent.statuses import VmStatuses
from host_agent.verbs import TRANSITIONS, more_of, verb_of
from host_agent.vm import Verb
from schemas.envelope import Done, Message, Reply
from schemas.vms import VmAdopt, VmCommand, VmCreate, VmDelete, VmDiscard, VmList, Vms, VmSnapshotList, VmSnapshots


class VmCommands:
    """See the module. ``is_wanted`` says of a name whether the host's settings want a VM of that name to run."""

    def __init__(
        self, control: VmControl, keeper: Keeper, statuses: VmStatuses, is_wanted: Callable[[str], bool]
    ) -> None:
        self._control, self._keeper, self._statuses = control, keeper, statuses
        self._is_wanted = is_wanted

    def handlers(self) -> dict[type[Message], Handler]:
        """Give the table for the responder. Verbs are goals, so they are run again after a crash; a reset is a step."""
        # Their answer is not always the status of a VM that is known.
        own: dict[Verb, Callable[[Call, Any], Awaitable[Reply]]] = {
            Verb.DELETE: self._delete,
            Verb.DISCARD: self._discard,
            Verb.ADOPT: self._adopt,
        }
        verbs: dict[type[Message], Handler] = {
            row.message: Handler(run=own.get(verb, self._verb), repeatable=row.repeatable)
            for verb, row in TRANSITIONS.items()
            if row.message is not None
        }
        create = Handler(run=self._create, repeatable=TRANSITIONS[Verb.CREATE].repeatable)
        asked: dict[type[Message], Handler] = {
            VmList: Handler(run=self._list),
            VmSnapshotList: Handler(run=self._list_snapshots),
        }
        return {**verbs, VmCreate: create, **asked}

    async def _verb(self, call: Call, message: VmCommand) -> Reply:
        await call.started()
        self._keeper.forgive(message.vm)
        status = await self._control.act(verb_of(type(message)), message.vm, more_of(message), by=call.sender)
        return Vms(call=message.id, vms=[status])

    async def _create(self, call: Call, message: VmCreate) -> Reply:
        await call.started()
        return Vms(call=message.id, vms=[await self._control.create(message, by=call.sender)])

    async def _delete(self, call: Call, message: VmDelete) -> Reply:
        await call.started()
        await self._control.delete(message.vm, by=call.sender)
        return Done(call=message.id)

    async def _discard(self, call: Call, message: VmDiscard) -> Reply:
        await call.started()
        status = await self._control.discard(message.vm, by=call.sender)
        return Vms(call=message.id, vms=[status]) if status is not None else Done(call=message.id)

    async def _adopt(self, call: Call, message: VmAdopt) -> Reply:
        await call.started()
        status = await self._control.adopt(message.vm, autostart=self._is_wanted, by=call.sender)
        return Vms(call=message.id, vms=[status])

    async def _list(self, call: Call, message: VmList) -> Reply:
        return Vms(call=message.id, vms=await self._statuses.all())

    async def _list_snapshots(self, call: Call, message: VmSnapshotList) -> Reply:
        return VmSnapshots(call=message.id, snapshots=await self._control.snapshots(message.vm))
