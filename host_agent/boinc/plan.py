"""What a job file comes to: a value, whichever of the formats it was written in. Pure."""

from __future__ import annotations

import msgspec

from host_agent.boinc.fields import Warned


class SharedPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a guest shares with the slot, as vboxwrapper's do: a directory in which its job runs, and files in it by
    which the job speaks. Names are those in that directory."""

    #: Files of the slot that are copied there once.
    copies: tuple[str, ...] = ()
    #: The arguments are in the file ``cmdline`` there.
    has_arguments: bool = False
    #: When it has run for so long it has succeeded, seconds; 0: when it ends.
    duration_s: float = 0.0
    #: A file that must change while it runs, at least so often, seconds.
    heartbeat: str = ""
    heartbeat_s: float = 600.0
    #: When it is there the job has ended, with the status that is in it; and is put off, for as long as it says.
    completion: str = ""
    temporary_exit: str = ""
    #: What is written there goes to the project, each time; and as soon as it is there, once.
    trickles: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All files by which the job speaks."""
        all_names = (self.heartbeat, self.completion, self.temporary_exit, *self.trickles, *self.uploads)
        return tuple(name for name in all_names if name)


class GuestPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The virtual machine in which a task runs, and what goes in and comes out. Names are logical."""

    #: What tells the machines of a job file apart: tasks of one name share one, one after another.
    name: str
    #: The image's manifest, or a disk that is one; empty: the manifest ``image.json``.
    image: str = ""
    #: The application is a file that goes in; else it is a program that the image has.
    copies_application: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    memory_mib: int = 512
    #: Time between two checkpoints at least, seconds; 0: there are none but at the end.
    checkpoint_s: float = 600.0
    #: Ports of the volunteer's machine, 0: any one, each with the guest's to which it leads; the first is a page that
    #: the volunteer is shown.
    forwards: tuple[tuple[int, int], ...] = ()
    has_page: bool = False
    #: The volunteer may look at the screen.
    has_screen: bool = False
    #: None: the job is a program with files that go in and come out.
    shared: SharedPlan | None = None


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that is run, on the volunteer's machine or in a guest. Names are logical; macros are not put in yet."""

    #: Where it stands in the job file.
    line: int
    application: str
    command_line: str = ""
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    #: The whole environment, ``NAME=value`` each; empty: what we have ourselves.
    environment: tuple[str, ...] = ()
    #: Where it runs; empty: in the slot.
    directory: str = ""
    weight: float = 1.0
    checkpoint: str = ""
    fraction_done: str = ""
    #: Runs beside the tasks, and is ended after them.
    is_daemon: bool = False
    #: Gets arguments of ours after its own.
    appends_arguments: bool = False
    forward_slashes: bool = False
    #: It is ended after this time, and has then succeeded, seconds; 0: never.
    time_limit_s: float = 0.0
    #: 1 lowest, 2 low, 3 normal, 4 high, 5 highest.
    priority: int = 1
    #: Where it runs; None: on the volunteer's machine.
    guest: GuestPlan | None = None


class ZipOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An archive made at the end, of the files in the slot that are new since the beginning."""

    line: int
    archive: str
    #: Regular expressions, one of which is found in the name of what goes in.
    patterns: tuple[str, ...]


class RunPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See the module."""

    #: ``wrapper``, BOINC's own job.xml, or ``VMwrapper``, which has tasks for virtual machines, or
    #: ``vboxwrapper``, whose one task is the machine.
    format: str
    #: Archives that are unpacked into the slot once, before all else.
    unzip: tuple[str, ...] = ()
    daemons: tuple[TaskPlan, ...] = ()
    tasks: tuple[TaskPlan, ...] = ()
    zips: tuple[ZipOutput, ...] = ()
    #: The state is told to a program that shows it.
    has_graphics: bool = False
    warnings: tuple[Warned, ...] = ()
    #: What cannot be on any driver that there is; the job is not begun then.
    refused: tuple[Warned, ...] = ()

    @property
    def is_vbox(self) -> bool:
        """Whether it is a job file of vboxwrapper's."""
        return self.format == "vboxwrapper"

    @property
    def weight(self) -> float:
        """Of all tasks together; more than nothing."""
        return sum(task.weight for task in self.tasks) or 1.0

    @property
    def runs(self) -> tuple[TaskPlan, ...]:
        """All that is run on the volunteer's machine."""
        return tuple(task for task in self.daemons + self.tasks if task.guest is None)

    @property
    def machines(self) -> tuple[str, ...]:
        """The virtual machines by name, in the order of the tasks: what tells them apart over restarts."""
        return tuple(dict.fromkeys(task.guest.name for task in self.tasks if task.guest is not None))

    @property
    def guests(self) -> tuple[TaskPlan, ...]:
        """All that is run in a virtual machine."""
        return tuple(task for task in self.tasks if task.guest is not None)
