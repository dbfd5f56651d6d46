"""``DATA VM FILE``: push a file to a VM over and over until killed; says ``moving`` once the first bytes have gone."""

from __future__ import annotations

import sys
from pathlib import Path

from volcloud import Client


def main(data: str, vm: str, file: str) -> None:
    """Push until killed."""
    said = False

    def on_bytes(count: int, size: int) -> None:
        nonlocal said
        if count and not said:
            said = True
            sys.stdout.write("moving\n")
            sys.stdout.flush()

    with Client.connect(data) as client:
        while True:
            client.files.push(Path(file), vm, "pushed.bin", progress=on_bytes)


if __name__ == "__main__":
    main(*sys.argv[1:])
