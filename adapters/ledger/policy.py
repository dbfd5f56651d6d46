"""The ledger's rules in numbers: leases, limits, waits."""

from __future__ import annotations

from msgspec import Struct


class Policy(Struct, frozen=True, kw_only=True):
    """The ledger's rules that an operator may set."""

    #: How long an assignment lives without a beat.
    lease_s: float = 90.0
    #: How often guests beat; three missed ones and the agent counts as not ready.
    beat_s: float = 15.0
    #: How long a paused or saved VM keeps its jobs.
    pause_limit_s: float = 7 * 86400.0
    #: Losses of its VM until a job is held, if they were on at least ``loss_hosts`` hosts; and on whatever hosts.
    loss_limit: int = 5
    loss_hosts: int = 2
    loss_limit_anywhere: int = 10
    #: A request that has not been repeated for this long is forgotten; guests repeat theirs every 5 minutes.
    request_life_s: float = 900.0
    #: Bounds of the wait before a job that went wrong is tried again: the first time, and at most.
    first_retry_s: float = 1.0
    longest_retry_s: float = 600.0
    #: How long such a job is kept from the VM on which it went wrong, while others may take it.
    avoid_s: float = 60.0
    #: The same after it was given back unbegun.
    avoid_return_s: float = 10.0
    #: How long a guest may keep a job that it has not begun.
    begin_s: float = 300.0
    #: How long fetching a job's inputs and storing its outputs may take, together; then its guest may not keep it.
    staging_s: float = 6 * 3600.0
    #: How long a job that needs more than a slot's share waits before a VM is kept free for it.
    patience_s: float = 60.0
    #: VMs that one host may have at once.
    vms_of_host: int = 128
    #: Jobs of one owner that may wait at once.
    waiting_of_owner: int = 2_000_000

    @property
    def lease_ms(self) -> int:
        """The lease in the ledger's unit."""
        return int(self.lease_s * 1000)

    @property
    def silence_ms(self) -> int:
        """After how long without a beat an agent counts as silent: three of them."""
        return int(3000 * self.beat_s)

    @property
    def pause_limit_ms(self) -> int:
        """The pause limit in the ledger's unit."""
        return int(self.pause_limit_s * 1000)
