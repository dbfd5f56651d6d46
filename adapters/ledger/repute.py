"""What VMs and hosts are trusted with, by what became of the jobs that they had.

A VM that loses a job, fails what others finish, or gives back what it could begin, is struck: it is given one job at a
time, after the second strike in a row nothing for a growing while, then one job again. What it finishes takes half of
its strikes away. A host is struck with its VMs, more leniently, since one of them may be to blame. One event counts
once, however many jobs it took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Integer, bindparam, case, literal, select, update

from adapters.ledger import readiness, tables
from adapters.ledger.transaction import Tx, portions

#: Strikes in a row until a VM rests, and until a host's VMs are on trial, and rest.
VM_RESTS_AT, HOST_TRIAL_AT, HOST_RESTS_AT = 2, 3, 6
#: First and longest rest, seconds.
FIRST_REST_S, LONGEST_REST_S = 10.0, 3600.0
#: Jobs that a VM may give back, without having finished one, before each one more that it was given since is a strike.
FREE_RETURNS = 3
#: Jobs of a submission that are looked at for one that another VM has finished.
LOOK_AT = 64

_vms, _hosts, _jobs, _attempts = tables.vms, tables.hosts, tables.jobs, tables.attempts

_STRIKES = select(_vms.c.vm, _vms.c.strikes).where(_vms.c.vm.in_(bindparam("names", expanding=True)))
_HOST_STRIKES = select(_hosts.c.host, _hosts.c.strikes).where(_hosts.c.host.in_(bindparam("names", expanding=True)))
_STRIKE = (
    update(_vms)
    .where(_vms.c.vm == bindparam("of_vm"))
    .values(strikes=bindparam("now_has"), rest_until_ms=bindparam("until_ms"))
)
_STRIKE_HOST = (
    update(_hosts)
    .where(_hosts.c.host == bindparam("of_host"))
    .values(strikes=bindparam("now_has"), rest_until_ms=bindparam("until_ms"))
)
_TRY_HOST = (
    update(_vms)
    .where(_vms.c.host == bindparam("of_host"))
    .values(
        strikes=case((_vms.c.strikes < 1, literal(1)), else_=_vms.c.strikes),
        rest_until_ms=case(
            (_vms.c.rest_until_ms < bindparam("until_ms"), bindparam("until_ms")), else_=_vms.c.rest_until_ms
        ),
    )
    .returning(_vms.c.vm)
)
_HOST = select(_hosts.c.strikes, _hosts.c.rest_until_ms).where(_hosts.c.host == bindparam("of_host"))
_PRAISE = (
    update(_vms)
    .where(_vms.c.vm.in_(bindparam("names", expanding=True)), (_vms.c.strikes > 0) | (_vms.c.returns > 0))
    .values(strikes=_vms.c.strikes // 2, returns=0)
)
_PRAISE_HOST = (
    update(_hosts)
    .where(_hosts.c.host.in_(bindparam("names", expanding=True)), _hosts.c.strikes > 0)
    .values(strikes=_hosts.c.strikes // 2)
)
_RETURN = (
    update(_vms)
    .where(_vms.c.vm == bindparam("of_vm"))
    .values(returns=_vms.c.returns + bindparam("more", type_=Integer))
)
_FIRST_JOBS = (
    select(_jobs.c.number)
    .where(_jobs.c.submission == bindparam("of_submission"))
    .order_by(_jobs.c.idx)
    .limit(LOOK_AT)
    .scalar_subquery()
)
_FINISHED_BY = (
    select(_attempts.c.vm)
    .where(_attempts.c.job.in_(_FIRST_JOBS), _attempts.c.state == "done", _attempts.c.vm != bindparam("but_vm"))
    .limit(1)
)
_FAILED_BY = (
    select(_attempts.c.vm, _attempts.c.host)
    .where(_attempts.c.job == bindparam("of_job"), _attempts.c.state == "failed", _attempts.c.vm != bindparam("but_vm"))
    .distinct()
)


def rest_s(strikes: int, rests_at: int) -> float:
    """Say for how long nothing is given after that many strikes in a row; 0 = one job at a time is still given."""
    if strikes < rests_at:
        return 0.0
    return float(min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(strikes - rests_at, 30)))


def strike(tx: Tx, hosts: Mapping[str, str]) -> None:
    """Strike VMs, each once, with the hosts that they are on (by VM; empty = not known)."""
    names = sorted(hosts)
    strikes = {vm: n + 1 for some in portions(names) for vm, n in tx.execute(_STRIKES, {"names": some})}
    tx.each(
        _STRIKE,
        [{"of_vm": vm, "now_has": n, "until_ms": _until_ms(tx, rest_s(n, VM_RESTS_AT))} for vm, n in strikes.items()],
    )
    readiness.settle(tx, names)
    _strike_hosts(tx, sorted(set(hosts.values()) - {""}))
    tx.counts["vms_struck"] += len(strikes)


def _strike_hosts(tx: Tx, names: Sequence[str]) -> None:
    strikes = {host: n + 1 for some in portions(names) for host, n in tx.execute(_HOST_STRIKES, {"names": some})}
    for host, n in strikes.items():
        until_ms = _until_ms(tx, rest_s(n, HOST_RESTS_AT))
        tx.execute(_STRIKE_HOST, {"of_host": host, "now_has": n, "until_ms": until_ms})
        if n >= HOST_TRIAL_AT:
            readiness.settle(tx, list(tx.execute(_TRY_HOST, {"of_host": host, "until_ms": until_ms}).scalars()))


def _until_ms(tx: Tx, rest_s: float) -> int:
    return tx.lease_now_ms + int(rest_s * 1000) if rest_s else 0


def praise(tx: Tx, hosts: Mapping[str, str]) -> None:
    """Take half of their strikes from VMs that have finished a job, and from their hosts; returns are forgotten."""
    for some in portions(sorted(hosts)):
        tx.execute(_PRAISE, {"names": some})
    for some in portions(sorted(set(hosts.values()) - {""})):
        tx.execute(_PRAISE_HOST, {"names": some})


def note_returns(tx: Tx, counts: Mapping[str, int]) -> None:
    """Count what VMs have given back unbegun."""
    tx.each(_RETURN, [{"of_vm": vm, "more": count} for vm, count in sorted(counts.items())])


def greet(tx: Tx, host: str, vms: Sequence[str]) -> None:
    """Give VMs that are new on a host no better name than the host has."""
    found = tx.execute(_HOST, {"of_host": host}).first() if vms else None
    if found is not None and found.strikes >= HOST_TRIAL_AT:
        tx.each(_STRIKE, [{"of_vm": vm, "now_has": 1, "until_ms": found.rest_until_ms} for vm in vms])


def fails_alone(tx: Tx, submission: int, vm: str) -> bool:
    """Whether another VM has finished a job of the submission, so that a failure on this one speaks against it."""
    return tx.execute(_FINISHED_BY, {"of_submission": submission, "but_vm": vm}).first() is not None


def failed_on(tx: Tx, jobs: Iterable[tuple[int, str]]) -> dict[str, str]:
    """Name the VMs, with their hosts, on which these jobs failed that another VM (beside its job) has finished now."""
    asked = [{"of_job": job, "but_vm": vm} for job, vm in jobs]
    return {vm: host for values in asked for vm, host in tx.execute(_FAILED_BY, values)}
