"""Why an attempt did not end well, in words for the person whose job it is. Pure; nothing is blamed on a guess."""

from __future__ import annotations

import errno
import signal

from guest_agent.payload import PayloadEnd

#: How much of a program's first line is looked at, bytes.
FIRST_LINE_BYTES = 256


def why_it_ended(ended: PayloadEnd, *, memory_bytes: int, full: str) -> str:
    """Say how a payload ended that did not end with 0, and which limit it was at, if the kernel says so; ``full`` is
    what of the disk it had used up."""
    how = f"ended with exit status {ended.exit_status}"
    if ended.signal:
        how = f"was ended by signal {ended.signal}{_name_of(ended.signal)}"
    parts = [f"the payload {how}"]
    if ended.figures.oom_kills:
        limit = f" of {memory_bytes >> 20} MiB" if memory_bytes else " of this VM"
        parts.append(f"out of memory: it was at the limit{limit}, and the kernel ended it")
    if full:
        parts.append(full)
    if ended.figures.forks_refused:
        parts.append("it was at the limit of processes that a job may have")
    if ended.figures.peak_bytes and not ended.figures.oom_kills:
        parts.append(f"it used {-(-ended.figures.peak_bytes >> 20)} MiB of memory at most")
    return "; ".join(parts)


def what_the_vm_lacked(ended: PayloadEnd, *, memory_bytes: int) -> str:
    """Say what a payload was ended for that kept to what it had been promised; empty where its end is its own."""
    figures = ended.figures
    if not figures.oom_kills or figures.ooms or not memory_bytes:
        return ""
    return (
        f"memory: all that runs in the VM together was out of it, and the kernel ended this job, which was within its"
        f" {memory_bytes >> 20} MiB"
    )


def why_it_cannot_run(name: str, number: int, first_line: bytes | None) -> str:
    """Say why a program could not be started. ``first_line`` is its own, None where there is no such file."""
    said = f"executable = {name!r}"
    interpreter = _interpreter(first_line or b"")
    if number == errno.ENOENT and interpreter.endswith("\r"):
        return (
            f"{said}: its first line ends with a carriage return, as Windows writes lines, so that its interpreter"
            f" {interpreter.rstrip()!r} is not found; write it with Unix line ends, for instance with dos2unix"
        )
    if number == errno.ENOENT and interpreter:
        return f"{said}: it is there, but its interpreter {interpreter!r} is not on this VM"
    if number == errno.ENOENT and first_line is not None:
        return f"{said}: it is there, but the loader that it names is not on this VM: it was built for another system"
    if number == errno.ENOENT:
        return f"{said}: there is no such program on this VM, and no input of this name"
    if number in (errno.EACCES, errno.EPERM):
        return f"{said}: it may not be executed; mark the input executable"
    if number == errno.ENOEXEC:
        return f"{said}: it is no program of this machine; a script begins with a line such as #!/bin/sh"
    if number == errno.E2BIG:
        return f"{said}: its arguments and environment are too long for this machine"
    return f"{said}: it cannot be started: {errno.errorcode.get(number, number)}"


def _interpreter(first_line: bytes) -> str:
    """Give the program that a script's first line names, with the carriage return that it may end with."""
    if not first_line.startswith(b"#!"):
        return ""
    line = first_line[2:].split(b"\n")[0].lstrip(b" \t").decode("utf-8", "replace")
    word = line.split(" ")[0].split("\t")[0]
    return word if word.endswith("\r") or not line.endswith("\r") else f"{word}\r"


def _name_of(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
