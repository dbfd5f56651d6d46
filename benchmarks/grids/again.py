"""Questions of a run to a DiracX, put again one after the other for other jobs: how long the server takes for them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.sources.diracx_peer import DiracxPeer

#: What the operator asks; all else is the pilot's.
_OPERATORS = ("/api/jobs/search", "/sandbox")
_OF_JOB = re.compile(r"^/api/jobs/(\d+)/")


@dataclass(frozen=True)
class Question:
    """What was asked: ``target`` is the path with its query."""

    method: str
    target: str
    body: bytes
    #: The number of the first job of the run that it was of; those of others follow.
    first: int = 0

    def numbered(self, first: int) -> Question:
        """Say which job the run began with."""
        return Question(self.method, self.target, self.body, first)


def ask_again(peer: DiracxPeer, asked: Sequence[Question], jobs: Sequence[int]) -> float:
    """Put questions for these jobs, which wait; gives how long the server took, seconds. All of them are Done then."""
    with httpx.Client(base_url=peer.url, timeout=60, trust_env=False) as client:
        again = _Again(peer, client, jobs)
        for question in asked:
            again.ask(question)
    statuses = {str(row["Status"]) for row in peer.rows(*jobs).values()}
    if statuses != {"Done"}:
        raise RuntimeError(f"the same questions leave jobs {', '.join(sorted(statuses))}")
    return again.took_s


@dataclass
class _Again:
    peer: DiracxPeer
    client: httpx.Client
    jobs: Sequence[int]
    took_s: float = 0.0
    #: What stands for a sandbox now, by the digest that was told.
    sandboxes: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        users = {"operator": "operators", "pilot": "pilots"}
        self.tokens = {user: self.peer.login(user, group)["access_token"] for user, group in users.items()}

    def ask(self, question: Question) -> None:
        """Put a question, and send the sandbox that the server wants thereupon."""
        path = urlsplit(question.target).path
        if path == "/api/auth/token":
            return
        target = _OF_JOB.sub(lambda found: f"/api/jobs/{self._job(question, int(found[1]))}/", question.target)
        content, sandbox = self._body(question, path)
        user = "operator" if any(part in path for part in _OPERATORS) else "pilot"
        headers = {"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": "application/json"}
        answer = self._timed(lambda: self.client.request(question.method, target, headers=headers, content=content))
        place = answer.json() if sandbox else {}
        if place.get("url"):
            files = {"file": ("sandbox", sandbox)}
            sent = self._timed(lambda: self.client.post(place["url"], data=place["fields"], files=files))
            sent.raise_for_status()

    def _timed(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        began = time.perf_counter()
        answer = ask()
        self.took_s += time.perf_counter() - began
        if answer.status_code >= 400 and answer.status_code != 416:
            raise RuntimeError(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
        return answer

    def _job(self, question: Question, job: int) -> int:
        place = job - question.first
        return self.jobs[place] if 0 <= place < len(self.jobs) else job

    def _body(self, question: Question, path: str) -> tuple[bytes, bytes]:
        """Give the body for the jobs of now, and the sandbox that it announces."""
        if not question.body:
            return b"", b""
        body, sandbox = json.loads(question.body), b""
        if path == "/api/jobs/search":
            body["search"] = [self._condition(question, one) for one in body["search"]]
        elif path == "/api/jobs/reschedule":
            body["job_ids"] = [self._job(question, job) for job in body["job_ids"]]
        elif path == "/api/jobs/sandbox":
            body, sandbox = self._sandbox(body)
        elif path.endswith("/sandbox/output"):
            body = re.sub(r"sha256:([0-9a-f]{64})", lambda found: f"sha256:{_digest(self.sandboxes[found[1]])}", body)
        else:
            is_status = path == "/api/jobs/status"
            body = {
                str(self._job(question, int(job))): _dated(said) if is_status else said for job, said in body.items()
            }
        return json.dumps(body).encode(), sandbox

    def _condition(self, question: Question, one: dict[str, Any]) -> dict[str, Any]:
        if one["parameter"] != "JobID":
            return one
        return {**one, "values": [self._job(question, job) for job in one["values"]]}

    def _sandbox(self, facts: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        sandbox = self.sandboxes.setdefault(facts["checksum"], os.urandom(facts["size"]))
        return {**facts, "checksum": _digest(sandbox)}, sandbox


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _dated(steps: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {(now + timedelta(microseconds=n)).isoformat(): steps[at] for n, at in enumerate(sorted(steps))}
