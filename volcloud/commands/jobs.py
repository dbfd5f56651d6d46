"""``volcloud job …``: submit, follow and fetch jobs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from schemas.ledger import JobRow, Jobs, JobsChanged, JobState, JobVerdict
from schemas.plain_text import plain_all
from volcloud.amounts import Whole
from volcloud.bars import file_bar, transfer_bars
from volcloud.client import Client
from volcloud.commands.waiting import follow, follow_one
from volcloud.errors import CommandFailed
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.job_file import PreparedJob, prepare
from volcloud.rendering.jobs import render_jobs, render_record, render_why, told_counts
from volcloud.screen import OutputStream, screen

#: Jobs that did not end well and are explained after ``--wait``; the others are like them.
MOST_TOLD = 3


@click.group("job")
def job() -> None:
    """Submit jobs, follow them, take their outputs home.

    A job is named `id`, `id.index` in an array, or `owner/id.index`.
    """


@job.command("submit")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--id", "job_id", metavar="ID", help="The job's id, in place of the file's.")
@click.option("--array", type=Whole(1, 100_000), metavar="N", help="Number of jobs, in place of the file's.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit status 1 unless all are done.")
@data_option
@json_option
@pass_invocation
def submit(invocation: Invocation, file: Path, job_id: str | None, array: int | None, wait: bool) -> None:
    """Submit the job that a TOML or JSON FILE describes.

    Inputs with a path are uploaded first; the path is relative to FILE. The same id again changes nothing.

    \b
    Example:
      volcloud job submit examples/hello.toml --wait
    """
    prepared = prepare(file, job_id=job_id, array=array)
    with invocation.client() as client:
        verdict = _submit(client, prepared)
        if not wait:
            invocation.show(verdict, _accepted)
            return
        invocation.say(_accepted(verdict))
        _wait(invocation, client, verdict.job)


@job.command("wait")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def wait(invocation: Invocation, name: str) -> None:
    """Wait for the end of a job, or of all of an array; exit status 1 unless all are done.

    \b
    Example:
      volcloud job wait hello-1
    """
    with invocation.client() as client:
        _wait(invocation, client, name)


@job.command("list")
@click.argument("name", default="")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in JobState]), help="Only these.")
@click.option("--owner", default="", help="Only jobs of this principal.")
@click.option("--limit", default=100, show_default=True, type=Whole(1, 1000), help="How many at most.")
@data_option
@json_option
@pass_invocation
def list_jobs(invocation: Invocation, name: str, states: tuple[str, ...], owner: str, limit: int) -> None:
    """List jobs, newest first; with NAME those of one submission.

    \b
    Example:
      volcloud job list --state running --json
    """
    owner_of_name, _, within = name.rpartition("/")
    with invocation.client() as client:
        found = client.jobs.list(
            owner=owner or owner_of_name, job=within, states=[JobState(word) for word in states], limit=limit
        )
    invocation.show(found, render_jobs)


@job.command("show")
@click.argument("name")
@click.option("--follow", is_flag=True, help="Tell what happens to it as it happens, until it has ended.")
@data_option
@json_option
@pass_invocation
def show(invocation: Invocation, name: str, follow: bool) -> None:
    """Show all that is known of one job: its attempts, steps and events.

    \b
    Example:
      volcloud job show hello-1.2
    """
    with invocation.client() as client:
        record = follow_one(client, name, invocation.say) if follow else client.jobs.show(name)
    invocation.show(record, render_record)


@job.command("why")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def why(invocation: Invocation, name: str) -> None:
    """Tell why a job is where it is: attempt, cause, who noticed, when, and the next step.

    \b
    Example:
      volcloud job why hello-1.2
    """
    with invocation.client() as client:
        explanation = client.jobs.why(name)
    invocation.show(explanation, render_why)


@job.command("logs")
@click.argument("name")
@click.option("--attempt", type=Whole(1), metavar="N", help="This attempt's.  [default: the last that ended]")
@data_option
@json_option
@pass_invocation
def logs(invocation: Invocation, name: str, attempt: int | None) -> None:
    """Print what a job printed: its stdout to stdout, its stderr to stderr.

    On a terminal what could command it is shown as text; in a pipe every byte is as the job wrote it.

    \b
    Example:
      volcloud job logs hello-1.2
    """
    with invocation.client() as client:
        streams = client.jobs.logs(name, attempt)
    if invocation.is_json:
        invocation.show({stream: data.decode(errors="replace") for stream, data in streams.items()}, str)
        return
    for stream, data in streams.items():
        output = OutputStream(sys.stderr if stream.endswith("stderr") else sys.stdout)
        output.write(data)
        output.finish()


@job.command("cancel")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def cancel(invocation: Invocation, name: str) -> None:
    """Cancel a job, or all of an array. What waits ends at once, what runs soon after.

    \b
    Example:
      volcloud job cancel hello-1
    """
    with invocation.client() as client:
        answer = client.jobs.cancel(name)
    invocation.show(answer, lambda said: f"{said.changed} cancelled, {said.pending} of them told to stop")


@job.command("retry")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def retry(invocation: Invocation, name: str) -> None:
    """Release held and failed jobs; their counts start again.

    \b
    Example:
      volcloud job retry hello-1.2
    """
    with invocation.client() as client:
        answer = client.jobs.retry(name)
    invocation.show(answer, lambda said: f"{said.changed} released")


@job.command("delete")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@data_option
@json_option
@pass_invocation
def delete(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Delete jobs that have ended or are held, with their outputs and their history.

    Of an array, what waits or runs is left and counted; cancel it first. Exit status 1 when anything is left.

    \b
    Example:
      volcloud job delete hello-1 hello-2.3
    """
    with invocation.client() as client:
        answers = {name: client.jobs.delete(name) for name in names}
    invocation.show(answers, lambda said: "\n".join(_deleted(*one) for one in said.items()))
    left = sum(answer.pending for answer in answers.values())
    if left:
        raise CommandFailed(f"{left} jobs wait or run and are left", f"`volcloud job cancel {' '.join(names)}` first")


