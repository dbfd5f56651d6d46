"""The job file of BOINC's ``wrapper``, as of 26019, and as people write it. Pure. Source: ``samples/wrapper``."""

from __future__ import annotations

import re
from typing import TypeVar

from host_agent.boinc.fields import (
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
from host_agent.boinc.plan import RunPlan, TaskPlan, ZipOutput
from host_agent.errors import JobFileError
from schemas.nearest import nearest

T = TypeVar("T")

ROOT = "job_desc"
#: Tasks of a file, and what a task's environment may hold.
MOST_TASKS, MOST_VARIABLES = 1000, 1000
#: A year, seconds.
_MOST_S = 366 * 86_400.0
_PROJECT_DIR = "$PROJECT_DIR"
#: Tags of VMwrapper's job files.
_OF_GUESTS = frozenset(
    {"VMmanage_task", "unzip_task", "virtualmachine", "image", "copy_app_to_VM", "copy_stdin_to_VM"}
    | {"copy_file_to_VM", "copy_file_from_VM", "app_pathVM"}
)


def read_job_xml(body: bytes) -> RunPlan:
    """Read a job file's content. Raises JobFileError."""
    root, warnings = read_root(body, [ROOT]), list[Warned]()
    _refuse_guests(root)
    fields = Fields(root, ROOT_TAGS, warnings)
    tasks = [_task(tag, warnings) for tag in _of(fields, "task", Tag)]
    if not tasks:
        raise JobFileError(root.line, ROOT, "there is no <task> in it: nothing would be run")
    if len(tasks) > MOST_TASKS:
        raise JobFileError(root.line, ROOT, f"{len(tasks)} tasks; at most {MOST_TASKS}")
    return RunPlan(
        format="wrapper",
        unzip=tuple(name for tag in _of(fields, "unzip_input", Tag) for name in _archives(tag, warnings)),
        daemons=tuple(task for task in tasks if task.is_daemon),
        tasks=tuple(task for task in tasks if not task.is_daemon),
        zips=tuple(_zip(tag, warnings) for tag in _of(fields, "zip_output", Tag)),
        has_graphics=fields.one("enable_graphics_support", False),
        warnings=tuple(warnings),
    )


def _refuse_guests(root: Tag) -> None:
    """A program that is meant for a VM is never run outside of one."""
    for tag in (*root.tags, *(inner for task in root.tags for inner in task.tags)):
        if tag.name in _OF_GUESTS:
            text = "this is a job file of VMwrapper, for a virtual machine; this version carries out none of these"
            raise JobFileError(tag.line, tag.name, text)


def _task(tag: Tag, warnings: list[Warned]) -> TaskPlan:
    fields = Fields(tag, TASK_TAGS, warnings)
    environment = _of(fields, "setenv", str)
    if len(environment) > MOST_VARIABLES:
        raise JobFileError(tag.line, "setenv", f"{len(environment)} variables; at most {MOST_VARIABLES}")
    if not fields.has("application"):
        like = nearest("application", [inner.name for inner in tag.tags if inner.name not in TASK_TAGS])
        meant = f"; is <{like[:80]}> meant for it?" if like else ""
        raise JobFileError(tag.line, "task", f"there is no <application> in it: which program is to run{meant or '?'}")
    return TaskPlan(
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
    )


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


_MOST_PATTERN = 256
#: What is read directly in the root, and in a task.
ROOT_TAGS = {
    "task": _itself,
    "unzip_input": _itself,
    "zip_output": _itself,
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
