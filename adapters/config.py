"""What the adapters are told at their start."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0)]
Mebibytes = Annotated[int, Meta(ge=1, le=1 << 30)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class JobAdapterConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``job_adapter``."""

    #: File with this adapter's broker credential.
    credential: str
    #: SQLAlchemy URL of the ledger.
    ledger: str
    #: Where the content-addressed inputs are; submissions that name one not there are refused.
    store: str
    lease_s: Seconds = 90.0
    #: How often guests beat; three missed and an agent counts as not ready.
    beat_s: Seconds = 15.0
    #: How long a paused or saved VM keeps its jobs.
    pause_limit_s: Seconds = 7 * 86400.0
    #: VMs that one host may have at once, as the key manager's setting of that name; what it reports beyond is ignored.
    vms_of_host: Annotated[int, Meta(ge=1, le=1000)] = 128
    #: Jobs of one site or person that may wait at once, those counted that were cancelled and are not deleted; a
    #: submission that would be beyond that is refused.
    waiting_of_owner: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 2_000_000
    #: How long fetching a job's inputs and storing its outputs may take; a VM that keeps it for longer than that and
    #: its wall time loses it.
    staging_s: Seconds = 6 * 3600.0
    #: How often leases, the outbox and the gauges are looked at.
    sweep_s: Seconds = 5.0
    #: How long jobs are kept, with their outputs, once they are done, failed or cancelled.
    keep_jobs_s: Seconds = 30 * 86400.0
    #: How long jobs are kept that are held, from the end of their last attempt.
    keep_held_s: Seconds = 90 * 86400.0
    #: How long VMs are remembered that do not exist any more.
    keep_vms_s: Seconds = 7 * 86400.0
    #: How long hosts are remembered that were not heard of, with their VMs.
    keep_hosts_s: Seconds = 90 * 86400.0
    #: How long events of VMs and hosts are kept; of one VM the last 100 are, of one host the last 4,000, and 200,000 in
    #: all.
    keep_events_s: Seconds = 30 * 86400.0
    #: How often what is older than that is deleted.
    retain_s: Seconds = 3600.0
    #: 0 = no metrics.
    metrics_port: Port = 0
    metrics_address: str = "127.0.0.1"


class StorageAdapterConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``storage_adapter``."""

    credential: str
    ledger: str
    #: fsspec URL of the store, such as ``file:///srv/volcloud/store``.
    store: str
    #: Local directory for files on their way.
    staging: str
    #: What shares of files on their way are measured by, MiB: half is for one host's VMs, a quarter for one sender.
    #: 0 = half of the disk.
    staging_mib: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    #: What one attempt may store, where its job asks for no ``disk_mib`` that would say so.
    output_mib: Mebibytes = 16 * 1024
    #: What one input may have.
    input_mib: Mebibytes = 64 * 1024
    #: What all outputs may take together, MiB; beyond it the jobs that ended first are deleted. 0 = no limit.
    keep_outputs_mib: Annotated[int, Meta(ge=0)] = 0
    #: How old a file must be that no job needs before it is removed.
    keep_unneeded_s: Seconds = 86400.0
    #: How often the store is gone through for such files.
    collect_s: Seconds = 3600.0
    #: Attempts keep this lease when a completion's request is matched here.
    lease_s: Seconds = 90.0
    #: How often guests beat: one that has missed three is given nothing.
    beat_s: Seconds = 15.0
    #: As the job adapters have it: what is assigned here is kept for as long.
    staging_s: Seconds = 6 * 3600.0
    metrics_port: Port = 0
    metrics_address: str = "127.0.0.1"
