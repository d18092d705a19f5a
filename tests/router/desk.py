"""The API over a fake gateway, asked over connections in memory; each answer is held against the document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from imgateway.auth.token import TokenAuthenticator, bind, mint
from imgateway.config import AuthSettings, LimitSettings, RouterSettings
from imgateway.core.credentials import join
from imgateway.interfaces import Identity
from imgateway.ops.health import Health
from imgateway.router.allocation import Allocation, Weighted
from imgateway.router.api import Api
from imgateway.router.doors import Doors
from imgateway.router.keys import Keys, make_key
from imgateway.router.nodes import Fleet
from imgateway.router.openapi import document, problems_of
from imgateway.router.pages import Pages
from imgateway.router.problems import KINDS
from imgateway.router.pushing import Pushing
from imgateway.router.routes import Table
from imgateway.router.schema import MakeToken
from imgateway.router.users import Users
from imgateway.router.web import ApiSite
from tests.router.fake_gateway import FakeGateway, node

__all__ = ("SECRET", "Answer", "Desk", "Judge", "Minting", "answers")

SECRET = b"0123456789abcdef0123456789abcdef"
NOW_S = 1_800_000_000.0


class Minting:
    """A mint. `udp`: it has a secret for UDP keys."""

    udp = True

    def make(self, asked: MakeToken, now_s: float) -> str:
        return mint(SECRET, asked.user, asked.device, asked.ttl_s, asked.service, now_s, rooms=asked.rooms)

    def bound(self, identity: Identity, node: str, now_s: float) -> str:
        return bind(SECRET, identity, node, now_s)

    def with_udp_key(self, token: str) -> str:
        return join(token, bytes(16)) if self.udp else ""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Judge:
    """Holds answers against an OpenAPI document: the status, the content type, every field, and no others."""

    def __init__(self, routes: Any, drawn: bytes) -> None:
        self.document = json.loads(drawn)
        self._table = Table(routes)
        self.seen: set[tuple[str, int]] = set()

    def judge(self, method: str, path: str, answer: Answer) -> None:
        if answer.status in (404, 405) and answer.json["detail"] in (
            "there is no such path",
            f"{method} is not for this path",
        ):
            return
        if answer.status == 400 and "in the path is not UTF-8" in answer.json["detail"]:
            return
        route, _ = self._table.find(method, path.partition("?")[0].encode())
        told = self.document["paths"][route.path][route.method.lower()]["responses"][str(answer.status)]
        self.seen.add((route.operation, answer.status))
        kind = answer.headers.get("content-type", "")
        if "content" not in told:
            assert (kind, answer.body) == ("", b"")
            return
        known = {name.partition(";")[0]: content for name, content in told["content"].items()}
        schema = known[kind.partition(";")[0]]["schema"]
        if (
            not kind.partition(";")[0].endswith("json")
            or "openapi" in kind
            or "ndjson" in kind
            or method == "HEAD"
        ):
            return
        Draft202012Validator(self._strict(schema)).validate(answer.json)
        if answer.status >= 400 and "problem" in kind:
            assert answer.json["type"].rpartition(":")[2] in problems_of(route)

    def _strict(self, schema: Any) -> Any:
        """The schema with its references, and with nothing that it does not name."""
        strict = {"components": self.document["components"], **schema}

        def close(part: Any) -> Any:
            if isinstance(part, Mapping):
                closed = {name: close(value) for name, value in part.items()}
                if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
                    closed["additionalProperties"] = False
                    optional = ["code", "msg_id"] if closed.get("title") == "ProblemDocument" else []
                    closed["required"] = [one for one in closed["properties"] if one not in optional]
                return closed
            return [close(one) for one in part] if isinstance(part, list) else part

        return close(strict)


def answers(data: bytes, head: bool = False) -> list[Answer]:
    """What came over a connection. `head`: it is the one answer to HEAD."""
    found = []
    while data:
        top, _, data = data.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if head else int(headers.get("content-length", "0"))
        found.append(Answer(int(status.split()[1]), headers, data[:size]))
        data = data[size:]
    return found


class Transport(StringTransport):
    """A connection in memory that can be cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


