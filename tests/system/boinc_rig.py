"""The real BOINC client in a directory of its own: with a task by a state that is written by hand, or from a project.

Without a project ``unsigned_apps_ok`` takes the place of signatures, and turns all network off. Ports are loopback's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from broker.daemon.process_stat import read_stat
from broker.ports import free_ports
from deploy.boinc.fake_project import FakeProject, attach
from host_agent.hypervisors.detached import all_processes

URL = "http://example.org/project/"
PROJECT_DIR = "example.org_project"
#: A client that does what it shall does it in seconds; a machine that others use may take longer.
PATIENCE_S = 120.0
_LOOK_S = 0.2
#: How often a client is asked to report.
_ASK_S = 5.0
#: What a machine that stands still may use at most in so many seconds, seconds of CPU time.
STILL_S, STILL_CPU_S = 5.0, 0.02
_PASSWORD = "password"

_OPTIONS = [
    "skip_cpu_benchmarks",
    "dont_contact_ref_site",
    "no_info_fetch",
    "suppress_net_info",
    "no_gpus",
    "report_results_immediately",
    "allow_multiple_clients",
    "no_priority_change",
]
_PREFERENCES = {
    "run_on_batteries": 1,
    "run_if_user_active": 1,
    "suspend_cpu_usage": 0,
    "leave_apps_in_memory": 1,
    "cpu_usage_limit": 100,
    "disk_interval": 2,
    "disk_max_used_gb": 100,
    "disk_max_used_pct": 100,
    "disk_min_free_gb": 0.01,
    "ram_max_used_busy_pct": 90,
    "ram_max_used_idle_pct": 90,
}


class BoincClient:
    """A client in a directory of its own, attached to ``project`` if that is one."""

    def __init__(self, home: Path, url: str, directory: str, task: str, within: Sequence[str] = ()) -> None:
        """``within`` stands before the client's command."""
        self._within = within
        self.home, self.project = home, home / "projects" / directory
        self.url, self.name = url, task
        self.project.mkdir(parents=True)
        self._port = free_ports("127.0.0.1", [0])[0]
        self.client: subprocess.Popen[bytes] | None = None
        (home / "gui_rpc_auth.cfg").write_text(_PASSWORD)
        (home / "slots").mkdir()
        self.prefer()

    @property
    def slot(self) -> Path:
        """Where the task runs."""
        return self.home / "slots" / "0"

    def prefer(self, **changes: float) -> None:
        """Write the volunteer's preferences."""
        told = "".join(f"<{name}>{value}</{name}>\n" for name, value in {**_PREFERENCES, **changes}.items())
        text = f"<global_preferences>\n{told}</global_preferences>\n"
        (self.home / "global_prefs_override.xml").write_text(text)

    def start(self) -> None:
        """Start the client."""
        words = [
            *self._within,
            "boinc",
            "--dir",
            str(self.home),
            "--gui_rpc_port",
            str(self._port),
            "--allow_multiple_clients",
        ]
        with (self.home / "client.log").open("ab") as log:
            self.client = subprocess.Popen(words, cwd=self.home, stdout=log, stderr=log, start_new_session=True)
        self.until(lambda: "boinc_version" in self._ask("--get_state") or self.tasks(), "the client answers")

    def ask(self, *words: str) -> None:
        """Have ``boinccmd`` do something. Raises RuntimeError with its words."""
        told = self._ask(*words)
        if "rror" in told:
            raise RuntimeError(f"boinccmd {' '.join(words)}: {told}")

    def tasks(self) -> dict[str, str]:
        """Say what the client says of the one task."""
        found = re.findall(r"^ +([A-Za-z][A-Za-z_ ()]*): (.*)$", self._ask("--get_tasks"), re.MULTILINE)
        return dict(found)

    def number(self, name: str) -> float:
        """Give a number that the client says of the task; -1 where it says none."""
        found = re.match(r"[\d.]+", self.tasks().get(name, ""))
        return float(found[0]) if found else -1.0

    def task(self, verb: str) -> None:
        """Suspend, resume or abort the task."""
        self.ask("--task", self.url, self.name, verb)

    def quit(self) -> None:
        """End the client in its own way, and wait until it has ended."""
        self.ask("--quit")
        self.wait()

    def kill(self) -> None:
        """Kill the client."""
        assert self.client is not None
        self.client.send_signal(signal.SIGKILL)
        self.wait()

    def kill_all(self, others: Iterable[int]) -> None:
        """Kill the client, what it has started, and others, all at once."""
        assert self.client is not None
        for pid in (self.client.pid, *self.agents(), *others):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until the client has ended."""
        assert self.client is not None
        self.client.wait(PATIENCE_S)

    def close(self) -> None:
        """Leave nothing."""
        if self.client is not None and self.client.poll() is None:
            self.kill()
        for pid in self.agents():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def agents(self) -> list[int]:
        """Find the processes that the client has started in the slot."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cwd") if _leads_to(path, self.slot)]

    def stderr(self) -> str:
        """Give what the agent has said so far, while the task is there."""
        path = self.slot / "stderr.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self) -> str:
        """Give what the client has logged."""
        return (self.home / "client.log").read_text(errors="replace")

    def report(self) -> str:
        """Give what the client is to report of the task, its standard error included."""
        text = (self.home / "client_state.xml").read_text(errors="replace")
        return text.partition("<result>")[2].partition("</result>")[0]

    def results(self) -> str:
        """Give what the client tells of its results to programs with windows, by its own protocol."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S) as link:
            nonce = re.search(r"<nonce>([^<]*)<", self._call(link, "<auth1/>"))
            digest = hashlib.md5(f"{nonce[1] if nonce else ''}{_PASSWORD}".encode(), usedforsecurity=False).hexdigest()
            self._call(link, f"<auth2>\n<nonce_hash>{digest}</nonce_hash>\n</auth2>")
            return self._call(link, "<get_results/>")

    @staticmethod
    def _call(link: socket.socket, words: str) -> str:
        link.sendall(f"<boinc_gui_rpc_request>\n{words}\n</boinc_gui_rpc_request>\n\3".encode())
        answer = b""
        while not answer.endswith(b"\3"):
            piece = link.recv(65536)
            if not piece:
                break
            answer += piece
        return answer.decode(errors="replace")

    def until(self, is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Poll until it is so."""
        deadline = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline:
                said = f"the agent said:\n{self.stderr()[-3000:]}\nthe client's log:\n{self.log()[-3000:]}"
                told = f"{what}; {self.tasks()}; {said}"
                raise TimeoutError(f"not within {patience_s:g} s: {told}")
            time.sleep(_LOOK_S)

    def _ask(self, *words: str) -> str:
        at = ["--host", f"127.0.0.1:{self._port}", "--passwd", _PASSWORD]
        done = subprocess.run(
            ["boinccmd", *at, *words], cwd=self.home, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        return done.stdout + done.stderr


class BoincRig(BoincClient):
    """One client and its task. ``files`` are the application version's, its main program first; ``inputs`` the job's,
    by logical name; ``outputs`` logical names."""

    def __init__(self, home: Path, files: dict[str, bytes], inputs: dict[str, bytes], outputs: Sequence[str]) -> None:
        super().__init__(home, URL, PROJECT_DIR, "task_1")
        for name, body in files.items():
            (self.project / name).write_bytes(body)
            (self.project / name).chmod(0o755)
        for name, body in inputs.items():
            (self.project / f"in_{name}").write_bytes(body)
        (home / "cc_config.xml").write_text(_cc_config("unsigned_apps_ok"))
        account = f"<account>\n<master_url>{URL}</master_url>\n<authenticator>none</authenticator>\n</account>\n"
        (home / f"account_{PROJECT_DIR}.xml").write_text(account)
        (home / "client_state.xml").write_text(_state(files, inputs, outputs))


class AttachedRig(BoincClient):
    """One client that is attached to a project, and the task that it gets of it; with more ``cpus`` it gets more."""

    def __init__(
        self, home: Path, project: FakeProject, job: str, within: Sequence[str] = (), *, cpus: int = 1
    ) -> None:
        super().__init__(home, project.url, project.directory, f"{job}_0", within)
        (home / "cc_config.xml").write_text(_cc_config(cpus=cpus))
        attach(home, project)

    def run_with_interruptions(self, project: FakeProject, patience_s: float) -> None:
        """Have the task done: held up in its midst and let go on, the client ended and started again."""
        self.start()
        self.until(lambda: self.number("fraction done") > 0, "progress is shown", patience_s)
        self.task("suspend")
        self.until(lambda: "stands still" in self.stderr(), "it stands still")
        assert cpu_over(machines(self.slot), STILL_S) < STILL_CPU_S
        self.task("resume")
        self.until(lambda: "goes on" in self.stderr(), "it goes on")
        self.quit()
        self.start()
        self.until_reported(project, patience_s=patience_s)

    def until_reported(self, project: FakeProject, results: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Poll until the project has so many results; the client, which may put them off for a minute, is asked to
        report what it has."""
        asked_s = time.monotonic()

        def are_there() -> bool:
            nonlocal asked_s
            if len(project.reports) < results and time.monotonic() - asked_s > _ASK_S:
                self.ask("--project", project.url, "update")
                asked_s = time.monotonic()
            return len(project.reports) >= results

        self.until(are_there, "what is done is reported", patience_s)


def machines(slot: Path) -> set[int]:
    """Find the processes of a slot's virtual machines."""
    return {stat.pid for stat in all_processes() if not stat.is_dead and _is_of(stat.pid, slot)}


def _is_of(pid: int, slot: Path) -> bool:
    try:
        return b"VOLCLOUD_VM=" + os.fsencode(slot) + b"/" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def cpu_over(pids: Iterable[int], for_s: float) -> float:
    """Give the CPU time that processes use in so many seconds from now on; there must be one."""
    before = [read_stat(pid) for pid in sorted(pids)]
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    after = [read_stat(stat.pid) for stat in before if stat is not None]
    assert after, "no machine is there"
    return sum(stat.cpu_seconds for stat in after if stat) - sum(stat.cpu_seconds for stat in before if stat)


def _leads_to(link: Path, place: Path) -> bool:
    try:
        return link.readlink() == place
    except OSError:
        return False


def _cc_config(*more: str, cpus: int = 1) -> str:
    flags = "".join(f"<{name}>1</{name}>" for name in ("task", "task_debug", "app_msg_receive", "checkpoint_debug"))
    options = "".join(f"<{name}>1</{name}>\n" for name in (*_OPTIONS, *more))
    options += f"<ncpus>{cpus}</ncpus>\n"
    return f"<cc_config>\n<log_flags>{flags}</log_flags>\n<options>\n{options}</options>\n</cc_config>\n"


def _state(files: dict[str, bytes], inputs: dict[str, bytes], outputs: Sequence[str]) -> str:
    now = int(time.time())
    infos = [_file(name, len(body), is_program=True) for name, body in files.items()]
    infos += [_file(f"in_{name}", len(body)) for name, body in inputs.items()]
    infos += [_file(f"task_1_{name}", 0, is_output=True) for name in outputs]
    version = [_ref(name, name, is_main=number == 0) for number, name in enumerate(files)]
    return f"""<client_state>
<host_info>
<p_ncpus>2</p_ncpus><p_fpops>1000000000.0</p_fpops><p_iops>1000000000.0</p_iops><p_membw>1000000000.0</p_membw>
<p_calculated>{now}</p_calculated>
</host_info>
<project>
<master_url>{URL}</master_url>
<project_name>Example</project_name>
<scheduler_url>http://127.0.0.1:9/sched</scheduler_url>
<hostid>1</hostid>
<dont_request_more_work/>
</project>
<app>
<name>vm</name>
</app>
{"".join(infos)}<app_version>
<app_name>vm</app_name>
<version_num>1</version_num>
<platform>x86_64-pc-linux-gnu</platform>
<avg_ncpus>1.0</avg_ncpus>
<flops>1000000000.0</flops>
<api_version>7.24.0</api_version>
{"".join(version)}</app_version>
<workunit>
<name>work_1</name>
<app_name>vm</app_name>
<version_num>1</version_num>
<rsc_fpops_est>1e12</rsc_fpops_est>
<rsc_fpops_bound>1e18</rsc_fpops_bound>
<rsc_memory_bound>1e9</rsc_memory_bound>
<rsc_disk_bound>1e10</rsc_disk_bound>
{"".join(_ref(f"in_{name}", name) for name in inputs)}</workunit>
<result>
<name>task_1</name>
<wu_name>work_1</wu_name>
<platform>x86_64-pc-linux-gnu</platform>
<version_num>1</version_num>
<state>2</state>
<report_deadline>{now + 10**6}</report_deadline>
<received_time>{now}</received_time>
{"".join(_ref(f"task_1_{name}", name) for name in outputs)}</result>
<platform_name>x86_64-pc-linux-gnu</platform_name>
<core_client_major_version>7</core_client_major_version>
<core_client_minor_version>20</core_client_minor_version>
<core_client_release>5</core_client_release>
<new_version_check_time>{now}</new_version_check_time>
<all_projects_list_check_time>{now}</all_projects_list_check_time>
</client_state>
"""


def _file(name: str, size: int, *, is_program: bool = False, is_output: bool = False) -> str:
    more = "<executable/>\n" if is_program else ""
    more += "<max_nbytes>1e9</max_nbytes>\n<sticky/>\n" if is_output else ""
    status = 0 if is_output else 1
    return f"<file>\n<name>{escape(name)}</name>\n<nbytes>{size}</nbytes>\n<status>{status}</status>\n{more}</file>\n"


def _ref(physical: str, logical: str, *, is_main: bool = False) -> str:
    main = "<main_program/>\n" if is_main else ""
    names = f"<file_name>{escape(physical)}</file_name>\n<open_name>{escape(logical)}</open_name>\n"
    return f"<file_ref>\n{names}{main}</file_ref>\n"
