"""``storage_adapter``: the command."""

from __future__ import annotations

from adapters.config import StorageAdapterConfig
from adapters.errors import AdapterError
from adapters.storage.adapter import run
from broker.daemon.main import serve


def main() -> None:
    """Run a storage adapter until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot go on."""
    serve(
        "storage_adapter",
        "Keep the inputs and outputs of jobs, and take their ends.",
        StorageAdapterConfig,
        run,
        AdapterError,
    )


if __name__ == "__main__":
    main()
