"""The archive that makes the calls in a guest: our program, cloudpickle, and what checks that Python is ours."""

from __future__ import annotations

import inspect
import io
import zipfile
from pathlib import Path

import cloudpickle

from volcloud import errors
from volcloud.executor import payload, scalars, values

ARCHIVE = "call.pyz"
#: Begins in whatever Python there is, so it has nothing that an old one does not know. Bytes of code that one version
#: has written the next may not read, and crash.
_MAIN = """\
import json, os, sys

for name in sorted(os.listdir(".")):
    if name.endswith((".whl", ".zip")):
        sys.path.insert(1, os.path.abspath(name))
sys.path.append(os.getcwd())
with open("calls", "rb") as calls:
    wanted = json.loads(calls.readline().decode())["python"]
if list(sys.version_info[:2]) != wanted[:2]:
    with open("result", "w") as result:
        json.dump({"python": list(sys.version_info[:3])}, result)
    sys.exit(0)
from volcloud.executor.payload import main

main(int(sys.argv[1]))
"""
#: No date of today is in it: the same archive has the same digest, and a host keeps it.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_archive() -> bytes:
    """Give the archive's bytes: the same each time."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _files().items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _files() -> dict[str, str]:
    theirs = Path(cloudpickle.__file__).parent
    files = {"__main__.py": _MAIN, "volcloud/__init__.py": "", "volcloud/executor/__init__.py": ""}
    files |= {f"cloudpickle/{path.name}": path.read_text() for path in sorted(theirs.glob("*.py"))}
    for module in (errors, payload, scalars, values):
        files[f"{module.__name__.replace('.', '/')}.py"] = inspect.getsource(module)
    return files
