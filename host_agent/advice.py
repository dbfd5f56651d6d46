"""What a host tells people to type.

A VM is named by its id: its name may be another VM's too, one that was set aside or one of another host, and a command
with it would mean both.
"""

from __future__ import annotations

from host_agent.vm import Verb


def command(verb: Verb, vm: str) -> str:
    """Give the command for a verb on one VM."""
    return _typed(str(verb), vm)


def snapshot_command(word: str, vm: str, name: str) -> str:
    """Give the command for a snapshot of one VM; ``word`` is take, restore or delete."""
    return _typed("snapshot", word, vm, name)


def _typed(*words: str) -> str:
    return f"`volcloud vm {' '.join(words)}`"
