"""The commands of a journal and the records that tell of them: both ways, written and read again. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

#: A record as it is written: its kind, then what it says.
Record = list[object]

#: Ended entries that are kept at most; the newest.
MOST_ENDED = 50_000
#: Records of what shall begin.
_BEGINNINGS = frozenset({"accept", "start", "starts"})


class Entry(Struct, kw_only=True):
    """A command and where it is. ``reply`` is set when it has ended; ``command`` is dropped then."""

    id: str
    sender: str
    at_ms: int
    command: bytes | None = None
    started: bool = False
    #: How it went, for a process that comes after this one to tell.
    note: bytes = b""
    reply: bytes | None = None

    @property
    def ended(self) -> bool:
        """It has a final answer."""
        return self.reply is not None

    def end(self, reply: bytes) -> None:
        """Keep the final answer, and drop what only an unfinished command needs."""
        self.reply, self.command, self.note = reply, None, b""


class Entries:
    """The entries of one journal, by id, in the order of their coming."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, command_id: str) -> Entry:
        return self._entries[command_id]

    def get(self, command_id: str) -> Entry | None:
        """Give what is known of a command."""
        return self._entries.get(command_id)

    def all(self) -> list[Entry]:
        """List them, oldest first."""
        return list(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Know of a command."""
        self._entries[entry.id] = entry

    def drop(self, entry: Entry) -> None:
        """Know no more of a command; nothing where another entry has its id by now."""
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]

    def replay(self, record: Record) -> None:
        """Take in what a record tells; one of what is not known, or of no known kind, tells nothing."""
        match record:
            case ["accept", str(command_id), str(sender), int(at_ms), bytes(command)] if (
                command_id not in self._entries
            ):
                self.add(Entry(id=command_id, sender=sender, at_ms=at_ms, command=command))
            case ["start", str(command_id)] if command_id in self._entries:
                self._entries[command_id].started = True
            case ["starts", *command_ids]:
                for entry in filter(None, map(self._entries.get, map(str, command_ids))):
                    entry.started = True
            case ["note", str(command_id), bytes(note)] if command_id in self._entries:
                self._entries[command_id].note = note
            case ["end", str(command_id), bytes(reply)] if command_id in self._entries:
                self._entries[command_id].end(reply)

    def forget(self, oldest_ms: int) -> None:
        """Drop ended entries that came before ``oldest_ms``, or are too many."""
        ended = [i for i, e in self._entries.items() if e.ended]
        surplus = set(ended[: max(0, len(ended) - MOST_ENDED)])
        self._entries = {
            i: e for i, e in self._entries.items() if not e.ended or (e.at_ms >= oldest_ms and i not in surplus)
        }


def accepted(entry: Entry) -> Record:
    """Tell that a command came."""
    return ["accept", entry.id, entry.sender, entry.at_ms, entry.command or b""]


def started(*command_ids: str) -> Record:
    """Tell that the effects of commands may begin."""
    return ["start", *command_ids] if len(command_ids) == 1 else ["starts", *command_ids]


def noted(command_id: str, note: bytes) -> Record:
    """Tell how a command went."""
    return ["note", command_id, note]


def ended(command_id: str, reply: bytes) -> Record:
    """Tell the final answer to a command."""
    return ["end", command_id, reply]


def barrier() -> Record:
    """Tell nothing: whoever waits for it waits for what was told before."""
    return ["barrier"]


def is_beginning(record: Record) -> bool:
    """Whether it is of what shall begin: a full disk refuses those alone."""
    return record[0] in _BEGINNINGS


def retold(entry: Entry) -> Iterator[Record]:
    """Give the records that tell all of an entry."""
    yield accepted(entry)
    if entry.started:
        yield started(entry.id)
    if entry.note:
        yield noted(entry.id, entry.note)
    if entry.reply is not None:
        yield ended(entry.id, entry.reply)
