"""The job files of BOINC's ``wrapper``, as of 26019, and of VMwrapper, as people write them. Pure. Source:
``samples/wrapper``, ``samples/vm_wrapper``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from host_agent.boinc.fields import (
    MOST_WARNINGS,
    Fields,
    Warned,
    flag,
    name_in_slot,
    name_of_output,
    name_or_none,
    number,
    text,
    whole,
)
from host_agent.boinc.markup import Tag, read_root
from host_agent.boinc.plan import GuestPlan, RunPlan, TaskPlan, ZipOutput
from host_agent.boinc.slot_files import is_reserved
from host_agent.errors import JobFileError
from schemas.description import STREAMS, FileNameInJob, is_pattern
from schemas.nearest import nearest

T = TypeVar("T")

ROOT = "job_desc"
#: Tasks of a file, and what a task's environment may hold.
MOST_TASKS, MOST_VARIABLES = 1000, 1000
#: A year, seconds.
_MOST_S = 366 * 86_400.0
_PROJECT_DIR = "$PROJECT_DIR"


def read_job_xml(body: bytes) -> RunPlan:
    """Read a job file's content. Raises JobFileError."""
    root, warnings = read_root(body, [ROOT]), list[Warned]()
    fields = Fields(root, ROOT_TAGS, warnings)
    for helper in _of(fields, "VMmanage_task", Tag):
        warnings.append(Warned(helper.line, helper.name, "is not started: the agent manages its machines itself"))
    tasks = [_task(tag, warnings) for tag in _of(fields, "task", Tag)]
    check_machines(tasks)
    # What VMwrapper unpacks with comes first, and counts for nothing.
    unzips = [_task(tag, warnings) for tag in _of(fields, "unzip_task", Tag)]
    if guests := [task for task in unzips if task.guest is not None]:
        raise JobFileError(guests[0].line, "unzip_task", "unpacks on the volunteer's machine, in no virtual one")
    tasks = [msgspec.structs.replace(task, weight=0.0, is_daemon=False) for task in unzips] + tasks
    if len(tasks) == len(unzips):
        raise JobFileError(root.line, ROOT, "there is no <task> in it: nothing would be run")
    if len(tasks) > MOST_TASKS:
        raise JobFileError(root.line, ROOT, f"{len(tasks)} tasks; at most {MOST_TASKS}")
    is_vmwrapper = any(name in VMWRAPPER_TAGS for name in _names(root))
    return RunPlan(
        format="VMwrapper" if is_vmwrapper else "wrapper",
        unzip=tuple(name for tag in _of(fields, "unzip_input", Tag) for name in _archives(tag, warnings)),
        daemons=tuple(task for task in tasks if task.is_daemon),
        tasks=tuple(task for task in tasks if not task.is_daemon),
        zips=tuple(_zip(tag, warnings) for tag in _of(fields, "zip_output", Tag)),
        has_graphics=fields.one("enable_graphics_support", False),
        warnings=tuple(warnings),
    )


def _names(root: Tag) -> list[str]:
    return [tag.name for tag in (*root.tags, *(inner for task in root.tags for inner in task.tags))]


def _task(tag: Tag, warnings: list[Warned]) -> TaskPlan:
    machine = next((inner for inner in tag.tags if inner.name == "virtualmachine" and inner.text), None)
    known = TASK_TAGS | VMWRAPPER_TAGS | (IN_GUEST_TAGS if machine is not None else {})
    fields = Fields(tag, known, warnings)
    guest = _guest(tag, fields, warnings) if machine is not None else None
    if guest is not None and guest.copies_application:
        for inner in tag.tags:
            if inner.name == "application":
                name_in_guest(inner)
    if guest is None:
        refuse_guest_words(tag)
    environment = _of(fields, "setenv", str)
    if len(environment) > MOST_VARIABLES:
        raise JobFileError(tag.line, "setenv", f"{len(environment)} variables; at most {MOST_VARIABLES}")
    if not fields.has("application"):
        like = nearest("application", [inner.name for inner in tag.tags if inner.name not in TASK_TAGS])
        meant = f"; is <{like[:80]}> meant for it?" if like else ""
        raise JobFileError(tag.line, "task", f"there is no <application> in it: which program is to run{meant or '?'}")
    task = TaskPlan(
        line=tag.line,
        application=fields.one("application", ""),
        command_line=fields.one("command_line", ""),
        stdin=fields.one("stdin_filename", ""),
        stdout=fields.one("stdout_filename", ""),
        stderr=fields.one("stderr_filename", ""),
        environment=tuple(environment),
        directory=fields.one("exec_dir", ""),
        weight=fields.one("weight", 1.0),
        checkpoint=fields.one("checkpoint_filename", ""),
        fraction_done=fields.one("fraction_done_filename", ""),
        is_daemon=fields.one("daemon", False),
        appends_arguments=fields.one("append_cmdline_args", False),
        forward_slashes=fields.one("forward_slashes", False),
        time_limit_s=fields.one("time_limit", 0.0),
        priority=fields.one("priority", 1),
        guest=guest,
    )
    plain = {"directory": "", "checkpoint": "", "forward_slashes": False, "time_limit_s": 0.0, "priority": 1}
    return task if guest is None else msgspec.structs.replace(task, **plain)


