"""One example of every message: the golden corpus is made of them, and the documents show them.

An example that changes is a change of the wire: the files of released versions stay as they are and must still decode.
"""

from __future__ import annotations

from typing import Any

from schemas import description, events, execs, files, inputs, jobs, ledger, looks, vms
from schemas.codec import MESSAGES, encode
from schemas.envelope import Message, Ping
from schemas.errors import ErrorCode
from schemas.grids import SourceRow
from schemas.ledger import JobState
from schemas.owners import OwnerRow

_ID = "01936f5e-7b2a-7c3d-8e4f-5a6b7c8d9e0f"
_OTHER = "01936f5e-7b2b-7c3d-8e4f-5a6b7c8d9e0f"
_JOB = "site-lyon/zdecays.3"
_SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_GUEST = vms.GuestFacts(
    is_connected=True, cpus=1, load=0.5, memory_mib=700, memory_free_mib=400, holding=1, jobs=[_JOB]
)
_VM = vms.VmStatus(
    vm="vm-5f0c1d2e3a4b5c6d7e8f", name="vm1", state=vms.VmState.RUNNING, generation=3, hypervisor="qemu", cpus=1,
    memory_mib=768, disk_mib=4096, image=_SHA, pid=4711, accelerator="tcg", cpu_seconds=12.5,
    resident_bytes=268435456, autostart=True,
)  # fmt: skip
_HOST = vms.HostFacts(
    hostname="pc17", platform="linux-x86_64", cpus=2, memory_mib=16384, free_disk_mib=65536, hypervisor="qemu",
    accelerator="kvm", agent_version="0.1.0", images=[_SHA], ports=["snapshots", "statistics"], network="relay",
    hypervisor_version="QEMU emulator version 7.2.22", kernel="6.1.0-28-amd64", load=0.7, memory_free_mib=9000,
    disk_mib=131072, taken=vms.HostTaken(running=1, cpus=1, memory_mib=768, resident_mib=256, disk_mib=4096),
)  # fmt: skip
_MACHINE = jobs.Machine(
    cpus=1, memory_mib=740, disk_mib=3840, platform="linux-x86_64", image=_SHA, features=["python3"],
    boot_id="f2a1b0c9-0d3e-4f5a-8b7c-6d5e4f3a2b1c", agent_version="0.1.0", python="3.11.2",
)  # fmt: skip
_USAGE = jobs.Usage(cpu_seconds=4.2, wall_seconds=4.9, peak_rss_bytes=104857600)
_STEPS = jobs.Steps(wait_s=0.01, stage_in_s=0.4, run_s=4.9, stage_out_s=0.02)
_OUTPUT = jobs.OutputEntry(name="result.json", size=2, sha256=_SHA, content=b"{}")
_ENTRY = jobs.OutputEntry(name="result.json", size=2, sha256=_SHA)
_DESCRIPTION = description.JobDescription(
    id="zdecays", executable="python3", arguments=["generate.py", "--seed", "{index}"], environment={"LANG": "C"},
    inputs=[description.Input(name="generate.py", sha256=_SHA, size=5120)],
    outputs=[description.Output(name="result.json")],
    requirements=description.Requirements(cpus=1, memory_mib=512, platform="linux-x86_64"),
    priority=5, wall_time_s=3600.0, attempts=3, array=4, labels={"campaign": "lep"},
)  # fmt: skip
_REQUEST = jobs.JobRequest(id=_OTHER, slot=0, machine=_MACHINE, generation=3)
_HELD = jobs.AttemptRef(job=_JOB, attempt=2)
_ROW = ledger.JobRow(
    number=17, job=_JOB, state=ledger.JobState.HELD, attempt=2, failures=1, submitted_ms=1764000000000,
    reason="payload ended with 3",
)  # fmt: skip
_ATTEMPT = ledger.AttemptRow(
    attempt=2, state="failed", vm=_VM.vm, vm_name="vm1", host="host-a1", vm_generation=3, assigned_ms=1764000001000,
    started_ms=1764000002000, ended_ms=1764000007000, exit_status=3, cause="payload ended with 3", usage=_USAGE,
    steps=_STEPS, outputs=[_OUTPUT], boot_id=_MACHINE.boot_id, hypervisor="qemu", hypervisor_pid=4711,
)  # fmt: skip
_EVENT = ledger.JobEvent(at_ms=1764000007000, attempt=2, event="held", noticed_by=_VM.vm, detail="exit 3")

