"""``python -m docs.generate``: write the pages below ``docs/reference`` from the code that they describe.

Every page is made of what the programs themselves use: click's commands, the structs of the settings, the metrics'
registry, the table of messages, the table of transitions, the error classes. A test compares what is committed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from adapters.catalogues.rucio import RucioSettings
from adapters.config import JobAdapterConfig, StorageAdapterConfig
from adapters.grid_stores.local import LocalGridSettings
from adapters.grid_stores.xrootd import XrootdSettings
from adapters.metrics import BUCKETS, Metrics
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.memory import MemorySettings
from adapters.sources.panda.settings import PandaSettings
from adapters.sources.spool import SpoolSettings
from broker.keys.config import KeysConfig
from docs import python_client, xmlrpc_calls
from docs.words import CODES, LIBVIRT, MEANINGS, SETTINGS_OF_GUESTS, VMWRAPPER_MEANINGS, VSPHERE
from guest_agent.job_loop import Timing
from host_agent.boinc.job_xml import IN_GUEST_TAGS, NOT_IN_GUEST, TASK_TAGS, VMWRAPPER_TAGS
from host_agent.boinc.vbox_job import TAGS, VboxTag
from host_agent.config import HostConfig, Limits, WantedVm
from host_agent.hypervisors import fake, process, qemu
from host_agent.hypervisors.contract import Capabilities
from host_agent.hypervisors.drivers import Driver
from host_agent.hypervisors.qemu.machine import STATES
from host_agent.questions import PORTS, can_answer
from host_agent.verbs import TRANSITIONS, Transition, can, is_done, is_legal
from host_agent.vm import Verb
from schemas.catalogue import WAYS
from schemas.codec import MESSAGES, MOST_IN_BUNDLE
from schemas.description import Input, JobDescription, Output, Requirements
from schemas.envelope import MAX_BODY_BYTES, WIRE_VERSION, Message
from schemas.errors import ErrorCode
from schemas.examples import examples
from schemas.vms import VmState
from volcloud.centre.settings import Settings
from volcloud.command_line import cli
from volcloud.errors import VolcloudError
from volcloud.later import commands_of

#: Those of ours. Others that are installed here have pages of their own.
DRIVERS: dict[str, Driver[Any]] = {"qemu": qemu.driver, "process": process.driver, "fake": fake.driver}
GRID_STORES = {"xrootd": XrootdSettings, "local": LocalGridSettings}
#: Settings of sources of jobs.
SOURCES: dict[str, type[msgspec.Struct]] = {
    "dirac": DiracSettings,
    "panda": PandaSettings,
    "spool": SpoolSettings,
    "memory": MemorySettings,
}
#: What stands in the table of what drivers do.
OFFERED, NOT_OFFERED = "ok", "not offered"
HERE = Path(__file__).parent / "reference"
_NOTE = "<!-- Made by `python -m docs.generate`; edit the code, not this page. -->"
#: Units by the end of a name.
_UNITS = {"_per_s": "1/s", "_s": "s", "_ms": "ms", "_mib": "MiB", "_bytes": "bytes"}
#: The ports, by their names in a driver's capabilities.
_PORTS = [f.name for f in msgspec.structs.fields(Capabilities) if f.name not in ("isolates", "needs_image", "notes")]
#: Modules whose error classes carry a code of the wire.
_ERROR_MODULES = ("schemas", "broker", "host_agent", "guest_agent", "adapters")

Rows = Iterable[Iterable[str]]


def table(heads: Iterable[str], rows: Rows) -> str:
    """Render a Markdown table."""
    names = list(heads)
    lines = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", _NOTE, *(part for part in parts if part)]) + "\n"


def _code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def _first(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


# -- commands


def commands_page() -> str:
    """Describe every command of ``volcloud``, and the daemons."""
    parts = [part for path, command in _commands(cli, "volcloud") for part in _command(path, command)]
    intro = (
        "Every command takes `-h`. Exit status: 0 ok, 1 the job or command failed, 2 usage, 3 the system cannot be "
        "reached; `volcloud vm run` has the command's own, and 125 when we failed. `--json` prints what is read for "
        "programs."
    )
    return _page("Commands", intro, *parts)


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in commands_of(command).items():
            yield from _commands(child, f"{path} {name}")


def _command(path: str, command: click.Command) -> list[str]:
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\n")
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return [
        f"## `{path}`",
        f"`{path}{_usage(command)}`" if not isinstance(command, click.Group) else "",
        text.strip(),
        f"```text\n{inspect.cleandoc(example.partition(chr(10))[2])}\n```" if example else "",
        table(("option", "meaning", "default"), map(_option, options)) if options else "",
    ]


def _usage(command: click.Command) -> str:
    words = [p for p in command.params if isinstance(p, click.Argument)]
    named = [(p.metavar or (p.name or "").upper()) + ("…" if p.nargs == -1 else "") for p in words]
    shown = [name if p.required else f"[{name}]" for p, name in zip(words, named, strict=True)]
    return " ".join(["", "[OPTIONS]", *shown])


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join(_code(name) for name in option.opts)
    value = "" if option.is_flag else f" {option.metavar or _kind_of_option(option.type)}"
    default = str(option.default) if option.show_default and option.default is not None else ""
    return names + value, " ".join((option.help or "").split()), _code(default)


def _kind_of_option(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return " or ".join(_code(choice) for choice in kind.choices)
    if isinstance(kind, click.IntRange):
        return f"{kind.min} to {kind.max}" if kind.max is not None else f"at least {kind.min}"
    return {"text": "TEXT", "float": "NUMBER", "integer": "INTEGER"}.get(kind.name, "PATH")


# -- settings


def settings_page() -> str:
    """Describe every daemon's settings, and the job description, which is written the same way."""
    daemons = [
        ("volcloud up", Settings, "A whole system on one machine: `settings.toml` in its data directory."),
        ("host_agent", HostConfig, "A volunteer's PC or a grid node: `host_agent --config FILE`."),
        ("host_agent: an entry of `vms`", WantedVm, ""),
        ("host_agent: `limits`", Limits, ""),
        *((f"host_agent: `hypervisor` of kind `{kind}`", driver.settings, "") for kind, driver in DRIVERS.items()),
        ("job_adapter", JobAdapterConfig, "At the centre: `job_adapter --config FILE`."),
        ("storage_adapter", StorageAdapterConfig, "At the centre: `storage_adapter --config FILE`."),
        ("source_adapter", SourceAdapterConfig, "At the centre, one a grid: `source_adapter --config FILE`."),
        *((f"a grid store of kind `{kind}`", settings, "") for kind, settings in GRID_STORES.items()),
        ("a catalogue of kind `rucio`", RucioSettings, ""),
        ("key_manager", KeysConfig, "At the centre: `key_manager --config FILE`."),
        *((f"`source` of kind `{kind}`", settings, "") for kind, settings in SOURCES.items()),
    ]
    intro = (
        "A daemon reads one TOML file. A setting without a default must be there; an unknown one is refused with the "
        "nearest known name. `volcloud up` writes these files into `DIR/etc` at each start, from the first one, which "
        "people may edit."
    )
    told = [(f"## {name}", text or _first(kind.__doc__), _struct(kind)) for name, kind, text in daemons]
    return _page("Settings", intro, *(part for parts in told for part in parts), *_guest_settings())


