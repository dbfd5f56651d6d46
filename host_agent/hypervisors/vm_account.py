"""As whom a VM's programs run, where that is somebody else than the agent."""

from __future__ import annotations

from typing import Any, NamedTuple


class VmAccount(NamedTuple):
    """A user and his group, which have one number, and groups that he is in besides. Nobody of that name need exist."""

    uid: int
    groups: tuple[int, ...] = ()


def of_process(account: VmAccount | None) -> dict[str, Any]:
    """Give what ``subprocess`` is told to start a program so; None: as whoever starts it."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.uid, "extra_groups": list(account.groups)}
