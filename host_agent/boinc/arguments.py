"""The words that BOINC's client puts behind our name: those of its ``wrapper``, and what goes on to the tasks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from host_agent.errors import WrongArguments

#: Words of vboxwrapper's with a number.
_OF_VBOX = ("--memory_size_mb", "--vmimage")
_PASS_ON = "--passthrough_child"
USAGE = (
    "host_agent under BOINC takes --nthreads N, --device N, --trickle SECONDS, --use_tstp, "
    f"and {_PASS_ON} before what goes on to tasks with <append_cmdline_args>"
)


class Arguments(Struct, frozen=True, kw_only=True):
    """See the module."""

    nthreads: int = 0
    device: int = -1
    #: Time of computing between two trickles, seconds; 0: none.
    trickle_s: float = 0.0
    #: Hold tasks up by a signal that they may refuse.
    uses_tstp: bool = False
    #: Memory of a virtual machine, MiB; 0: what its job file says.
    memory_mib: int = 0
    #: For tasks that take arguments of ours.
    passed_on: tuple[str, ...] = ()

    def threads(self, ncpus: float) -> int:
        """Say how many threads a task has that the client gives so many CPUs."""
        return self.nthreads or max(1, round(ncpus))


def read_arguments(words: Sequence[str], *, passes_all: bool) -> Arguments:
    """Read them. ``passes_all``: a task takes arguments as it was before 26019, where there is no word for it: then all
    are passed on, and unknown ones are its own. Raises WrongArguments."""
    given, passed_on = _parted(words)
    if passed_on is None and passes_all:
        return _read(given, is_strict=False, passed_on=tuple(words))
    return _read(given, is_strict=True, passed_on=tuple(passed_on or ()))


def _parted(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    if _PASS_ON not in words:
        return list(words), None
    at = list(words).index(_PASS_ON)
    return list(words[:at]), list(words[at + 1 :])


def _read(words: list[str], *, is_strict: bool, passed_on: tuple[str, ...]) -> Arguments:
    found: dict[str, int | float | bool] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("--nthreads", "--device", "--trickle") or (word in _OF_VBOX and not is_strict):
            value = _number(rest[0] if rest else "")
            if value is None and is_strict:
                raise WrongArguments(f"{word} {''.join(rest[:1])[:40]!r}: must be a number from 0 to 1e9; {USAGE}")
            if value is not None:
                found[word] = value
                rest.pop(0)
        elif word in ("--use_tstp", "--sporadic", "--version", "-v"):
            found[word] = True
        elif is_strict:
            raise WrongArguments(f"{word[:80]!r} is not understood; {USAGE}")
    return Arguments(
        nthreads=math.ceil(found.get("--nthreads", 0)),
        device=int(found.get("--device", -1)),
        trickle_s=float(found.get("--trickle", 0.0)),
        uses_tstp="--use_tstp" in found,
        memory_mib=int(found.get("--memory_size_mb", 0)),
        passed_on=passed_on,
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1e9 else None
