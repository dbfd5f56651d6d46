"""Whatever comes in wrong: a clear error where a person looks; nothing crashes, nothing is lost.

One system for all of it, its store on a file system of 4 MB. Each test ends with a good job done by the same processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
from amqp.exceptions import PreconditionFailed
from kombu import Connection

from broker.address import Address
from broker.entities import administrator
from broker.management import Management
from broker.minting import mint, new_password, unmint
from broker.node import find_server, read_node_address
from broker.principals import parse_principal
from broker.routes import CALLS, DOWN, UP, queue_of
from schemas.codec import bundle, encode
from schemas.description import JobDescription
from schemas.envelope import MAX_BODY_BYTES, Ping, Refused
from schemas.ids import unguessable
from schemas.jobs import JobCompletion, Outcome
from schemas.ledger import JobState, JobSubmit
from tests.system.running import System, processes_of, until
from volcloud import Client
from volcloud.errors import BadInput

DAEMONS = ("broker", "key_manager", "job_adapter-1", "storage_adapter-1", "host_agent")
VM = "worker-1"
#: What each payload of this system may use.
MEMORY_MIB = 256
OPTIONS = (
    *("--hypervisor", "process", "--vms", "1", "--cpus", "2"),
    *("--guest-setting", f"payload_memory_mib={MEMORY_MIB}"),
)
DEPTH = 10_000

#: Body by name, and what the reason must say.
BAD: dict[str, tuple[bytes, str]] = {
    "not msgpack": (b"\xc1 not msgpack", "not a message: MessagePack data is malformed"),
    "nothing": (b"", "not a message: Input data was truncated"),
    "an unknown op": (msgpack.packb({"op": "job.explode", "id": "m"}), "Invalid value 'job.explode'"),
    "a wrong type": (
        msgpack.packb({"op": "job.submit", "id": "m", "job": {"id": "j", "executable": 5}}),
        "job.executable: must be a text of at most 200 characters, not empty",
    ),
    "a misspelt key": (
        msgpack.packb({"op": "job.submit", "id": "m", "job": {"id": "j", "executble": "/bin/true"}}),
        "unknown field `executble` - at `$.job`: did you mean 'executable'?",
    ),
    "10,000-fold nesting": (b"\x91" * DEPTH + b"\xc0", "not a message: Expected `object`, got `array`"),
    "nesting in a field that is known": (
        b"\x83\xa2op\xaajob.submit\xa2id\xa1m\xa3job" + b"\x91" * DEPTH + b"\xc0",
        "Expected `object`, got `array` - at `$.job`",
    ),
    "nesting in a field that is not": (
        b"\x83\xa2op\xaajob.submit\xa2id\xa1m\xa3new" + b"\x91" * DEPTH + b"\xc0",
        "recursion",
    ),
    "as much as the broker takes": (b"\x91" * MAX_BODY_BYTES, "not a message"),
}

#: (kind of principal, exchange, kind of message): every way into the centre but chunks, which are counted and dropped.
ROUTES = (
    *(("vm", UP, kind) for kind in ("request", "beat", "completion", "offer", "enrol")),
    *(("host", UP, kind) for kind in ("inventory", "enrol")),
    *(("console", CALLS, kind) for kind in ("call", "submit", "offer", "keys")),
)

Mint = Callable[[str], Address]
Done = subprocess.CompletedProcess[str]


def can_mount() -> bool:
    return os.geteuid() == 0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    find_server()
    directory = Path(tempfile.mkdtemp(prefix="vc-"))
    store = directory / "store"
    store.mkdir()
    system = System(directory)
    if can_mount():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", store], check=True)
    try:
        system.up(*OPTIONS)
        yield system
    finally:
        system.down()
        left = processes_of(directory)
        if can_mount():
            subprocess.run(["umount", store], check=True)
        shutil.rmtree(directory)
        assert left == [], f"left behind: {left}"


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


@pytest.fixture
def login(system: System) -> Iterator[Mint]:
    """Logins of more principals, with exactly the rights of their kind; they are gone after the test."""
    node = read_node_address(system.layout.node)
    management, made = Management(node.administration), []

    def mint_one(kind: str) -> Address:
        name, password = unguessable(kind), new_password()
        made.append(name)
        with administrator(node.administration) as declarer:
            mint(management, declarer, parse_principal(name), password)
        return node.login(name, password)

    yield mint_one
    for name in made:
        unmint(management, parse_principal(name))


@contextmanager
def unharmed(system: System, client: Client) -> Iterator[None]:
    """Afterwards a good job is done, and every process is the one that it was before."""
    before = pids(system, client)
    yield
    good = unguessable("good")
    client.jobs.submit({"id": good, "executable": "/bin/true"})
    assert [row.state for row in client.jobs.wait(good, timeout_s=30)] == [JobState.DONE]
    assert pids(system, client) == before


def pids(system: System, client: Client) -> dict[str, int]:
    found = {name: system.pid(name) for name in DAEMONS} | {"guest_agent": client.vms.list(VM)[0].status.pid}
    assert all(found.values()), found
    return found


def volcloud(system: System, *arguments: str) -> Done:
    """Run the command as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "volcloud.main", *arguments],
        env={**os.environ, "VOLCLOUD_DATA": str(system.directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def publish(
    login: Address, exchange: str, key: str, body: bytes, message_id: str = "", headers: dict[str, str] | None = None
) -> None:
    """Send any bytes as that principal, with kombu and a confirm."""
    url = f"amqp://{login.user}:{login.password}@{login.where}/{login.vhost}"
    with Connection(url, transport_options={"confirm_publish": True}) as broker:
        broker.Producer().publish(
            body,
            content_type="checked/x-msgpack",
            content_encoding="binary",
            exchange=exchange,
            routing_key=key,
            user_id=login.user,
            delivery_mode=2,
            headers=headers or {},
            **({"message_id": message_id} if message_id else {}),
        )


def dead_from(system: System, sender: str) -> list[dict[str, str]]:
    listed = volcloud(system, "dead", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    return [letter for letter in json.loads(listed.stdout) if letter["sender"] == sender]


def in_the_dead_letters(system: System, sender: str, count: int) -> list[dict[str, str]]:
    until(lambda: len(dead_from(system, sender)) >= count, f"{count} dead letters of {sender}", 20)
    found = dead_from(system, sender)
    assert len(found) == count, found
    return found


def job_file(directory: Path, text: str) -> str:
    path = directory / "job.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("what", BAD)
def test_what_a_site_sends_and_nobody_can_read_is_refused_and_kept(
    system: System, client: Client, login: Mint, what: str
) -> None:
    site = login("site")
    body, reason = BAD[what]

    with unharmed(system, client):
        publish(site, UP, f"{site.user}.submit", body, message_id="the-one")
        (letter,) = in_the_dead_letters(system, site.user, 1)
        shown = volcloud(system, "dead", "show", letter["id"])
        verdict = verdict_for(site)

    assert letter["reason"].startswith("undecodable: ")
    assert reason in letter["reason"]
    assert reason.split(":")[0] in shown.stdout
    assert letter["key"] == f"{site.user}.submit"
    assert letter["size"] == len(body)
    assert verdict["call"] == "the-one"
    assert verdict.get("accepted") is False
    assert reason in verdict["reasons"][0]


def verdict_for(site: Address) -> dict[str, object]:
    """Read the one message in a site's own queue, with nothing of ours."""
    url = f"amqp://{site.user}:{site.password}@{site.where}/{site.vhost}"
    with Connection(url) as broker, broker.channel() as channel:
        taken: list[bytes] = []

        def has_come() -> bool:
            message = channel.basic_get(queue_of(site.user), no_ack=True)
            taken.extend([message.body] if message else [])
            return bool(taken)

        until(has_come, "a verdict", 20)
        verdict: dict[str, object] = msgpack.unpackb(taken[0])
        return verdict


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]}-{route[2]}")
def test_what_others_send_the_centre_and_it_cannot_read_is_kept(
    system: System, client: Client, login: Mint, route: tuple[str, str, str]
) -> None:
    kind, exchange, message = route
    who = login(kind)

    with unharmed(system, client):
        for body, _ in BAD.values():
            publish(who, exchange, f"{who.user}.{message}", body)
        letters = in_the_dead_letters(system, who.user, len(BAD))

    assert all(letter["reason"].startswith("undecodable: ") for letter in letters), letters
    assert sorted(int(letter["size"]) for letter in letters) == sorted(len(body) for body, _ in BAD.values())


@pytest.mark.parametrize("agent", ["vm", "host"])
def test_what_a_console_sends_an_agent_and_it_cannot_read_is_kept(
    system: System, client: Client, login: Mint, agent: str
) -> None:
    who, row = login("console"), client.vms.list(VM)[0]

    with unharmed(system, client):
        for body, _ in BAD.values():
            publish(who, DOWN, queue_of(row.status.vm if agent == "vm" else row.host), body)
        in_the_dead_letters(system, who.user, len(BAD))
        until(lambda: all(one["refused_by"] for one in dead_from(system, who.user)), "the agent's word on each", 20)
        letters = dead_from(system, who.user)

    me = row.status.vm if agent == "vm" else row.host
    assert all(letter["op"].startswith("unreadable: ") for letter in letters), letters
    assert all(letter["reason"].startswith("undecodable: ") for letter in letters), letters
    assert {(letter["queue"], letter["refused_by"]) for letter in letters} == {(queue_of(me), me)}
    assert dead_from(system, me) == []


def test_a_letter_that_is_dropped_takes_the_agents_word_along(system: System, client: Client, login: Mint) -> None:
    who, host = login("console"), client.vms.list(VM)[0].host
    publish(who, DOWN, queue_of(host), b"\xc1 not a message")
    (letter,) = in_the_dead_letters(system, who.user, 1)
    until(lambda: dead_from(system, who.user)[0]["refused_by"] == host, "the agent's word", 20)

    dropped = volcloud(system, "dead", "drop", letter["id"])

    assert dropped.returncode == 0, dropped.stderr
    assert dead_from(system, who.user) == dead_from(system, host) == []


def test_what_is_bad_in_a_bundle_takes_it_to_the_dead_letters_once(system: System, client: Client, login: Mint) -> None:
    vm = login("vm")
    good = encode(JobCompletion(job="site-a/none.1", attempt=1, outcome=Outcome.DONE))
    body = bundle([b"\x80", good, b"\x80"])

    with unharmed(system, client):
        publish(vm, UP, f"{vm.user}.completion", body)
        (letter,) = in_the_dead_letters(system, vm.user, 1)

    assert (letter["size"], letter["reason"].split(":")[0]) == (len(body), "undecodable")


def test_a_bundle_of_who_may_send_none_is_no_message(system: System, client: Client, login: Mint) -> None:
    site = login("site")
    job = JobSubmit(job=JobDescription(id=unguessable("one"), executable="/bin/true"))

    with unharmed(system, client):
        publish(site, UP, f"{site.user}.submit", bundle([encode(job)] * 2))
        (letter,) = in_the_dead_letters(system, site.user, 1)

    assert letter["reason"].startswith("undecodable: ")
    assert client.jobs.list(job=f"{site.user}/{job.job.id}").counts == {}


def test_an_agent_can_forge_no_dead_letter_of_another(system: System, client: Client, login: Mint) -> None:
    evil, console = login("vm"), login("console")
    victim = client.vms.list(VM)[0].status.vm
    forged = {
        "x-volcloud-sender": console.user,
        "x-volcloud-exchange": DOWN,
        "x-volcloud-key": queue_of(victim),
        "x-volcloud-reason": "undecodable: nothing to see here",
    }
    word = encode(Refused(sha256="0" * 64, sender=console.user, reason="spoofed"))
    publish(evil, UP, f"{evil.user}.refused", encode(Ping()), headers=forged)
    publish(evil, UP, f"{evil.user}.refused", word, headers={**forged, "x-volcloud-sender": victim})

    letters = in_the_dead_letters(system, evil.user, 2)
    replays = [volcloud(system, "dead", "replay", letter["id"]) for letter in letters]

    assert dead_from(system, console.user) == dead_from(system, victim) == []
    assert {letter["key"] for letter in letters} == {f"{evil.user}.refused"}
    assert {letter["refused_by"] for letter in letters} == {""}
    assert [replay.returncode for replay in replays] == [1, 1]
    assert all("may not send" in replay.stderr for replay in replays)


def test_a_body_over_the_limit_is_refused_by_the_broker(system: System, client: Client, login: Mint) -> None:
    with unharmed(system, client):
        for kind, exchange, message in (("site", UP, "submit"), ("vm", UP, "completion"), ("console", CALLS, "call")):
            who = login(kind)
            with pytest.raises(PreconditionFailed, match="larger than configured max size 1048576"):
                publish(who, exchange, f"{who.user}.{message}", b"\0" * (MAX_BODY_BYTES + 1))
            assert dead_from(system, who.user) == []


def test_a_description_over_the_limit_is_refused_before_it_is_sent(
    system: System, client: Client, tmp_path: Path
) -> None:
    names = range(MAX_BODY_BYTES // 100_000 + 1)
    longest = ", ".join(f'X{n} = "{"x" * 100_000}"' for n in names)
    text = f'id = "long"\nexecutable = "/bin/true"\nenvironment = {{ {longest} }}\n'

    with unharmed(system, client):
        done = volcloud(system, "job", "submit", job_file(tmp_path, text))

    assert done.returncode == 2, done.stderr[:2000]
    assert "over the limit of 1048576 bytes" in done.stderr
    assert "Next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_over_the_limit_is_refused_before_it_is_sent(system: System, client: Client) -> None:
    with unharmed(system, client):
        done = volcloud(system, "vm", "run", VM, "--", "true", *["x" * 100_000] * 11)

    assert done.returncode == 125
    assert "over the limit of 1048576 bytes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_description_just_within_the_limit_runs_and_can_be_shown(system: System, client: Client) -> None:
    longest = {f"X{n}": "x" * 100_000 for n in range(10)} | {"LAST": "x" * 38_000}
    job = {"id": "largest", "executable": "/bin/true", "environment": longest, "labels": {"x": "x" * 1000}}

    with unharmed(system, client):
        client.jobs.submit(job)
        rows = client.jobs.wait("largest", timeout_s=30)
        shown = client.jobs.show("largest.1")

    assert [row.state for row in rows] == [JobState.DONE]
    assert shown.description.environment == longest


def test_more_outputs_than_fit_a_completion_are_refused(system: System, client: Client) -> None:
    outputs = [{"name": f"o{number}"} for number in range(9000)]

    with unharmed(system, client), pytest.raises(BadInput, match="9000 of them do not fit a completion"):
        client.jobs.submit({"id": "outputs", "executable": "/bin/true", "outputs": outputs})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('id = "t"\nexecutble = "/bin/true"\n', "unknown key executble: did you mean 'executable'?"),
        (
            'id = "t"\nexecutable = "/bin/true"\noutputs = [{ nmae = "x" }]\n',
            "unknown key outputs.nmae: did you mean 'name'?",
        ),
        (
            'id = "t"\nexecutable = "/bin/true"\n[requirements]\nmemory_mb = 4\n',
            "unknown key requirements.memory_mb: did you mean 'memory_mib'?",
        ),
        ('id = "t"\nexecutable = "/bin/true"\ncolour = 1\n', "unknown key colour: allowed are id, executable"),
        (
            'id = "t"\nexecutable = "/bin/true"\nattempts = "two"\n',
            "attempts = 'two': must be a whole number from 1 to 100, such as 2",
        ),
        ('id = "t"\nexecutable = "/bin/true"\ninputs = [{ path = "none.dat" }]\n', "none.dat does not exist"),
        ('id = "t\nexecutable', "not TOML: "),
    ],
    ids=["key", "output-key", "requirement", "no-key-is-near", "type", "missing-input-file", "not-toml"],
)
def test_a_wrong_job_file_is_refused_with_what_is_allowed(
    system: System, client: Client, tmp_path: Path, text: str, said: str
) -> None:
    path = job_file(tmp_path, text)

    with unharmed(system, client):
        done = volcloud(system, "job", "submit", path)

    assert done.returncode == 2
    assert said in done.stderr
    assert path in done.stderr
    assert "Next:" in done.stderr
    assert client.jobs.list(job="t").jobs == []


