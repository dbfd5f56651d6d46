"""The small programs beside the agent, which load as little of it as they need; the agent knows them by name alone."""

from __future__ import annotations

import sys
from pathlib import Path

#: The parent of a slot's payloads, and of consoles' commands.
STARTER, MINDER = "guest_agent.starter", "guest_agent.minder"


def command_of(program: str) -> tuple[str, ...]:
    """Give the command that runs a program's ``main``; what follows it is told to that."""
    root = str(Path(__file__).absolute().parents[1])
    run = f"import sys; sys.path.append(sys.argv.pop(1)); from {program} import main; main()"
    return (sys.executable, "-I", "-S", "-c", run, root)
