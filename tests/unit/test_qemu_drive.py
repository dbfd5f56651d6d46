"""The drive in which a guest finds inputs: its tray is the guest's too, and may be closed in between."""

from __future__ import annotations

import pytest

from host_agent.errors import HypervisorError
from host_agent.hypervisors.qemu.inputs import _TRIES, _at_open_tray


class Drive:
    """A monitor, and a guest that closes the tray so often as soon as it is open."""

    def __init__(self, closes: int) -> None:
        self._closes, self.is_open, self.holds = closes, False, ""

    async def execute(self, command: str, arguments: dict[str, object]) -> None:
        """Do as QEMU does."""
        if command == "blockdev-open-tray":
            self.is_open, self._closes = self._closes <= 0, self._closes - 1
        elif command == "blockdev-close-tray":
            self.is_open = False
        elif not self.is_open:
            raise HypervisorError(f"QEMU refuses {command}: Tray of the device is not open")
        else:
            self.holds = str(arguments.get("node-name", ""))


async def test_a_tray_that_a_booting_guest_closes_is_opened_again() -> None:
    drive = Drive(closes=_TRIES - 1)

    await _at_open_tray(drive, "blockdev-insert-medium", {"node-name": "input"})  # type: ignore[arg-type]

    assert (drive.holds, drive.is_open) == ("input", False)


async def test_one_that_it_closes_for_ever_is_told() -> None:
    drive = Drive(closes=_TRIES)

    with pytest.raises(HypervisorError, match="Tray of the device is not open"):
        await _at_open_tray(drive, "blockdev-insert-medium", {"node-name": "input"})  # type: ignore[arg-type]
    assert drive.holds == ""
