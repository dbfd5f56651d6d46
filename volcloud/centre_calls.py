"""The centre as a console sees it: each question a method, each silence an error that says what to do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec

from broker.backoff import backoff
from broker.errors import CallTimeout, NotDelivered, RemoteError
from broker.rpc import Caller
from schemas.description import JobDescription
from schemas.enrol import Credential, KeysDelete, KeysMint
from schemas.envelope import Done, Message
from schemas.errors import DecodeError
from schemas.ids import JobRef, job_ref
from schemas.ledger import (
    MAX_LISTED,
    HostList,
    HostRow,
    Hosts,
    JobCancel,
    JobDelete,
    JobList,
    JobRecord,
    JobRetry,
    JobRow,
    Jobs,
    JobsChanged,
    JobShow,
    JobState,
    JobSubmit,
    JobVerdict,
    Registry,
    RegistryList,
    RegistryRow,
)
from volcloud.errors import BadInput, NoSuchJob, NoSuchVm, SubmissionRefused, Unreachable, WaitTimeout
from volcloud.job_name import JobName, read_job_name
from volcloud.why import Explanation, explain

#: A job in one of these does not change by itself.
FINAL_STATES = frozenset({JobState.DONE, JobState.CANCELLED, JobState.HELD})
#: How long an answer of a centre that is at work may take, seconds: orders on many jobs take a while.
ANSWER_S = 60.0
#: Silence after which the centre is asked whether it is there at all, and how long that answer may take, seconds.
QUIET_S, AWAKE_S = 3.5, 3.5
#: How long the key manager may take, seconds; it does one thing after the other.
KEYS_S = 7.5
#: Names that an error lists of those that there are.
MOST_NAMED = 10
_POLL_FIRST_S, _POLL_MOST_S = 0.1, 2.0
#: Counts that stay as they are for this long want a reason, seconds.
STILL_S = 5.0
_SITE = re.compile(r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")
_SILENT = "see with `volcloud status` which process is down, and in DIR/log why"

R = TypeVar("R", bound=Message)
T = TypeVar("T")


class CentreCalls:
    """Questions and orders to the adapters and the key manager. Raises Unreachable when they do not answer, and
    RemoteError when they answer no."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def hosts(self) -> list[HostRow]:
        """List the hosts that the centre knows, by id."""
        page = await self._ask("call", HostList(), Hosts)
        rows = page.hosts
        while page.next:
            page = await self._ask("call", HostList(after=page.next), Hosts)
            rows += page.hosts
        return rows

    async def vms(self, pattern: str = "*") -> list[RegistryRow]:
        """List the VMs whose name or id fits a shell pattern, by name."""
        page = await self._ask("call", RegistryList(pattern=pattern), Registry)
        rows = page.vms
        while page.next:
            page = await self._ask("call", RegistryList(pattern=pattern, after=page.next), Registry)
            rows += page.vms
        return rows

    async def vms_named(self, pattern: str) -> list[RegistryRow]:
        """As ``vms``, at least one. Raises NoSuchVm naming those that there are."""
        rows = await self.vms(pattern)
        if rows:
            return rows
        page = await self._ask("call", RegistryList(limit=MOST_NAMED), Registry)
        known = [*dict.fromkeys(row.status.name for row in page.vms), *(["…"] if page.next else [])]
        raise NoSuchVm(
            f"no VM is called {pattern!r}: there {_are(known)}", "`volcloud vm list` shows them; a pattern needs quotes"
        )

    async def vm_named(self, name: str) -> RegistryRow:
        """Give the one VM of that name or id. Raises NoSuchVm when there is none, or several."""
        rows = await self.vms_named(name)
        if len(rows) > 1:
            found = ", ".join(f"{row.status.vm} ({row.status.name} on {row.host})" for row in rows)
            raise NoSuchVm(f"{name!r} fits {len(rows)} VMs: {found}", "give the id of one")
        return rows[0]

    async def jobs(
        self,
        *,
        owner: str = "",
        job: str = "",
        states: Iterable[JobState] = (),
        limit: int = 100,
        before: int | None = None,
    ) -> Jobs:
        """List jobs, newest first, with the counts by state of all that were asked for."""
        limit = min(limit, MAX_LISTED)
        question = JobList(owner=owner, job=job, states=list(states), limit=limit, before=before)
        return await self._ask("call", question, Jobs)

    async def jobs_named(self, name: str) -> list[JobRow]:
        """Give every job that a name stands for, by index. Raises NoSuchJob."""
        return sorted(await self._rows_of(read_job_name(name)), key=lambda row: int(row.job.rpartition(".")[2]))

    async def ref_of(self, name: str) -> JobRef:
        """Give the full name of the one job that a name stands for. Raises NoSuchJob when it stands for several."""
        typed = read_job_name(name)
        if typed.owner and typed.index:
            return job_ref(typed.owner, typed.job, typed.index)
        rows = await self._rows_of(typed, limit=2)
        if len(rows) > 1:
            names = " and ".join(sorted(row.job for row in rows))
            raise NoSuchJob(f"job {name!r} stands for several, such as {names}", "name one of them")
        return rows[0].job

    async def show(self, name: str, *, on_trouble: Callable[[Unreachable], None] | None = None) -> JobRecord:
        """Give all that is known of one job. Raises NoSuchJob, BadInput.

        With ``on_trouble``, who looks again and again is not sent away by a centre that is away for a while: it is
        waited for for as long as it takes, and that is told each time.
        """
        if on_trouble is None:
            return await self._show(name)
        return await _insist(partial(self._show, name), deadline=None, on_trouble=on_trouble)

    async def _show(self, name: str) -> JobRecord:
        return await self._ask("call", JobShow(job=await self.ref_of(name)), JobRecord)

    async def cancel(self, name: str) -> JobsChanged:
        """Cancel a job, or all of an array: what waits ends at once, what runs soon after."""
        typed = read_job_name(name)
        return await self._order(lambda: JobCancel(owner=typed.owner, job=typed.within_owner))

    async def retry(self, name: str) -> JobsChanged:
        """Release held and failed jobs; their counts start again."""
        typed = read_job_name(name)
        return await self._order(lambda: JobRetry(owner=typed.owner, job=typed.within_owner))

    async def delete(self, name: str) -> JobsChanged:
        """Delete a job, or all of an array, with outputs and history; what waits or runs is left, as ``pending``."""
        typed = read_job_name(name)
        return await self._order(lambda: JobDelete(owner=typed.owner, job=typed.within_owner))

    async def submit_description(self, job: JobDescription) -> JobVerdict:
        """Submit a job whose inputs are in the store. Raises SubmissionRefused. Repeating it is safe."""
        verdict = await self._ask("submit", JobSubmit(job=job), JobVerdict)
        if not verdict.accepted:
            raise SubmissionRefused(job.id, verdict.reasons)
        return verdict

    async def wait(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        on_change: Callable[[dict[str, int]], None] | None = None,
        on_still: Callable[[Explanation], None] | None = None,
        on_trouble: Callable[[Unreachable], None] | None = None,
    ) -> list[JobRow]:
        """Wait until every job of a name is done, failed, cancelled or held; give them. Raises WaitTimeout, NoSuchJob.

        ``on_change`` is called with the counts by state, at first and whenever they change; ``on_still``, while they
        stay as they are, with why one of the jobs that have not ended is where it is. A centre that does not answer is
        waited for until ``timeout_s`` is over, and ``on_trouble`` told each time; without ``timeout_s``, if it has
        answered once.
        """
        typed = read_job_name(name)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        again = partial(_insist, deadline=deadline, on_trouble=on_trouble)
        pause_s, seen, told_at = _POLL_FIRST_S, None, time.monotonic()
        counts = await (self._counts(typed) if deadline is None else again(partial(self._counts, typed)))
        while counts.keys() - FINAL_STATES:
            if counts != seen and on_change is not None:
                on_change(counts)
            if deadline is not None and time.monotonic() > deadline:
                raise WaitTimeout(f"job {name}: {_told(counts)} after {timeout_s:.0f} s", f"`volcloud job why {name}`")
            pause_s = _POLL_FIRST_S if counts != seen else min(pause_s * 1.5, _POLL_MOST_S)
            if counts != seen:
                told_at = time.monotonic()
            elif on_still is not None and time.monotonic() - told_at > STILL_S:
                told_at = time.monotonic()
                await again(partial(self._tell_why, typed, on_still))
            seen = counts
            await asyncio.sleep(pause_s)
            counts = await again(partial(self._counts, typed))
        if on_change is not None:
            on_change(counts)
        return await again(partial(self.jobs_named, name))

    async def _tell_why(self, name: JobName, tell: Callable[[Explanation], None]) -> None:
        """Say why one job of a name that has not ended is where it is, if there is one still."""
        going = [state for state in JobState if state not in FINAL_STATES]
        found = (await self.jobs(owner=name.owner, job=name.within_owner, states=going, limit=1)).jobs
        if found:
            tell(explain(await self.show(found[0].job)))

    async def add_site(self, site: str) -> Credential:
        """Make a grid site's principal, or give the one that there is."""
        return await self._ask("keys", KeysMint(site=site), Credential)

    async def delete_principal(self, principal: str) -> None:
        """Delete a site's, a host's or a VM's principal with its queues."""
        await self._ask("keys", KeysDelete(principal=principal), Done)

    async def _counts(self, name: JobName) -> dict[str, int]:
        counts = (await self.jobs(owner=name.owner, job=name.within_owner, limit=1)).counts
        counts = {state: count for state, count in counts.items() if count}
        if not counts:
            raise _unknown(name)
        return counts

    async def _rows_of(self, name: JobName, limit: int | None = None) -> list[JobRow]:
        rows: list[JobRow] = []
        before = None
        while limit is None or len(rows) < limit:
            page_size = limit or MAX_LISTED
            page = (await self.jobs(owner=name.owner, job=name.within_owner, limit=page_size, before=before)).jobs
            rows += page
            if len(page) < page_size:
                break
            before = page[-1].number
        if not rows:
            raise _unknown(name)
        return rows

    async def _order(self, make: Callable[[], Message]) -> JobsChanged:
        """Give an order until nothing is left of it; each part is an order of its own, with a new id."""
        answer = await self._ask("call", make(), JobsChanged)
        while answer.more:
            following = await self._ask("call", make(), JobsChanged)
            answer = msgspec.structs.replace(following, changed=answer.changed + following.changed)
        return answer

    async def _ask(self, what: str, message: Message, kind: type[R]) -> R:
        """Ask for as long as the centre is there: one that is frozen, or cut off, is told within ten seconds."""
        is_keys = what == "keys"
        work = asyncio.ensure_future(
            self._caller.call_centre(what, message, kind, timeout_s=KEYS_S if is_keys else ANSWER_S)
        )
        try:
            await asyncio.wait([work], timeout=QUIET_S)
            while not work.done() and not is_keys:
                await self._check_awake(work)
                await asyncio.wait([work], timeout=QUIET_S)
            return await work
        except CallTimeout as error:
            whom, waited_s = ("the key manager", KEYS_S) if is_keys else ("the centre is there but", ANSWER_S)
            raise Unreachable(f"{whom} does not answer in {waited_s:.0f} s", _SILENT) from error
        except NotDelivered as error:
            raise Unreachable(f"the broker did not take the question: {error}", _SILENT) from error
        except DecodeError as error:
            raise BadInput(str(error), "make it shorter; what is large belongs into input files") from error
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _check_awake(self, work: asyncio.Future[R]) -> None:
        """Ask something small beside a question that takes long. Raises Unreachable where that has no answer either,
        or says that the ledger cannot be read."""
        small = asyncio.ensure_future(self._caller.call_centre("call", HostList(limit=1), Hosts, timeout_s=AWAKE_S))
        try:
            both: list[asyncio.Future[Any]] = [work, small]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                small.result()
        except CallTimeout as error:
            text = f"no job adapter has answered for {QUIET_S + AWAKE_S:.0f} s"
            raise Unreachable(text, _SILENT) from error
        except RemoteError as error:
            raise Unreachable(f"the centre cannot read its ledger: {error.message}", _SILENT) from error
        finally:
            small.cancel()
            await asyncio.gather(small, return_exceptions=True)


def check_site_name(name: str) -> str:
    """Give the name if a site may have it. Raises BadInput."""
    if not _SITE.match(name):
        raise BadInput(f"site {name!r}: must be a to z, 0 to 9 and '-' inside, at most 42 characters", "choose another")
    return name


def _unknown(name: JobName) -> NoSuchJob:
    return NoSuchJob(f"there is no job {name}", "`volcloud job list` shows those that there are")


def _are(names: list[str]) -> str:
    return f"are {', '.join(names)}" if names else "is none"


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


async def _insist(
    ask: Callable[[], Awaitable[T]], *, deadline: float | None, on_trouble: Callable[[Unreachable], None] | None
) -> T:
    """Ask again for as long as nobody answers, and tell each time. Raises Unreachable after ``deadline``."""
    waits = backoff(0.2, 5.0)
    while True:
        try:
            return await ask()
        except Unreachable as trouble:
            if deadline is not None and time.monotonic() > deadline:
                raise
            if on_trouble is not None:
                on_trouble(trouble)
        await asyncio.sleep(next(waits))
