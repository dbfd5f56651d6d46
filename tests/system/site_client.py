"""A grid site as a test plays it: a login, pika, msgpack, and nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgpack
import pika

Said = dict[str, Any]


class SiteClient:
    """Speaks for a site whose login this is. Use it as a context."""

    def __init__(self, login: dict[str, Any]) -> None:
        self.user = login["user"]
        (where, *_) = login["endpoints"]
        credentials = pika.PlainCredentials(self.user, login["password"])
        parameters = pika.ConnectionParameters(where["host"], where["port"], login["vhost"], credentials)
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def __enter__(self) -> SiteClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def queue(self) -> str:
        """Its own."""
        return self.user.replace("-", ".", 1)

    def say(self, kind: str, **message: Any) -> str:
        """Send a message, and give its id."""
        name = str(uuid4())
        properties = pika.BasicProperties(user_id=self.user, message_id=name)
        self._channel.basic_publish("vc.up", f"{self.user}.{kind}", msgpack.packb(message | {"id": name}), properties)
        return name

    def submit(self, job_id: str, *command: str, **more: Any) -> Said:
        """Submit a job, and give the verdict."""
        job = {"id": job_id, "executable": command[0], "arguments": list(command[1:]), **more}
        return self.answer(self.say("submit", op="job.submit", job=job))

    def answer(self, call: str) -> Said:
        """Wait for the answer to a call; what else comes is dropped."""
        return self.hear(lambda message: message.get("call") == call)

    def ends_of(self, job_id: str, count: int) -> None:
        """Wait until all jobs of its array are told to have ended."""
        left = {f"{self.user}/{job_id}.{index}" for index in range(1, count + 1)}
        while left:
            left.discard(self.hear(lambda message: message["op"] == "job.ended")["job"])

    def end_of(self, job_id: str) -> Said:
        """Wait until its job is told to have ended."""
        job = f"{self.user}/{job_id}.1"
        return self.hear(lambda message: message["op"] == "job.ended" and message["job"] == job)

    def hear(self, is_wanted: Callable[[Said], bool], patience_s: float = 60.0) -> Said:
        """Take messages up to the first that is wanted."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            _, _, body = self._channel.basic_get(self.queue, auto_ack=True)
            if body is None:
                time.sleep(0.05)
            elif is_wanted(message := msgpack.unpackb(body)):
                return message
        raise AssertionError(f"{self.user} has not heard it in {patience_s:g} s")

    def wait_for(self, count: int, patience_s: float = 60.0) -> None:
        """Wait until so many messages lie in its queue."""
        deadline = time.monotonic() + patience_s
        while (waiting := self._channel.queue_declare(self.queue, passive=True).method.message_count) < count:
            assert time.monotonic() < deadline, f"{waiting} of {count} in {patience_s:g} s"
            time.sleep(0.05)
