"""A router's private port whose answers are scripted, on a real socket, and a world in which time does not
pass by itself."""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from imgateway.cli.world import World
from imgateway.router.problems import PROBLEM_JSON, Problem

KEY = "shop.c2VjcmV0"


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


class FakeApi:
    """`say` puts answers in a row: a value of the API's schema, a `Problem`, a function that is given the
    handler, or (status, content type, bytes). The last is given again and again, until more is said."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._answers: deque[Any] = deque()
        self._repeated = False
        api = self

        class Port(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one piece

            def _any(self) -> None:
                api.serve(self)

            do_GET = do_POST = do_DELETE = _any

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Port)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def say(self, *answers: Any) -> FakeApi:
        if self._repeated:
            self._answers.clear()
            self._repeated = False
        self._answers.extend(answers)
        return self

    def serve(self, port: BaseHTTPRequestHandler) -> None:
        target = urlsplit(port.path)
        body = port.rfile.read(int(port.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in port.headers.items()}
        self.asked.append(Asked(port.command, target.path, parse_qs(target.query), headers, body))
        self._repeated = len(self._answers) == 1
        answer = self._answers[0] if self._repeated else self._answers.popleft()
        more: dict[str, str] = {}
        if callable(answer):
            answer = answer(port)
        if answer is None:  # nothing comes
            port.close_connection = True
            return
        if isinstance(answer, Problem):
            if answer.retry_after_s is not None:
                more["Retry-After"] = f"{answer.retry_after_s:g}"
            answer = (answer.status, PROBLEM_JSON, answer.document())
        if not isinstance(answer, tuple):
            answer = (200, "application/json", msgspec.json.encode(answer))
        status, kind, data = answer
        port.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **more}.items():
            port.send_header(name, value)
        port.end_headers()
        port.wfile.write(data)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Pauses:
    """`world`'s clock goes on only while a command pauses; `then` is called with each pause's number."""

    def __init__(self, then: Callable[[int], None] = lambda count: None) -> None:
        self.now = 0.0
        self.count = 0
        self._then = then
        self.world = World(pause=self.pause, seconds=lambda: self.now)

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.count += 1
        assert self.count < 1_000, "it waits for something that does not come"
        self._then(self.count)
