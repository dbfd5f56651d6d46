"""Which tests need no service: what `make check` runs, in a minute, at every step."""

from __future__ import annotations

import pytest

#: Folders whose every test talks to a broker, or is a whole system.
WITH_SERVICES = ("tests/broker/", "tests/system/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server: by its folder, or because it runs on PostgreSQL."""
    for item in items:
        if item.nodeid.startswith(WITH_SERVICES) or "postgresql" in getattr(item, "callspec", _None).params.values():
            item.add_marker(pytest.mark.service)


class _None:
    params: dict[str, object] = {}