def _guest_settings() -> list[str]:
    known = [(_code(f.name), _code(f.default), _unit(f.name), "") for f in msgspec.structs.fields(Timing)]
    rows = [(name, default, unit, SETTINGS_OF_GUESTS[name.strip("`")]) for name, default, unit, _ in known]
    rows += [(_code(n), "", _unit(n), t) for n, t in SETTINGS_OF_GUESTS.items() if n not in Timing.__struct_fields__]
    text = (
        "`guest_agent` has no file: its VM's seed tells it who it is, and the owner of the host sets the following in "
        "the table `guest` of `host_agent`'s settings."
    )
    return ["## guest_agent", text, table(("setting", "default", "unit", "meaning"), rows)]


def job_page() -> str:
    """Describe a job file."""
    kinds = [
        ("A job", JobDescription),
        ("An entry of `inputs`", Input),
        ("An entry of `outputs`", Output),
        ("`requirements`", Requirements),
    ]
    intro = (
        "A job is a TOML or JSON file, a mapping given to the Python client, or the field `job` of the message "
        "`job.submit`. Unknown keys are refused with the nearest known name. In a file, an input may have `path` in "
        "place of `sha256` and `size`: the file is uploaded first; the path is relative to the job file."
    )
    return _page("Job description", intro, *(p for n, k in kinds for p in (f"## {n}", _first(k.__doc__), _struct(k))))


