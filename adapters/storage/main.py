"""``storage_adapter``: the command."""

from __future__ import annotations

from adapters.config import StorageAdapterConfig
from adapters.daemon import serve
from adapters.storage.adapter import run


def main() -> None:
    """Run a storage adapter until SIGTERM or SIGINT."""
    serve("storage_adapter", "Keep the inputs and outputs of jobs, and take their ends.", StorageAdapterConfig, run)


if __name__ == "__main__":
    main()
