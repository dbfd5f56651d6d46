"""What a host asks of the key manager: one-time logins for its VMs, and their end."""

from __future__ import annotations

from broker.errors import BrokerError
from broker.rpc import Uplink
from schemas.enrol import EnrolGrant, EnrolGranted, EnrolRevoke, EnrolVouch

#: How long the key manager may take, seconds.
ANSWER_S = 30.0


class Enrolment:
    """See the module."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    async def grant(self, vm: str, generation: int) -> EnrolGranted:
        """Get the one-time login of a VM's generation. Raises BrokerError."""
        request = EnrolGrant(vm=vm, target="keys", generation=generation)
        answer = await self._uplink.ask("enrol", request, timeout_s=ANSWER_S, as_is=True)
        if not isinstance(answer, EnrolGranted):
            raise BrokerError(f"the key manager answered {type(answer).__name__} to a request for a login")
        return answer

    async def revoke(self, vm: str) -> None:
        """Have a VM's principal and queues deleted. Raises BrokerError until the key manager says that they are."""
        await self._uplink.ask("enrol", EnrolRevoke(vm=vm, target="keys"), timeout_s=ANSWER_S)

    async def vouch(self, word: EnrolVouch) -> None:
        """Say which VMs there are. Raises BrokerError while the broker does not take it."""
        await self._uplink.say("enrol", word)
