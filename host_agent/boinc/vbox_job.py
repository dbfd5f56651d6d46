"""The job file of BOINC's ``vboxwrapper``, as of 26212: one virtual machine, and files by which its job speaks. Pure.

Each tag is heeded, passed over because it makes no difference here, or refused because the job would not be what its
writer wants. Source: ``samples/vboxwrapper/vboxjob.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from host_agent.boinc.fields import MOST_WARNINGS, Fields, Warned, flag, name_or_none, number, text, whole
from host_agent.boinc.job_xml import name_from_guest, name_in_guest
from host_agent.boinc.markup import Tag, read_root
from host_agent.boinc.plan import GuestPlan, RunPlan, SharedPlan, TaskPlan
from host_agent.errors import JobFileError

ROOT = "vbox_job"
#: The program of the directory that is shared, as BOINC's own images run it; and that directory, in the slot.
PROGRAM, SHARED = "boinc_app", "shared"
#: Less memory is raised to this, MiB.
LEAST_MIB = 512
_MOST_S = 366 * 86_400.0
#: Files of one kind by which a job speaks.
_MOST_FILES = 20
_MOST_PORT, _MOST_FORWARDS = 65535, 64


class VboxTag(msgspec.Struct, frozen=True):
    """How a tag is read, what it means here, and what there is instead: by ``passed`` nothing is lost."""

    read: Callable[[Tag], object]
    meaning: str
    passed: str = ""
    #: Why a job that says so cannot be carried out by a driver that gives guests no devices of VirtualBox's.
    refused: str = ""


def _speaks(tag: Tag) -> str:
    return name_from_guest(tag) if tag.text else ""


def _itself(tag: Tag) -> Tag:
    return tag


_FORWARD_TAGS: Mapping[str, Callable[[Tag], object]] = {
    "host_port": whole(0, 65535),
    "guest_port": whole(1, 65535),
    "is_remote": flag,
    "nports": whole(1, 1024),
}
_NO_NETWORK = "guests have no network here: they reach their host's agent and nobody else"
_NO_SHARE = "guests share the directory `shared` with the slot and no other"
_HARDWARE = "the machine has the devices that its image knows"
#: Every tag, by name.
TAGS: Mapping[str, VboxTag] = {
    "os_name": VboxTag(text, "VirtualBox's type of system", passed=_HARDWARE),
    "memory_size_mb": VboxTag(number(0, 1 << 20), "memory, MiB; less than 512 is 512"),
    "vram_size_mb": VboxTag(number(0, 1 << 20), "memory of the display", passed=_HARDWARE),
    "vm_disk_controller_type": VboxTag(text, "the disk's controller", passed=_HARDWARE),
    "vm_disk_controller_model": VboxTag(text, "the disk's controller", passed=_HARDWARE),
    "vm_network_driver": VboxTag(text, "the network's card", passed=_HARDWARE),
    "enable_network": VboxTag(flag, "the guest reaches the network", refused=_NO_NETWORK),
    "network_bridged_mode": VboxTag(flag, "the guest is in the host's network", refused=_NO_NETWORK),
    "enable_nat_dns_host_resolver": VboxTag(flag, "names are the host's to resolve", passed=_NO_NETWORK),
    "pf_guest_port": VboxTag(whole(0, 65535), "port of a page that the guest serves, and the volunteer is shown"),
    "pf_host_port": VboxTag(whole(0, 65535), "port of that page on this computer; 0: any one"),
    "port_forward": VboxTag(_itself, "ports of this computer that lead to the guest, from loopback alone"),
    "enable_remotedesktop": VboxTag(flag, "the screen may be looked at, on this computer, by VNC"),
    "enable_shared_directory": VboxTag(flag, "`shared` in the slot is the job's directory in the guest"),
    "share_slot_dir": VboxTag(flag, "the slot itself is", refused=_NO_SHARE),
    "enable_scratch_directory": VboxTag(flag, "a directory that outlives jobs", passed=_NO_SHARE),
    "share_project_dir": VboxTag(flag, "the project's directory is shared", refused=_NO_SHARE),
    "copy_to_shared": VboxTag(name_in_guest, "a file of the slot that is copied to `shared` once"),
    "copy_cmdline_to_shared": VboxTag(flag, "the arguments are in `shared/cmdline`"),
    "enable_floppyio": VboxTag(flag, "a floppy with init_data.xml", refused="no guest is handed the account's secret"),
    "enable_cern_dataformat": VboxTag(flag, "in another form", passed="there is no floppy"),
    "enable_isocontextualization": VboxTag(flag, "boots from a CD", refused="guests boot their image and nothing else"),
    "enable_cache_disk": VboxTag(flag, "a disk beside that", refused="guests have one disk"),
    "boot_iso": VboxTag(flag, "boots from a DVD", refused="guests boot their image and nothing else"),
    "multiattach_vdi_file": VboxTag(name_or_none, "VirtualBox's image", passed="the image is `image.json`"),
    "job_duration": VboxTag(number(0, _MOST_S), "seconds of running, then it has succeeded"),
    "fraction_done_filename": VboxTag(_speaks, "the last number in it is how much is done"),
    "heartbeat_filename": VboxTag(_speaks, "it changes while the job is well"),
    "minimum_heartbeat_interval": VboxTag(number(1, _MOST_S), "at least so often, seconds of running"),
    "completion_trigger_file": VboxTag(_speaks, "when it is there the job has ended: status, `1` if a notice, words"),
    "temporary_exit_trigger_file": VboxTag(_speaks, "the job is put off: seconds, `1` if a notice, words"),
    "trickle_trigger_file": VboxTag(_speaks, "what is in it goes to the project, under its name, each time"),
    "intermediate_upload_file": VboxTag(_speaks, "an output that is uploaded as soon as it is there"),
    "minimum_checkpoint_interval": VboxTag(number(0, _MOST_S), "seconds between checkpoints at least"),
    "disable_automatic_checkpoints": VboxTag(flag, "no checkpoint but the state that is saved at an end"),
    "enable_vm_savestate_usage": VboxTag(flag, "the state is saved at an end", passed="it is saved in any case"),
    "enable_screenshots_on_error": VboxTag(flag, "a picture of the screen", passed="the console's last line is told"),
    "enable_graphics_support": VboxTag(flag, "graphics_status.xml is written each second"),
}


def read_vbox_job(body: bytes) -> RunPlan:
    """Read a job file's content. Raises JobFileError."""
    root, warnings = read_root(body, [ROOT]), list[Warned]()
    fields = Fields(root, {name: tag.read for name, tag in TAGS.items()}, warnings)
    refused = _judge(root, fields, warnings)
    guest = GuestPlan(
        name="vbox",
        memory_mib=max(int(fields.one("memory_size_mb", 0.0)), LEAST_MIB),
        checkpoint_s=_checkpoint_s(fields),
        forwards=_forwards(root, fields, warnings),
        has_page=fields.one("pf_guest_port", 0) > 0,
        has_screen=fields.one("enable_remotedesktop", False),
        shared=_shared(root, fields),
    )
    task = TaskPlan(
        line=root.line,
        application=PROGRAM,
        fraction_done=fields.one("fraction_done_filename", ""),
        guest=guest,
    )
    has_graphics = fields.one("enable_graphics_support", False)
    return RunPlan(
        format="vboxwrapper", tasks=(task,), has_graphics=has_graphics, warnings=tuple(warnings), refused=refused
    )


