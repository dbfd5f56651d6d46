"""Which system a person means: the data directory, and the console's credential in it.

Looked for in this order: what the caller names, ``VOLCLOUD_DATA``, the user's data directory. Nothing is made here.
"""

from __future__ import annotations

import os
from pathlib import Path

from broker.address import Address, read_address
from volcloud.errors import Unreachable

#: Names the data directory where no option does.
VARIABLE = "VOLCLOUD_DATA"
#: The principal of the person who runs ``volcloud up``.
CONSOLE = "console-operator"
_NEXT = "start a system with `volcloud up --data DIR`, or name a running one with --data or VOLCLOUD_DATA"


def data_directory(named: Path | str | None = None) -> Path:
    """Give the data directory, absolute; it need not exist."""
    chosen = named or os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser().absolute() / "volcloud"


def credential_path(directory: Path, principal: str = CONSOLE) -> Path:
    """Name the file of a principal's credential; the key manager writes it."""
    return directory / "credentials" / f"{principal}.json"


def console_address(named: Path | str | None = None) -> Address:
    """Read where the broker is and as whom the console goes there. Raises Unreachable."""
    directory = data_directory(named)
    path = credential_path(directory)
    try:
        return read_address(path)
    except FileNotFoundError as error:
        what = f"no credential {path}" if directory.is_dir() else f"no data directory {directory}"
        raise Unreachable(f"{what}: no system was started there", _NEXT) from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"the console's credential cannot be read: {error}", _NEXT) from error
