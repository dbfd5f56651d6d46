"""What happened to VMs and hosts as people read it: a line an event, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from schemas.events import Event, EventKind
from volcloud.rendering.words import clock, table

#: What is red, and what is good news.
_BAD = frozenset({EventKind.AGENT_SILENT, EventKind.HOST_LATE, EventKind.HOST_LOST, EventKind.LEFT_OUT})
_GOOD = frozenset({EventKind.AGENT_READY, EventKind.HOST_PRESENT, EventKind.HOST_BACK})
_WORDS = {
    EventKind.MADE: "made",
    EventKind.SET_ASIDE: "set aside",
    EventKind.DELETED: "deleted",
    EventKind.AGENT_READY: "agent ready",
    EventKind.AGENT_SILENT: "agent silent",
    EventKind.HOST_PRESENT: "host present",
    EventKind.HOST_LATE: "host late",
    EventKind.HOST_LOST: "host lost",
    EventKind.HOST_BACK: "host back",
    EventKind.HOST_BYE: "host says goodbye",
    EventKind.LEFT_OUT: "left out",
}


def render_events(rows: Sequence[Event]) -> RenderableType:
    """Render events as a table, the oldest first."""
    if not rows:
        return Text("no event is kept", style="dim")
    shown = table("NUMBER", "WHEN", "VM", "HOST", "EVENT", "BY", "WHY")
    for row in rows:
        shown.add_row(str(row.number), clock(row.at_ms), row.name or row.vm, row.host, what(row), by(row), row.why)
    return shown


def event_line(row: Event) -> str:
    """Say an event in one line, for one who follows."""
    who = f"{row.name or row.vm} on {row.host}" if row.vm else row.host
    words = (clock(row.at_ms), f"#{row.number}", who, what(row).plain, by(row), row.why)
    return "  ".join(word for word in words if word)


def what(row: Event) -> Text:
    """Say what has happened."""
    style = "red" if row.event in _BAD else "green" if row.event in _GOOD else ""
    return Text(_what(row), style=style)


def _what(row: Event) -> str:
    if row.event == EventKind.STATE:
        return f"booted anew (generation {row.generation})" if row.was == row.state else f"{row.was} → {row.state}"
    word = _WORDS.get(EventKind(row.event)) if row.event in _KNOWN else row.event
    if row.event == EventKind.MADE:
        return f"{word}, {row.state}"
    if row.event == EventKind.HOST_BACK:
        return f"{word}, was {row.was}"
    return word or row.event


_KNOWN = frozenset(kind.value for kind in EventKind)


def by(row: Event) -> str:
    """Say which verb it was, and whose."""
    return f"{row.verb} by {row.by or 'its host agent'}" if row.verb else ""
