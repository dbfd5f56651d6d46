"""What the VMs that exist were made with, beside what is asked for: a VM cannot be changed, so neither is ignored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from host_agent.errors import HostError
from host_agent.registry import VmRecord, VmRegistry
from volcloud.centre.plan import Plan
from volcloud.errors import BadInput


class _Marker(msgspec.Struct, frozen=True):
    """Who made a VM; the rest of its record is the driver's."""

    driver: str


def refuse_unlike(plan: Plan) -> None:
    """Raise BadInput, with both values, for VMs that exist and are not what the plan asks for. Changes nothing."""
    made = read_registry(plan.layout.vms)
    drivers = {record.name: _driver_of(plan, record) for record in made}
    others = sorted(name for name, driver in drivers.items() if driver not in ("", plan.hypervisor))
    if others:
        driver = drivers[others[0]]
        raise BadInput(
            f"hypervisor: {_and(others)} {_was(others)} made with {driver}, {plan.hypervisor} is asked for",
            f"`volcloud up --set hypervisor={driver}`, or another directory with --data",
        )
    wanted = {f"worker-{number}" for number in range(1, plan.vms + 1)}
    own = [record for record in made if record.name.startswith("worker-")]
    for key, asked in (("memory_mib", plan.memory_mib), ("cpus", plan.cpus)):
        unlike = [record for record in own if record.name in wanted and getattr(record, key) != asked]
        if unlike:
            names, has = [record.name for record in unlike], getattr(unlike[0], key)
            raise BadInput(
                f"{key}: {_and(names)} {_was(names)} made with {has}, {asked} is asked for",
                f"`volcloud up --set {key}={has}`; to change it `volcloud vm delete {' '.join(names)}` while it is up, "
                f"then `volcloud down` and `volcloud up --set {key}={asked}`",
            )
    spare = [record.name for record in own if record.autostart and record.name not in wanted]
    if spare:
        raise BadInput(
            f"vms: {_and(spare)} {'exists' if len(spare) == 1 else 'exist'} beyond the {plan.vms} asked for",
            f"`volcloud up --set vms={plan.vms + len(spare)}`; to have fewer, `volcloud vm delete {' '.join(spare)}` "
            f"while it is up, then `volcloud down` and `volcloud up --set vms={plan.vms}`",
        )


def read_registry(path: Path) -> list[VmRecord]:
    """Read which VMs a host agent has made; none where it has not run. Raises BadInput for a damaged file."""
    registry = VmRegistry(path)
    try:
        registry.load()
    except HostError as error:
        raise BadInput(str(error), "restore it; or move it away, and `volcloud vm adopt` takes each VM back") from error
    return registry.all()


def _driver_of(plan: Plan, record: VmRecord) -> str:
    """Say which driver made a VM; empty where that was never finished."""
    marker = next((path for path in plan.layout.vm_markers if path.parent.name == record.vm), None)
    try:
        return msgspec.json.decode(marker.read_bytes(), type=_Marker).driver if marker else ""
    except (OSError, msgspec.MsgspecError):
        return ""


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _was(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"