def _guest(tag: Tag, fields: Fields, warnings: list[Warned]) -> GuestPlan:
    """Read where a task runs. Raises JobFileError for what would do harm unheeded; all else is warned of."""
    if fields.one("daemon", False):
        raise JobFileError(tag.line, "daemon", "a daemon runs on the volunteer's machine, in no virtual one")
    for inner in tag.tags:
        if inner.name in NOT_IN_GUEST and len(warnings) < MOST_WARNINGS:
            warnings.append(Warned(inner.line, inner.name, NOT_IN_GUEST[inner.name]))
    plain = GuestPlan(name=fields.one("virtualmachine", ""))
    return GuestPlan(
        name=plain.name,
        image=fields.one("image", ""),
        copies_application=fields.one("copy_app_to_VM", False),
        inputs=tuple(_of(fields, "copy_file_to_VM", str)),
        outputs=tuple(_of(fields, "copy_file_from_VM", str)),
        memory_mib=fields.one("memory_size_mb", plain.memory_mib),
        checkpoint_s=fields.one("minimum_checkpoint_interval", plain.checkpoint_s),
    )


def refuse_guest_words(tag: Tag) -> None:
    """A program that is meant for a VM is never run outside of one. Raises JobFileError."""
    for inner in tag.tags:
        if inner.name in _MEANS_A_GUEST and (inner.text or inner.is_empty):
            text = "there is no <virtualmachine> in this task: it would run on the volunteer's own machine"
            raise JobFileError(inner.line, inner.name, text)


def check_machines(tasks: Sequence[TaskPlan]) -> None:
    """Tasks that share a machine agree on it. Raises JobFileError."""
    first: dict[str, TaskPlan] = {}
    for task in tasks:
        if (guest := task.guest) is None:
            continue
        before = first.setdefault(guest.name, task).guest
        if before is not None and (before.image, before.memory_mib) != (guest.image, guest.memory_mib):
            text = f"{guest.name!r} has another image or memory in line {first[guest.name].line}: name it otherwise"
            raise JobFileError(task.line, "virtualmachine", text)


def _archives(tag: Tag, warnings: list[Warned]) -> list[str]:
    return _of(Fields(tag, {"zipfilename": name_in_slot}, warnings), "zipfilename", str)


def _zip(tag: Tag, warnings: list[Warned]) -> ZipOutput:
    fields = Fields(tag, {"zipfilename": name_of_output, "filename": _pattern}, warnings)
    if not fields.has("zipfilename"):
        raise JobFileError(tag.line, "zip_output", "there is no <zipfilename> in it: what is the archive called?")
    return ZipOutput(line=tag.line, archive=fields.one("zipfilename", ""), patterns=tuple(_of(fields, "filename", str)))


def _of(fields: Fields, name: str, kind: type[T]) -> list[T]:
    return [value for value in fields.all(name) if isinstance(value, kind)]


def _itself(tag: Tag) -> Tag:
    return tag


def _application(tag: Tag) -> str:
    """Read a logical name, or a path in the project's directory."""
    if not tag.text.startswith(f"{_PROJECT_DIR}/"):
        return name_in_slot(tag)
    within = name_in_slot(Tag(tag.name, tag.line, tag.text.removeprefix(f"{_PROJECT_DIR}/")))
    return f"{_PROJECT_DIR}/{within}"


def _variable(tag: Tag) -> str:
    name, sign, _ = text(tag).partition("=")
    if not sign or not name.strip():
        raise JobFileError(tag.line, tag.name, f"{tag.text[:40]!r}: must be NAME=value")
    return tag.text


def _priority(tag: Tag) -> int:
    """Read a priority; what lies beyond is the nearest."""
    return min(max(whole(-(1 << 31), 1 << 31)(tag), 1), 5)


