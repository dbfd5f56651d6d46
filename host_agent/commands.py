"""The commands on VMs that a host agent takes, from the message to the answer. What a verb does is control's."""

from __future__ import annotations

from collections.abc import Callable

from broker.rpc import Call, Handler
from host_agent.control import VmControl
from host_agent.keeper import Keeper
from host_agent.statuses import VmStatuses
from host_agent.vm import VERB_OF, Verb
from schemas.envelope import Done, Message, Reply
from schemas.vms import VmAdopt, VmCommand, VmCreate, VmDelete, VmDiscard, VmList, VmReset, Vms, VmStop

#: Verbs that have a handler of their own: their answer is not always the status of a VM that is known.
_OWN = frozenset({Verb.DELETE, Verb.DISCARD, Verb.ADOPT})


class VmCommands:
    """See the module. ``is_wanted`` says of a name whether the host's settings want a VM of that name to run."""

    def __init__(
        self, control: VmControl, keeper: Keeper, statuses: VmStatuses, is_wanted: Callable[[str], bool]
    ) -> None:
        self._control, self._keeper, self._statuses = control, keeper, statuses
        self._is_wanted = is_wanted

    def handlers(self) -> dict[type[Message], Handler]:
        """Give the table for the responder. Verbs are goals, so they are run again after a crash; a reset is a step."""
        verbs: dict[type[Message], Handler] = {
            kind: Handler(run=self._verb, repeatable=kind is not VmReset)
            for kind, verb in VERB_OF.items()
            if verb not in _OWN
        }
        return {
            **verbs,
            VmCreate: Handler(run=self._create, repeatable=True),
            VmDelete: Handler(run=self._delete, repeatable=True),
            VmDiscard: Handler(run=self._discard, repeatable=True),
            VmAdopt: Handler(run=self._adopt, repeatable=True),
            VmList: Handler(run=self._list),
        }

    async def _verb(self, call: Call, message: VmCommand) -> Reply:
        await call.started()
        self._keeper.forgive(message.vm)
        timeout_s = message.timeout_s if isinstance(message, VmStop) else 60.0
        status = await self._control.act(VERB_OF[type(message)], message.vm, timeout_s=timeout_s, by=call.sender)
        return Vms(call=message.id, vms=[status])

    async def _create(self, call: Call, message: VmCreate) -> Reply:
        await call.started()
        return Vms(call=message.id, vms=[await self._control.create(message)])

    async def _delete(self, call: Call, message: VmDelete) -> Reply:
        await call.started()
        await self._control.delete(message.vm)
        return Done(call=message.id)

    async def _discard(self, call: Call, message: VmDiscard) -> Reply:
        await call.started()
        status = await self._control.discard(message.vm)
        return Vms(call=message.id, vms=[status]) if status is not None else Done(call=message.id)

    async def _adopt(self, call: Call, message: VmAdopt) -> Reply:
        await call.started()
        status = await self._control.adopt(message.vm, autostart=self._is_wanted)
        return Vms(call=message.id, vms=[status])

    async def _list(self, call: Call, message: VmList) -> Reply:
        return Vms(call=message.id, vms=await self._statuses.all())