_HOST_ROW = ledger.HostRow(host="host-a1", facts=_HOST, seen_ms=1764000000000, present=True, vms=1)
_VM_ROW = ledger.RegistryRow(host="host-a1", status=_VM, seen_ms=1764000000000, agent_ready=True)
_HAPPENED = events.Event(
    number=4712, at_ms=1764000000000, event="state", host="host-a1", vm=_VM.vm, name="vm1", generation=3, was="running",
    state="paused", verb="pause", by="console-ada",
)  # fmt: skip

#: Fields beyond ``id`` of the example of each message.
_FIELDS: dict[str, dict[str, Any]] = {
    "job.withdraw": {"generation": 3, "slots": [2, 4]},
    "agent.refused": {"sha256": _SHA, "sender": "console-ada", "reason": "unknown_op: it does not take vm.list"},
    "reply.failed": {
        "code": ErrorCode.ILLEGAL_STATE,
        "message": "vm1 is saved: pause is allowed from running",
        "hint": "start it first",
    },
    "reply.time": {"server_time_ms": 1764000000000},
    "command.state": {"command": _OTHER},
    "message.signed": {
        "body": encode(Ping(id=_ID)), "signer": "centre-2026", "algorithm": "ed25519", "seal": bytes(64),
    },
    "vm.create": {"name": "vm1", "memory_mib": 768, "autostart": True, "reply": "k3j4h5"},
    "vm.stop": {"timeout_s": 30.0},
    "reply.vms": {"vms": [_VM]},
    "vm.take_snapshot": {"snapshot": "before-upgrade", "reply": "k3j4h5"},
    "vm.restore_snapshot": {"snapshot": "before-upgrade", "reply": "k3j4h5"},
    "vm.delete_snapshot": {"snapshot": "before-upgrade", "reply": "k3j4h5"},
    "reply.snapshots": {
        "snapshots": [
            vms.VmSnapshot(
                name="before-upgrade", taken_ms=1764000000000, state=vms.VmState.RUNNING, size_bytes=177209344
            )
        ]
    },
    "reply.vm_stats": {
        "state": vms.VmState.RUNNING,
        "counters": looks.VmCounters(
            life="4711-1842337", for_s=60.2, since_ms=1764000000000, cpu_seconds=12.5, resident_bytes=268435456,
            disk_bytes=34603008, block_read_bytes=26879488, block_write_bytes=34643968, block_read_requests=787,
            block_write_requests=47, net_rx_bytes=10240, net_tx_bytes=4096,
        ),
    },
    "screen.part": {"number": 0, "data": b"\x89PNG\r\n\x1a\n"},
    "reply.screen": {"parts": 1, "size": 2410, "sha256": _SHA},
    "vm.log": {"boot": "c0ffee0123456789", "at": 98},
    "reply.vm_log": {
        "boot": "c0ffee0123456789", "next_at": 122,
        "pieces": [looks.LogPiece(at=98, data=b"guest agent has started\n")],
    },
    "host.inventory": {
        "host": _HOST, "vms": [_VM], "at_ms": 1764000000000,
        "gone": [vms.VmGone(vm="vm-a1-0a1b2c3d4e", by="console-ada")],
    },
    "host.bye": {"reason": "agent stops"},
    "guest.report": {"guest": _GUEST},
    "exec.run": {"command": ["uname", "-a"], "reply": "k3j4h5", "generation": 3, "deadline_ms": 1764000060000},
    "exec.output": {"number": 0, "stream": execs.Stream.STDOUT, "data": b"Linux\n"},
    "exec.window": {"limit_bytes": 524288},
    "exec.signal": {"signal": 2},
    "exec.input": {"number": 0, "data": b"b\na\n", "is_last": True},
    "exec.input_window": {"limit_bytes": 262144},
    "exec.resize": {"rows": 50, "columns": 132},
    "exec.detach": {"command": ["make", "-j2"], "directory": "/srv/build", "user": "builder", "timeout_s": 86400.0},
    "exec.attach": {"exec_id": _OTHER},
    "exec.kill": {"exec_id": _OTHER, "signal": 15},
    "reply.execs": {"commands": [execs.ExecRow(
        id=_OTHER, principal="console-alice", since_ms=1764000000000, state=execs.ExecState.ENDED, exit_status=0,
        command=["make", "-j2"],
    )]},
    "reply.exec": {
        "exit_status": 0, "output_messages": 1, "cpu_seconds": 0.01, "system_seconds": 0.004, "wall_seconds": 0.02,
        "peak_rss_bytes": 10485760,
    },
    "file.offer": {"file": files.InputFile(sha256=_SHA), "size": 4, "sha256": _SHA},
    "file.get": {"file": files.OutputFile(job=_JOB, attempt=2, name="result.json"), "vm": ""},
    "file.window": {"transfer": _OTHER, "epoch": 1764000000000, "offset": 0, "limit": 4},
    "file.chunk": {"transfer": _OTHER, "epoch": 1764000000000, "offset": 0, "crc32": 3632233996, "data": b"test"},
    "file.done": {"transfer": _OTHER},
    "file.wait": {"transfer": _OTHER},
    "file.abort": {"transfer": _OTHER, "code": ErrorCode.STORE, "message": "no space left on device"},
    "input.want": {"sha256": _SHA},
    "input.right": {"sha256": _SHA},
    "input.wait": {"want": _OTHER, "received": 4},
    "input.ready": {
        "want": _OTHER, "medium": inputs.Medium.DISK, "name": "vc-inputs", "size": 4, "crc32": 3632233996,
        "tail": b"test",
    },
    "input.taken": {"want": _OTHER, "outcome": inputs.InputOutcome.READ},
    "input.refused": {"want": _OTHER, "code": ErrorCode.STORE, "message": "no space left on device"},
    "enrol.vouch": {"vms": [_VM.vm], "aside": ["vm-01981b2c7d8e7f00"]},
    "reply.enrol_granted": {"vm": _VM.vm, "user": "once-0a1b2c3d", "password": "secret"},
    "reply.credential": {"user": _VM.vm, "password": "secret"},
    "keys.mint": {"site": "lyon"},
    "keys.delete": {"principal": "site-lyon"},
    "reply.keys": {"sites": ["site-lyon", "site-oslo"]},
    "owner.list": {"named": ["site-lyon", "site-oslo"]},
    "owner.set": {"owner": "site-lyon", "share": 3},
    "reply.sources": {"sources": [SourceRow(source="lyon", kind="dirac", seen_ms=1764000000000, trouble="beat: 503")]},
    "source.retry": {"source": "lyon"},
    "source.delete": {"source": "lyon", "give_up": True},
    "reply.owners": {"owners": [
        OwnerRow(owner="site-lyon", share=3, most_waiting=2_000_000, used_s=61.5, jobs={JobState.RUNNING: 7}),
    ]},
    "principal.cut": {"principal": "site-lyon", "reason": "too many messages that nobody can take"},
    "job.assign": {
        "job": _JOB, "attempt": 2, "slot": 0, "executable": "python3", "arguments": ["generate.py", "--seed", "3"],
        "environment": {"VOLCLOUD_ARRAY_INDEX": "3"}, "inputs": _DESCRIPTION.inputs, "outputs": _DESCRIPTION.outputs,
        "wall_time_s": 3600.0, "cpus": 1, "memory_mib": 512, "disk_mib": 2048, "generation": 3,
    },
    "job.stop": {"job": _JOB, "attempt": 2, "reason": "cancelled by console-operator"},
    "job.beat": {
        "holding": [jobs.Holding(job=_JOB, attempt=2, phase=jobs.Phase.RUNNING, usage=_USAGE)],
        "load": 0.9, "generation": 3,
    },
    "job.beat_answer": {"server_time_ms": 1764000000000, "stop": [_HELD]},
    "job.completion": {
        "job": _JOB, "attempt": 2, "outcome": jobs.Outcome.DONE, "exit_status": 0, "usage": _USAGE, "steps": _STEPS,
        "outputs": [_OUTPUT], "boot_id": _MACHINE.boot_id, "generation": 3, "request": _REQUEST,
    },
    "job.completion_answer": {"job": _JOB, "attempt": 2, "counted": True},
    "job.request": {"slot": 0, "machine": _MACHINE, "holding": [_HELD], "generation": 3},
    "agent.hello": {"machine": _MACHINE, "holding": [_HELD], "generation": 3},
    "job.submit": {"job": _DESCRIPTION},
    "job.verdict": {"accepted": True, "job": "site-lyon/zdecays", "count": 4},
    "job.list": {"job": "zdecays", "states": [ledger.JobState.HELD], "limit": 50},
    "reply.jobs": {"jobs": [_ROW], "counts": {"held": 1, "done": 3}},
    "job.show": {"job": _JOB},
    "reply.job": {
        "job": _ROW, "description": _DESCRIPTION, "attempts": [_ATTEMPT], "events": [_EVENT],
        "cause": "exit status 7", "next_step": "mend the payload, then `volcloud job retry zdecays.3`",
    },
    "job.cancel": {"job": "zdecays"},
    "job.retry": {"job": "zdecays.3"},
    "job.delete": {"job": "zdecays"},
    "reply.jobs_changed": {"changed": 2, "pending": 1},
    "job.ended": {
        "job": _JOB, "state": ledger.JobState.DONE, "attempt": 2, "exit_status": 0, "submitted_ms": 1764000000000,
        "started_ms": 1764000002000, "ended_ms": 1764000007000, "outputs": [_ENTRY],
    },
    "output.read": {"job": _JOB, "name": "result.json", "offset": 262144},
    "reply.output": {"attempt": 2, "offset": 262144, "total": 262146, "sha256": _SHA, "data": b"{}"},
    "reply.hosts": {"hosts": [_HOST_ROW]},
    "registry.list": {"pattern": "atlas-*"},
    "reply.registry": {
        "vms": [_VM_ROW]
    },
    "event.list": {"pattern": "atlas-*", "after": 4711},
    "reply.events": {"events": [_HAPPENED], "next": 4712, "last": 4712, "removed": 12, "ledger": "5f0c1d2e3a4b5c6d"},
    "host.show": {"host": "host-a1"},
    "reply.host": {"host": _HOST_ROW, "vms": [_VM_ROW], "events": [_HAPPENED]},
    "reply.vm": {"vm": _VM_ROW, "host": _HOST_ROW, "events": [_HAPPENED]},
}  # fmt: skip


def example(op: str) -> Message:
    """Give the example of a message. Raises KeyError for an unknown op."""
    kind = MESSAGES[op]
    known = set(kind.__struct_fields__)
    fields = dict(_FIELDS.get(op, {}), id=_ID)
    if "call" in known:
        fields.setdefault("call", _OTHER)
    if "vm" in known:
        fields.setdefault("vm", _VM.vm)
    return kind(**fields)


def examples() -> dict[str, Message]:
    """Give the example of every message, by op."""
    return {op: example(op) for op in sorted(MESSAGES)}
