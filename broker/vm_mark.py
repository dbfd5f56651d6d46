"""The mark of a VM's processes on the host: whatever a VM has started is found by it."""

from __future__ import annotations

import os

#: Environment variable that marks every process of a VM with the VM's directory on this machine: another agent's VM, or
#: a copy's, may have the same id. The host sets it; what a VM starts hands it on, whatever else it leaves out.
MARK = "VOLCLOUD_VM"


def own_mark() -> dict[str, str]:
    """Give the mark that we bear, as a variable for what we start; empty in a machine that is no process of a host."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}
