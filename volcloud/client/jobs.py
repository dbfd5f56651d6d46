"""Jobs: submitted, followed, ended, and their outputs taken home.

A ``name`` is ``id`` for all jobs of an array, ``id.index`` for one of them, with ``owner/`` before either where that is
not clear. Each method raises BadInput for what cannot be a name, and NoSuchJob where there is no such job, or several
and one is meant. Callbacks are called in the client's thread and must return at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from schemas.description import JobDescription
from schemas.envelope import Message
from schemas.files import OutputFile
from schemas.ids import JobRef, job_ref
from schemas.jobs import OutputEntry
from schemas.ledger import (
    MAX_LISTED,
    SETTLED,
    AttemptRow,
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
)
from schemas.plain_text import plain
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.centre_caller import insist
from volcloud.client.job_wait import JobWait
from volcloud.client.session import ClientSession
from volcloud.client.shown import JobPage, Table, shown
from volcloud.client.watched_transfers import Progress
from volcloud.errors import CommandFailed, NoSuchJob, SubmissionRefused, Unreachable
from volcloud.fetch_destination import FetchDestination
from volcloud.job_file import prepare
from volcloud.job_name import JobName, read_job_name
from volcloud.why import Explanation, explain

_STREAMS = ("stdout", "stderr", "validation.stdout", "validation.stderr")
#: Called with (output, bytes so far, size).
FetchProgress = Callable[[str, int, int], None]


#: Outputs that an error names.
_MOST_NAMED = 20


class AsyncJobs:
    """See the module."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def submit(
        self,
        job: JobDescription | Mapping[str, Any] | Path | str,
        *,
        job_id: str | None = None,
        array: int | None = None,
        progress: Progress | None = None,
    ) -> JobVerdict:
        """Submit a description, a mapping, or a job file; local inputs are uploaded first. Repeating it is safe.

        Raises BadInput (nothing was sent), SubmissionRefused (with the centre's reasons).
        """
        prepared = await asyncio.to_thread(prepare, job, job_id=job_id, array=array)
        for path in prepared.uploads.values():
            await self._session.transfers.upload(path, progress)
        verdict = await self._session.centre.ask(JobSubmit(job=prepared.description), JobVerdict, "submit")
        if not verdict.accepted:
            raise SubmissionRefused(prepared.description.id, verdict.reasons)
        return shown(verdict)

    async def list(
        self,
        *,
        owner: str = "",
        job: str = "",
        states: Iterable[JobState] = (),
        limit: int = 100,
        before: int | None = None,
    ) -> JobPage:
        """List jobs, newest first, with the counts by state of all that were asked for.

        ``before`` is the ``number`` of the last row of the page before."""
        limit = min(limit, MAX_LISTED)
        question = JobList(owner=owner, job=job, states=[*states], limit=limit, before=before)
        return JobPage.of(await self._session.centre.ask(question, Jobs))

    async def find(self, name: str) -> Table[JobRow]:
        """Give every job that a name stands for, by index; at least one."""
        rows = await self._rows_of(read_job_name(name))
        return Table(sorted(rows, key=lambda row: int(row.job.rpartition(".")[2])))

    async def counts(self, name: str) -> dict[str, int]:
        """Count the jobs that a name stands for, by their states; states that none is in are left out."""
        typed = read_job_name(name)
        page = await self.list(owner=typed.owner, job=typed.within_owner, limit=1)
        counts = {state: count for state, count in page.counts.items() if count}
        if not counts:
            raise _unknown(typed)
        return counts

    async def show(self, name: str, *, on_trouble: Callable[[Unreachable], None] | None = None) -> JobRecord:
        """Give all that is known of one job.

        With ``on_trouble``, who looks again and again is not sent away by a centre that is away for a while: it is
        waited for for as long as it takes, and that is told each time.
        """
        if on_trouble is None:
            return await self._show(name)
        return await insist(partial(self._show, name), deadline=None, on_trouble=on_trouble)

    async def why(self, name: str) -> Explanation:
        """Say why a job is where it is, and what to do next."""
        return shown(explain(await self._show(name)))

    async def wait(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        on_change: Callable[[dict[str, int]], None] | None = None,
        on_still: Callable[[Explanation], None] | None = None,
        on_trouble: Callable[[Unreachable], None] | None = None,
    ) -> Table[JobRow]:
        """Wait until every job of a name is done, cancelled or held; give them. Raises WaitTimeout.

        ``on_change`` is called with the counts by state, at first and whenever they change; ``on_still``, while they
        stay as they are, with why one of the jobs that have not ended is where it is. A centre that does not answer is
        waited for until ``timeout_s`` is over, and ``on_trouble`` told each time; without ``timeout_s``, if it has
        answered once.
        """
        waiting = JobWait(name, timeout_s, on_change, on_still, on_trouble)
        await waiting.run(partial(self.counts, name), partial(self._why_one_goes_on, name))
        return await waiting.insist(partial(self.find, name))

    async def cancel(self, name: str) -> JobsChanged:
        """Cancel a job, or all of an array: what waits ends at once, what runs soon after."""
        typed = read_job_name(name)
        return await self._order(lambda: JobCancel(owner=typed.owner, job=typed.within_owner))

    async def retry(self, name: str) -> JobsChanged:
        """Release held jobs; their counts start again."""
        typed = read_job_name(name)
        return await self._order(lambda: JobRetry(owner=typed.owner, job=typed.within_owner))

    async def delete(self, name: str) -> JobsChanged:
        """Delete a job, or all of an array, with outputs and history; what waits or runs is left, as ``pending``."""
        typed = read_job_name(name)
        return await self._order(lambda: JobDelete(owner=typed.owner, job=typed.within_owner))

    async def logs(self, name: str, attempt: int | None = None) -> dict[str, bytes]:
        """Give what an attempt printed (the last that ended, unless one is named), by stream."""
        record = await self._show(name)
        chosen = _attempt_with_outputs(record, attempt)
        streams = [entry for entry in chosen.outputs if entry.name in _STREAMS]
        with TemporaryDirectory(prefix="volcloud-") as scratch:
            directory = Path(scratch)
            for entry in streams:
                await self._download(record.job.job, chosen, entry, directory / entry.name, None)
            return {entry.name: (directory / entry.name).read_bytes() for entry in streams}

    async def fetch(
        self, name: str, directory: Path | str, *, overwrite: bool = False, progress: FetchProgress | None = None
    ) -> Sequence[Path]:
        """Bring one job's outputs, stdout and stderr included, into a directory; give their paths. Raises CommandFailed
        where another file is in the way, unless ``overwrite``; then nothing has been fetched.

        ``progress`` is called with (output, bytes so far, size). A file that is there already is not fetched again.
        """
        record = await self._show(name)
        chosen = _attempt_with_outputs(record, None)
        destination = FetchDestination(Path(directory), chosen.outputs)
        for entry, path in await asyncio.to_thread(destination.missing, overwrite=overwrite):
            await self._download(record.job.job, chosen, entry, path, _named(progress, entry.name))
        return destination.paths

    async def output(self, name: str, output: str, *, most_bytes: int | None = None) -> bytes:
        """Give what one output of a job holds, of its last attempt that left any. Raises NoSuchJob where that has none
        of that name, and CommandFailed, before anything is fetched, where it is larger than ``most_bytes``."""
        record = await self._show(name)
        chosen = _attempt_with_outputs(record, None)
        entry = next((entry for entry in chosen.outputs if entry.name == output), None)
        if entry is None:
            left = ", ".join(plain(entry.name[:100]) for entry in chosen.outputs[:_MOST_NAMED])
            raise NoSuchJob(f"job {record.job.job} has no output {output!r}: it has {left}", "name one of them")
        if most_bytes is not None and entry.size > most_bytes:
            text = f"output {output!r} of job {record.job.job} has {entry.size} bytes: at most {most_bytes} are taken"
            raise CommandFailed(text, f"`volcloud job fetch {record.job.job}` takes it whole")
        with TemporaryDirectory(prefix="volcloud-") as scratch:
            path = Path(scratch) / "output"
            await self._download(record.job.job, chosen, entry, path, None)
            return await asyncio.to_thread(path.read_bytes)

    async def _show(self, name: str) -> JobRecord:
        return shown(await self._session.centre.ask(JobShow(job=await self._ref_of(name)), JobRecord))

    async def _ref_of(self, name: str) -> JobRef:
        """Give the full name of the one job that a name stands for."""
        typed = read_job_name(name)
        if typed.owner and typed.index:
            return job_ref(typed.owner, typed.job, typed.index)
        rows = await self._rows_of(typed, limit=2)
        if len(rows) > 1:
            names = " and ".join(sorted(row.job for row in rows))
            raise NoSuchJob(f"job {name!r} stands for several, such as {names}", "name one of them")
        return rows[0].job

    async def _rows_of(self, name: JobName, limit: int | None = None) -> Table[JobRow]:
        rows: Table[JobRow] = Table()
        before = None
        while limit is None or len(rows) < limit:
            page_size = limit or MAX_LISTED
            page = await self.list(owner=name.owner, job=name.within_owner, limit=page_size, before=before)
            rows += page.jobs
            if len(page) < page_size:
                break
            before = page.jobs[-1].number
        if not rows:
            raise _unknown(name)
        return rows

    async def _why_one_goes_on(self, name: str) -> Explanation | None:
        """Say why one job of a name that has not ended is where it is, if there is one still."""
        typed = read_job_name(name)
        going = [state for state in JobState if state not in SETTLED]
        found = (await self.list(owner=typed.owner, job=typed.within_owner, states=going, limit=1)).jobs
        return await self.why(found[0].job) if found else None

    async def _order(self, make: Callable[[], Message]) -> JobsChanged:
        """Give an order until nothing is left of it; each part is an order of its own, with a new id."""
        answer = await self._session.centre.ask(make(), JobsChanged)
        while answer.more:
            following = await self._session.centre.ask(make(), JobsChanged)
            answer = msgspec.structs.replace(following, changed=answer.changed + following.changed)
        return shown(answer)

    async def _download(
        self, job: str, attempt: AttemptRow, entry: OutputEntry, path: Path, progress: Progress | None
    ) -> None:
        output = OutputFile(job=job, attempt=attempt.attempt, name=entry.name)
        await self._session.transfers.download(output, entry, path, progress)


