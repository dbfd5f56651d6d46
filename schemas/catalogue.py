"""Who says what to whom, by which exchange and key: a row a message. Documents and permission tests are made of it."""

from __future__ import annotations

from msgspec import Struct

from schemas.vms import vm_verbs

#: Words of the wire's exchanges; ``broker.routes`` uses the same.
UP, DOWN, CALLS = "vc.up", "vc.down", "vc.calls"
#: Not one of them: between a guest and its host.
ROAD = "local road"


class Way(Struct, frozen=True):
    """One way that a message takes: from kinds of principal, by an exchange, under a key, into a queue."""

    senders: str
    exchange: str
    key: str
    queue: str


def _up(senders: str, kind: str, queue: str) -> Way:
    return Way(senders, UP, f"{{user}}.{kind}", queue)


def _calls(kind: str, queue: str) -> Way:
    return Way("console", CALLS, f"{{user}}.{kind}", queue)


_TO_CONSOLE = Way("host, vm, adapter, keys", UP, "{user}.reply.{console}-{random}", "vc.replies.{console}.{random}")
_TO_HOST = Way("console", DOWN, "host.{id}", "host.{id}")
_TO_VM = Way("console", DOWN, "vm.{id}", "vm.{id}")
_ADAPTER_TO_VM = Way("adapter", DOWN, "vm.{id}", "vm.{id}")
_VM_FILES = Way("adapter, console", DOWN, "vm.{id}.files", "vm.{id}.files")
_CALL = _calls("call", "vc.calls")
_ASK = _up("site", "ask", "vc.asks")
_TO_SITE = Way("adapter", DOWN, "site.{id}", "site.{id}")
_HOST_FILES = Way("adapter", DOWN, "host.{id}.files", "host.{id}.files")
_TO_FILES = [_VM_FILES, _HOST_FILES, _TO_CONSOLE]
_OFFERS = [_up("host, vm", "offer", "vc.offers"), _calls("offer", "vc.offers"), *_TO_FILES]
_CONTROL = [
    _up("host, vm", "control.{adapter}", "vc.control.{adapter}"),
    _calls("control.{adapter}", "vc.control.{adapter}"),
    *_TO_FILES,
]
_CHUNKS = [
    _up("vm", "chunk.{adapter}", "vc.chunks.{adapter}"),
    _calls("chunk.{adapter}", "vc.chunks.{adapter}"),
    *_TO_FILES,
]
_GUEST_TO_HOST = [Way("vm", ROAD, "{user}.input", "")]
_HOST_TO_GUEST = [Way("host", ROAD, "vm.{id}.inputs", "")]

