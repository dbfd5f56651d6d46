"""What the dashboard shows, row by row: each panel with its unit, and with what is normal and what to do if not."""

from __future__ import annotations

from deploy.grafana.grids import GRIDS
from deploy.grafana.panels import Panel, Query, Row, graph, stat
from deploy.grafana.promql import increase, most, quantile, rate, ratio, series

#: Quantiles of each histogram: the middle, nearly all, the worst.
_QUANTILES = (0.5, 0.9, 0.99)


def _times(title: str, metric: str, description: str, where: str = "", width: int = 8) -> Panel:
    lines = (Query(quantile(share, metric, where=where), f"{share * 100:.0f} %") for share in _QUANTILES)
    return graph(title, "s", description, *lines, width=width)


_NOW = Row(
    "Now",
    (
        stat(
            "Jobs submitted",
            "short",
            "Jobs accepted into the ledger in the time shown; each job of an array counts.",
            increase("vc_jobs_submitted_total"),
        ),
        stat(
            "Jobs done",
            "short",
            "Jobs that ended well in the time shown: output stored, ledger committed.",
            increase("vc_jobs_total", 'outcome="done"'),
        ),
        stat(
            "Jobs waiting",
            "short",
            "Jobs that no VM has yet. A growing number means too few VMs, or none that meets the requirements.",
            most("vc_jobs_in_state", where='state="submitted"'),
        ),
        stat(
            "Jobs held",
            "short",
            "Jobs that failed or lost their VM too often. `volcloud job why` tells the cause, `job retry` releases.",
            most("vc_jobs_in_state", where='state="held"'),
            bad_from=1,
        ),
        stat(
            "Attempts running",
            "short",
            "Attempts that hold a lease: assigned and not ended.",
            most("vc_leases_active"),
        ),
        stat(
            "Attempts failed",
            "short",
            "Attempts that the payload itself failed, in the time shown.",
            increase("vc_attempts_total", 'outcome="failed"'),
        ),
        stat(
            "VMs running",
            "short",
            "VMs that their own hosts report as running.",
            most("vc_vms", where='state="running"'),
        ),
        stat(
            "Dead letters",
            "short",
            "Messages moved aside because nobody could take them. `volcloud dead list` shows them with their reasons.",
            'max(rabbitmq_detailed_queue_messages{queue="vc.dead"})',
            bad_from=1,
        ),
    ),
)
_THROUGHPUT = Row(
    "Throughput",
    (
        graph(
            "Jobs ended",
            "ops",
            "Jobs a second that are done, cancelled or held. Held ones wait for a person: release or cancel.",
            Query(rate("vc_jobs_total", "outcome"), "{{outcome}}"),
        ),
        graph(
            "Jobs coming in and going out",
            "ops",
            "Submitted above assigned: the queue grows. Requeued: an attempt failed or was lost.",
            Query(rate("vc_jobs_submitted_total"), "submitted"),
            Query(rate("vc_jobs_assigned_total"), "assigned"),
            Query(rate("vc_jobs_requeued_total"), "requeued"),
            Query(rate("vc_jobs_retried_total"), "released by a person"),
        ),
        graph(
            "Jobs by state",
            "short",
            "Jobs that have not ended. Between assigned and stage-out a VM has them.",
            Query(most("vc_jobs_in_state", "state"), "{{state}}"),
        ),
    ),
)
_TIMES = Row(
    "Wait and run times",
    (
        _times(
            "Wait: submitted to assigned",
            "vc_job_wait_seconds",
            "How long jobs wait for a VM. With free VMs it is milliseconds.",
        ),
        _times(
            "Run: the payload alone",
            "vc_job_step_seconds",
            "How long payloads of done jobs run, by the guest's clock.",
            'step="run"',
        ),
        _times(
            "Turnaround: submitted to done",
            "vc_job_duration_seconds",
            "How long a submitter waits for a job that ends well, all attempts included.",
        ),
        graph(
            "Steps, 90 %",
            "s",
            "Nine of ten done attempts are faster. Long stage-in or stage-out: a slow store or a slow line.",
            Query(quantile(0.9, "vc_job_step_seconds", "step"), "{{step}}"),
            width=12,
        ),
        graph(
            "Oldest waiting job",
            "s",
            "Age of the oldest job that no VM has. If it grows while slots are free, nothing meets its requirements.",
            Query(most("vc_job_oldest_wait_seconds"), "oldest"),
            width=12,
        ),
    ),
)
_QUEUES = Row(
    "Queues",
    (
        graph(
            "Messages ready",
            "short",
            "Messages that wait in each queue of the centre; near 0 while the adapters keep up.",
            Query('sum by (queue) (rabbitmq_detailed_queue_messages_ready{queue!="vc.dead"})', "{{queue}}"),
            width=6,
        ),
        graph(
            "Messages being worked on",
            "short",
            "Messages delivered and not acknowledged. Nothing is held while a job runs: more than a second is a fault.",
            Query("sum by (queue) (rabbitmq_detailed_queue_messages_unacked)", "{{queue}}"),
            width=6,
        ),
        graph(
            "Consumers",
            "short",
            "Readers of each queue of the centre: one from each adapter. 0 means that nobody does that work.",
            Query('sum by (queue) (rabbitmq_detailed_queue_consumers{queue!="vc.dead"})', "{{queue}}"),
            width=6,
        ),
        graph(
            "All queues together",
            "short",
            "Hosts' and VMs' queues included. What waits there is for agents that are away or busy.",
            Query("sum(rabbitmq_queue_messages_ready)", "ready"),
            Query("sum(rabbitmq_queue_messages_unacked)", "being worked on"),
            width=6,
        ),
    ),
)
_LEASES = Row(
    "Leases and failures",
    (
        graph(
            "Leases",
            "short",
            "Attempts that hold a lease, and free job slots that wait for a job.",
            Query(most("vc_leases_active"), "leases"),
            Query(most("vc_job_requests_waiting"), "free slots asking"),
            width=6,
        ),
        graph(
            "Leases renewed",
            "ops",
            "One renewal a beat and attempt. If it drops while leases stay, beats do not arrive.",
            Query(rate("vc_leases_renewed_total"), "renewed"),
            Query(rate("vc_attempts_revived_total"), "revived after their lease"),
            Query(rate("vc_sweeps_failed_total"), "sweeps that broke off"),
            width=6,
        ),
        graph(
            "Attempts ended",
            "ops",
            "failed: the payload's fault. lost: its guest has it no more. expired: its guest fell silent. "
            "returned: taken ahead and given back unbegun. VMs struck: they lost a job, or failed what others finish.",
            Query(rate("vc_attempts_total", "outcome"), "{{outcome}}"),
            Query(rate("vc_vms_struck_total"), "VMs struck"),
            width=6,
        ),
        graph(
            "Share of attempts that went wrong",
            "percentunit",
            "Failed or gone with their VM, of all that ended. Volunteers switch off: some losses are normal.",
            Query(
                ratio("vc_attempts_total", 'outcome="failed"'),
                "failed",
            ),
            Query(
                ratio("vc_attempts_total", 'outcome=~"lost|expired"'),
                "lost or expired",
            ),
            width=6,
        ),
        graph(
            "Submissions",
            "ops",
            "Submissions a second by verdict; an array is one. A refusal names its reasons to its site.",
            Query(rate("vc_submissions_total", "verdict"), "{{verdict}}"),
        ),
        graph(
            "Messages refused",
            "ops",
            "undecodable, not_taken and failed ones are dead letters. Stale and superseded ones are normal after a "
            "loss; a foreign one means that somebody tries what is not theirs.",
            Query(rate("vc_messages_refused_total", "reason"), "{{reason}}"),
        ),
        graph(
            "Requests for work without an assignment",
            "ops",
            "forgotten: the guest is gone. served, on_its_way: said twice. unblocked: the VM runs again.",
            Query(rate("vc_job_requests_total", "fate"), "{{fate}}"),
        ),
    ),
)
_MACHINES = Row(
    "Hosts and VMs",
    (
        graph(
            "Hosts",
            "short",
            "Hosts that the centre knows. late: two beats missed. lost: three. absent: its agent has said goodbye.",
            Query(most("vc_hosts", "state"), "{{state}}"),
        ),
        graph(
            "VMs by state",
            "short",
            "VMs by the state that their host reported last; unknown: the guest spoke before its host did.",
            Query(most("vc_vms", "state"), "{{state}}"),
        ),
        graph(
            "What happens to hosts and VMs",
            "ops",
            "Events, as `volcloud vm events` tells them. left out: a host tells more than its share of them.",
            Query(rate("vc_events_total", "event"), "{{event}}"),
            Query(rate("vc_events_left_out_total"), "left out"),
        ),
        graph(
            "Files",
            "Bps",
            "Whole files taken into the store and given out; small outputs ride in messages and are not counted.",
            Query(rate("vc_transfer_bytes_total", "direction"), "{{direction}}"),
        ),
    ),
)
_BROKER = Row(
    "Broker and adapters",
    (
        graph(
            "Broker link",
            "short",
            "1 while an adapter's link is up.",
            Query(f"min by (adapter) ({series('vc_broker_connected')})", "{{adapter}}"),
            width=6,
        ),
        graph(
            "Reconnects",
            "ops",
            "Links made again. Many at once: the broker was restarted. A steady number: a bad line.",
            Query(rate("vc_broker_reconnects_total", "adapter"), "{{adapter}}"),
            width=6,
        ),
        graph(
            "Outbox",
            "short",
            "Messages committed with the ledger and not yet confirmed by the broker; it empties by itself.",
            Query(most("vc_outbox_messages"), "not confirmed"),
            width=6,
        ),
        graph(
            "Outbox published again",
            "ops",
            "Messages that had no confirm for 10 seconds, and publishes that failed, by reason.",
            Query(rate("vc_outbox_republished_total"), "published again"),
            Query(rate("vc_publish_failed_total", "reason"), "{{reason}}"),
            width=6,
        ),
        _times(
            "Publish to confirm",
            "vc_publish_confirm_seconds",
            "How long the broker takes to confirm a batch from the outbox; it is the disk's time.",
            width=6,
        ),
        graph(
            "Broker memory",
            "bytes",
            "RabbitMQ's memory, and the limit from which it blocks publishers.",
            Query("sum(rabbitmq_process_resident_memory_bytes)", "used"),
            Query("sum(rabbitmq_resident_memory_limit_bytes)", "limit"),
            width=6,
        ),
        graph(
            "Connections",
            "short",
            "Agents, adapters, consoles and sites that are connected.",
            Query("sum(rabbitmq_connections)", "connections"),
            width=6,
        ),
        graph(
            "Broker alarms",
            "short",
            "1 while RabbitMQ blocks publishers for want of memory, disk or file descriptors.",
            Query("max(rabbitmq_alarms_memory_used_watermark)", "memory"),
            Query("max(rabbitmq_alarms_free_disk_space_watermark)", "disk"),
            Query("max(rabbitmq_alarms_file_descriptor_limit)", "file descriptors"),
            width=6,
        ),
        graph(
            "Adapters' memory",
            "bytes",
            "Resident memory of each adapter's process.",
            Query('sum by (instance) (process_resident_memory_bytes{job=~".*-adapter"})', "{{instance}}"),
            width=12,
        ),
        graph(
            "Adapters' processor time",
            "percentunit",
            "Share of one core that each adapter uses; near 1 it can do no more, start another.",
            Query(
                'sum by (instance) (rate(process_cpu_seconds_total{job=~".*-adapter"}[$__rate_interval]))',
                "{{instance}}",
            ),
            width=12,
        ),
    ),
)
_KEPT = Row(
    "What is kept",
    (
        graph(
            "Room for outputs",
            "bytes",
            "The store's disk, and all outputs when they were last gone through. Shorter retention makes room.",
            Query(most("vc_store_size_bytes"), "disk"),
            Query(most("vc_store_free_bytes"), "free"),
            Query(most("vc_stored_outputs_bytes"), "outputs"),
        ),
        graph(
            "Deleted",
            "ops",
            "What went after its time, or by `volcloud job delete`: jobs, outputs, inputs, lost VMs and hosts.",
            Query(rate("vc_deleted_total", "what"), "{{what}}"),
        ),
        graph(
            "Ledger usable",
            "short",
            "0 while an adapter's database is away, full or read-only: messages wait, nothing is lost.",
            Query(f"{series('vc_ledger_usable')}", "{{adapter}}"),
        ),
    ),
)
ROWS = (_NOW, _THROUGHPUT, _TIMES, _QUEUES, _LEASES, _MACHINES, GRIDS, _KEPT, _BROKER)
