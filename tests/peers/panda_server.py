"""A real PanDA server on loopback: a program for the virtual environment of deploy/peers/panda.sh.

It is given a directory, which it fills, the port of a PostgreSQL with PanDA's tables, one for itself, and one for TLS;
the key that tokens are checked with is on its standard input, and certificates are in the directory. It serves the
server's WSGI application, and what an identity provider publishes: the server checks tokens as it does in production.
For who shows a certificate it says what Apache would, and that the role is that of production. It ends when whoever
started it is gone. Nothing of the project is imported here.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import ssl
import sys
import threading
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

VO, CLIENT = "voluntary", "volunteer-cloud"
#: Where the identity provider of this test is, on the same port.
CONFIGURATION, KEYS = "/.well-known/openid-configuration", "/keys"
#: Where jobs are submitted: PanDA's own way goes through a client and daemons.
SUBMIT = "/grid/submit"
#: Where PanDA's daemons are set to work: the one for reports, and the one for jobs that nobody speaks of.
TEND, GIVE_UP = "/grid/tend", "/grid/give-up"


def write_settings(directory: Path, database_port: int, port: int) -> None:
    """Write what the server reads: its settings, those of its log, and which tokens it takes."""
    settings = {
        "logdir": directory / "log",
        "loggername": "prod",
        "cache_dir": directory / "cache",
        "backend": "postgres",
        "dbhost": "127.0.0.1",
        "dbport": database_port,
        "dbuser": "panda",
        "dbpasswd": "panda",
        "dbname": "panda_db",
        "nDBConnection": 3,
        "usedbtimeout": "True",
        "dbtimeout": 60,
        "dbbridgeverbose": "False",
        "dump_sql": "False",
        "schemaPANDA": "DOMA_PANDA",
        "schemaMETA": "DOMA_PANDAMETA",
        "schemaPANDAARCH": "DOMA_PANDAARCH",
        "schemaJEDI": "DOMA_PANDA",
        "schemaDEFT": "DOMA_DEFT",
        "pserverhost": "127.0.0.1",
        "pserverport": port,
        "pserverporthttp": port,
        "entryVerbose": "False",
        "record_statuschange": "True",
        "record_sandbox_info": "False",
        "useJEDI": "True",
        "adder_plugins": f"{VO}:pandaserver.dataservice.adder_dummy_plugin:AdderDummyPlugin",
        "token_authType": "oidc",
        "auth_config": directory / "auth",
        "emailSMTPsrv": "127.0.0.1",
        "emailSender": "nobody@127.0.0.1",
        "emailLogin": "None",
        "emailPass": "None",
    }
    place = directory / "etc" / "panda"
    for folder in (place, directory / "auth", directory / "log", directory / "cache"):
        folder.mkdir(parents=True)
    lines = [f"{key} = {value}" for key, value in settings.items()]
    (place / "panda_server.cfg").write_text("\n".join(["[server]", *lines, "[daemon]", "enable = False", ""]))
    # Port 1 of loopback answers nobody: the logger tells a monitor of everything.
    monitor = ["loghost=127.0.0.1", "monport-apache=1", "loghost_new=127.0.0.1", "monport-apache_new=1"]
    ways = ["method=GET", "encoding=url", "method_new=POST", "encoding_new=json", "monurlprefix=/", "migrated=True"]
    logger = ["[logger]", *monitor, *ways, f"logdir={directory}/log", "nemitters=1", "rotating_policy=none"]
    (place / "panda_common.cfg").write_text("\n".join([*logger, "log_level=DEBUG", "[kafka]", ""]))
    issuer = f"http://127.0.0.1:{port}"
    for role in ("", ".production"):
        known = {"client_id": CLIENT, "oidc_config_url": f"{issuer}{CONFIGURATION}", "vo": f"{VO}{role}"}
        (directory / "auth" / f"{VO}{role}_auth_config.json").write_text(json.dumps(known))


class Server(ThreadingMixIn, WSGIServer):
    """Each question in a thread of its own: the server asks its identity provider, which is here, within one."""

    daemon_threads = True


class Handler(WSGIRequestHandler):
    """Gives a WSGI application what mod_wsgi would: the whole path in SCRIPT_NAME."""

    protocol_version = "HTTP/1.1"

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = environ["PATH_INFO"], ""
        environ["CONTENT_LENGTH"] = environ.get("CONTENT_LENGTH") or "0"
        if isinstance(self.connection, ssl.SSLSocket):
            shown = cast(Any, self.connection.getpeercert())
            names = {key: value for part in shown["subject"] for key, value in part}
            environ["SSL_CLIENT_S_DN"] = f"/O={names['organizationName']}/CN={names['organizationalUnitName']}"
            environ["GRST_CRED_0"] = f"VOMS 0 0 0 /{VO}/Role=production"
        return environ

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.parse_request():
            return
        environ: Any = self.get_environ()
        handler: Any = ServerHandler(
            cast(Any, self.rfile), cast(Any, self.wfile), self.get_stderr(), environ, multithread=True
        )
        handler.request_handler = self
        handler.run(cast(Server, self.server).get_app())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def submit(wanted: dict) -> int:
    """Store a job as its user's client has it, and have it wait at its queue, as PanDA's daemons would; gives its
    number."""
    from pandaserver.server.panda import taskBuffer
    from pandaserver.taskbuffer.FileSpec import FileSpec
    from pandaserver.taskbuffer.JobSpec import JobSpec

    job = JobSpec()
    for key, value in wanted["job"].items():
        setattr(job, key, value)
    for facts in wanted["files"]:
        file = FileSpec()
        for key, value in facts.items():
            setattr(file, key, value)
        job.addFile(file)
    with taskBuffer.proxyPool.get() as proxy:
        job.PandaID = proxy.bulk_fetch_panda_ids(1)[0]
        numbers = sorted(proxy.bulkFetchFileIDsPanda(len(job.Files))) if job.Files else []
        if not proxy.insertNewJob(job, wanted["user"], 0, 0.0, 0, VO, False, fileIDPool=numbers):
            raise RuntimeError("the server does not store the job")
    [stored] = taskBuffer.peekJobs([job.PandaID])
    for file in stored.Files:
        file.status = "ready"
    taskBuffer.activateJobs([stored])
    return int(job.PandaID)


def tend() -> int:
    """Do what PanDA's daemon does with the reports of jobs, by its own code; gives how many there were."""
    from pandaserver.brokerage.SiteMapper import SiteMapper
    from pandaserver.dataservice.adder_gen import AdderGen
    from pandaserver.server.panda import taskBuffer

    reports = taskBuffer.listJobOutputReport(only_unlocked=False, time_limit=0, grace_period=0) or []
    for number, status, attempt, *_ in reports:
        AdderGen(taskBuffer, number, status, attempt, ignore_tmp_error=True, siteMapper=SiteMapper(taskBuffer)).run()
    return len(reports)


