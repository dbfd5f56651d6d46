"""Classes: what jobs ask for (shapes) and what VMs offer (offers), each distinct one a row with a number.

Matching compares classes, not jobs with requests: 100,000 jobs of one array and 1,000 equal VMs are one comparison.
The keys are canonical JSON; they and their numbers never change. Matching grows with the number of classes, so there
are so many and no more, and so many that one owner, or one VM, was the first to bring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, MutableMapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Table, bindparam, func, select, update

from adapters.ledger import tables
from adapters.ledger.transaction import Tx, portions
from schemas.description import Requirements
from schemas.ids import JobRef
from schemas.jobs import Machine

#: Classes of jobs, and of machines, in all; as many as an adapter remembers.
MOST_CLASSES = 20_000
#: Classes of jobs that one owner has made, and of machines that one VM has: it has one at a time, and another one when
#: it is made anew. What nothing is of any more goes after some hours.
MOST_OF_OWNER, MOST_OF_VM = 500, 50
#: Stands for the class of a machine that is one too many: no job fits it.
NO_CLASS = 0
#: A machine that no job fits: every job asks for one cpu at least.
_NOTHING = Machine(cpus=0, memory_mib=0, disk_mib=0, platform="")


def shape_key(asked: Requirements) -> str:
    """Write requirements canonically: what asks for the same has the same key."""
    return _key(msgspec.structs.replace(asked, features=sorted(set(asked.features))))


def offer_key(machine: Machine) -> str:
    """Write what of a machine is matched canonically; boot id and versions are not."""
    features = sorted(set(machine.features))
    return _key(msgspec.structs.replace(machine, features=features, boot_id="", agent_version="", python=""))


def _key(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


class Brought(NamedTuple):
    """A class's key, and the owner or VM that comes with it."""

    key: str
    by: str


def shape_numbers(tx: Tx, brought: Iterable[Brought]) -> dict[str, int]:
    """Give the numbers of shape keys, making rows for new ones; those that would be too many are left out."""
    return _numbers(tx, tables.shapes, list(brought), tx.known.shape_numbers, MOST_OF_OWNER)


def offer_numbers(tx: Tx, brought: Iterable[Brought]) -> dict[str, int]:
    """Give the numbers of offer keys, making rows for new ones; those that would be too many are left out."""
    return _numbers(tx, tables.offers, list(brought), tx.known.offer_numbers, MOST_OF_VM)


def too_many(who: str, most_of_one: int, kind: str) -> str:
    """Say why a class was not made."""
    return (
        f"one more kind of {kind} is one too many: {who} has brought {most_of_one:,}, or all together "
        f"{MOST_CLASSES:,}; a kind that is known already is taken, and those that nothing is of go after some hours"
    )


def shapes(tx: Tx, numbers: Sequence[int]) -> dict[int, Requirements]:
    """Read shapes by number."""
    known = tx.known.shapes
    for number, key in _keys(tx, tables.shapes, [n for n in numbers if n not in known]):
        known[number] = msgspec.json.decode(key, type=Requirements)
    return {number: known[number] for number in numbers}


def asked_by(tx: Tx, job: JobRef) -> Requirements | None:
    """Read what one job asks for; None for a job that is not known."""
    row = tx.execute(select(tables.jobs.c.shape).where(tables.jobs.c.ref == job)).first()
    return None if row is None else shapes(tx, [row.shape])[row.shape]


def offers(tx: Tx, numbers: Sequence[int]) -> dict[int, Machine]:
    """Read offers by number. One whose row is gone offers nothing: who asked with it has to ask again."""
    known = tx.known.offers
    for number, key in _keys(tx, tables.offers, [n for n in numbers if n not in known]):
        known[number] = msgspec.json.decode(key, type=Machine)
    return {number: known.get(number, _NOTHING) for number in numbers}


def _numbers(
    tx: Tx, table: Table, brought: Sequence[Brought], known: MutableMapping[str, int], most_of_one: int
) -> dict[str, int]:
    wanted = {one.key for one in brought}
    missing = [key for key in wanted if key not in known]
    known.update(_find(tx, table, missing) if missing else {})
    # Sorted: two writers lock new keys in one order.
    if new := sorted({one for one in brought if one.key not in known}):
        makers = _within_bounds(tx, table, new, most_of_one)
        rows = [{"key": key, "made_by": maker} for key, maker in makers.items()]
        tx.each(tx.insert(table).on_conflict_do_nothing(index_elements=["key"]), rows)
        known.update(_find(tx, table, list(makers)))
    return {key: known[key] for key in wanted if key in known}


def _within_bounds(tx: Tx, table: Table, new: Sequence[Brought], most_of_one: int) -> dict[str, str]:
    """Give the new keys that there is room for, each with who has made it."""
    names = sorted({one.by for one in new})
    made = select(table.c.made_by, func.count()).where(table.c.made_by.in_(bindparam("names", expanding=True)))
    counts = Counter({row[0]: int(row[1]) for row in tx.execute(made.group_by(table.c.made_by), {"names": names})})
    room = MOST_CLASSES - int(tx.execute(select(func.count()).select_from(table)).scalar_one())
    makers: dict[str, str] = {}
    for key, by in new:
        if key not in makers and len(makers) < room and counts[by] < most_of_one:
            makers[key] = by
            counts[by] += 1
    return makers


def _find(tx: Tx, table: Table, keys: Sequence[str]) -> dict[str, int]:
    """Find the numbers of keys; a class that had been retired is in use again."""
    if not keys:
        return {}
    wanted = select(table.c.key, table.c.number, table.c.retired_ms)
    among = wanted.where(table.c.key.in_(bindparam("keys", expanding=True))).with_for_update(read=True)
    rows = [row for some in portions(keys) for row in tx.execute(among, {"keys": some})]
    if retired := [row.number for row in rows if row.retired_ms]:
        tx.execute(update(table).where(table.c.number.in_(retired)).values(retired_ms=0))
    return {row.key: row.number for row in rows}


def _keys(tx: Tx, table: Table, numbers: Sequence[int]) -> list[tuple[int, str]]:
    if not numbers:
        return []
    wanted = select(table.c.number, table.c.key).where(table.c.number.in_(bindparam("numbers", expanding=True)))
    return [(number, key) for some in portions(numbers) for number, key in tx.execute(wanted, {"numbers": some})]