class BlockingJobs(Blocking[AsyncJobs]):
    """See the module."""

    submit = blocking(AsyncJobs.submit)
    list = blocking(AsyncJobs.list)
    find = blocking(AsyncJobs.find)
    counts = blocking(AsyncJobs.counts)
    show = blocking(AsyncJobs.show)
    why = blocking(AsyncJobs.why)
    wait = blocking(AsyncJobs.wait)
    cancel = blocking(AsyncJobs.cancel)
    retry = blocking(AsyncJobs.retry)
    delete = blocking(AsyncJobs.delete)
    logs = blocking(AsyncJobs.logs)
    fetch = blocking(AsyncJobs.fetch)
    output = blocking(AsyncJobs.output)


def _unknown(name: JobName) -> NoSuchJob:
    return NoSuchJob(f"there is no job {name}", "`volcloud job list` shows those that there are")


def _attempt_with_outputs(record: JobRecord, attempt: int | None) -> AttemptRow:
    """Choose the attempt that was named, else the last one that left something."""
    rows = [row for row in record.attempts if attempt in (None, row.attempt)]
    left = [row for row in rows if row.outputs]
    if left:
        return left[-1]
    which = "attempt" if attempt is None else f"attempt {attempt}"
    text = f"job {record.job.job} is {record.job.state}: no {which} has left any output"
    raise NoSuchJob(text, f"`volcloud job why {record.job.job}` tells where it is")


def _named(progress: FetchProgress | None, name: str) -> Progress | None:
    return None if progress is None else lambda done, size: progress(name, done, size)
