"""What the figures were measured on: processor, system, versions, and how long a write takes to be durable."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

_SYNCS = 100
_LIBRARIES = ("pika", "kombu", "celery", "msgspec", "SQLAlchemy")


def describe(directory: Path, rabbitmq: str) -> list[str]:
    """Say it in a few lines; ``directory`` is where the benchmarks write."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return [
        f"machine   {_processor()}, {os.cpu_count()} cores, Linux {platform.release()}",
        f"versions  Python {platform.python_version()}, RabbitMQ {rabbitmq}, {libraries}",
        f"fsync     {sync_ms(directory):.2f} ms (median of {_SYNCS} fdatasync of 512 bytes)",
    ]


def sync_ms(directory: Path) -> float:
    """Measure the median time of a small durable write, ms."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for number in range(_SYNCS):
            os.pwrite(file.fileno(), b"x" * 512, number * 512)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1000


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
