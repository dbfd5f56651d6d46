"""``job_adapter``: the command."""

from __future__ import annotations

from adapters.config import JobAdapterConfig
from adapters.errors import AdapterError
from adapters.job.adapter import run
from broker.daemon.main import serve


def main() -> None:
    """Run a job adapter until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot go on."""
    serve(
        "job_adapter", "Take jobs from sites, hand them to VMs, answer for them.", JobAdapterConfig, run, AdapterError
    )


if __name__ == "__main__":
    main()
