"""``volcloud vm events``: what happened to VMs and their hosts, and what happens while one looks."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click
import msgspec

from schemas.amounts import read_seconds
from schemas.events import MAX_EVENTS, Event
from schemas.plain_text import plain, plain_json
from volcloud.amounts import Whole
from volcloud.client import Client
from volcloud.client.events import EventGap
from volcloud.commands.waiting import Once
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.events import event_line, render_events
from volcloud.screen import echo
from volcloud.telling import note

#: Events that are shown where nobody says since when.
SHOWN, BEFORE_FOLLOWING = 50, 10


class Since(click.ParamType[Any]):
    """The number of an event, a time with a unit, which is so long ago, or a date."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read it: the number after which, and the time since which, ms since 1970."""
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        if text.removeprefix("#").isascii() and text.removeprefix("#").isdigit():
            return min(int(text.removeprefix("#")), 1 << 53), 0
        if (ago_s := read_seconds(text)) is not None:
            return 0, max(1, int((time.time() - ago_s) * 1000))
        try:
            return 0, max(1, int(datetime.fromisoformat(text).timestamp() * 1000))
        except (ValueError, OverflowError, OSError):
            allowed = "the number of an event, as 4711, so long ago, as 90min, or a date, as 2026-11-28T14:00"
            self.fail(f"{value!r} must be {allowed}", param, ctx)


@click.command("events")
@click.argument("pattern", default="*")
@click.option("--follow", "-f", is_flag=True, help="Go on, and tell what happens as it happens.")
@click.option("--since", type=Since(), metavar="N|TIME", help="Those after event number N, or since a time.")
@click.option("--last", type=Whole(1, MAX_EVENTS), help=f"So many of the newest.  [default: {SHOWN}]")
@data_option
@json_option
@pass_invocation
def events(invocation: Invocation, pattern: str, follow: bool, since: tuple[int, int] | None, last: int | None) -> None:
    """Tell what happened to VMs and hosts whose name or id fits PATTERN.

    TIME is so long ago (90min), or a date (2026-11-28T14:00). With --follow it goes on until it is interrupted, also
    while the centre is started again; with --json each line is an event.

    \b
    Example:
      volcloud vm events 'atlas-*' --since 2h --follow
    """
    if since is not None and last is not None:
        raise click.UsageError("--since and --last exclude each other: say which of them")
    with invocation.client() as client:
        if follow:
            _follow(invocation, client, pattern, since, last or BEFORE_FOLLOWING)
            return
        found = _found(client, pattern, since, last or SHOWN)
    invocation.show(found, render_events)


def _found(client: Client, pattern: str, since: tuple[int, int] | None, newest: int) -> list[Event]:
    if since is None:
        return client.vms.events(pattern, newest=newest).events
    after, since_ms = since
    rows: list[Event] = []
    page = client.vms.events(pattern, after=after, since_ms=since_ms)
    if page.removed > after > 0:
        note(f"of the events from {after} to {page.removed} not all are kept any more")
    while True:
        rows += page.events
        if page.next >= page.last:
            return rows
        page = client.vms.events(pattern, after=page.next, since_ms=since_ms)


def _follow(invocation: Invocation, client: Client, pattern: str, since: tuple[int, int] | None, newest: int) -> None:
    """Tell what there is and what comes. The place is taken before, so that nothing falls between the two."""
    after, since_ms = since or (0, 0)
    if not since:
        page = client.vms.events(pattern, newest=newest)
        after = page.last
        for event in page.events:
            _tell(invocation, event)
    if not invocation.is_json:
        note("following; Ctrl-C ends it")
    once = Once("the following goes on")
    for one in client.vms.follow(pattern, after=after, since_ms=since_ms, on_trouble=once):
        once.forget()
        _tell(invocation, one)


def _tell(invocation: Invocation, one: Event | EventGap) -> None:
    """Tell one thing at once, also into a pipe; who reads JSON knows a gap by its fields."""
    if invocation.is_json:
        echo(plain_json(msgspec.json.encode(one).decode()))
    elif isinstance(one, Event):
        echo(plain(event_line(one)))
    else:
        note(f"events from {one.after} on may be missing here: {one.why}")
