"""What BOINC's client wants of its application: levels, not events.

The client queues opposite messages and may cancel one by the other, and it says them again after it was restarted: what
was said last holds, however often. Tags are looked for as the client's own library does, by their text. Pure. Source:
``api/boinc_api.cpp``.
"""

from __future__ import annotations

import re

from msgspec import Struct

_CLIENT_STATE = re.compile(r"<sporadic_ca>\s*(-?\d+)")


class ClientWill(Struct):
    """See the module. What is done once and then done is taken back by who does it."""

    is_suspended: bool = False
    #: End, and come again later.
    is_quitting: bool = False
    #: End, and never come again.
    is_aborting: bool = False
    #: No client is there any more: as good as quitting, but nobody kills who does not.
    is_gone: bool = False
    #: The volunteer lets nothing use the network.
    is_network_suspended: bool = False
    #: ``init_data.xml`` is another one.
    has_new_data: bool = False
    #: There is a file ``trickle_down_…`` to be read.
    has_trickle_down: bool = False
    #: An upload that was asked for has ended: there is a file ``boinc_ufs_…`` to be read.
    has_upload_status: bool = False
    #: What a sporadic application is asked: 0 nothing, 1 not to compute, 2 that it could, 3 to compute.
    sporadic: int = 0

    @property
    def must_end(self) -> bool:
        """Whatever the reason, the process shall end soon."""
        return self.is_quitting or self.is_aborting or self.is_gone

    def hear_control(self, text: str) -> None:
        """Take a message of the control channel."""
        if "<suspend/>" in text:
            self.is_suspended = True
        if "<resume/>" in text:
            self.is_suspended = False
        self.is_quitting |= "<quit/>" in text
        self.is_aborting |= "<abort/>" in text
        self.has_new_data |= "<reread_app_info/>" in text

    def hear_heartbeat(self, text: str) -> None:
        """Take a message of the heartbeat channel."""
        self.is_network_suspended = "<network_suspended/>" in text
        found = _CLIENT_STATE.search(text)
        if found is not None and len(found[1]) < 4:
            self.sporadic = int(found[1])

    def hear_trickle_down(self, text: str) -> None:
        """Take a message of the channel for trickles down."""
        self.has_trickle_down |= "<have_trickle_down/>" in text
        self.has_upload_status |= "<upload_file_status/>" in text
