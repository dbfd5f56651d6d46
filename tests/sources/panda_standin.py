"""Plays a PanDA server on loopback, as it was seen to answer: panda-server 1.0.4, whose answers are kept in
docs/howto/panda-transcript.txt and compared.

What it does not prove: that a token is signed (it believes what one says), brokerage, shares and resource limits. Jobs
are found by their queue, label, type, memory and disk alone. A job that was given back comes again, where it is told to
do so, under its number as another try; PanDA's JEDI makes a job with another number. It has a storage and programs,
which PanDA has elsewhere.
"""

from __future__ import annotations

import email.parser
import email.policy
import hashlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.sources.panda_tokens import PRODUCTION, Issuer, claims_of
from tests.sources.panda_updates import StandInJob, failed, told, update

#: The fields of the record of a job, in the server's order, that are the job's own, by the name in its tables.
FACTS = {
    "jobName": "jobName",
    "jobDefinitionID": "jobDefinitionID",
    "cloud": "cloud",
    "prodUserID": "prodUserID",
    "maxCpuCount": "maxCpuCount",
    "minRamCount": "minRamCount",
    "maxDiskCount": "maxDiskCount",
    "processingType": "processingType",
    "currentPriority": "currentPriority",
    "taskID": "taskID",
    "coreCount": "coreCount",
    "maxWalltime": "maxWalltime",
    "resource_type": "resource_type",
    "prodSourceLabel": "prodSourceLabel",
    "swRelease": "AtlasRelease",
    "homepackage": "homepackage",
    "transformation": "transformation",
}
#: What an acquire and a bulk may say.
KNOWN = {
    "acquire_jobs": (
        *("site_name", "timeout", "memory", "disk_space", "prod_source_label", "node", "computing_element"),
        *("prod_user_id", "get_proxy_key", "task_id", "n_jobs", "background", "resource_type", "harvester_id"),
        *("worker_id", "scheduler_id", "job_type", "via_topic", "remaining_time"),
    ),
    "update_jobs_bulk": ("job_list", "harvester_id"),
}
LABELS = {"": ("managed", "test", "prod_test", "install"), "user": ("user", "panda", "install")}


