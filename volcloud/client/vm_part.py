"""What every part of ``AsyncVms`` builds on: ``AsyncVms`` is all of its parts, and has what they leave to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from schemas.ledger import RegistryRow
from schemas.vms import VmCommand, VmStatus
from volcloud.client.session import ClientSession


class AsyncVmPart(ABC):
    """See the module. A method that names one ``vm`` takes its name or its id, and raises NoSuchVm."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    @abstractmethod
    async def get(self, vm: str) -> RegistryRow:
        """Give the one VM of that name or id. Raises NoSuchVm when there is none, or several."""

    @abstractmethod
    async def command(self, row: RegistryRow, verb: type[VmCommand], /, **more: Any) -> VmStatus | None:
        """Give one verb to the host of one VM of the registry, with ``more`` of the command's fields; give the status
        after it, None once it is gone. Raises BadInput."""
