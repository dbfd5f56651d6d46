"""Words of the reference that no code of ours has: other systems' names for states, settings without a struct."""

from __future__ import annotations

from schemas.errors import ErrorCode
from schemas.vms import VmState
from volcloud.centre.settings import TOLD

#: Domain states of libvirt (virDomainState).
LIBVIRT = {
    VmState.ABSENT: "no such domain",
    VmState.POWEREDOFF: "`SHUTOFF`",
    VmState.RUNNING: "`RUNNING`, `BLOCKED`",
    VmState.PAUSED: "`PAUSED`, `PMSUSPENDED`",
    VmState.SAVED: "`SHUTOFF` with a managed save image",
    VmState.STOPPING: "`SHUTDOWN`",
    VmState.ABORTED: "`SHUTOFF`, reason crashed",
    VmState.STUCK: "`CRASHED`",
    VmState.UNKNOWN: "`NOSTATE`",
}
#: Power states of vSphere, which has no pause: suspending writes the memory to disk.
VSPHERE = {
    VmState.ABSENT: "no such VM",
    VmState.POWEREDOFF: "`poweredOff`",
    VmState.RUNNING: "`poweredOn`",
    VmState.PAUSED: "`suspended`",
    VmState.SAVED: "`suspended`",
}
#: Settings that a guest agent takes from its seed.
SETTINGS_OF_GUESTS = {
    "beat_s": "Between two beats.",
    "request_again_s": "A request for work is said again after this long, as repair.",
    "store_patience_s": "How long an output that the store refuses is offered again, from the first refusal on; for "
    "a store that is full or away it waits as long as `staging_s` lets it. 3600 without it.",
    "payload_memory_mib": "Memory that a payload may have whose job requires none. Without it, or 0: its slot's share.",
}

#: What a code tells its reader.
CODES = {
    ErrorCode.BAD_REQUEST: "The message, or a value in it, is wrong; the same again fails again.",
    ErrorCode.UNSUPPORTED: "This agent or driver can never do that.",
    ErrorCode.NOT_FOUND: "What was named does not exist.",
    ErrorCode.FORBIDDEN: "The sender may not do that.",
    ErrorCode.CONFLICT: "It contradicts what is there already.",
    ErrorCode.ILLEGAL_STATE: "The VM is in a state that does not allow the verb; both are named.",
    ErrorCode.STALE_GENERATION: "It is for, or from, an earlier boot of the VM.",
    ErrorCode.DEADLINE: "It came after its deadline and was not done.",
    ErrorCode.INTERRUPTED: "The agent ended while it was at work; it may have been done in part.",
    ErrorCode.TIMEOUT: "It took longer than it was given.",
    ErrorCode.HYPERVISOR: "The hypervisor refused or failed.",
    ErrorCode.IMAGE: "The image is unknown, not allowed on that host, or not what its SHA-256 says.",
    ErrorCode.STORE: "The store did not take or give the file.",
    ErrorCode.NO_ROOM: "Others have the room that this needs: files on their way, or VMs up to their host's limits.",
    ErrorCode.TOO_LARGE: "The file is over what its job, or anybody, may store.",
    ErrorCode.CANNOT_RUN: "The program could not be started; nothing of it ran.",
    ErrorCode.INTERNAL: "A fault on the other side; its log has more.",
}

