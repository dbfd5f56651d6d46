"""Secrets of grids are planted in all that sources are given, and looked for in all that leaves the centre: guests'
connections, what is handed to VMs, queues, logs, metrics, and what people are shown."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
import pytest

from broker.address import read_address, write_address
from broker.keys.config import KeysConfig, read_administrator
from broker.peer import ANYBODY
from schemas.endpoints import Endpoint
from tests.sources.diracx_peer import DiracxPeer, demand_diracx
from tests.sources.panda_jobs import job
from tests.sources.panda_played import system_settings
from tests.sources.panda_standin import PandaStandIn
from tests.sources.recorder import Recorder
from tests.system.running import System, open_to_all, running, until

SITE = "CLOUD.Volunteer.org"
#: In a place where it may be, so that it is found there: the search sees what there is to see.
ON_PURPOSE = "canary-on-purpose-7361"
#: Under keys of a description that are nobody's business, and in what a source keeps with a job.
PLANTED = {
    "pilot secret": "canary-pilot-secret-2718",
    "proxy": "canary-proxy-pem-1828",
    "blob": "canary-blob-4590",
    "directory": "canary-directory-4523",
    "PanDA's secret": "canary-panda-secret-5360",
    "PanDA's proxy": "canary-panda-proxy-2874",
}
#: What any presigned URL of the grid's store has in it, whatever its signature.
PRESIGNED = b"X-Amz-"


class Search:
    """What is looked for, as it is and as base64 has it, wherever in a text it begins."""

    def __init__(self, secrets: Mapping[str, str | bytes]) -> None:
        self._forms = {name: list(_forms(_bytes(secret))) for name, secret in secrets.items()}

    def found(self, places: Mapping[str, bytes]) -> set[tuple[str, str]]:
        """Give each secret that is somewhere, with the place."""
        return {
            (name, place)
            for place, content in places.items()
            for name, forms in self._forms.items()
            if any(form in content for form in forms)
        }


def _bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode()


def _forms(secret: bytes) -> Iterator[bytes]:
    yield secret
    for before in range(3):
        # The first and the last characters depend on what stands beside it.
        yield base64.b64encode(b"x" * before + secret)[2 * bool(before) + (before == 2) : -4].strip(b"=")


class Planted:
    """A system with sources, two VMs that reach its broker by way of a recorder, and what was planted."""

    def __init__(
        self, system: System, grid: DiracxPeer, panda: PandaStandIn, spool: Path, secrets: Mapping[str, str | bytes]
    ) -> None:
        self.system, self.grid, self.panda, self.spool, self.secrets = system, grid, panda, spool, secrets
        layout = system.layout
        credential = next(layout.credentials.glob("host-*.json"))
        address = read_address(credential)
        self.recorder = Recorder(address.endpoints[0].port)
        by_way = (Endpoint("127.0.0.1", self.recorder.port),)
        write_address(credential, msgspec.structs.replace(address, endpoints=by_way, owner=ANYBODY))
        system.kill("host_agent")
        with system.client() as cloud:
            for name in ("one", "two"):
                cloud.vms.create(name)
                cloud.vms.start(name)

    def volcloud(self, *words: str) -> bytes:
        """Give what a command prints."""
        command = [sys.executable, "-m", "volcloud.main", *words, "--data", str(self.system.directory)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def places(self) -> dict[str, bytes]:
        """Give all that leaves the centre, and all that lies where others may look, by where it is."""
        layout = self.system.layout
        streams = {f"guests' bytes, stream {n}": stream for n, stream in enumerate(self.recorder.streams())}
        return streams | _files(layout.host, layout.node, layout.logs) | self._shown() | self._queues() | self._public()

    def _shown(self) -> dict[str, bytes]:
        with self.system.client() as cloud:
            jobs = [row.job for row in cloud.jobs.list(limit=100)]
        shown = {f"job show {job}": self.volcloud("job", "show", job, "--json") for job in jobs}
        shown |= {f"job why {job}": self.volcloud("job", "why", job) for job in jobs}
        return shown | {"source list": self.volcloud("source", "list", "--json"), "events": self.volcloud("events")}

    def _queues(self) -> dict[str, bytes]:
        """Read what is in every queue, dead letters among them, and leave it there."""
        config = msgspec.toml.decode(self.system.layout.config("key_manager").read_bytes(), type=KeysConfig)
        admin = read_administrator(config)
        [where] = admin.management
        base = f"http://{where}/api/queues/{admin.vhost}"
        look = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "base64"}
        found = {}
        with httpx.Client(auth=(admin.user, admin.password), trust_env=False, timeout=30) as client:
            for row in client.get(base).raise_for_status().json():
                answer = client.post(f"{base}/{row['name']}/get", json=look)
                if "RESOURCE_LOCKED" in answer.text:
                    continue  # its one consumer alone may read it, and has what was in it
                said = answer.raise_for_status().json()
                found[f"queue {row['name']}"] = b"".join([answer.content, *(_body(one) for one in said)])
        assert any("dead" in name for name in found)
        return found

    def _public(self) -> dict[str, bytes]:
        found = {}
        for config in self.system.layout.etc.glob("*.toml"):
            port = tomllib.loads(config.read_text()).get("metrics_port")
            if port:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    found[f"metrics of {config.stem}"] = answer.read()
        assert "metrics of source_adapter-biomed" in found
        for name, pid in self.system.processes().items():
            found[f"words of {name}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return found


def _body(message: Mapping[str, str]) -> bytes:
    payload = message["payload"]
    return base64.b64decode(payload) if message["payload_encoding"] == "base64" else payload.encode()


def _files(*directories: Path) -> dict[str, bytes]:
    """Read all regular files below directories; what goes away meanwhile is left out."""
    found = {}
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    found[str(path.relative_to(directory.parent))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    demand_diracx()
    grid = DiracxPeer(tmp_path_factory.mktemp("diracx"))
    place = tmp_path_factory.mktemp("credentials")
    files = {name: grid.credential(place / f"{name}.json", name, f"{name}s") for name in ("operator", "pilot")}
    secrets: dict[str, str | bytes] = {**PLANTED, "a presigned URL": PRESIGNED}
    for name, path in files.items():
        tokens = json.loads(path.read_bytes())
        secrets |= {f"{name}'s {kind}": tokens[kind].rpartition(".")[2] for kind in ("access_token", "refresh_token")}
    dirac = {"kind": "dirac", "url": grid.url, "site": SITE}
    dirac |= {f"{name}_credential": str(path) for name, path in files.items()}
    panda = PandaStandIn()
    secret, proxy = PLANTED["PanDA's secret"], PLANTED["PanDA's proxy"]
    pem = f"-----BEGIN CERTIFICATE-----\n{proxy}"
    panda.secrets = {"pilotSecrets": secret, "secrets": secret, "prodDBlockTokens": secret, "userProxy": pem}
    atlas = system_settings(panda, place)
    for path in place.glob("*.token"):
        secrets[f"PanDA's {path.name}"] = path.read_text().rpartition(".")[2].strip()
    with open_to_all() as directory:
        spool = directory / "spool"
        sources = {"biomed": dirac, "lyon": {"kind": "spool", "directory": str(spool)}}
        tables = ", ".join(
            f"{name} = {{{', '.join(f'{key} = {json.dumps(value)}' for key, value in table.items())}}}"
            for name, table in sources.items()
        )
        with running(
            "--hypervisor", "process", "--vms", "0", "--set", f"sources={{{tables}, atlas = {atlas}}}"
        ) as system:
            made = Planted(system, grid, panda, spool, secrets)
            yield made
            made.recorder.close()
    panda.close()
    grid.close()


def test_no_secret_of_a_grid_is_anywhere_that_is_not_the_centres_own(planted: Planted) -> None:
    grid, spool = planted.grid, planted.spool
    sandbox, _ = grid.upload({"hello.sh": b"#!/bin/sh\necho hello $1\n"})
    secret, proxy, blob = (PLANTED[name] for name in ("pilot secret", "proxy", "blob"))
    secret_words = (
        f'PilotSecret = "{secret}"; UserProxy = "-----BEGIN {proxy}";'
        f' StdOutput = "{blob}"; OutputSandbox = {{"{blob}"}};'
    )
    [good, bad] = grid.submit(
        f'Executable = "hello.sh"; Arguments = "{ON_PURPOSE}"; InputSandbox = {{"{sandbox}"}}; {secret_words}',
        f'Executable = "/bin/true"; Site = "{SITE}"; InputData = "LFN:/biomed/none"; {secret_words}',
    )
    inputs = spool / "files" / PLANTED["directory"]
    inputs.mkdir()
    (inputs / "hello.sh").write_text("#!/bin/sh\necho hello\n")
    (inputs / "hello.sh").chmod(0o755)
    described = {"executable": "hello.sh", "inputs": [f"{inputs.name}/hello.sh"]}
    (spool / "job.part").write_text(json.dumps(described))
    (spool / "job.part").rename(spool / "new/job.json")

    number = planted.panda.submit(job("/bin/echo", "hello"))

    until(lambda: {grid.status(good), grid.status(bad)} <= {"Done", "Failed"}, "both have ended", 120)
    until((spool / "done/job.json").exists, "the spool's job has ended")
    until(lambda: planted.panda.jobs[number].finals, "PanDA's job has ended")
    places = planted.places()

    assert (grid.status(good), grid.status(bad)) == ("Done", "Failed")
    assert Search(planted.secrets).found(places) == set()
    seen = {place.partition(" ")[0] for _, place in Search({"on purpose": ON_PURPOSE}).found(places)}
    assert {"guests'", "job"} <= seen
