"""What happens to VMs and hosts becomes numbered rows, at the end of the transaction that brings it about.

Numbers become visible in their order: whoever has seen one has been shown every lower one that is kept. So one row is
locked while some are added, last of all locks. What one host may fill is bounded: by time, a VM's and its own rows.
What guests bring about has bounds of its own, see ``guest_events``. Reads are in ``history``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, insert, select, text, update

from adapters.ledger import tables
from adapters.ledger.events import readable
from adapters.ledger.guest_events import OF_GUESTS, within_shares
from adapters.ledger.readiness import NOT_RUNNING
from adapters.ledger.transaction import PORTION, Tx, portions
from schemas.codec import clip
from schemas.events import MOST_OF_WHY, Event, EventKind
from schemas.vms import UNDECIDED

#: Rows that are kept of one VM, of one host with its VMs, and in all.
MOST_OF_VM, MOST_OF_HOST, MOST_IN_ALL = 100, 4000, 200_000
#: What a host may tell in a while: what each of its VMs goes through as it is made and started, and some more.
WHILE_MS, EACH_VM, BESIDE = 600_000, 4, 100
#: Numbers that are left out when SQLite is opened anew: a power cut may have undone what somebody was shown, and no
#: number is given twice. PostgreSQL has it on the disk before anybody is shown it.
SKIPPED = 10_000

_rows, _numbers, _budgets, _vms = tables.happenings, tables.happening_numbers, tables.happening_budgets, tables.vms

_DURABLY = text("SET LOCAL synchronous_commit TO on")
_HOLD = select(_numbers.c.last, _numbers.c.removed, _numbers.c.kept).with_for_update()
_RELEASE = update(_numbers).values(
    last=bindparam("now_last"), removed=bindparam("now_removed"), kept=bindparam("now_kept")
)
_ADD = insert(_rows)
_OF_VMS = select(_vms.c.vm, _vms.c.name, _vms.c.host, _vms.c.state).where(
    _vms.c.vm.in_(bindparam("vms", expanding=True))
)
_TOLD = select(_budgets).where(_budgets.c.host.in_(bindparam("hosts", expanding=True)))
_OLDEST = select(_rows.c.number).order_by(_rows.c.number).limit(bindparam("most"))
_DELETE = delete(_rows).where(_rows.c.number.in_(bindparam("numbers", expanding=True)))


class _Numbers(NamedTuple):
    """The one row."""

    last: int
    removed: int
    kept: int

    def without(self, numbers: Sequence[int]) -> _Numbers:
        """Give the row after these were removed."""
        return self._replace(removed=max([self.removed, *numbers]), kept=self.kept - len(numbers))


class _Budget(NamedTuple):
    """What a host has told in this while."""

    host: str
    from_ms: int
    told: int = 0
    left_out: int = 0


def write(tx: Tx) -> None:
    """Make rows of what was told; where a VM is of which only its guest has spoken is looked up. The ledger ends every
    transaction with it, after all other locks are taken."""
    said, tx.happenings = tx.happenings, []
    said = _placed(tx, said)
    if not said:
        return
    if not tx.is_sqlite:
        tx.execute(_DURABLY)  # an inventory's transaction would not wait for the disk
    numbers = _Numbers._make(tx.execute(_HOLD).one())
    said = _within_budgets(tx, said)
    is_anew = tx.is_sqlite and not tx.known.has_numbered and numbers.last > 0
    first = numbers.last + 1 + (SKIPPED if is_anew else 0)
    tx.known.has_numbered = True
    times = {"at_ms": tx.now_ms, "lease_ms": tx.lease_now_ms}
    tx.each(_ADD, [_row(one) | times | {"number": number} for number, one in enumerate(said, first)])
    tx.counts.update(f"event_{one.event}" for one in said)
    if said:
        numbers = numbers._replace(last=first + len(said) - 1, kept=numbers.kept + len(said))
    _release(tx, _bounded(tx, said, numbers))


def remove(tx: Tx, rows: Sequence[int], before_ms: int) -> int:
    """Remove those of these rows that are older, by the lease clock; gives how many."""
    numbers = _Numbers._make(tx.execute(_HOLD).one())
    still = select(_rows.c.number).where(_rows.c.number.in_(rows), _rows.c.lease_ms < before_ms)
    old = list(tx.execute(still).scalars())
    _release(tx, _removed(tx, old, numbers))
    is_over = (_budgets.c.from_ms < tx.lease_now_ms - 2 * WHILE_MS) & (_budgets.c.left_out == 0)
    tx.execute(delete(_budgets).where(is_over | (_budgets.c.from_ms < before_ms)))
    return len(old)


def older(tx: Tx, before_ms: int, most: int) -> list[int]:
    """Name the oldest rows, if they are older than that by the lease clock."""
    oldest = select(_rows.c.number, _rows.c.lease_ms).order_by(_rows.c.number).limit(most)
    return [number for number, lease_ms in tx.execute(oldest) if lease_ms < before_ms]


def _release(tx: Tx, numbers: _Numbers) -> None:
    tx.execute(_RELEASE, {"now_last": numbers.last, "now_removed": numbers.removed, "now_kept": numbers.kept})


def _placed(tx: Tx, said: Sequence[Event]) -> list[Event]:
    """Look up where VMs are of which only their guests have spoken. Those of no host are nobody's to see; a VM that is
    not to run is not silent, and one that is set aside serves nobody."""
    asked = sorted({one.vm for one in said if one.vm and not one.host})
    found = {row.vm: row for some in portions(asked) for row in tx.execute(_OF_VMS, {"vms": some})}
    return [placed for one in said if (placed := one if one.host else _place(one, found.get(one.vm))) is not None]


def _place(event: Event, row: Any) -> Event | None:
    if row is None or not row.host or row.state in UNDECIDED:
        return None
    if event.event == EventKind.AGENT_SILENT and row.state in NOT_RUNNING:
        return None
    return msgspec.structs.replace(event, host=row.host, name=row.name)


def _row(event: Event) -> dict[str, Any]:
    words = {
        name: readable(getattr(event, name)) for name in ("event", "host", "vm", "name", "was", "state", "verb", "by")
    }
    return words | {"generation": event.generation, "why": clip(readable(event.why), MOST_OF_WHY)}


def _within_budgets(tx: Tx, said: Sequence[Event]) -> list[Event]:
    """Leave out what a host, or a guest, has told beyond its share; when that begins is an event too, and how much of a
    host's it was."""
    by_host: defaultdict[str, list[Event]] = defaultdict(list)
    for one in said:
        if one.event not in OF_GUESTS:
            by_host[one.host].append(one)
    hosts = sorted(by_host)
    before = {row.host: _Budget._make(row) for some in portions(hosts) for row in tx.execute(_TOLD, {"hosts": some})}
    kept = within_shares(tx, [one for one in said if one.event in OF_GUESTS])
    for host in hosts:
        taken, after = _share(tx, before.get(host) or _Budget(host, tx.lease_now_ms), by_host[host])
        kept += taken
        _save(tx, after)
    places = {id(one): place for place, one in enumerate(said)}
    return sorted(kept, key=lambda one: places.get(id(one), len(said)))


