"""What a person types at the beginning of a line to speak to us and not to the VM: ssh's ``~.`` and ``~~``. Pure."""

from __future__ import annotations

from msgspec import Struct

_MARK, _LEAVE, _HELP = b"~", b".", b"?"


class Typed(Struct, frozen=True):
    """What of the typed goes to the VM, and what is meant for us."""

    data: bytes
    leaves: bool = False
    asks: bool = False


class Escape:
    """See the module. Follows what is typed, piece by piece."""

    def __init__(self) -> None:
        self._is_line_start, self._is_marked = True, False

    def take(self, data: bytes) -> Typed:
        """Say what goes on. What is typed behind ``~.`` goes nowhere."""
        passed, asks = bytearray(), False
        for byte in (data[at : at + 1] for at in range(len(data))):
            if self._is_marked:
                self._is_marked = False
                if byte == _LEAVE:
                    return Typed(bytes(passed), leaves=True, asks=asks)
                if byte == _HELP:
                    asks = True
                    continue
                passed += byte if byte == _MARK else _MARK + byte
            elif self._is_line_start and byte == _MARK:
                self._is_marked = True
                continue
            else:
                passed += byte
            self._is_line_start = byte in (b"\r", b"\n")
        return Typed(bytes(passed), asks=asks)