def test_an_input_that_nobody_stored_is_refused(client: Client, system: System, tmp_path: Path) -> None:
    text = f'id = "no-input"\nexecutable = "/bin/true"\ninputs = [{{ name = "in", sha256 = "{"ab" * 32}" }}]\n'

    with unharmed(system, client):
        done = volcloud(system, "job", "submit", job_file(tmp_path, text))

    assert done.returncode == 1
    assert "ab" * 32 in done.stderr
    assert "the store has no file" in done.stderr


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("no-output", 'executable = "/bin/true"\noutputs = [{ name = "never" }]', "outputs: 'never' was not made by"),
        ("no-command", 'executable = "/no/such/command"', "executable = '/no/such/command': there is no such program"),
        (
            "memory",
            'executable = "sh"\n'
            'arguments = ["-c", "echo filling; exec python3 -c \'b = [bytearray(1 << 20) for _ in range(4000)]\'"]',
            f"its limit was {MEMORY_MIB} MiB",
        ),
    ],
)
def test_a_job_that_cannot_end_well_says_why(
    system: System, client: Client, tmp_path: Path, name: str, fields: str, said: str
) -> None:
    with unharmed(system, client):
        done = volcloud(system, "job", "submit", job_file(tmp_path, f'id = "{name}"\n{fields}\n'), "--wait")
        why = json.loads(volcloud(system, "job", "why", name, "--json").stdout)

    assert done.returncode == 1
    assert said in done.stderr.replace("\n", " ")
    assert said in why["cause"]
    assert (why["state"], why["attempt"], why["failures"]) == ("held", 1, 1)
    assert why["noticed_by"]
    assert f"volcloud job retry console-operator/{name}.1" in why["next_step"]


