"""``source_adapter``: the command."""

from __future__ import annotations

from adapters.errors import AdapterError
from adapters.sources.adapter import run
from adapters.sources.config import SourceAdapterConfig
from broker.daemon.main import serve


def main() -> None:
    """Run a source adapter until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot go on."""
    serve(
        "source_adapter",
        "Fetch jobs from one grid, and tell it what becomes of them.",
        SourceAdapterConfig,
        run,
        AdapterError,
    )


if __name__ == "__main__":
    main()
