"""Which user of the guest a console's command runs as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

from msgspec import Struct

from guest_agent.errors import CannotRun


class ExecUser(Struct, frozen=True, kw_only=True):
    """A user of the guest, as its user database has him."""

    name: str
    uid: int
    gid: int
    home: Path
    shell: str

    @property
    def environment(self) -> dict[str, str]:
        """What a login sets."""
        return {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}

    @property
    def account(self) -> dict[str, Any] | None:
        """What the command's parent is to become before it starts it; None where it is him already."""
        if os.geteuid() != 0:
            return None
        return {"uid": self.uid, "gid": self.gid, "groups": os.getgrouplist(self.name, self.gid)}


def find_user(name: str) -> ExecUser:
    """Give the user of that name or number; the agent's own for an empty one. Raises CannotRun."""
    try:
        entry = pwd.getpwuid(int(name or os.geteuid())) if not name or name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError) as error:
        if not name:
            own = os.environ
            return ExecUser(
                name=str(os.geteuid()),
                uid=os.geteuid(),
                gid=os.getegid(),
                home=Path(own.get("HOME", "/")),
                shell=own.get("SHELL", "/bin/sh"),
            )
        raise CannotRun(f"user = {name!r}: this VM has no such user", hint="make it, or name another") from error
    if entry.pw_uid != os.geteuid() and os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid()).pw_name if _is_known(os.geteuid()) else str(os.geteuid())
        text = f"user = {name!r}: the agent in this VM is not root, it runs commands as {me} alone"
        raise CannotRun(text, hint="leave the user out")
    return ExecUser(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        home=Path(entry.pw_dir),
        shell=entry.pw_shell or "/bin/sh",
    )


def _is_known(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False
