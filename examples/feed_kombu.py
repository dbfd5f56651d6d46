import hashlib  # Feed a job as a grid site: python feed_kombu.py JOB-ID EXECUTABLE [ARGUMENT ...] < LOGIN-FILE
import json
import sys

from amqp.exceptions import AMQPError
from kombu import Connection, Consumer, Queue, uuid


def leave(status, why):
    """End with a status, 2: what was given is wrong, 3: the broker cannot be used; and say why."""
    print(why, file=sys.stderr)
    sys.exit(status)


if len(sys.argv) < 3:
    leave(2, "usage: python feed_kombu.py JOB-ID EXECUTABLE [ARGUMENT ...] < LOGIN-FILE")
try:
    site, (_, job_id, executable, *arguments) = json.load(sys.stdin), sys.argv
    me, job, asked, heard = site["user"], f"{site['user']}/{job_id}.1", set(), []
    url = "amqp://{user}:{password}@{host}:{port}/{vhost}".format(**site, **site["endpoints"][0])
except (ValueError, LookupError, TypeError):
    leave(2, "standard input is no login: give the file that `volcloud site add` wrote, as < LOGIN-FILE")


def say(kind, **message):
    """Send a message, and give its id, which its answer has as its ``call``."""
    where = {"exchange": "vc.up", "routing_key": f"{me}.{kind}", "user_id": me}
    asked.add(name := uuid())
    broker.Producer(serializer="msgpack").publish(message | {"id": name}, message_id=name, **where)
    return name


def hear(is_wanted):
    """Take messages up to the first that is wanted, and give that. What else lies in the queue is of an earlier run."""
    while True:
        try:
            while not heard:
                broker.drain_events(timeout=60)
        except TimeoutError:
            sys.exit("nothing was heard for a minute: run it again, with the same id")
        message = heard.pop(0)
        if message["op"] == "reply.failed" and message["call"] in asked:
            sys.exit(f"{message['message']}: {message.get('hint', '')}")
        if is_wanted(message):
            return message


def answer(call):
    """Wait for the answer to a call."""
    return hear(lambda message: message.get("call") == call)


def has_ended(message):
    """Say whether the job has: that comes by itself, and as an answer where it had before we asked."""
    if message["op"] == "reply.job" and message["call"] in asked:
        return message["job"]["state"] in ("done", "cancelled", "held")
    return message["op"] == "job.ended" and message["job"] == job


def take(message, delivery):
    """Keep a message that came, and acknowledge it."""
    heard.append(message)
    delivery.ack()


try:
    with Connection(url, transport_options={"confirm_publish": True}) as broker:
        broker.connect()
        own = Queue(me.replace("-", ".", 1), no_declare=True)
        Consumer(broker.default_channel, own, callbacks=[take], accept=["msgpack"]).consume()
        wanted = {"id": job_id, "executable": executable, "arguments": arguments}
        verdict = answer(say("submit", op="job.submit", job=wanted))
        if not verdict["accepted"]:
            sys.exit("; ".join(verdict["reasons"]))
        print("accepted", job_id, flush=True)

        say("ask", op="job.show", job=job)
        end = hear(has_ended)
        if end["op"] == "reply.job":
            end = {**end.get("attempts", [{}])[-1], "state": end["job"]["state"]}
        print(end["state"], end.get("exit_status", -1), flush=True)

        stdout, part = b"", {"total": 1}
        while len(stdout) < part["total"]:
            part = answer(say("read", op="output.read", job=job, name="stdout", offset=len(stdout)))
            stdout += part.get("data", b"")
        if hashlib.sha256(stdout).hexdigest() != part["sha256"]:
            sys.exit("stdout is not what was stored: read it again")
        sys.stdout.buffer.write(stdout)
except (AMQPError, OSError) as error:
    leave(3, f"the broker cannot be used with the login of {me}: {error}")
