"""How the driver ``process`` is set."""

from __future__ import annotations

from host_agent.hypervisors.drivers import DriverSettings, Niceness


class ProcessSettings(DriverSettings, frozen=True, kw_only=True, tag="process"):
    """Guest agents as processes of this user: nothing is isolated."""

    #: What is run as a guest agent, such as a sandbox around one; it is given `--seed`, `--state-dir` and
    #: `--whereabouts`. Empty: our own.
    command: list[str] = []
    #: How far guests give way to what else runs on this host, 0 to 19; above 0 they also have the disk only when idle.
    niceness: Niceness = 10