def test_what_a_payload_that_ran_out_of_memory_printed_is_kept(system: System, client: Client) -> None:
    if not client.jobs.list(job="memory").jobs:
        pytest.skip("runs after the payload that fills the memory")

    assert client.jobs.logs("memory")["stdout"] == b"filling\n"


def test_a_command_that_does_not_exist_is_125_and_named(system: System, client: Client) -> None:
    with unharmed(system, client):
        done = volcloud(system, "vm", "run", VM, "--", "/no/such/command")

    assert done.returncode == 125
    assert "'/no/such/command': there is no such program" in done.stderr


def test_while_the_store_is_full_jobs_wait_and_say_so_and_nothing_is_lost(
    system: System, client: Client, tmp_path: Path
) -> None:
    if not can_mount():
        assert not os.environ.get("CI"), "CI must run this as root: it mounts a file system"
        pytest.skip("NOT TESTED: a full store needs a file system of its own, and that needs root")
    filler = system.directory / "store" / "filler"
    (tmp_path / "input").write_bytes(os.urandom(500_000))
    script = "seq -f %0.f 1 290000 > out"

    with unharmed(system, client):
        fill(filler)
        client.jobs.submit({"id": "small", "executable": "/usr/bin/seq", "arguments": ["1", "7000"]})
        until(lambda: "No space left on device" in client.jobs.why("small.1").cause, "the small one's trouble is told")
        client.jobs.submit(
            {"id": "large", "executable": "/bin/sh", "arguments": ["-c", script], "outputs": [{"name": "out"}]}
        )
        until(lambda: "No space left on device" in client.jobs.why("large.1").cause, "the large one's trouble is told")
        waiting = [client.jobs.why(name) for name in ("large.1", "small.1")]
        text = 'id = "with-input"\nexecutable = "/bin/true"\ninputs = [{ path = "input" }]\n'
        refused = volcloud(system, "job", "submit", job_file(tmp_path, text))
        filler.unlink()
        rows = [*client.jobs.wait("large", timeout_s=60), *client.jobs.wait("small", timeout_s=60)]

    assert [why.state for why in waiting] == [JobState.STAGE_OUT, JobState.STAGE_OUT]
    assert all("goes on by itself" in why.next_step for why in waiting)
    assert [(row.state, row.attempt, row.failures, row.losses) for row in rows] == [(JobState.DONE, 1, 0, 0)] * 2
    client.jobs.fetch("large.1", tmp_path / "home")
    assert (tmp_path / "home" / "out").read_bytes() == b"".join(b"%d\n" % n for n in range(1, 290_001))
    assert client.jobs.logs("small")["stdout"] == b"".join(b"%d\n" % n for n in range(1, 7001))
    assert refused.returncode == 1
    assert "No space left on device" in refused.stderr
    assert volcloud(system, "job", "submit", str(tmp_path / "job.toml"), "--wait").returncode == 0