class PandaStandIn:
    """It stands on a free port of loopback."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, tries_again: bool = False) -> None:
        """With ``tls`` who shows a certificate needs no token. Where it ``tries_again``, its daemon looks at reports
        each time that jobs are asked for, and what was given back comes again."""
        self.issuer = Issuer()
        self.jobs: dict[int, StandInJob] = {}
        self.asked: Counter[str] = Counter()
        self.cache: dict[str, bytes] = {}
        #: Files by their path below /storage and /trf.
        self.files: dict[str, bytes] = {}
        #: What is in every record and no business of a guest's.
        self.secrets: dict[str, Any] = {}
        self.lock = threading.RLock()
        self._next, self._tries_again = 1, tries_again
        handler = type("Handler", (_Handler,), {"standin": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"
        self.issuer.url = self.url
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    def submit(self, job: Mapping[str, Any], files: Sequence[Mapping[str, Any]] = ()) -> int:
        with self.lock:
            number, self._next = self._next, self._next + 1
            self.jobs[number] = StandInJob(number, dict(job), [dict(one) for one in files])
            return number

    def store(self, scope: str, name: str, content: bytes) -> None:
        """Put a file where Rucio would have it."""
        digest = hashlib.md5(f"{scope}:{name}".encode(), usedforsecurity=False).hexdigest()
        self.files[f"/storage/{scope.replace('.', '/')}/{digest[:2]}/{digest[2:4]}/{name}"] = content

    def kill(self, job: int) -> None:
        with self.lock:
            self.jobs[job].kill()

    def status(self, job: int) -> tuple[str, int]:
        with self.lock:
            return self.jobs[job].status, self.jobs[job].attempt_nr

    def cached(self, name: str) -> bytes:
        return self.cache[name]

    def pilot(self, lasts_s: float = 3600) -> str:
        return self.issuer.pilot(lasts_s)

    def user(self) -> str:
        return self.issuer.user()

    def tend(self) -> None:
        with self.lock:
            for job in self.jobs.values():
                job.settle()
                if self._tries_again:
                    job.try_again()

    def give_up(self, job: int) -> None:
        with self.lock:
            self.jobs[job].status = "failed"

    def acquire(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to an acquire."""
        unknown = [key for key in wanted if key not in KNOWN["acquire_jobs"]]
        if unknown:
            return failed(f"Argument error: got an unexpected keyword argument '{unknown[0]}'")
        if "site_name" not in wanted:
            return failed("Argument error: missing a required argument: 'site_name'")
        with self.lock:
            if self._tries_again:
                self.tend()
            found = [job for job in self.jobs.values() if job.status == "activated" and _fits(job, wanted)]
            found = sorted(found, key=lambda job: (-job.facts["currentPriority"], job.number))[
                : wanted.get("n_jobs", 1)
            ]
            if wanted.get("timeout", 60) <= 10 or not found:
                return failed("No jobs in PanDA")
            for job in found:
                job.status = "sent"
            more = {"nSent": self._sent(wanted), **self.secrets}
            return told({"StatusCode": 0, "jobs": [{**record(job), **more} for job in found]})

    def _sent(self, wanted: Mapping[str, Any]) -> int:
        """Count the jobs of production that are sent, as the server does where it is asked for these."""
        sent = [job for job in self.jobs.values() if job.status == "sent"]
        counted = sum(job.facts["prodSourceLabel"] in ("managed", "test") for job in sent)
        return counted if wanted.get("prod_source_label") in (None, "managed") else 0

    def update(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Answer to an update of one job."""
        with self.lock:
            return update(self.jobs, wanted)


def _fits(job: StandInJob, wanted: Mapping[str, Any]) -> bool:
    label = wanted.get("prod_source_label") or ""
    labels = LABELS["" if label == "managed" else label] if label in ("", "managed", "user") else (label,)
    return (
        job.facts["computingSite"] == wanted["site_name"]
        and job.facts["prodSourceLabel"] in labels
        and wanted.get("resource_type", job.facts["resource_type"]) == job.facts["resource_type"]
        and (not wanted.get("memory") or job.facts["minRamCount"] <= wanted["memory"])
        and (not wanted.get("disk_space") or job.facts["maxDiskCount"] <= wanted["disk_space"])
    )


def record(job: StandInJob) -> dict[str, Any]:
    """Give a job as the server hands it out."""

    def listed(files: Sequence[Mapping[str, Any]], key: str) -> str:
        return ",".join("NULL" if one.get(key) is None else str(one[key]) for one in files)

    inputs = [one for one in job.files if one["type"] == "input"]
    outputs = [one for one in job.files if one["type"] != "input"]
    logs = [one for one in outputs if one["type"] == "log"]
    kept = [one for one in outputs if one["type"] == "output"]
    log = logs[-1] if logs else {}
    return {
        "StatusCode": 0,
        "PandaID": job.number,
        **{key: job.facts.get(name, "NULL") for key, name in FACTS.items()},
        "inFiles": listed(inputs, "lfn"),
        "dispatchDblock": listed(inputs, "dispatchDBlock"),
        "dispatchDBlockToken": listed(inputs, "dispatchDBlockToken"),
        "dispatchDBlockTokenForOut": listed(outputs, "dispatchDBlockToken"),
        "outFiles": listed(outputs, "lfn"),
        "destinationDblock": listed(outputs, "destinationDBlock"),
        "destinationDBlockToken": listed(outputs, "destinationDBlockToken"),
        "prodDBlocks": listed(inputs, "prodDBlock"),
        "prodDBlockToken": listed(inputs, "prodDBlockToken"),
        "realDatasets": listed(outputs, "dataset"),
        "realDatasetsIn": listed(inputs, "dataset"),
        "fileDestinationSE": listed(outputs, "destinationSE"),
        "logFile": log.get("lfn", ""),
        "logGUID": log.get("GUID", ""),
        "jobPars": job.facts["jobParameters"],
        "attemptNr": job.attempt_nr,
        "GUID": listed(inputs, "GUID"),
        "checksum": listed(inputs, "checksum"),
        "fsize": listed(inputs, "fsize"),
        "scopeIn": listed(inputs, "scope"),
        "scopeOut": listed(kept, "scope"),
        "scopeLog": log.get("scope", ""),
        "ddmEndPointIn": ",".join(one.get("endpoint", "PANDA_UNDEFINED2") for one in inputs),
        "ddmEndPointOut": ",".join("PANDA_UNDEFINED2" for _ in outputs),
        **dict.fromkeys(("destinationSE", "cmtConfig", "transferType", "sourceSite"), "NULL"),
        **dict.fromkeys(("jobsetID", "reqID", "nucleus"), "NULL"),
        "ioIntensity": None,
        "ioIntensityUnit": None,
        **job.more,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked has gone away."""


class _Handler(BaseHTTPRequestHandler):
    standin: ClassVar[PandaStandIn]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        self.standin.asked[f"{self.command} {parts.path}"] += 1
        if not parts.path.startswith("/api/v1/"):
            content = self._file(unquote(parts.path))
            return self._say(404 if content is None else 200, content or b"not found")
        refusal, role = self._role()
        if refusal:
            return self._say(403, f"ERROR : Token authentication failed. {refusal}".encode())
        method = parts.path.rpartition("/")[2]
        if method not in ("acquire_jobs", "update_job", "update_jobs_bulk", "get_job_status", "upload_cache_file"):
            return self._say(403, f"ERROR : method {method} is forbidden".encode())
        said = self._said(method, role, body, parse_qs(parts.query))
        is_json = "application/json" in (self.headers.get("Content-Type"), self.headers.get("Accept"))
        return self._say(200, (json.dumps(said) if is_json else str(said)).encode())

    def _file(self, path: str) -> bytes | None:
        name = path.rpartition("/")[2]
        return self.standin.cache.get(name) if path.startswith("/cache/") else self.standin.files.get(path)

    def _role(self) -> tuple[str, str]:
        """Say why a token is refused, and as whom one speaks; empty = as nobody."""
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            certificate = getattr(self.connection, "getpeercert", dict)()
            return "", "production" if certificate else ""
        try:
            claims = claims_of(token)
        except (ValueError, IndexError):
            return "Invalid token. Not enough segments", ""
        if claims["exp"] <= time.time():
            return "Invalid token. Signature has expired", ""
        origin = self.headers.get("Origin", "")
        if origin.replace(".", "/") not in claims["groups"]:
            return f"Not a member of the {origin.replace('.', '/')} group", ""
        return "", "production" if origin == PRODUCTION else "user"

    def _said(self, method: str, role: str, body: bytes, query: dict[str, list[str]]) -> dict[str, Any]:
        if not role:
            return failed("SSL secure connection is required")
        if role != "production" and method.startswith("update"):
            return failed("production or pilot role required")
        if method == "upload_cache_file":
            return self._uploaded(body)
        if method == "get_job_status":
            return told([self._status(int(job)) for job in query["job_ids"]])
        wanted = json.loads(body)
        if method == "update_job":
            return self.standin.update(wanted)
        if method == "update_jobs_bulk":
            return told([self.standin.update(dict(one)) for one in wanted["job_list"]])
        if role != "production" and wanted.get("prod_source_label") != "user":
            return failed("no production/pilot role in VOMS FQANs or non pilot owner")
        return self.standin.acquire(wanted)

    def _status(self, number: int) -> dict[str, Any]:
        job = self.standin.jobs.get(number)
        if job is None:
            return {"job_id": number, "status": "not found", "attempt_number": 0}
        return {"job_id": number, "status": job.status, "attempt_number": job.attempt_nr}

    def _uploaded(self, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        [part] = form.iter_parts()
        name = str(part.get_filename()).rpartition("/")[2]
        limit = 100 if name.endswith(".out") else 768 if name.startswith("sources.") else 10
        if len(body) > limit << 20:
            return failed(f"ERROR: upload failure. Exceeded size limit {len(body) >> 20} MB > {limit} MB.")
        with self.standin.lock:
            if name in self.standin.cache:
                return failed("ERROR: cannot overwrite file")
            content = part.get_payload(decode=True)
            self.standin.cache[name] = content if isinstance(content, bytes) else b""
        return told(None)

    def _say(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who asked has given up
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
