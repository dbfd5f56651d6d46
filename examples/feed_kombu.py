import json  # Submit a job as a grid site: python feed_kombu.py JOB-ID EXECUTABLE [ARGUMENT ...] < LOGIN-FILE
import sys

from kombu import Connection, Queue, uuid
from kombu.common import itermessages

site, (_, job_id, executable, *arguments) = json.load(sys.stdin), sys.argv
message = {"op": "job.submit", "id": uuid(), "job": {"id": job_id, "executable": executable, "arguments": arguments}}
where = {"exchange": "vc.up", "routing_key": f"{site['user']}.submit", "user_id": site["user"]}
url = "amqp://{user}:{password}@{host}:{port}/{vhost}".format(**site, **site["endpoints"][0])
verdicts = site["user"].replace("-", ".", 1)
with Connection(url, transport_options={"confirm_publish": True}) as broker:
    broker.Producer(serializer="msgpack").publish(message, message_id=message["id"], **where)
    for verdict, delivery in itermessages(broker, None, Queue(verdicts, no_declare=True), None, 30, accept=["msgpack"]):
        if verdict["call"] == message["id"]:
            sys.exit(delivery.ack() or (print("accepted", job_id) if verdict.get("accepted") else str(verdict)))
