"""5,000 random verbs on the fake driver against a model: each ends as the table and the model say, in whatever order.

The seed is printed, and ``VOLCLOUD_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

from host_agent.errors import HostError, IllegalVerb, SnapshotTaken, UnknownSnapshot
from host_agent.verbs import TRANSITIONS, More, goal_of, is_done, is_legal
from host_agent.vm import Verb
from schemas.vms import MOST_SNAPSHOTS, VmState
from tests.unit.test_control import Host

VERBS = 5000
VMS = 3
#: More than a VM may have.
NAMES = [f"s{number}" for number in range(MOST_SNAPSHOTS + 3)]
#: Beside verbs: the hypervisor's process dies, and another agent comes.
CRASH, SUCCESSOR = "crash", "successor"
STEPS = [verb for verb in Verb if verb not in (Verb.CREATE, Verb.DELETE, Verb.ADOPT)]


class Model:
    """What one VM must be."""

    def __init__(self) -> None:
        self.state = VmState.POWEREDOFF
        self.generation = 0
        self.snapshots: dict[str, VmState] = {}

    def expect(self, verb: Verb, name: str) -> type[HostError] | None:
        """Take a verb in; give the error in which it must end, or None."""
        if not (is_done(verb, self.state) or is_legal(verb, self.state)):
            return IllegalVerb
        if verb is Verb.TAKE_SNAPSHOT and (name in self.snapshots or len(self.snapshots) >= MOST_SNAPSHOTS):
            return SnapshotTaken
        if verb is Verb.RESTORE_SNAPSHOT and name not in self.snapshots:
            return UnknownSnapshot
        if not is_done(verb, self.state):
            self._do(verb, name)
        return None

    def _do(self, verb: Verb, name: str) -> None:
        self.generation += TRANSITIONS[verb].raises_generation
        if verb is Verb.TAKE_SNAPSHOT:
            self.snapshots[name] = self.state
        elif verb is Verb.DELETE_SNAPSHOT:
            self.snapshots.pop(name, None)
        if verb is Verb.RESTORE_SNAPSHOT:
            self.state = self.snapshots[name]
        else:
            self.state = goal_of(verb, self.state)

    def crash(self) -> bool:
        """Die if it has a process."""
        has_process = self.state in (VmState.RUNNING, VmState.PAUSED)
        if has_process:
            self.state = VmState.ABORTED
        return has_process


async def test_whatever_is_asked_the_vm_is_what_the_model_says(tmp_path: Path) -> None:
    seed = os.environ.get("VOLCLOUD_SEED") or secrets.token_hex(8)
    print(f"VOLCLOUD_SEED={seed}")
    dice = random.Random(seed)
    host = await Host(tmp_path).open()
    models = {await host.vm(f"vm{number}"): Model() for number in range(VMS)}
    succeeded = dict.fromkeys(STEPS, 0)

    for step in range(VERBS):
        vm = dice.choice(list(models))
        deed, name = dice.choice([*STEPS, CRASH, SUCCESSOR]), dice.choice(NAMES)
        model, told = models[vm], f"seed {seed}, step {step}: {deed} {name} of {vm}"
        if deed == SUCCESSOR:
            world, grants = host.hypervisor.host, host.grants
            host = Host(tmp_path, type(host.hypervisor)(world))
            host.grants = grants
            await host.open()
        elif deed == CRASH:
            if model.crash():
                host.hypervisor.crash(vm)
        else:
            expected, ended = model.expect(Verb(deed), name), None
            try:
                await host.control.act(Verb(deed), vm, More(snapshot=name))
            except HostError as error:
                ended = type(error)
            assert ended == expected, told
            succeeded[Verb(deed)] += ended is None
        status = await host.statuses.one(vm)
        assert (status.state, status.generation) == (model.state, model.generation), told
        assert {one.name: one.state for one in await host.control.snapshots(vm)} == model.snapshots, told

    assert len(set(host.grants)) == len(host.grants), "no generation of a VM is granted twice"
    assert min(succeeded.values()) > 0