def fill(file: Path) -> None:
    """Write until not a byte more goes in."""
    with file.open("wb", buffering=0) as opened:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    opened.write(b"\0" * size)
            except OSError:
                continue


def test_while_the_broker_is_down_each_command_says_so_and_what_to_do(
    system: System, client: Client, tmp_path: Path
) -> None:
    """The last test: it takes the system down and up."""
    path = job_file(tmp_path, 'id = "waits"\nexecutable = "/bin/true"\nrequirements = { memory_mib = 99999999 }\n')
    client.jobs.submit(path)
    asked = (
        *(("job", "list"), ("job", "submit", path), ("job", "why", "waits"), ("vm", "list"), ("host", "list")),
        *(("vm", "run", VM, "--", "true"), ("dead", "list"), ("broker", "check"), ("site", "add", "y"), ("status",)),
    )

    system.down()
    with ThreadPoolExecutor(len(asked)) as pool:
        said = dict(zip(asked, pool.map(lambda words: volcloud(system, *words), asked), strict=True))
    (system.directory / "up.log").unlink()
    system.up(*OPTIONS)

    for words, done in said.items():
        wanted = 125 if words[:2] == ("vm", "run") else 3
        assert (done.returncode, "Next:" in done.stderr) == (wanted, True), (words, done.stderr)
        assert "Traceback" not in done.stderr
    with system.client() as again:
        assert again.jobs.why("waits").state == JobState.SUBMITTED
