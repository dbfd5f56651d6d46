"""What ``up`` is asked for, and the processes with their configurations that follow from it.

Names and ports are chosen once and remembered, so that the second ``up`` is the same system as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.config import JobAdapterConfig, StorageAdapterConfig
from adapters.sources.config import PACES, SourceAdapterConfig
from broker import durable
from broker.keys.config import KeysConfig
from broker.node import ADMINISTRATION, LOOPBACK
from broker.ports import free_ports
from host_agent.config import HostConfig, Limits, WantedVm
from schemas.ids import Kind, unguessable
from volcloud.centre.layout import Layout
from volcloud.centre.settings import Settings
from volcloud.centre.source_plan import SOURCE_ADAPTER, source_processes, source_table
from volcloud.centre.toml_text import render_toml
from volcloud.data_directory import CONSOLE
from volcloud.errors import BadInput


class Plan(Settings, frozen=True, kw_only=True):
    """What one system shall consist of, and where."""

    data: str

    @property
    def layout(self) -> Layout:
        """The places of its data directory."""
        return Layout(Path(self.data))

    @property
    def ledger_url(self) -> str:
        """Where the ledger is: as it is told, or in the data directory."""
        return self.ledger or f"sqlite:///{self.layout.root / 'ledger.db'}"


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen once for a data directory."""

    host: str
    #: Metrics port by process.
    metrics: dict[str, int] = {}


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """A process to hold up: ``python -m module --config …``."""

    name: str
    module: str
    #: Whether it answers scrapes, on the port that ``Names`` has for it, when it is up.
    has_metrics: bool = False


#: The processes that go first and last; the adapters stand between them.
KEY_MANAGER, HOST_AGENT = "key_manager", "host_agent"
#: The word in the names of an adapter's principal, by its process.
_PRINCIPALS = {"job_adapter": "job", "storage_adapter": "store", SOURCE_ADAPTER: "source"}


def job_adapter_names(plan: Plan) -> list[str]:
    """Name the job adapters' processes."""
    return [f"job_adapter-{number}" for number in range(1, plan.job_adapters + 1)]


def storage_adapter_names(plan: Plan) -> list[str]:
    """Name the storage adapters' processes."""
    return [f"storage_adapter-{number}" for number in range(1, plan.storage_adapters + 1)]


def source_adapter_names(plan: Plan) -> list[str]:
    """Name the source adapters' processes."""
    return list(source_processes(plan.sources))


def adapter_names(plan: Plan) -> list[str]:
    """Name the processes of all adapters."""
    return [*job_adapter_names(plan), *storage_adapter_names(plan), *source_adapter_names(plan)]


def principal_of(process: str, names: Names) -> str:
    """Give the broker user of a process."""
    if process == HOST_AGENT:
        return names.host
    kind, _, which = process.partition("-")
    return f"adapter-{_PRINCIPALS[kind]}-{which}"


def principals(plan: Plan, names: Names) -> list[str]:
    """Name every principal that the key manager shall make."""
    return [*(principal_of(process, names) for process in [*adapter_names(plan), HOST_AGENT]), CONSOLE]


def settle_names(plan: Plan) -> Names:
    """Give what was chosen before, and choose what is new; a port that is taken meanwhile is chosen anew."""
    names = read_names(plan.layout) if _names_path(plan.layout).exists() else Names(host=unguessable(Kind.HOST))
    names = _with_free_ports(names, adapter_names(plan))
    _write_names(plan.layout, names)
    return names


def settle_port(plan: Plan, names: Names, process: str) -> Names:
    """Look at the port of an adapter that is about to start: one that somebody has taken meanwhile is chosen anew.

    Gives the names as they are then, which is what the adapter's configuration and the disk say on return, also where
    an earlier call could write only one of them. Raises OSError, NodeError.
    """
    settled = _with_free_ports(names, [process])
    _write_configuration(plan.layout, process, _adapter(plan, settled, process))
    _write_names(plan.layout, settled)
    return settled


def write_configurations(plan: Plan, names: Names, images: list[str]) -> None:
    """Write the configuration of every process."""
    layout = plan.layout
    configs: dict[str, msgspec.Struct] = {
        **{process: _adapter(plan, names, process) for process in adapter_names(plan)},
        HOST_AGENT: _host_agent(plan, names, images),
        KEY_MANAGER: _key_manager(plan, names),
    }
    for process, config in configs.items():
        _write_configuration(layout, process, config)


def daemons(plan: Plan) -> list[Daemon]:
    """List the processes in the order in which they start; they stop in the other."""
    adapters = [
        *(Daemon(name=n, module="adapters.job.main", has_metrics=True) for n in job_adapter_names(plan)),
        *(Daemon(name=n, module="adapters.storage.main", has_metrics=True) for n in storage_adapter_names(plan)),
        *(Daemon(name=n, module="adapters.sources.main", has_metrics=True) for n in source_adapter_names(plan)),
    ]
    return [
        Daemon(name=KEY_MANAGER, module="broker.keys.main"),
        *adapters,
        Daemon(name=HOST_AGENT, module="host_agent.main"),
    ]


