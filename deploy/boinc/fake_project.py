"""A BOINC project in one process, on loopback: it hands out jobs, takes results, outputs and trickles.

Public, for whoever tests an application with the real client: downloads are signed, so the client trusts them as it
trusts a project's. It validates nothing, gives no merit, and knows one application. Seen with client 7.20.5.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

from msgspec import Struct

from deploy.boinc.freeze import API_VERSION
from deploy.boinc.signing import CodeKey, new_code_key
from deploy.boinc.version import PLATFORM

LOOPBACK = "127.0.0.1"
#: What a request may hold, bytes.
MOST_BYTES = 64 << 20
_APP = "example"


class FakeJob(Struct, frozen=True):
    """One work unit with one result: inputs and outputs by logical name, and what stands behind the program's name."""

    name: str
    inputs: Mapping[str, bytes]
    outputs: Sequence[str]
    command_line: str = ""


class FakeProject:
    """See the module. ``files`` are the version's by logical name, its main program first. Serves in the block."""

    def __init__(self, files: Mapping[str, bytes], key: CodeKey | None = None) -> None:
        self._key = key or new_code_key()
        self._files = {f"{name}_1": (name, body) for name, body in files.items()}
        self._waiting: list[FakeJob] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="project", daemon=True)
        self._downloads = {name: body for name, (_, body) in self._files.items()}
        #: Results that were reported: by name, as the client wrote them.
        self.reports: dict[str, str] = {}
        #: Outputs that came, by ``JOB_0_OUTPUT``.
        self.uploads: dict[str, bytes] = {}
        #: Trickles up, as they came.
        self.trickles: list[str] = []
        #: Trickles down that are to go: by result's name.
        self.trickles_down: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The project's address, as a client has to have it."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    @property
    def account(self) -> str:
        """What a client finds in its ``account_*.xml``."""
        return (
            f"<account>\n<master_url>{self.url}</master_url>\n<authenticator>{'0' * 32}</authenticator>\n</account>\n"
        )

    @property
    def directory(self) -> str:
        """The project's directory at a client."""
        return f"{LOOPBACK}_{self._server.server_port}"

    def __enter__(self) -> FakeProject:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10.0)

    def add(self, job: FakeJob) -> None:
        """Hand a job out to whoever asks next."""
        with self._lock:
            self._downloads |= {_input(job, name): body for name, body in job.inputs.items()}
            self._waiting.append(job)

    def _reply(self, request: str) -> str:
        """Answer a scheduler's request. Parts of the client's reader go by lines: a tag a line."""
        parts = [
            "<scheduler_reply>\n<scheduler_version>720</scheduler_version>\n",
            f"<master_url>{self.url}</master_url>\n<request_delay>2.000000</request_delay>\n",
            "<project_name>Example</project_name>\n<user_name>volunteer</user_name>\n",
            "<userid>1</userid>\n<hostid>1</hostid>\n",
        ]
        with self._lock:
            if self._key.public.strip() not in request:
                parts.append(f"<code_sign_key>\n{self._key.public}</code_sign_key>\n")
            parts += self._take_reports(request)
            parts += [self._trickle_down(name, body) for name, body in self.trickles_down.items()]
            self.trickles_down.clear()
            asked = re.search(r"<work_req_seconds>([\d.]+)<", request)
            if self._waiting and asked is not None and float(asked[1]) > 0:
                parts.append(self._hand_out(self._waiting.pop(0)))
        return "".join([*parts, "</scheduler_reply>\n"])

    def _take_reports(self, request: str) -> list[str]:
        acks = []
        for found in re.finditer(r"<result>\n(.*?)</result>", request, re.DOTALL):
            name = re.search(r"<name>([^<]*)<", found[1])
            if name is not None and "<exit_status>" in found[1]:
                self.reports[name[1]] = found[1]
                acks.append(f"<result_ack>\n<name>{name[1]}</name>\n</result_ack>\n")
        came = re.findall(r"<msg_from_host>\n(.*?)</msg_from_host>", request, re.DOTALL)
        self.trickles += came
        return [*acks, *(["<message_ack/>\n"] if came else [])]

    def _trickle_down(self, name: str, body: str) -> str:
        told = f"<result_name>{name}</result_name>\n<time>{int(time.time())}</time>\n{body}\n"
        return f"<trickle_down>\n{told}</trickle_down>\n"

    def _hand_out(self, job: FakeJob) -> str:
        inputs, outputs = [_input(job, name) for name in job.inputs], [_output(job, name) for name in job.outputs]
        files = [self._described(name, is_program=True) for name in self._files]
        files += [self._described(name) for name in inputs]
        files += [
            f"<file_info>\n<name>{name}</name>\n<generated_locally/>\n<upload_when_present/>\n<max_nbytes>1e8</max_nbytes>\n"
            f"<url>{self.url}file_upload_handler</url>\n</file_info>\n"
            for name in outputs
        ]
        version = [
            _ref(physical, logical, is_main=number == 0)
            for number, (physical, (logical, _)) in enumerate(self._files.items())
        ]
        words = f"<command_line>{escape(job.command_line)}</command_line>\n" if job.command_line else ""
        return (
            f"<app>\n<name>{_APP}</name>\n<user_friendly_name>Example</user_friendly_name>\n</app>\n"
            f"{''.join(files)}<app_version>\n<app_name>{_APP}</app_name>\n<version_num>100</version_num>\n"
            f"<platform>{PLATFORM}</platform>\n<avg_ncpus>1.0</avg_ncpus>\n<flops>1000000000.0</flops>\n"
            f"<api_version>{API_VERSION}</api_version>\n{''.join(version)}</app_version>\n"
            f"<workunit>\n<name>{job.name}</name>\n<app_name>{_APP}</app_name>\n{words}"
            "<rsc_fpops_est>1e10</rsc_fpops_est>\n<rsc_fpops_bound>1e18</rsc_fpops_bound>\n"
            "<rsc_memory_bound>1e9</rsc_memory_bound>\n<rsc_disk_bound>1e10</rsc_disk_bound>\n"
            f"{''.join(_ref(_input(job, name), name) for name in job.inputs)}</workunit>\n"
            f"<result>\n<name>{job.name}_0</name>\n<wu_name>{job.name}</wu_name>\n<platform>{PLATFORM}</platform>\n"
            f"<version_num>100</version_num>\n<report_deadline>{int(time.time()) + 10**6}</report_deadline>\n"
            f"{''.join(_ref(_output(job, name), name) for name in job.outputs)}</result>\n"
        )

    def _described(self, name: str, *, is_program: bool = False) -> str:
        body = self._downloads[name]
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        signed = f"<executable/>\n<file_signature>\n{self._key.sign(body)}</file_signature>\n" if is_program else ""
        return (
            f"<file_info>\n<name>{name}</name>\n<nbytes>{len(body)}</nbytes>\n<md5_cksum>{digest}</md5_cksum>\n"
            f"<url>{self.url}download/{name}</url>\n{signed}</file_info>\n"
        )

    def _take_upload(self, body: bytes) -> str:
        head, _, data = body.partition(b"<data>\n")
        if b"<get_file_size>" in head:
            return "<data_server_reply>\n<status>0</status>\n<file_size>0</file_size>\n</data_server_reply>\n"
        name, size = re.search(rb"<name>([^<]*)<", head), re.search(rb"<nbytes>([\d.]+)<", head)
        if name is not None and size is not None:
            self.uploads[name[1].decode()] = data[: int(float(size[1]))]
        return "<data_server_reply>\n<status>0</status>\n</data_server_reply>\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        project = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.startswith("/download/"):
                    found = project._downloads.get(self.path.removeprefix("/download/"))
                    return self._answer(found if found is not None else b"", 200 if found is not None else 404)
                return self._answer(f'<html><link rel="boinc_scheduler" href="{project.url}sched"></html>'.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MOST_BYTES))
                if "file_upload_handler" in self.path:
                    return self._answer(project._take_upload(body).encode())
                return self._answer(project._reply(body.decode(errors="replace")).encode())

            def _answer(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: who tests reads what came."""

        return Handler


def _output(job: FakeJob, name: str) -> str:
    """Name an output as a server does, after its result: what is written elsewhere the agent takes for an attack."""
    return f"{job.name}_0_{_flat(name)}"


def _input(job: FakeJob, name: str) -> str:
    return f"{job.name}_{_flat(name)}"


def _flat(logical: str) -> str:
    """Files of a project lie in one directory, whatever directories their logical names have."""
    return logical.replace("/", "_")


def attach(home: Path, project: FakeProject) -> None:
    """Have a client with its data in ``home`` find the project when it starts."""
    (home / f"account_{project.directory}.xml").write_text(project.account)


def _ref(physical: str, logical: str, *, is_main: bool = False) -> str:
    main = "<main_program/>\n" if is_main else ""
    return f"<file_ref>\n<file_name>{physical}</file_name>\n<open_name>{logical}</open_name>\n{main}</file_ref>\n"
