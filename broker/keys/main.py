"""``key_manager --config FILE``: bring the broker's topology and principals about, then serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from broker.address import read_address
from broker.backoff import backoff
from broker.config import read_config, show_config
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.daemon.exit import judged
from broker.errors import ManagementError
from broker.garbage import collect_rarely
from broker.keys.config import KeysConfig, read_administrator
from broker.keys.realm import BrokerRealm
from broker.keys.registrar import Quotas, Registrar
from broker.keys.service import Service
from broker.keys.store import Store
from broker.logs import log_to_stderr

log = logging.getLogger(__name__)


def main() -> None:
    """Run until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot go on."""
    parser = argparse.ArgumentParser(prog="key_manager", description="Make principals on the broker; enrol VMs.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    options = parser.parse_args()
    collect_rarely()
    log_to_stderr("key_manager")
    with judged("key_manager"):
        config = read_config(options.config, KeysConfig)
        log.info("starting", extra=show_config(config))
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_until_signal(config))
        log.info("stopped")


async def serve(config: KeysConfig) -> None:
    """Ensure vhost, topology and principals, write their credentials, then answer until cancelled.

    Waits for a broker that is not there yet. Raises ConfigError, or BrokerError for a broker that cannot be used.
    """
    directory, administration = Path(config.directory), read_administrator(config)
    realm = BrokerRealm(administration, config.profile)
    store = Store(directory / "keys.sqlite")
    credentials = directory / "credentials"
    broker = administration.login("", "")
    registrar = Registrar(realm, store, credentials, broker, Quotas(vms_of_host=config.vms_of_host))
    try:
        await _prepare(realm, registrar, config)
        address = read_address(credentials / "keys.json")
        async with Connection(address, name="keys", wait_most_s=CENTRE_WAIT_MOST_S) as connection:
            log.info("serving", extra={"principals": len(config.principals)})
            await Service(connection, registrar, realm, lifetime_s=config.once_lifetime_s, sweep_s=config.sweep_s).run()
    finally:
        store.close()


async def _prepare(realm: BrokerRealm, registrar: Registrar, config: KeysConfig) -> None:
    """Only a broker that does not answer at all is waited for."""

    def work() -> None:
        realm.prepare()
        registrar.ensure(["keys", *config.principals])

    for wait_s in backoff(0.2, 5.0):
        try:
            return await asyncio.to_thread(work)
        except ManagementError as error:
            if error.status:
                raise
            log.warning("broker away, waiting", extra={"why": str(error)})
            await asyncio.sleep(wait_s)
    return None


async def _until_signal(config: KeysConfig) -> None:
    task = asyncio.ensure_future(serve(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await task


if __name__ == "__main__":
    main()
