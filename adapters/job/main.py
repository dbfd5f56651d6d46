"""``job_adapter``: the command."""

from __future__ import annotations

from adapters.config import JobAdapterConfig
from adapters.daemon import serve
from adapters.job.adapter import run


def main() -> None:
    """Run a job adapter until SIGTERM or SIGINT."""
    serve("job_adapter", "Take jobs from sites, hand them to VMs, answer for them.", JobAdapterConfig, run)


if __name__ == "__main__":
    main()
