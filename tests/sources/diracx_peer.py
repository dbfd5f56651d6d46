"""A real DiracX for tests: SQLite, moto as S3, on loopback, in a directory of the run; and its users, as they act.

It dies with the test that has started it, and the directory goes with the run's tree.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.sources.diracx_server import VO, legacy_token

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".cache" / "diracx" / "bin" / "python"
#: How long a server may take to be ready, seconds; on an idle machine it is 10.
READY_S = 90.0
#: DIRAC's own client unpacks with a word that Python knows from 3.11.4 on, and Debian 12 has 3.11.2.
DOWNLOAD = """
import asyncio, sys, tarfile
from pathlib import Path
from diracx.api.jobs import download_sandbox
if not hasattr(tarfile, "data_filter"):
    real = tarfile.TarFile.extractall
    tarfile.TarFile.extractall = lambda self, path, filter: real(self, path)
asyncio.run(download_sandbox(sys.argv[1], Path(sys.argv[2])))
"""


def demand_diracx() -> None:
    """Skip where there is no DiracX; where all is to be tested that is a failure."""
    if not (PYTHON.parents[1] / ".ready").exists():
        words = "there is no DiracX here: run deploy/peers/diracx.sh"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@pytest.fixture(scope="module", name="diracx")
def diracx_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiracxPeer]:
    """Give a module a DiracX of its own."""
    demand_diracx()
    peer = DiracxPeer(tmp_path_factory.mktemp("diracx"))
    yield peer
    peer.close()


class DiracxPeer:
    """A server that runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        port, s3_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        program = Path(__file__).with_name("diracx_server.py")
        self._command = [str(PYTHON), str(program), str(directory), str(port), str(s3_port)]
        self._client = self._new_client()
        self._tokens: dict[tuple[str, str], dict[str, Any]] = {}
        self._server = self._started()
        self._wait_until_ready()

    def close(self) -> None:
        self._client.close()
        self._server.kill()
        self._server.wait()

    def kill(self) -> None:
        """End the server as a power cut does; see ``begin_again``."""
        self._server.kill()
        self._server.wait()
        self._client.close()
        self._client = self._new_client()

    def begin_again(self) -> None:
        """Have the server that was killed back, and wait until it is ready; what was in sandboxes is gone."""
        self._server = self._started()
        self._wait_until_ready()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def _started(self) -> subprocess.Popen[bytes]:
        with (self.directory / "server.log").open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log)

    def login(self, user: str, group: str) -> dict[str, Any]:
        """Give a user's tokens, as the server signs them."""
        answer = self._client.get(
            "/api/auth/legacy-exchange",
            params={"preferred_username": user, "scope": f"vo:{VO} group:{group}"},
            headers={"Authorization": f"Bearer {legacy_token()}"},
        )
        assert answer.status_code == 200, answer.text
        tokens: dict[str, Any] = answer.json()
        return tokens

    def credential(self, path: Path, user: str, group: str) -> Path:
        """Write what ``dirac login`` would."""
        tokens = self.login(user, group)
        kept = {
            "access_token": tokens["access_token"],
            "refresh_token": tokens["refresh_token"],
            "expires_on": int(time.time()) + tokens["expires_in"],
        }
        path.touch(0o600)
        path.write_text(json.dumps(kept))
        return path

    def ask(self, user: str, group: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask as a user."""
        tokens = self._tokens.setdefault((user, group), {}) or self.login(user, group)
        self._tokens[user, group] = tokens
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        answer = self._client.request(method, path, headers=bearer, **more)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer

    def submit(self, *jdls: str, user: str = "alice") -> list[int]:
        """Submit jobs; they have come to wait then, as DIRAC's optimizers would have it."""
        jobs = [one["JobID"] for one in self.ask(user, "user", "POST", "/api/jobs/jdl", json=list(jdls)).json()]
        self.step(jobs, "Checking", "Waiting")
        return jobs

    def step(self, jobs: Sequence[int], *statuses: str, user: str = "pilot", group: str = "pilots") -> None:
        """Set statuses, one after the other."""
        now = datetime.now(UTC)
        steps = {
            str(now + timedelta(microseconds=n)): {"Status": status, "MinorStatus": f"set by {user}", "Source": "test"}
            for n, status in enumerate(statuses)
        }
        self.ask(user, group, "PATCH", "/api/jobs/status", json={str(job): steps for job in jobs})

    def kill_job(self, job: int, user: str = "alice") -> None:
        """Kill a job as its owner does."""
        self.step([job], "Killed", user=user, group="user")

    def reschedule(self, job: int, user: str = "alice") -> None:
        """Reschedule a job as its owner does, and have it wait again."""
        self.ask(user, "user", "POST", "/api/jobs/reschedule", json={"job_ids": [job]})
        self.step([job], "Checking", "Waiting")

    def rows(self, *jobs: int, history: bool = False) -> dict[int, Mapping[str, Any]]:
        """Read how jobs are, as an operator does; with their history under ``LoggingInfo``."""
        search = [{"parameter": "JobID", "operator": "in", "values": list(jobs)}]
        body = {"search": search} | ({"parameters": ["JobID", "Status", "LoggingInfo"]} if history else {})
        page = {"page": 1, "per_page": max(100, len(jobs))}
        answer = self.ask("operator", "operators", "POST", "/api/jobs/search", json=body, params=page)
        return {row["JobID"]: row for row in answer.json()}

    def status(self, job: int) -> str:
        return str(self.rows(job)[job]["Status"])

    def upload(self, files: Mapping[str, bytes], user: str = "alice", ending: str = "tar.bz2") -> tuple[str, bytes]:
        """Upload an input sandbox; gives its name and the archive."""
        body = archive(files, ending)
        return self.upload_bytes(body, ending, user), body

    def upload_bytes(self, body: bytes, ending: str, user: str = "alice") -> str:
        """Upload whatever it is as an input sandbox; gives its name."""
        sha256 = hashlib.sha256(body).hexdigest()
        facts = {"checksum_algorithm": "sha256", "checksum": sha256, "size": len(body), "format": ending}
        place = self.ask(user, "user", "POST", "/api/jobs/sandbox", json=facts).json()
        if place.get("url"):
            sent = httpx.post(place["url"], data=place["fields"], files={"file": ("sandbox", body)}, trust_env=False)
            assert sent.is_success, sent.text
        return str(place["pfn"])

    def download_output(self, job: int, target: Path) -> None:
        """Fetch a job's output sandbox as an operator, with DIRAC's own client."""
        [pfn] = self.ask("operator", "operators", "GET", f"/api/jobs/{job}/sandbox/output").json()
        target.mkdir()
        credential = self.credential(self.directory / "download.json", "operator", "operators")
        env = {"DIRACX_URL": self.url, "DIRACX_CREDENTIALS_PATH": str(credential), "HOME": str(self.directory)}
        command = [str(PYTHON), "-c", DOWNLOAD, pfn, str(target)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def output_of(self, job: int) -> dict[str, bytes]:
        """Fetch and unpack a job's output sandbox as an operator."""
        [pfn] = self.ask("operator", "operators", "GET", f"/api/jobs/{job}/sandbox/output").json()
        url = self.ask("operator", "operators", "GET", "/api/jobs/sandbox", params={"pfn": pfn}).json()["url"]
        with tarfile.open(fileobj=io.BytesIO(httpx.get(url, trust_env=False).content)) as packed:
            return {one.name: packed.extractfile(one).read() for one in packed}

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self._server.poll() is not None:
                break
            try:
                if self._client.get("/api/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        said = (self.directory / "server.log").read_text(errors="replace")[-2000:]
        self.close()
        raise AssertionError(f"DiracX did not become ready: {said}")


def archive(files: Mapping[str, bytes], ending: str = "tar.bz2") -> bytes:
    """Pack files as DIRAC's client does, and as DiracX's does."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:bz2" if ending == "tar.bz2" else "w") as packed:
        for name, content in files.items():
            facts = tarfile.TarInfo(name)
            facts.size, facts.mode = len(content), 0o755
            packed.addfile(facts, io.BytesIO(content))
    if ending == "tar.bz2":
        return body.getvalue()
    return subprocess.run(["zstd", "-cq"], input=body.getvalue(), capture_output=True, check=True).stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
