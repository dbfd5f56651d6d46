"""``key_manager --config FILE``: the command."""

from __future__ import annotations

from broker.daemon.main import serve
from broker.keys.config import KeysConfig
from broker.keys.service import run


def main() -> None:
    """Run until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot go on."""
    serve("key_manager", "Make principals on the broker; enrol VMs.", KeysConfig, run)


if __name__ == "__main__":
    main()