@job.command("fetch")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where to.")
@click.option("--overwrite", is_flag=True, help="Replace files that are in the way.")
@data_option
@json_option
@pass_invocation
def fetch(invocation: Invocation, name: str, output: Path | None, overwrite: bool) -> None:
    """Bring a job's outputs home, into DIR; those of an array into DIR/INDEX. DIR is the job's id by default.

    Files that are there already stay: the same one is not fetched again, another one is an error.

    \b
    Example:
      volcloud job fetch hello-1 -o results
    """
    with invocation.client() as client:
        rows = client.jobs.find(name)
        done = [row for row in rows if row.state == JobState.DONE]
        if not done:
            raise CommandFailed(
                f"job {name}: {told_counts(_counted(rows))}, so there is no output", f"`volcloud job why {rows[0].job}`"
            )
        submission = rows[0].job.rpartition(".")[0]
        target = output or Path(submission.partition("/")[2])
        is_array = sum(client.jobs.list(job=submission, limit=1).counts.values()) > 1
        fetched = {
            row.job: _fetch_one(client, row.job, _place(target, row.job, is_array=is_array), overwrite=overwrite)
            for row in done
        }
    invocation.show(
        {name: [str(path) for path in paths] for name, paths in fetched.items()},
        lambda paths_of: "\n".join(path for paths in paths_of.values() for path in paths),
    )
    if len(done) < len(rows):
        raise CommandFailed(f"{len(rows) - len(done)} of {len(rows)} jobs are not done", f"`volcloud job list {name}`")


def _wait(invocation: Invocation, client: Client, name: str) -> None:
    """Wait, show how it went, and explain the first jobs that are not done. Raises Exit."""
    rows = follow(client, name)
    counts = _counted(rows)
    invocation.show(Jobs(call="", jobs=rows, counts=counts), lambda jobs: told_counts(jobs.counts))
    bad = [row for row in rows if row.state != JobState.DONE]
    for row in bad[:MOST_TOLD]:
        screen(err=True).print(render_why(plain_all(client.jobs.why(row.job))))
    if bad:
        raise click.exceptions.Exit(1)


def _submit(client: Client, prepared: PreparedJob) -> JobVerdict:
    with transfer_bars() as bars:
        for path in prepared.uploads.values():
            client.files.upload(path, progress=file_bar(bars, path.name))
    return client.jobs.submit(prepared.description)


def _deleted(name: str, answer: JobsChanged) -> str:
    return f"{name}: {answer.changed} deleted" + (f", {answer.pending} left" if answer.pending else "")


def _accepted(verdict: JobVerdict) -> str:
    return f"{verdict.job} accepted: {verdict.count} job{'' if verdict.count == 1 else 's'}"


def _fetch_one(client: Client, name: str, directory: Path, *, overwrite: bool) -> Sequence[Path]:
    with transfer_bars() as bars:
        moves = {}

        def progress(output: str, done: int, size: int) -> None:
            if output not in moves:
                moves[output] = file_bar(bars, output)
            moves[output](done, size)

        return client.jobs.fetch(name, directory, overwrite=overwrite, progress=progress)


def _place(directory: Path, job_name: str, *, is_array: bool) -> Path:
    return directory / job_name.rpartition(".")[2] if is_array else directory


def _counted(rows: Iterable[JobRow]) -> dict[str, int]:
    return dict(Counter(row.state.value for row in rows))