def _struct(kind: Any) -> str:
    if not kind.__struct_fields__:
        return ""
    texts = _comments(kind)
    types = {f.name: f.type for f in _types_of(kind)}
    rows = (
        (_code(f.name), _type(types[f.name]), _default(f), _unit(f.name), texts.get(f.name) or _meaning(kind, f.name))
        for f in msgspec.structs.fields(kind)
    )
    return table(("field", "type", "default", "unit", "meaning"), rows)


def _meaning(kind: type[msgspec.Struct], name: str) -> str:
    return MEANINGS.get(f"{kind.__name__}.{name}", "")


def _types_of(kind: Any) -> Any:
    info: Any = msgspec.inspect.type_info(kind)
    return info.fields


def _comments(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Give the ``#:`` lines before each field, by field."""
    found: dict[str, str] = {}
    gathered: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        field = re.match(r"    (\w+): ", line)
        if line.strip().startswith("#:"):
            gathered.append(line.strip().removeprefix("#:").strip().replace("``", "`"))
        elif field:
            found[field[1]], gathered = " ".join(gathered), []
    return found


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def _default(field: Any) -> str:
    if field.required:
        return "*required*"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if field.default is msgspec.NODEFAULT and field.default_factory() != value:
        return "made anew"
    if isinstance(value, msgspec.Struct):
        return "see below"
    return _code(msgspec.json.encode(value).decode())


def _type(kind: Any) -> str:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _type(inner)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return f"{'integer' if isinstance(kind, msgspec.inspect.IntType) else 'number'}{_bounds(kind)}"
        case msgspec.inspect.StrType():
            return "text" + (f" matching `{kind.pattern}`" if kind.pattern else "")
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(f'`"{value}"`' for value in values)
        case msgspec.inspect.EnumType(cls=cls):
            return _word_list(cls)
        case msgspec.inspect.ListType(item_type=item):
            return f"list of {_type(item)}"
        case msgspec.inspect.DictType(value_type=value):
            return f"table of {_type(value)}"
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_type(one) for one in types if not isinstance(one, msgspec.inspect.NoneType))
        case msgspec.inspect.StructType(cls=cls):
            return f"{cls.__name__}"
    return {"BoolType": "boolean", "BytesType": "bytes", "AnyType": "any"}.get(type(kind).__name__, "?")


def _word_list(kind: Any) -> str:
    return " or ".join(f'`"{member.value}"`' for member in kind)


def _bounds(kind: Any) -> str:
    words = {"ge": "at least", "gt": "over", "le": "at most", "lt": "below"}
    found = [f"{word} {getattr(kind, name):,g}" for name, word in words.items() if getattr(kind, name) is not None]
    return f", {', '.join(found)}" if found else ""


# -- metrics