def give_up(number: int) -> int:
    """Do what PanDA's daemon does with a job of which nobody has spoken for half an hour, now."""
    from pandaserver.jobdispatcher.Watcher import Watcher
    from pandaserver.server.panda import taskBuffer

    Watcher(taskBuffer, number, single=True, sleepTime=0).run()
    return number


def with_users(application, issuer: str, key: dict):
    """Put before the server's application what others do: its users and daemons, and the identity provider."""
    pages = {CONFIGURATION: {"issuer": issuer, "jwks_uri": f"{issuer}{KEYS}"}, KEYS: {"keys": [key]}}

    def answer(environ, start_response):
        path = environ["SCRIPT_NAME"]
        if path in (SUBMIT, GIVE_UP):
            wanted = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            page = submit(wanted) if path == SUBMIT else give_up(wanted)
        elif path == TEND:
            page = tend()
        elif path in pages:
            page = pages[path]
        else:
            return application(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(page).encode()]

    return answer


def serve_certified(application, directory: Path, port: int) -> None:
    """Serve by TLS whoever has a certificate of the directory's authority, in a thread."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(directory / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(directory / "server.pem")
    server = Server(("127.0.0.1", port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.set_app(application)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(directory: Path, database_port: int, port: int, tls_port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    key = json.loads(sys.stdin.readline())
    write_settings(directory, database_port, port)
    address = f"http://127.0.0.1:{port}"
    os.environ |= {
        "PANDA_HOME": str(directory),
        "HOME": str(directory),
        "PANDA_BEHIND_REAL_LB": "1",
        "PANDA_URL": f"{address}/server/panda",
        "PANDA_URL_SSL": f"{address}/server/panda",
        "PANDACACHE_URL": f"{address}/server/panda",
        "PANDA_API_URL": f"{address}/api/v1",
        "PANDA_API_URL_SSL": f"{address}/api/v1",
        "X509_USER_PROXY": "/nonexistent",
        "TZ": "UTC",
    }
    server = Server(("127.0.0.1", port), Handler)
    from pandaserver.server.panda import application

    serve_certified(application, directory, tls_port)
    server.set_app(with_users(application, address, key))
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
