"""A real PanDA server for tests: PostgreSQL with its tables, its WSGI application on loopback, and its users.

It dies with the test that has started it, and its directory goes with the run's tree.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from broker.ports import free_ports
from tests.contract.ledger_fixtures import POSTGRESQL, Cluster
from tests.sources.panda_tokens import PRODUCTION, USER, Issuer

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "panda"
TABLES = PLACE / "database" / "schema" / "postgres" / "sqls"
#: How long the server may take to be ready, seconds; on an idle machine it is 5.
READY_S = 120.0
#: Parts of the tables, in their order, and the kinds of what is in each: those of PanDA's own script.
PARTS = ("PANDA", "PANDAMETA", "PANDAARCH", "PANDABIGMON", "DEFT")
KINDS = ("TABLE", "VIEW", "TYPE", "SEQUENCE", "FUNCTION", "TRIGGER", "PROCEDURE")
ROLE = (
    "CREATE ROLE panda LOGIN PASSWORD 'panda'",
    "ALTER ROLE panda SET search_path = doma_panda,public",
    "CREATE DATABASE panda_db",
)
#: In the place of pg_partman, of which Debian's is too old: whatever comes goes into one part.
PARTITIONS = """
DO $$ DECLARE one regclass; BEGIN
FOR one IN SELECT c.oid::regclass FROM pg_class c
    WHERE c.relkind = 'p' AND NOT EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid)
LOOP
    EXECUTE format('CREATE TABLE %s_default PARTITION OF %s DEFAULT', one, one);
    EXECUTE format('ALTER TABLE %s_default OWNER TO panda', one);
END LOOP; END $$;
"""


def demand_panda() -> None:
    """Skip where there is no PanDA server; where all is to be tested that is a failure."""
    if not (PLACE / ".ready").exists() or not TABLES.exists():
        words = "there is no PanDA server here: run deploy/peers/panda.sh"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


class PandaPeer:
    """A server that runs."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self.directory, self.issuer = directory, Issuer()
        _make_tables(cluster)
        port, tls_port = free_ports("127.0.0.1", (0, 0))
        self.url = self.issuer.url = f"http://127.0.0.1:{port}"
        #: Where whoever has a certificate of this authority needs no token.
        self.certified_url, self.authority = f"https://127.0.0.1:{tls_port}", trustme.CA()
        self.authority.cert_pem.write_to_path(directory / "ca.pem")
        self.authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
        program = Path(__file__).with_name("panda_server.py")
        with (directory / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [PLACE / "bin" / "python", program, directory, str(cluster.port), str(port), str(tls_port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(self.issuer.public_key()).encode() + b"\n")
        self._server.stdin.flush()
        self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self._wait_until_ready()

    def close(self) -> None:
        self._client.close()
        self._server.kill()
        self._server.wait()

    def submit(self, job: Mapping[str, Any], files: Sequence[Mapping[str, Any]] = ()) -> int:
        answer = self._client.post("/grid/submit", json={"job": job, "files": list(files), "user": "Alice"})
        assert answer.status_code == 200, self._said()
        return int(answer.json())

    def kill(self, job: int) -> None:
        said = self._ask("POST", "/api/v1/job/kill", self.user(), USER, json={"job_ids": [job]})
        assert said["data"] == [True], said

    def status(self, job: int) -> tuple[str, int]:
        said = self._ask("GET", "/api/v1/pilot/get_job_status", self.pilot(), PRODUCTION, params={"job_ids": job})
        return str(said["data"][0]["status"]), int(said["data"][0]["attempt_number"])

    def tend(self) -> None:
        answer = self._client.post("/grid/tend")
        assert answer.status_code == 200, self._said()

    def give_up(self, job: int) -> None:
        answer = self._client.post("/grid/give-up", json=job)
        assert answer.status_code == 200, self._said()

    def cached(self, name: str) -> bytes:
        return (self.directory / "cache" / name).read_bytes()

    def pilot(self, lasts_s: float = 3600) -> str:
        return self.issuer.pilot(lasts_s)

    def user(self) -> str:
        return self.issuer.user()

    def _ask(self, method: str, path: str, token: str, origin: str, **more: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", "Origin": origin, "Accept": "application/json"}
        answer = self._client.request(method, path, headers=headers, **more)
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self._server.poll() is None:
            try:
                if self._client.get("/.well-known/openid-configuration").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        said = self._said()
        self.close()
        raise AssertionError(f"PanDA did not become ready: {said}")

    def _said(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")[-2000:]


def _make_tables(cluster: Cluster) -> None:
    for statement in ROLE:
        _psql(cluster, "postgres", "-c", statement)
    scripts = [TABLES / f"pg_{part}_{kind}.sql" for part in PARTS for kind in KINDS]
    for script in [*(path for path in scripts if path.exists()), TABLES / "post_step_panda.sql"]:
        _psql(cluster, "panda_db", "-f", str(script))
    _psql(cluster, "panda_db", "-c", PARTITIONS)


def _psql(cluster: Cluster, database: str, *words: str) -> None:
    where = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", "ledger", "-d", database]
    subprocess.run([POSTGRESQL / "psql", "-Xq", *where, *words], check=True, capture_output=True, timeout=120)