def _share(tx: Tx, budget: _Budget, told: Sequence[Event]) -> tuple[list[Event], _Budget]:
    most = EACH_VM * tx.policy.vms_of_host + BESIDE
    first: list[Event] = []
    if tx.lease_now_ms - budget.from_ms >= WHILE_MS:
        if budget.left_out:
            first = [_left_out(budget.host, f"{budget.left_out} events of this host were left out")]
        budget = _Budget(budget.host, tx.lease_now_ms)
    room = max(0, most - budget.told)
    over = len(told) - room
    if over > 0:
        tx.counts["events_left_out"] += over
    if over > 0 and not budget.left_out:
        why = f"it has told of more than {most} events in {WHILE_MS // 1000} s: what it tells more is left out"
        first.append(_left_out(budget.host, why))
    after = budget._replace(told=budget.told + len(told[:room]), left_out=budget.left_out + max(0, over))
    return [*told[:room], *first], after


def _left_out(host: str, why: str) -> Event:
    return Event(event=EventKind.LEFT_OUT, host=host, why=why)


def _save(tx: Tx, budget: _Budget) -> None:
    values = {"from_ms": budget.from_ms, "told": budget.told, "left_out": budget.left_out}
    statement = tx.insert(_budgets).on_conflict_do_update(index_elements=["host"], set_=values)
    tx.execute(statement, {"host": budget.host, **values})


def _bounded(tx: Tx, said: Iterable[Event], numbers: _Numbers) -> _Numbers:
    """Remove the oldest rows of each VM and host that now has too many, and of all."""
    bounds: Mapping[Any, tuple[set[str], int]] = {
        _rows.c.vm: ({one.vm for one in said if one.vm}, MOST_OF_VM),
        _rows.c.host: ({one.host for one in said}, MOST_OF_HOST),
    }
    for column, (names, most) in bounds.items():
        for name in sorted(names):
            of_it = select(_rows.c.number).where(column == name).order_by(_rows.c.number.desc())
            numbers = _removed(tx, list(tx.execute(of_it.offset(most).limit(PORTION)).scalars()), numbers)
    beyond = min(PORTION, max(0, numbers.kept - MOST_IN_ALL))
    return _removed(tx, list(tx.execute(_OLDEST, {"most": beyond}).scalars()) if beyond else [], numbers)


def _removed(tx: Tx, rows: Sequence[int], numbers: _Numbers) -> _Numbers:
    for some in portions(rows):
        tx.execute(_DELETE, {"numbers": list(some)})
    return numbers.without(rows)
