"""What every run of the tests has: a reaper that outlives it, signals as tests expect them, marks by what is needed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import reaper

#: Folders whose every test talks to a broker, or is a whole system.
WITH_SERVICES = (
    *("tests/broker/", "tests/system/", "tests/long/"),
    *("tests/sources/", "tests/grid_stores/", "tests/catalogues/"),
)

#: Files whose tests start processes or wait by the clock, longer than all others together: not at every step.
SLOW = tuple(
    f"tests/{name}.py"
    for name in (
        *("contract/test_boinc_application", "contract/test_own_centre", "contract/test_local_road"),
        *("contract/test_mains_on_a_full_disk", "contract/test_host_agent_main", "contract/test_foreign_driver"),
        *("contract/test_damaged_vms", "contract/test_ledger_outages", "contract/test_ledger_growth"),
        *("contract/test_ledger_engine", "contract/test_ledger_together", "contract/test_ledger_terms"),
        *("unit/test_responder", "unit/test_watched_transfers", "unit/test_container", "unit/test_reaper"),
        *("unit/test_patience", "unit/test_receiving_disk", "unit/test_attempt", "unit/test_waiting_for_room"),
        *("contract/test_ledger_repute", "contract/test_ledger_events", "contract/test_ledger_portions"),
        *("contract/test_ledger_rechecks", "unit/test_transfer_core", "unit/test_seed_source", "unit/test_keys"),
        *("unit/test_slow_centre", "unit/test_settling", "unit/test_full_guest", "unit/test_centre_inputs"),
    )
)


# On a busy machine an example takes as long as it takes; a test that hangs is ended by its own time limit.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Let the run happen under a reaper; inside it, put right what the run may have inherited."""
    if reaper.TREE in os.environ:
        _hear_signals()
        return None
    if config.option.collectonly or config.option.help or config.option.version:
        return None
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    return reaper.hand_over(list(config.invocation_params.args))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put pytest's own directories straight into the tree: what binds a socket in one has 108 bytes for its path."""
    tree = os.environ.get(reaper.TREE)
    if tree and not config.option.basetemp:
        config.option.basetemp = f"{tree}/t"


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Have each test begin with the usual umask: what makes a system in this process makes it the process's own."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, by its folder or because it runs on PostgreSQL, and what is slow. Files whose tests
    take long come first, so that no worker has a long one left when the other has nothing."""
    slow: dict[Path, int] = {}
    for item in items:
        if item.nodeid.startswith(WITH_SERVICES) or "postgresql" in getattr(item, "callspec", _None).params.values():
            item.add_marker(pytest.mark.service)
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        weight = 4 * (item.get_closest_marker("qemu") is not None) + 2 * (
            item.get_closest_marker("service") is not None
        )
        weight += item.nodeid.startswith("tests/contract/")
        slow[item.path] = max(slow.get(item.path, 0), weight)
    items.sort(key=lambda item: -slow[item.path])


class _None:
    params: dict[str, object] = {}


def _hear_signals() -> None:
    """Undo what ``nohup`` and CI runners do: a child of a process that ignores SIGINT ignores it too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
