"""The key manager's part of a system: its configuration, with every principal that there shall be."""

from __future__ import annotations

from broker.address import write_private
from broker.keys.config import KeysConfig
from console.centre.plan import KEY_MANAGER, Names, Plan, principals
from console.centre.toml_text import render_toml


def write_key_manager(plan: Plan, names: Names) -> None:
    """Write the key manager's configuration."""
    config = KeysConfig(
        administrator=str(plan.layout.node / "node.json"),
        directory=str(plan.layout.root),
        principals=principals(plan, names),
    )
    write_private(plan.layout.config(KEY_MANAGER), render_toml(config).encode())