#: Every message's ways, by op.
WAYS: dict[str, list[Way]] = {
    "reply.accepted": [_TO_CONSOLE],
    "reply.done": [_TO_CONSOLE, Way("keys", DOWN, "host.{id}", "host.{id}"), _HOST_FILES],
    "reply.failed": [_TO_CONSOLE, _ADAPTER_TO_VM, _TO_SITE, _HOST_FILES],
    "reply.time": [Way("adapter", DOWN, "host.{id}", "host.{id}")],
    "command.state": [_TO_HOST, _TO_VM],
    # It goes where the message in it goes.
    "message.signed": [_TO_HOST, _TO_VM, _ADAPTER_TO_VM],
    "agent.ping": [_TO_HOST, _TO_VM],
    "agent.refused": [_up("host, vm", "refused", "vc.rejected")],
    **{f"vm.{word}": [_TO_HOST] for word in ("create", *vm_verbs(), "list", "snapshots")},
    "guest.report": [Way("vm", ROAD, "{user}.report", "")],
    "reply.vms": [_TO_CONSOLE],
    "reply.snapshots": [_TO_CONSOLE],
    **{f"vm.{word}": [_TO_HOST] for word in ("stats", "screenshot", "log")},
    **{op: [_TO_CONSOLE] for op in ("reply.vm_stats", "screen.part", "reply.screen", "reply.vm_log")},
    "host.inventory": [_up("host", "inventory", "vc.inventory")],
    "host.bye": [_up("host", "inventory", "vc.inventory")],
    "exec.run": [_TO_VM],
    "exec.window": [_TO_VM],
    "exec.signal": [_TO_VM],
    **{f"exec.{word}": [_TO_VM] for word in ("input", "resize", "detach", "attach", "kill", "list")},
    "exec.output": [_TO_CONSOLE],
    "exec.input_window": [_TO_CONSOLE],
    "reply.execs": [_TO_CONSOLE],
    "reply.exec": [_TO_CONSOLE],
    "file.offer": _OFFERS,
    "file.get": _OFFERS,
    "file.window": _CONTROL,
    "file.done": _CONTROL,
    "file.wait": _CONTROL,
    "file.abort": _CONTROL,
    "file.chunk": _CHUNKS,
    "input.want": _GUEST_TO_HOST,
    "input.right": [_up("host", "offer", "vc.offers")],
    "input.wait": _HOST_TO_GUEST,
    "input.ready": _HOST_TO_GUEST,
    "input.taken": _GUEST_TO_HOST,
    "input.refused": _HOST_TO_GUEST,
    "enrol.grant": [_up("host", "enrol", "vc.enrol")],
    "enrol.vouch": [_up("host", "enrol", "vc.enrol")],
    "enrol.revoke": [_up("host", "enrol", "vc.enrol")],
    "enrol.trade": [_up("once", "enrol", "vc.enrol")],
    "enrol.confirm": [_up("vm", "enrol", "vc.enrol")],
    "reply.enrol_granted": [Way("keys", DOWN, "host.{id}", "host.{id}")],
    "reply.credential": [_TO_CONSOLE, Way("keys", "", "amq.rabbitmq.reply-to", "direct reply-to")],
    "keys.mint": [_calls("keys", "vc.enrol")],
    "keys.delete": [_calls("keys", "vc.enrol")],
    "keys.list": [_calls("keys", "vc.enrol")],
    "reply.keys": [_TO_CONSOLE],
    "principal.cut": [_up("adapter", "enrol", "vc.enrol")],
    "agent.hello": [_up("vm", "request", "vc.requests")],
    "job.request": [_up("vm", "request", "vc.requests")],
    "job.withdraw": [_up("vm", "request", "vc.requests")],
    "job.assign": [_ADAPTER_TO_VM],
    "job.stop": [_ADAPTER_TO_VM],
    "job.beat": [_up("vm", "beat", "vc.beats")],
    "lease.mark": [_up("adapter", "beat", "vc.beats")],
    "job.beat_answer": [_ADAPTER_TO_VM],
    "job.completion": [_up("vm", "completion", "vc.completions")],
    "job.completion_answer": [_ADAPTER_TO_VM],
    "job.submit": [_up("site", "submit", "vc.submissions"), _calls("submit", "vc.submissions")],
    "job.verdict": [_TO_SITE, _TO_CONSOLE],
    "job.ended": [_TO_SITE],
    **{op: [_CALL, _ASK] for op in ("job.list", "job.show", "job.cancel", "job.retry", "job.delete")},
    "output.read": [_up("site", "read", "vc.reads")],
    "reply.output": [_TO_SITE],
    **{op: [_CALL] for op in ("host.list", "registry.list", "host.show", "vm.show", "event.list")},
    **{op: [_CALL] for op in ("owner.list", "owner.set", "source.list", "source.retry", "source.delete")},
    **{f"reply.{what}": [_TO_CONSOLE, _TO_SITE] for what in ("jobs", "job", "jobs_changed")},
    **{f"reply.{what}": [_TO_CONSOLE] for what in ("hosts", "registry")},
    **{f"reply.{what}": [_TO_CONSOLE] for what in ("host", "vm", "events", "owners", "sources")},
}
