"""The program in the guest: makes the calls of one chunk, and writes what came of them. It has nothing but Python, the
archive that it is in, and what was sent along.

The file of calls is a line of JSON that says how long the chunks are that follow; what all of them call, if that is one
thing, is a file of its own. The result is JSON, and where there is none, the job has failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from volcloud.errors import CannotTravel
from volcloud.executor.values import write, write_error

#: In the job's directory: the chunks, what all call, and what came of it.
CALLS, SHARED, RESULT = "calls", "shared", "result"


def main(index: int) -> None:
    """Make the calls of the ``index``-th chunk, from 1."""
    sys.setrecursionlimit(10_000)
    with Path(CALLS).open("rb") as calls:
        head = json.loads(calls.readline())
        calls.seek(sum(head["chunks"][: index - 1]), 1)
        pickled = calls.read(head["chunks"][index - 1])
    try:
        shared = _load(Path(SHARED).read_bytes()) if head["shared"] else None
        chunk = _load(pickled)
    except BaseException as error:  # noqa: BLE001  what was sent needs what is not here: that is the person's to know
        return _write({"raised": write_error(error), "traceback": _traceback(error)})
    calls_of = [(shared if head["shared"] else one, args, named) for one, args, named in chunk]
    return _write({"calls": [_made(*call, trusted=head["trusted"]) for call in calls_of]})


def _load(pickled: bytes) -> Any:
    """Read what the person has sent: it is to be run, so it may be."""
    import pickle

    return pickle.loads(pickled)


def _made(function: Any, args: Any, named: Any, *, trusted: bool) -> dict[str, Any]:
    try:
        value = function(*args, **named)
    except BaseException as error:  # noqa: BLE001  whatever it raises is what came of it
        return {"raised": write_error(error), "traceback": _traceback(error)}
    try:
        return {"value": write(value)} if not trusted else {"pickled": _pickled(value)}
    except CannotTravel as error:
        return {"kept": f"{error} cannot travel home"}
    except Exception as error:  # noqa: BLE001  pickling runs code of the value's own
        return {"kept": f"it cannot travel home: {type(error).__name__}: {error}"}


def _pickled(value: Any) -> str:
    import base64

    import cloudpickle

    return base64.b64encode(cloudpickle.dumps(value)).decode()


def _traceback(error: BaseException) -> str:
    """Tell where it was raised, from the call on."""
    first = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(type(error), error, first))


def _write(result: dict[str, Any]) -> None:
    """Have the result whole or not at all."""
    scratch = Path(f"{RESULT}.tmp")
    scratch.write_text(json.dumps(result))
    scratch.replace(RESULT)