#: Fields whose struct has no comment, because their name says it to who reads the code.
MEANINGS = {
    **{f"Settings.{key}": text for key, text in TOLD.items()},
    "HostConfig.hypervisor": "The driver and its settings, which are below.",
    "HostConfig.vms": "VMs that this host has and keeps running.",
    "HostConfig.beat_s": "Between two reports of this host and its VMs.",
    "WantedVm.name": "Its name, as people type it.",
    "WantedVm.cpus": "Virtual cpus.",
    "WantedVm.memory_mib": "Memory.",
    "WantedVm.disk_mib": "Disk.",
    "JobAdapterConfig.lease_s": "How long an assignment lives without a beat.",
    "JobAdapterConfig.metrics_address": "Address on which scrapes are answered.",
    "StorageAdapterConfig.credential": "File with this adapter's broker credential.",
    "StorageAdapterConfig.ledger": "SQLAlchemy URL of the ledger; the job adapters' own.",
    "StorageAdapterConfig.metrics_port": "0 = no metrics.",
    "StorageAdapterConfig.metrics_address": "Address on which scrapes are answered.",
    "KeysConfig.profile": "Where the broker runs: on one machine, or as a cluster.",
    "JobDescription.id": "The submitter's name for it; the same id again, with the same description, changes nothing.",
    "JobDescription.executable": "A path in the VM, or the name of an input or of a program on the search path.",
    "JobDescription.arguments": "`{index}` in one becomes the job's index.",
    "JobDescription.environment": "Added to PATH, HOME, TMPDIR, LANG and the `VOLCLOUD_…` variables of the job.",
    "JobDescription.inputs": "Files that stand in the job's directory before it runs.",
    "JobDescription.outputs": "Files that are taken home; stdout and stderr always are.",
    "JobDescription.requirements": "What a VM must offer.",
    "JobDescription.wall_time_s": "After this the payload and all that it started are killed.",
    "JobDescription.array": "Number of jobs made of it; their indices are 1, 2, …",
    "JobDescription.labels": "Words of the submitter's; kept with the job.",
    "Input.name": "Path in the job's directory.",
    "Input.sha256": "Digest of a file in the store.",
    "Input.size": "Size of that file, bytes.",
    "Input.content": "The file itself, at most 64 KiB, in place of `sha256`.",
    "Input.executable": "It may be run.",
    "Output.name": "Path in the job's directory.",
    "Output.optional": "Without it the job has not failed.",
    "Requirements.cpus": "At least so many.",
    "Requirements.memory_mib": "At least so much; the payload may use no more.",
    "Requirements.disk_mib": "At least so much free.",
    "Requirements.platform": "Exactly this, such as `linux-x86_64`.",
    "Requirements.image": "Exactly the image with this id.",
    "Requirements.features": "All of these words.",
    "Message.v": "Version of the wire.",
    "Message.trace": "For tracing; kept as it is.",
}

#: Tags of a task that runs in a virtual machine.
VMWRAPPER_MEANINGS = {
    "virtualmachine": "its name: tasks of one name share one machine; without it a task runs on the volunteer's",
    "image": "logical name of the image's manifest, or of a qcow2 disk that boots itself; `image.json` without it",
    "copy_app_to_VM": "the application is a file that goes in; without it a program of the image",
    "copy_stdin_to_VM": "nothing changes: what `stdin_filename` names goes in anyway",
    "copy_file_to_VM": "a file that goes in, several times; it has its logical name there, and may be run",
    "copy_file_from_VM": "a file that comes out, several times; one that is missing ends the task with status 4",
    "app_pathVM": "nothing",
    "application": "the program",
    "command_line": "its arguments; `$NTHREADS` and `boinc_resolve(NAME)`, which is the file's name there, are put in",
    "stdin_filename": "what it reads",
    "stdout_filename": "what it prints is put behind what is there, once, however long it is and however it ends",
    "stderr_filename": "the same of its errors",
    "setenv": "`NAME=value`, beside the few variables that programs take for granted",
    "exec_dir": "where it runs",
    "weight": "its share of the progress, 1",
    "checkpoint_filename": "VMwrapper's name of a snapshot",
    "fraction_done_filename": "the last number in it is how much of the task is done; a file in the job's directory",
    "daemon": "refused: a daemon runs on the volunteer's machine",
    "append_cmdline_args": "it gets what stands behind `--passthrough_child` too",
    "multi_process": "nothing changes",
    "forward_slashes": "nothing changes",
    "time_limit": "seconds of running",
    "priority": "how far it gives way",
    "memory_size_mb": "memory of the machine, MiB, 512; vboxwrapper's word, ours here",
    "minimum_checkpoint_interval": "seconds between two checkpoints at least, 600; vboxwrapper's word, ours here",
}