def _judge(root: Tag, fields: Fields, warnings: list[Warned]) -> tuple[Warned, ...]:
    """Give what cannot be here, and tell of what makes no difference."""
    refused = []
    for tag in root.tags:
        known = TAGS.get(tag.name)
        if known is None or not _is_on(fields, tag.name):
            continue
        if known.refused:
            refused.append(Warned(tag.line, tag.name, f"cannot be on this driver: {known.refused}"))
        if known.passed and len(warnings) < MOST_WARNINGS:
            warnings.append(Warned(tag.line, tag.name, f"is passed over: {known.passed}"))
    return tuple(refused)


def _forwards(root: Tag, fields: Fields, warnings: list[Warned]) -> tuple[tuple[int, int], ...]:
    """Give the ports that lead to the guest, that of its page first. Raises JobFileError."""
    found: list[tuple[int, int]] = []
    if page := fields.one("pf_guest_port", 0):
        found.append((fields.one("pf_host_port", 0), page))
    for tag in fields.all("port_forward"):
        assert isinstance(tag, Tag)
        inner = Fields(tag, _FORWARD_TAGS, warnings)
        if not inner.has("guest_port"):
            raise JobFileError(tag.line, "port_forward", "there is no <guest_port> in it: where does it lead?")
        if inner.one("is_remote", False) and len(warnings) < MOST_WARNINGS:
            warnings.append(Warned(tag.line, "is_remote", "is passed over: ports lead from this computer alone"))
        of_host, of_guest, count = inner.one("host_port", 0), inner.one("guest_port", 1), inner.one("nports", 1)
        found += [(of_host + n if of_host else 0, of_guest + n) for n in range(count)]
    if bad := [pair for pair in found if max(pair) > _MOST_PORT]:
        raise JobFileError(root.line, "port_forward", f"port {max(bad[0])}: at most {_MOST_PORT}")
    if len(found) > _MOST_FORWARDS:
        raise JobFileError(root.line, "port_forward", f"{len(found)} ports; at most {_MOST_FORWARDS}")
    return tuple(found)


def _is_on(fields: Fields, name: str) -> bool:
    value = fields.one(name, None)
    return value is not None and value != 0 and value != ""


def _checkpoint_s(fields: Fields) -> float:
    if fields.one("disable_automatic_checkpoints", False):
        return 0.0
    return max(1.0, fields.one("minimum_checkpoint_interval", 600.0))


def _shared(root: Tag, fields: Fields) -> SharedPlan:
    copies = tuple(str(name) for name in fields.all("copy_to_shared"))
    if copies and not fields.one("enable_shared_directory", False):
        raise JobFileError(root.line, "copy_to_shared", "needs <enable_shared_directory/>")
    return SharedPlan(
        copies=copies,
        has_arguments=fields.one("copy_cmdline_to_shared", False),
        duration_s=fields.one("job_duration", 0.0),
        heartbeat=fields.one("heartbeat_filename", ""),
        heartbeat_s=fields.one("minimum_heartbeat_interval", 600.0),
        completion=fields.one("completion_trigger_file", ""),
        temporary_exit=fields.one("temporary_exit_trigger_file", ""),
        trickles=_several(root, fields, "trickle_trigger_file"),
        uploads=_several(root, fields, "intermediate_upload_file"),
    )


def _several(root: Tag, fields: Fields, name: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(str(one) for one in fields.all(name) if one))
    if len(found) > _MOST_FILES:
        raise JobFileError(root.line, name, f"{len(found)} files; at most {_MOST_FILES}")
    return found