def metrics_page() -> str:
    """Describe what the adapters tell Prometheus."""
    registry = CollectorRegistry()
    Metrics("adapter-job-1", registry)
    metrics = sorted(registry.collect(), key=lambda metric: metric.name)
    rows = [_metric(metric) for metric in metrics if metric.name.startswith("vc_")]
    intro = (
        "Job adapters and storage adapters answer scrapes at `metrics_address:metrics_port`. Both have all of these, "
        "each with the label `adapter`, and the `process_` metrics of prometheus-client. No label holds an id; every "
        "combination of labels exists from the start."
    )
    buckets = f"The histograms have the buckets {', '.join(f'{bound:g}' for bound in BUCKETS)} s."
    more = "The broker's own metrics come from RabbitMQ's plugin; see `deploy/prometheus/prometheus.yml`."
    return _page("Metrics", intro, table(("metric", "type", "label and its values", "meaning"), rows), buckets, more)


def _metric(metric: Metric) -> tuple[str, str, str, str]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    labels: dict[str, list[str]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            if label not in ("adapter", "le") and value not in labels.setdefault(label, []):
                labels[label].append(value)
    told = [f"`{n}`" if n == "version" else f"`{n}`: {', '.join(values)}" for n, values in labels.items()]
    return _code(name), metric.type, "; ".join(told), metric.documentation


# -- messages


def messages_page() -> str:
    """Describe every message: what it is, who sends it which way, its fields, an example."""
    intro = (
        f"Wire version {WIRE_VERSION}. A body is one msgpack map of at most {MAX_BODY_BYTES:,} bytes. Its key `op` "
        "says which message it is; unknown keys are ignored. Between the centre and VMs a body may be a *bundle*: an "
        f"array of up to {MOST_IN_BUNDLE} such maps, each of them taken, answered and refused by itself. "
        "`schemas/messages.schema.json` (JSON Schema) and "
        "`schemas/asyncapi.json` (AsyncAPI 3) say the same for programs. Examples are shown as JSON; bytes, which "
        "msgpack carries as such, as base64."
    )
    envelope = ["## The envelope", "Fields that every message may have, beside `op`.", _struct(Message)]
    shown = examples()
    parts = [part for op in sorted(MESSAGES) for part in _message(op, MESSAGES[op], shown[op])]
    return _page("Messages", intro, *envelope, *parts)


def _message(op: str, kind: type[Message], example: Message) -> list[str]:
    common = set(Message.__struct_fields__)
    texts = {name: text for base in reversed(kind.__mro__[:-2]) for name, text in _own_comments(base).items()}
    types = {f.name: f.type for f in _types_of(kind)}
    fields = [f for f in msgspec.structs.fields(kind) if f.name not in common]
    rows = [(_code(f.name), _type(types[f.name]), _default(f), texts.get(f.name, "")) for f in fields]
    ways = [(w.senders, _code(w.exchange) or "default", _code(w.key), _code(w.queue)) for w in WAYS[op]]
    return [
        f"## `{op}`",
        _first(kind.__doc__),
        table(("from", "exchange", "key", "queue"), ways),
        table(("field", "type", "default", "meaning"), rows) if rows else "",
        f"```json\n{msgspec.json.encode(example).decode()}\n```",
    ]


def _own_comments(kind: type) -> dict[str, str]:
    return _comments(kind) if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct else {}


# -- virtual machines


def vms_page() -> str:
    """Describe states and verbs of VMs, from the table that the host agent works by."""
    verbs = list(TRANSITIONS)
    rows = [[_code(state), *(_mark(verb, state) for verb in verbs)] for state in VmState]
    goals = [_deed(verb, row) for verb, row in TRANSITIONS.items()]
    return _page(
        "Virtual machines",
        "States and verbs have VirtualBox's words. ● the verb is carried out, ○ there is nothing to do and it "
        "succeeds, – it is refused with both states named.",
        table(("state", *(str(verb) for verb in verbs)), rows),
        "## What a verb does",
        table(
            ("verb", "passes through", "ends in", "raises the boot generation", "from then on it shall be", "turns"),
            goals,
        ),
        "One verb at a time is at work on a VM; others wait for their turn. What a VM shall be outlives the agent: an "
        "autostart VM that shall be running is started again when it aborts, and also from a saved state; any VM that "
        "shall be running is resumed where it is paused, and goes on where it was stuck for want of disk once there is "
        "some. A `pause` or `savestate` that somebody asks for changes what the VM shall be, and so it lasts; one that "
        "the agent could not note, or that was made behind its back, it takes back. `set_aside` and `missing` are no "
        "hypervisor's words: "
        "what the host has and its agent's registry does not know is the one, what is known and not there the other. "
        "`lost` is the centre's word for a VM that had run and of which neither host nor guest is heard any more.",
        "## The same words elsewhere",
        "QEMU's column is the table by which its driver reads QEMU's state. There are no drivers for libvirt and "
        "vSphere yet; their columns help who knows those.",
        table(("state", "QEMU (QMP)", "libvirt", "vSphere"), _elsewhere()),
        "An empty field: the state is ours alone. `absent`, `poweredoff`, `saved` and `aborted` are states without a "
        "QEMU process: they are read from the VM's directory.",
        "## Drivers",
        "What each driver does of what may be asked of a VM; a verb or question that a driver does not offer is "
        "refused with the driver's name. A test carries out each of them on each driver and compares.",
        table(("asked", *map(_code, DRIVERS)), _offers()),
        "What a driver has beside a VM's life is a port; how one is written is [told elsewhere](../howto/driver.md).",
        table(("driver", "isolates", "needs an image", "ports", "notes"), map(_driver, DRIVERS)),
    )


def _offers() -> Iterator[list[str]]:
    """Say of each verb and question which drivers do it."""
    able = {kind: one.make(one.settings(), Path()).capabilities for kind, one in DRIVERS.items()}
    for verb in TRANSITIONS:
        yield [_code(verb), *(OFFERED if can(one, verb) else NOT_OFFERED for one in able.values())]
    for question in PORTS:
        yield [_code(question), *(OFFERED if can_answer(one, question) else NOT_OFFERED for one in able.values())]


def _driver(kind: str) -> tuple[str, str, str, str, str]:
    able = DRIVERS[kind].make(DRIVERS[kind].settings(), Path()).capabilities
    ports = [name for name in _PORTS if getattr(able, name) is not None]
    return (
        _code(kind),
        "yes" if able.isolates else "no",
        "yes" if able.needs_image else "no",
        ", ".join(map(_code, ports)),
        able.notes,
    )


def _deed(verb: Verb, row: Transition) -> tuple[str, ...]:
    through = _code(row.through) if row.through else "what it is"
    raises = "yes" if row.raises_generation else ""
    return (_code(verb), through, _goals(row), raises, _wish(row), _may(row))


def _goals(row: Transition) -> str:
    if row.wish_in:
        return " or ".join(map(_code, row.wish_in))
    others = [f"from {_code(state)}: {_code(goal)}" for state, goal in row.goal_from.items()]
    return "; ".join([_code(row.goal) if row.goal else "what it was", *others])


def _wish(row: Transition) -> str:
    if row.wish_in:
        return " or ".join(map(_code, row.wish_in.values()))
    return _code(row.wish) if row.wish is not None else ""


def _may(row: Transition) -> str:
    return (
        "cuts others short"
        if row.interrupts
        else "may be cut short"
        if row.interruptible
        else "waits, and is waited for"
    )


def _mark(verb: Any, state: VmState) -> str:
    return "○" if is_done(verb, state) else "●" if is_legal(verb, state) else "–"


def _elsewhere() -> Iterator[tuple[str, str, str, str]]:
    for state in VmState:
        words = ", ".join(_code(word) for word, ours in STATES.items() if ours is state)
        yield _code(state), words, LIBVIRT.get(state, ""), VSPHERE.get(state, "")


# -- errors


def errors_page() -> str:
    """Describe the error codes of the wire and the exit statuses."""
    codes = [(_code(code), CODES[code], "; ".join(_errors_with(code))) for code in ErrorCode]
    statuses = [(str(e.exit_status), _code(e.__name__), _first(e.__doc__)) for e in _family(VolcloudError)]
    return _page(
        "Errors",
        "A `reply.failed` carries one of these codes, a message that names field, value and what is allowed, and a "
        "hint what to do next.",
        table(("code", "meaning", "errors of ours that have it"), codes),
        "## Exit statuses of `volcloud`",
        table(("exit status", "error", "meaning"), statuses),
    )


def _errors_with(code: ErrorCode) -> Iterator[str]:
    for room in _ERROR_MODULES:
        for name, kind in sorted(vars(importlib.import_module(f"{room}.errors")).items()):
            if inspect.isclass(kind) and kind.__module__ == f"{room}.errors" and vars(kind).get("code") == code:
                yield f"`{room}` {name}"


def _family(kind: type[VolcloudError]) -> Iterator[type[VolcloudError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield from _family(child)


# -- Python


def python_page() -> str:
    """Describe the Python client."""
    results = ((_code(name), meaning, fields) for name, meaning, fields in python_client.results())
    kinds = ((_code(name), meaning, kind) for name, meaning, kind in python_client.callbacks())
    shown = (
        "What the client gives has the fields of the message that brought it, shows itself in a notebook as a table or "
        "a few lines, and has a short `repr`."
    )
    return _page(
        "Python client",
        *python_client.sections(),
        "## Results",
        shown,
        table(("result", "meaning", "fields"), results),
        "## Callbacks",
        table(("callback", "meaning", "type"), kinds),
    )


# -- XML-RPC


def xmlrpc_page() -> str:
    """Describe the calls of the old front door."""
    return _page(
        "XML-RPC calls",
        xmlrpc_calls.INTRO,
        table(("call", "controller", "what it does"), xmlrpc_calls.calls()),
        "## States",
        xmlrpc_calls.states(),
        "## Faults",
        "A fault has one of these codes, and a sentence that names what is wrong and what to do next. Who has not the "
        "token gets HTTP's 401, and no fault.",
        table(("code", "name", "meaning"), xmlrpc_calls.faults()),
        "## Bounds",
        xmlrpc_calls.bounds(),
    )


# -- job files of BOINC's


def boinc_page() -> str:
    """Describe what becomes of each tag of a job file that runs in a virtual machine, by driver."""
    heads = ("tag", "meaning", "qemu", "process, fake")
    vbox = [(_code(name), tag.meaning, _heeded(tag), "never: they isolate nothing") for name, tag in TAGS.items()]
    task = [
        (_code(name), VMWRAPPER_MEANINGS[name], NOT_IN_GUEST.get(name, OFFERED), "never: they isolate nothing")
        for name in dict.fromkeys((*VMWRAPPER_TAGS, *TASK_TAGS, *IN_GUEST_TAGS))
    ]
    return _page(
        "Tags of BOINC's job files, in virtual machines",
        "What becomes of each tag where a task runs in a virtual machine. `ok`: it is heeded. What is refused ends the "
        "task before anything is made, with the tag and its line. Images for VirtualBox's shared folders or guest "
        "additions need the driver `virtualbox`, which does not exist yet. "
        "[What a project does with them](../howto/boinc.md).",
        "## `vbox_job.xml`, of vboxwrapper",
        table(heads, vbox),
        "## A `<task>` of `job.xml` with `<virtualmachine>`, of VMwrapper",
        table(heads, task),
    )


def _heeded(tag: VboxTag) -> str:
    if tag.refused:
        return f"refused: {tag.refused}"
    return f"passed over: {tag.passed}" if tag.passed else OFFERED


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "job.md": job_page,
    "metrics.md": metrics_page,
    "messages.md": messages_page,
    "vms.md": vms_page,
    "errors.md": errors_page,
    "python.md": python_page,
    "xmlrpc.md": xmlrpc_page,
    "boinc.md": boinc_page,
}


def main() -> None:
    """Write the pages."""
    HERE.mkdir(exist_ok=True)
    for name, render in PAGES.items():
        (HERE / name).write_text(render())


if __name__ == "__main__":
    main()