def _pattern(tag: Tag) -> str:
    try:
        re.compile(text(tag))
    except (re.error, OverflowError, RecursionError) as error:
        raise JobFileError(tag.line, tag.name, f"{tag.text[:40]!r}: is no regular expression: {error}") from None
    if len(tag.text) > _MOST_PATTERN:
        raise JobFileError(tag.line, tag.name, f"{len(tag.text)} characters; a pattern has at most {_MOST_PATTERN}")
    return tag.text


def name_in_guest(tag: Tag) -> str:
    """Read the logical name of a file that goes in or comes out: it is called so in the job's directory too."""
    name = name_in_slot(Tag(tag.name, tag.line, tag.text.removeprefix("./")))
    try:
        msgspec.convert(name, FileNameInJob)
    except msgspec.ValidationError:
        text = f"{name[:80]!r}: must be visible characters, at most 200"
        raise JobFileError(tag.line, tag.name, text) from None
    return name


def name_from_guest(tag: Tag) -> str:
    """Read the logical name of a file that comes out: one by one, and none of what the agent keeps there."""
    name = name_in_guest(tag)
    if is_reserved(name) or name in STREAMS or name.startswith(KEPT_IN_GUEST):
        raise JobFileError(tag.line, tag.name, f"{name[:80]!r}: is a name of BOINC's or of the agent's; take another")
    if is_pattern(name):
        raise JobFileError(tag.line, tag.name, f"{name[:80]!r}: must be the name of one file, not a pattern")
    return name


def _machine(tag: Tag) -> str:
    if tag.text and len(tag.text) > _MOST_OF_A_MACHINE:
        raise JobFileError(tag.line, tag.name, f"{len(tag.text)} characters; at most {_MOST_OF_A_MACHINE}")
    return tag.text


_MOST_OF_A_MACHINE = 200
#: How files begin that the agent keeps in a job's directory in a guest.
KEPT_IN_GUEST = "vc."
_MOST_PATTERN = 256
#: What is read directly in the root, and in a task.
ROOT_TAGS = {
    "task": _itself,
    "unzip_input": _itself,
    "zip_output": _itself,
    #: VMwrapper's.
    "unzip_task": _itself,
    "VMmanage_task": _itself,
    "enable_graphics_support": flag,
}
TASK_TAGS = {
    "application": _application,
    "command_line": text,
    "stdin_filename": name_or_none,
    "stdout_filename": name_of_output,
    "stderr_filename": name_of_output,
    "setenv": _variable,
    "exec_dir": text,
    "weight": number(0.0, 1e12),
    "checkpoint_filename": name_of_output,
    "fraction_done_filename": name_of_output,
    "daemon": flag,
    "append_cmdline_args": flag,
    #: Whatever a task starts is held up and ended with it, with this tag and without.
    "multi_process": flag,
    "forward_slashes": flag,
    "time_limit": number(0.0, _MOST_S),
    "priority": _priority,
}
#: Tags of VMwrapper in a task.
VMWRAPPER_TAGS = {
    "virtualmachine": _machine,
    "image": name_or_none,
    "copy_app_to_VM": flag,
    #: It is copied with this tag and without.
    "copy_stdin_to_VM": flag,
    "copy_file_to_VM": name_in_guest,
    "copy_file_from_VM": name_from_guest,
    #: No code ever read it.
    "app_pathVM": text,
}
#: What is read otherwise, or besides, in a task that has a virtual machine; the last two are vboxwrapper's.
IN_GUEST_TAGS = {
    "application": text,
    "stdin_filename": lambda tag: name_in_guest(tag) if tag.text else "",
    "fraction_done_filename": lambda tag: name_in_guest(tag) if tag.text else "",
    "checkpoint_filename": text,
    "memory_size_mb": whole(128, 1 << 20),
    "minimum_checkpoint_interval": number(1.0, _MOST_S),
}
#: What a task with a virtual machine cannot have, and why.
NOT_IN_GUEST = {
    "exec_dir": "is passed over: in a virtual machine a task runs in a directory of its own",
    "priority": "is passed over: a virtual machine gives way to all else",
    "time_limit": "is passed over in a virtual machine",
    "checkpoint_filename": "is passed over: the checkpoints of a virtual machine are the agent's",
    "app_pathVM": "is passed over: VMwrapper does not read it either",
    "forward_slashes": "is passed over in a virtual machine",
}
#: Tags that stand in a task that is meant for a VM.
_MEANS_A_GUEST = frozenset({"image", "copy_app_to_VM", "copy_file_to_VM", "copy_file_from_VM", "app_pathVM"})