class Desk:
    """Everything of the API but push tasks.

    ::

        desk = Desk(node("a"))
        assert desk.get("/v1/nodes").json["nodes"][0]["node"] == "a"
    """

    def __init__(
        self, *nodes: Any, schedule: Any = None, minting: Any = None, more: Any = (), **settings: Any
    ) -> None:
        self.clock = Clock()
        self.gateway = FakeGateway(*(nodes or (node(),)))
        self.settings = RouterSettings(**settings)
        self.minting = Minting() if minting is None else minting
        self.health = Health()
        self.health.set("start", True)
        self.key, key = make_key("shop", ["*"], 0.0)
        self.keys = Keys([key], self.clock.seconds)
        self.limits = LimitSettings()
        with NamedTemporaryFile() as file:
            file.write(SECRET)
            file.flush()
            auth = AuthSettings(secret_file=file.name)
            self.authenticator: Any = TokenAuthenticator(auth, "", lambda: NOW_S)
        self.doors = Doors(
            Allocation(Weighted(), self.gateway.nodes),
            self.authenticator,
            self.minting or None,
            self.settings,
            30.0,
            lambda: NOW_S,
        )
        pages = Pages(
            self.health.told,
            lambda accept: ("text/plain; version=0.0.4", b"metrics\n"),
            lambda public: self.clients_document if public else self.judge_document,
        )
        parts = [
            pages,
            self.doors,
            Pushing(self.gateway, self.limits, schedule),
            Users(self.gateway, lambda: NOW_S),
            Fleet(self.gateway),
            *more,
        ]
        self.api = Api(parts, self.keys, self.settings, self.clock)
        self.api.closed = ""
        self.judge_document = document(self.api.table.routes)
        self.clients_document = document(self.api.public.routes)
        self.judge = Judge(self.api.table.routes, self.judge_document)
        self.site = ApiSite(self.api, self.clock)
        self.public = ApiSite(self.api, self.clock, public=True)

    # --------------------------------------------------------------------------------------------- asking

    def connect(self, public: bool = False) -> tuple[Any, Transport]:
        protocol = (self.public if public else self.site).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = Transport()
        transport.peerAddr = IPv4Address("TCP", "192.0.2.1", 5)
        protocol.makeConnection(transport)
        return protocol, transport

    def begin(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = "",
        public: bool = False,
        **headers: str,
    ) -> tuple[Any, Transport]:
        """Ask, and give the connection. `key` '' : the one that may do everything; None: none."""
        lines = {"Host": "x", "Connection": "close"}
        if key is not None:
            lines["Authorization"] = f"Bearer {key or self.key}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        protocol, transport = self.connect(public)
        protocol.dataReceived(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        return protocol, transport

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Ask, and give the answer, which the document must know."""
        protocol, transport = self.begin(method, path, body, **more)
        [answer] = answers(transport.value(), head=method == "HEAD")
        self.judge.judge(method, path, answer)
        self.lose(protocol)
        return answer

    def lose(self, protocol: Any) -> None:
        protocol.connectionLost(Failure(ConnectionDone()))

    def get(self, path: str, **more: Any) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.ask("POST", path, body, **more)

    def refused(self, status: int, kind: str, answer: Answer) -> str:
        """It is this problem; its detail and advice."""
        assert KINDS[kind][0] == status
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        told = answer.json
        assert (told["type"], told["status"]) == (f"urn:imgateway:problem:{kind}", status)
        assert told["title"] == KINDS[kind][1]
        return f"{told['detail']} | {told['advice']}"

    def token(self, user: str = "bob", **fields: Any) -> str:
        fields.setdefault("now_s", NOW_S)
        return mint(SECRET, user, **fields)
