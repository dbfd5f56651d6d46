"""Feed jobs with the Python client: an array of three with an input file, waited for, its outputs brought home.

Run it beside a system that is up: python examples/feed_client.py [DATA-DIRECTORY]
"""

import sys
import tempfile
from pathlib import Path

from volcloud import Client


def main(data: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch, Client.connect(data) as cloud:
        numbers = Path(scratch, "numbers.txt")
        numbers.write_text("17\n4\n21\n")
        cloud.jobs.submit(
            {
                "id": f"client-{Path(scratch).name}",
                "executable": "/bin/sh",
                "arguments": ["-c", "sed -n {index}p numbers.txt | tee picked.txt"],
                "inputs": [{"name": "numbers.txt", "path": str(numbers)}],
                "outputs": [{"name": "picked.txt"}],
                "array": 3,
            }
        )
        for row in cloud.jobs.wait(f"client-{Path(scratch).name}", timeout_s=120):
            cloud.jobs.fetch(row.job, Path(scratch, row.job))
            print(row.job, row.state, Path(scratch, row.job, "picked.txt").read_text().strip())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
