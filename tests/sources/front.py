"""A server in front of another, which counts what is asked, and does not always answer as the other does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple

import httpx

#: Gives status, headers and body instead of the server's; None = as the server says.
Answerer = Callable[[str, str], tuple[int, dict[str, str], bytes] | None]


class Exchange(NamedTuple):
    """A question and what was answered."""

    method: str
    path: str
    asked: bytes
    status: int
    answered: bytes


class Front:
    """It stands on a free port of loopback."""

    def __init__(self, behind: str) -> None:
        self.asked: Counter[str] = Counter()
        self.tokens: list[str] = []
        self.answerer: Answerer = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        #: Hears each question: method, path with its query, body.
        self.heard: Callable[[str, str, bytes], None] = lambda method, target, body: None
        #: Questions that are put to the server, and whose answer is lost, by how many of them come.
        self.lost: dict[str, int] = {}
        self.delay_s = 0.0
        #: While it is not set no question comes to the server, and none that has waited ever does.
        self.answers = threading.Event()
        self.answers.set()
        #: Each answer is given twice, one behind the other.
        self.is_double = False
        #: Connections that are open, and the most that ever were.
        self.open = self.most_open = 0
        #: All that was said, where somebody wants to read it.
        self.exchanges: list[Exchange] | None = None
        kept = httpx.Limits(keepalive_expiry=2)
        client = httpx.Client(base_url=behind, timeout=60, trust_env=False, limits=kept)
        self._handler = type("Handler", (_Handler,), {"front": self, "client": client})
        self._client, self._port = client, 0
        self.go_up()
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        self.answers.set()
        self.go_down()
        self._client.close()

    def go_down(self) -> None:
        """Have nobody listen on its port any more. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    def go_up(self) -> None:
        """Listen, after it went down on the port that it had."""
        self._server = _Server(("127.0.0.1", self._port), self._handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def says(self, status: int, body: str = "", **headers: str) -> None:
        """Say this to whatever is asked."""
        self.answerer = lambda method, path: (status, headers, body.encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: Nobody waits for whoever it still answers.
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], front: Front) -> None:
        super().__init__(address, handler)
        self._front, self._lock = front, threading.Lock()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._count(1)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._count(-1)

    def _count(self, one: int) -> None:
        with self._lock:
            self._front.open += one
            self._front.most_open = max(self._front.most_open, self._front.open)

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked has gone away."""


class _Handler(BaseHTTPRequestHandler):
    front: ClassVar[Front]
    client: ClassVar[httpx.Client]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_PATCH(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        path = self.path.partition("?")[0]
        self.front.asked[f"{self.command} {path}"] += 1
        self.front.tokens.append(self.headers.get("Authorization", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.front.heard(self.command, self.path, body)
        time.sleep(self.front.delay_s)
        if not self.front.answers.is_set():
            self._wait()
            self.close_connection = True
            return
        said = self.front.answerer(self.command, path)
        if said is None:
            kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "content-length")}
            answer = self.client.request(self.command, self.path, headers=kept, content=body)
            said = answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "")}, answer.content
        self.front.after(self.command, path)
        if (left := self.front.lost.get(f"{self.command} {path}", 0)) > 0:
            self.front.lost[f"{self.command} {path}"] = left - 1
            if left == 1:
                said = 502, {}, b"Bad Gateway"
        if self.front.exchanges is not None:
            self.front.exchanges.append(Exchange(self.command, self.path, body, said[0], said[2]))
        try:
            for _ in range(1 + self.front.is_double):
                self._say(*said)
        except OSError:  # who asked has given up
            self.close_connection = True

    def _wait(self) -> None:
        """Wait until there are answers again, or whoever has asked is gone."""
        self.connection.setblocking(False)
        while not self.front.answers.wait(0.02):
            with contextlib.suppress(BlockingIOError):
                if not self.connection.recv(1, socket.MSG_PEEK):
                    return

    def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