def write_plan(plan: Plan) -> None:
    """Keep what this start is asked for: the next one tells what differs."""
    durable.replace(plan.layout.last, msgspec.json.format(msgspec.json.encode(plan)))


def read_plan(path: Path) -> Plan:
    """Read what a start was asked for. Raises BadInput."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadInput(f"{path}: no plan of a system: {error}", "start it with `volcloud up`") from error


def read_names(layout: Layout) -> Names:
    """Read what was chosen for a data directory. Raises BadInput."""
    path = _names_path(layout)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Names)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadInput(f"{path}: {error}", "restore the file: the host's VMs belong to the name in it") from error


def _with_free_ports(names: Names, processes: Sequence[str]) -> Names:
    ports = free_ports(LOOPBACK, [names.metrics.get(process, 0) for process in processes])
    return msgspec.structs.replace(names, metrics=names.metrics | dict(zip(processes, ports, strict=True)))


def _write_names(layout: Layout, names: Names) -> None:
    _replace_other(_names_path(layout), msgspec.json.format(msgspec.json.encode(names)))


def _write_configuration(layout: Layout, process: str, config: msgspec.Struct) -> None:
    _replace_other(layout.config(process), render_toml(config).encode())


def _replace_other(path: Path, content: bytes) -> None:
    """Write a file that does not say so already: on a full disk what is right stays, and keeps nobody waiting."""
    if not path.exists() or path.read_bytes() != content:
        durable.replace(path, content)


def _names_path(layout: Layout) -> Path:
    return layout.etc / "names.json"


def _store(plan: Plan) -> str:
    return f"file://{plan.layout.root / 'store'}"


def _key_manager(plan: Plan, names: Names) -> KeysConfig:
    return KeysConfig(
        administrator=str(plan.layout.node / ADMINISTRATION),
        directory=str(plan.layout.root),
        principals=principals(plan, names),
    )


def _adapter(plan: Plan, names: Names, process: str) -> JobAdapterConfig | StorageAdapterConfig | SourceAdapterConfig:
    if process in source_adapter_names(plan):
        return _source_adapter(plan, names, process)
    is_job = process in job_adapter_names(plan)
    return _job_adapter(plan, names, process) if is_job else _storage_adapter(plan, names, process)


def _job_adapter(plan: Plan, names: Names, process: str) -> JobAdapterConfig:
    return JobAdapterConfig(
        credential=str(plan.layout.credential(principal_of(process, names))),
        ledger=plan.ledger_url,
        store=_store(plan),
        lease_s=plan.lease_s,
        beat_s=plan.beat_s,
        sweep_s=min(5.0, plan.lease_s / 4),
        keep_jobs_s=plan.keep_days * 86400.0,
        metrics_port=names.metrics[process],
    )


def _storage_adapter(plan: Plan, names: Names, process: str) -> StorageAdapterConfig:
    return StorageAdapterConfig(
        credential=str(plan.layout.credential(principal_of(process, names))),
        ledger=plan.ledger_url,
        store=_store(plan),
        staging=str(plan.layout.root / "staging"),
        keep_outputs_mib=plan.keep_outputs_gib << 10,
        lease_s=plan.lease_s,
        beat_s=plan.beat_s,
        metrics_port=names.metrics[process],
    )


def _source_adapter(plan: Plan, names: Names, process: str) -> SourceAdapterConfig:
    name = source_processes(plan.sources)[process]
    table = source_table(plan.sources[name])
    grid_store, catalogue = table.pop("grid_store", None), table.pop("catalogue", None)
    paces = {key: table.pop(key) for key in PACES if key in table}
    return SourceAdapterConfig(
        credential=str(plan.layout.credential(principal_of(process, names))),
        ledger=plan.ledger_url,
        store=_store(plan),
        staging=str(plan.layout.root / "sources" / name),
        name=name,
        source=table,
        grid_store=grid_store,
        catalogue=catalogue,
        written_in=f"sources.{name}",
        **paces,
        lease_s=plan.lease_s,
        beat_s=plan.beat_s,
        metrics_port=names.metrics[process],
    )


def _host_agent(plan: Plan, names: Names, images: list[str]) -> HostConfig:
    wanted = [
        WantedVm(name=f"worker-{number}", cpus=plan.cpus, memory_mib=plan.memory_mib)
        for number in range(1, plan.vms + 1)
    ]
    return HostConfig(
        credential=str(plan.layout.credential(names.host)),
        directory=str(plan.layout.host),
        # This machine is the system's own, nobody else's work is to be spared.
        hypervisor={"kind": plan.hypervisor, "niceness": 0},
        images=images,
        vms=wanted,
        beat_s=plan.beat_s,
        inputs_mib=plan.host_inputs_mib,
        guest={"beat_s": plan.beat_s} | plan.guest,
        limits=Limits(**plan.limits),
    )
