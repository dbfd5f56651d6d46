"""Classes: what jobs ask for (shapes) and what VMs offer (offers), each distinct one a row with a number.

Matching compares classes, not jobs with requests: 100,000 jobs of one array and 1,000 equal VMs are one comparison.
The keys are canonical JSON; the rows never change.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence

import msgspec
from sqlalchemy import Table, bindparam, select, update

from adapters.ledger import tables
from adapters.ledger.transaction import Tx, portions
from schemas.description import Requirements
from schemas.ids import JobRef
from schemas.jobs import Machine

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


def shape_numbers(tx: Tx, keys: Iterable[str]) -> dict[str, int]:
    """Give the number of every shape key, making rows for new ones."""
    return _numbers(tx, tables.shapes, keys, tx.known.shape_numbers)


def offer_numbers(tx: Tx, keys: Iterable[str]) -> dict[str, int]:
    """Give the number of every offer key, making rows for new ones."""
    return _numbers(tx, tables.offers, keys, tx.known.offer_numbers)


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


def _numbers(tx: Tx, table: Table, keys: Iterable[str], known: MutableMapping[str, int]) -> dict[str, int]:
    wanted = set(keys)
    missing = [key for key in wanted if key not in known]
    known.update(_find(tx, table, missing) if missing else {})
    new = sorted(key for key in wanted if key not in known)  # sorted: two writers lock new keys in one order
    if not new:
        return {key: known[key] for key in wanted}
    tx.each(tx.insert(table).on_conflict_do_nothing(index_elements=["key"]), [{"key": key} for key in new])
    known.update(_find(tx, table, new))
    return {key: known[key] for key in wanted}


def _find(tx: Tx, table: Table, keys: Sequence[str]) -> dict[str, int]:
    """Find the numbers of keys; a class that had been retired is in use again."""
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
