"""Clients that are slow, broken, or too many, over connections in memory."""

from __future__ import annotations

import errno
from io import BytesIO
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred

from imgateway.router import web
from imgateway.router.keys import make_key
from imgateway.router.routes import Call, Route, Upload
from imgateway.router.schema import Health
from tests.router.desk import Desk, Transport, answers
from tests.router.fake_gateway import node


class Uploads:
    """A part that takes uploads, and keeps them."""

    def __init__(self, most: int = 3_000_000) -> None:
        self.most = most
        self.calls: list[tuple[Call, bytes]] = []
        self.waiting: Deferred[Any] | None = None

    def routes(self) -> list[Route]:
        upload = Upload(("text/csv", "application/x-ndjson"), lambda: self.most, "A list.")
        return [Route("POST", "/v1/up", self.take, "Up.", "push", {200: Health}, upload=upload)]

    def take(self, call: Call) -> Any:
        assert call.file is not None
        self.calls.append((call, call.file.read()))
        return self.waiting or Health("alive")


def head(desk: Desk, path: str, more: str = "", key: str = "") -> bytes:
    authorization = f"Authorization: Bearer {key or desk.key}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{authorization}{more}\r\n".encode()


def test_requests_one_after_the_other_and_all_at_once() -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for place in range(len(ask)):
        protocol.dataReceived(ask[place : place + 1])
    protocol.dataReceived(ask * 3)
    assert [answer.status for answer in answers(transport.value())] == [200] * 4
    assert not transport.disconnecting
    desk.lose(protocol)
    assert desk.api.connections == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /v1/push HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/push HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 600 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 10_000 + b"\r\n") * 7 + b"\r\n",
    ],
)
def test_garbage_closes_its_connection(garbage: bytes) -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    protocol.dataReceived(garbage)
    assert transport.disconnecting
    assert transport.value() in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
    desk.lose(protocol)
    assert desk.get("/healthz").status == 200


def test_a_request_that_drips_in_is_cut() -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    data = b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 100
    for place in range(59):
        protocol.dataReceived(data[place : place + 1])
        desk.clock.advance(1)
        # The connection has 30 s to begin a request, which then has 30 s to be there.
        if transport.disconnecting:
            break
    assert place in range(45, 59)
    desk.lose(protocol)
    assert not desk.clock.getDelayedCalls()


def test_a_connection_that_asks_nothing_is_closed() -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    desk.clock.advance(29)
    assert not transport.disconnecting
    desk.clock.advance(2)
    assert transport.disconnecting
    desk.clock.advance(16)
    assert transport.aborted  # it did not say goodbye, either
    desk.lose(protocol)


def test_whoever_does_not_read_the_answer_is_cut() -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    protocol.dataReceived(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.producer is not None
    transport.producer.pauseProducing()  # the socket takes no more
    desk.clock.advance(31)
    desk.clock.advance(16)
    assert transport.aborted
    desk.lose(protocol)


def test_a_key_gives_an_upload_its_time() -> None:
    uploads = Uploads()
    desk = Desk(more=[uploads])
    protocol, transport = desk.connect()
    protocol.dataReceived(
        head(desk, "/v1/up", "Content-Type: text/csv; charset=x\r\nContent-Length: 300\r\n")
    )
    for _ in range(290):
        desk.clock.advance(1)
        protocol.dataReceived(b"a")
    assert not transport.disconnecting
    protocol.dataReceived(b"a" * 10)
    assert answers(transport.value())[0].status == 200
    [(call, data)] = uploads.calls
    assert (call.kind, call.key, call.sender, data) == ("text/csv", "shop", "service:shop", b"a" * 300)
    assert call.peer == "192.0.2.1:5"
    desk.lose(protocol)


def test_a_large_upload_is_not_kept_in_memory() -> None:
    uploads = Uploads()
    desk = Desk(more=[uploads])
    protocol, _ = desk.connect()
    size = 2 * web.IN_MEMORY
    protocol.dataReceived(head(desk, "/v1/up", f"Content-Type: text/csv\r\nContent-Length: {size}\r\n"))
    for _ in range(size // 65_536):
        protocol.dataReceived(b"b" * 65_536)
    [(call, data)] = uploads.calls
    assert (call.file._rolled, data) == (True, b"b" * size)  # type: ignore[union-attr]
    assert call.file is not None
    assert call.file.closed
    desk.lose(protocol)


def test_an_upload_is_open_as_long_as_it_is_worked_on() -> None:
    uploads = Uploads()
    uploads.waiting = Deferred()
    desk = Desk(more=[uploads])
    protocol, _ = desk.connect()
    protocol.dataReceived(head(desk, "/v1/up", "Content-Type: text/csv\r\nContent-Length: 1\r\n") + b"c")
    desk.lose(protocol)
    [(call, _)] = uploads.calls
    assert call.file is not None
    assert not call.file.closed
    uploads.waiting.callback(Health("alive"))
    assert call.file.closed


def test_chunked_bodies() -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    body = b'{"to":["all"],"text":"x"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    more = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    protocol.dataReceived(head(desk, "/v1/push", more) + chunks)
    assert answers(transport.value())[0].status == 200
    desk.lose(protocol)


def test_a_body_that_is_too_large() -> None:
    desk = Desk(max_request_bytes=100)
    answer = desk.post("/v1/push", b"x" * 101)
    assert "more than 100 bytes" in desk.refused(413, "too-large", answer)
    assert answer.headers["connection"] == "close"


def test_an_upload_that_is_too_large() -> None:
    uploads = Uploads(most=2_000)
    desk = Desk(more=[uploads], max_request_bytes=1_000)
    answer = desk.post("/v1/up", b"x" * 2_001, Content_Type="text/csv")
    desk.refused(413, "too-large", answer)
    desk.refused(415, "wrong-content-type", desk.post("/v1/up", b"x"))
    desk.refused(413, "too-large", desk.post("/v1/push", b"x" * 1_001))
    assert uploads.calls == []


def test_a_key_that_may_upload_only_since_the_first_byte_gets_nothing_cut() -> None:
    uploads = Uploads()
    desk = Desk(more=[uploads], max_request_bytes=1_000)
    text, key = make_key("shop", ["read"])
    desk.keys.replace([key])
    protocol, transport = desk.connect()
    more = "Content-Type: text/csv\r\nContent-Length: 1500\r\n"
    protocol.dataReceived(head(desk, "/v1/up", more, text) + b"x" * 500)
    desk.keys.replace([replace(key, scopes=("push",))])
    protocol.dataReceived(b"x" * 1_000)
    [answer] = answers(transport.value())
    assert "what the key may do was changed" in desk.refused(503, "unavailable", answer)
    assert (answer.headers["retry-after"], uploads.calls) == ("1", [])
    desk.lose(protocol)
    assert desk.post("/v1/up", b"x" * 1_500, key=text, Content_Type="text/csv").status == 200


def test_the_body_of_a_key_that_was_new_is_not_taken_for_an_empty_one() -> None:
    desk = Desk()
    text, key = make_key("fresh", ["kick"])
    body = b'{"not_before_s": 5}'
    protocol, transport = desk.connect()
    protocol.dataReceived(head(desk, "/v1/users/bob/revoke", f"Content-Length: {len(body)}\r\n", text))
    desk.keys.replace([key])
    protocol.dataReceived(body)
    desk.refused(503, "unavailable", answers(transport.value())[0])
    assert desk.gateway.calls == []
    desk.lose(protocol)


def test_a_body_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "EXCESS", 1_000)
    desk = Desk(max_request_bytes=100)
    protocol, transport = desk.connect()
    chunk = b"%x\r\n" % 1_101 + b"x" * 1_101 + b"\r\n"
    protocol.dataReceived(head(desk, "/v1/push", "Transfer-Encoding: chunked\r\n") + chunk)
    assert transport.aborted
    desk.lose(protocol)


@pytest.mark.parametrize("key", ["wrong", "shop.wrong"])
def test_nothing_of_a_strangers_body_is_kept(key: str) -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    protocol.dataReceived(head(desk, "/v1/push", "Content-Length: 9\r\n", key) + b"x" * 8)
    assert protocol.requests[0].content.tell() == 0
    protocol.dataReceived(b"x")
    assert answers(transport.value())[0].status == 401
    desk.lose(protocol)


def test_clients_send_no_bodies() -> None:
    desk = Desk()
    protocol, transport = desk.connect(public=True)
    protocol.dataReceived(head(desk, "/v1/push", "Content-Length: 5\r\n") + b"12345")
    assert answers(transport.value())[0].status == 404
    assert transport.disconnecting
    desk.lose(protocol)


def test_who_leaves_before_the_answer_does_not_get_it() -> None:
    desk = Desk()
    desk.gateway.answers["members"] = waiting = Deferred[Any]()
    protocol, transport = desk.begin("GET", "/v1/rooms/7")
    desk.lose(protocol)
    waiting.callback(3)
    assert transport.value() == b""


def test_connections_above_the_limit_are_cut() -> None:
    desk = Desk(connections=2)
    first = [desk.connect() for _ in range(2)]
    assert desk.site.buildProtocol(UNIXAddress("/x")) is None
    assert desk.public.buildProtocol(UNIXAddress("/x")) is not None  # each port has its own limit
    desk.lose(first[0][0])
    assert desk.site.buildProtocol(UNIXAddress("/x")) is not None
    desk.site.abort()
    assert first[1][1].aborted
    desk.lose(first[1][0])


def test_a_unix_socket_has_a_name_too() -> None:
    uploads = Uploads()
    desk = Desk(more=[uploads])
    protocol = desk.site.buildProtocol(UNIXAddress("/run/x"))
    transport = Transport()
    transport.peerAddr = UNIXAddress("")
    protocol.makeConnection(transport)
    protocol.dataReceived(head(desk, "/v1/up", "Content-Type: text/csv\r\nContent-Length: 1\r\n") + b"c")
    assert uploads.calls[0][0].peer == "unix"
    desk.lose(protocol)


def test_there_is_no_access_log_and_no_timer() -> None:
    desk = Desk()
    desk.site.doStart()
    desk.get("/healthz")
    desk.site.doStop()
    assert desk.clock.getDelayedCalls() == []


def test_no_key_and_no_token_is_logged() -> None:
    from twisted.logger import globalLogPublisher

    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        desk = Desk()
        token = desk.token()
        desk.get("/v1/nodes")
        desk.get("/v1/nodes", key="shop.wrong")
        desk.get(f"/v1/allocate?token={token}", key=None)
        desk.get(f"/v1/allocate?token={token}x", key=None)
        desk.post("/v1/tokens", {"user": "bob"})
    finally:
        globalLogPublisher.removeObserver(events.append)
    told = " ".join(str(event) for event in events)
    assert "answered" in told
    for secret in (desk.key.partition(".")[2], token, "wrong"):
        assert secret not in told


def test_a_question_about_many_users_fits() -> None:
    desk = Desk()
    query = "&".join(f"user={number:060}" for number in range(500))
    assert len(query) > 20_000
    assert len(desk.get(f"/v1/online?{query}").json["users"]) == 500
    protocol, transport = desk.connect(public=True)
    protocol.dataReceived(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")
    assert transport.disconnecting
    desk.lose(protocol)


def test_pages_in_browsers_may_allocate() -> None:
    desk = Desk()
    protocol, transport = desk.connect(public=True)
    protocol.dataReceived(b"OPTIONS /v1/allocate HTTP/1.1\r\nOrigin: https://x\r\n\r\n")
    token = desk.token().encode()
    protocol.dataReceived(b"GET /v1/allocate HTTP/1.1\r\nAuthorization: bearer %b\r\n\r\n" % token)
    preflight, answer = answers(transport.value())
    assert (preflight.status, answer.status) == (204, 200)
    assert preflight.headers["access-control-allow-headers"] == "Authorization"
    assert answer.headers["access-control-allow-origin"] == "*"
    desk.lose(protocol)
    assert "access-control-allow-origin" not in desk.get("/v1/nodes").headers
    assert desk.ask("OPTIONS", "/v1/nodes").status == 405


def test_what_operators_do_is_logged() -> None:
    from twisted.logger import LogLevel, globalLogPublisher

    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        desk = Desk()
        desk.ask("DELETE", "/v1/users/bob/sessions/phone")
        desk.post("/v1/nodes/a/drain")
        desk.get("/v1/nodes/a/drain")
        desk.post("/v1/push", {"to": ["all"], "text": ""})
    finally:
        globalLogPublisher.removeObserver(events.append)
    told = [event for event in events if event["log_level"] is LogLevel.info]
    assert [(event["operation"], event["path"], event["key"]) for event in told] == [
        ("delete_users_user_sessions_device", "/v1/users/bob/sessions/phone", "shop"),
        ("post_nodes_node_drain", "/v1/nodes/a/drain", "shop"),
    ]


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer \xff\xfe",
        b"Content-Type: \xff",
        b"Accept: \xff",
        b"Content-Length: " + b"9" * 5_000,
    ],
)
def test_lines_that_no_text_or_number_is_made_of_are_answered_and_not_logged(
    line: bytes, public: bool
) -> None:
    desk = Desk()
    protocol, transport = desk.connect(public)
    protocol.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
    assert transport.value() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert transport.disconnecting
    protocol.dataReceived(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert transport.value().count(b"HTTP/1.1") == 1
    desk.lose(protocol)


@pytest.mark.parametrize(("key", "status"), [("", 413), ("wrong", 401), ("shop.wrong", 401)])
def test_a_body_that_is_far_too_large_is_answered_before_it_comes(key: str, status: int) -> None:
    desk = Desk()
    protocol, transport = desk.connect()
    more = "Expect: 100-continue\r\nContent-Length: 1000000000000\r\n"
    protocol.dataReceived(head(desk, "/v1/tasks", more, key) + b"x" * 1_000)
    [answer] = answers(transport.value())
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.json["status"] == status
    assert transport.disconnecting
    protocol.dataReceived(b"x" * 1_000)
    desk.lose(protocol)
    assert not desk.clock.getDelayedCalls()
    assert {measure.field: value for measure, value in desk.api.measures()}["answers"] == {str(status): 1}


def test_clients_with_a_large_body_are_not_asked_for_a_key() -> None:
    desk = Desk()
    protocol, transport = desk.connect(public=True)
    protocol.dataReceived(head(desk, "/v1/allocate", "Content-Length: 1000000000000\r\n"))
    assert answers(transport.value())[0].status == 413
    desk.lose(protocol)


def test_only_who_may_push_uploads() -> None:
    uploads = Uploads()
    desk = Desk(more=[uploads], max_request_bytes=1_000)
    text, reader = make_key("reader", ["read"])
    desk.keys.replace([reader])
    desk.refused(403, "forbidden", desk.post("/v1/up", b"x" * 2_000, key=text, Content_Type="text/csv"))
    assert desk.api.room(text) == (1_000, 30.0)
    protocol, transport = desk.connect()
    protocol.dataReceived(head(desk, "/v1/up", "Content-Length: 2000\r\n", text) + b"x" * 900)
    desk.clock.advance(31)  # and has no more time than others
    assert transport.disconnecting
    desk.lose(protocol)


def test_limits_that_are_read_anew_hold_from_the_next_request_on() -> None:
    """Also on a connection that is open."""
    uploads = Uploads()
    desk = Desk(more=[uploads])
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    before, told = desk.connect()
    desk.api.settings = replace(desk.settings, timeout_s=5.0, tasks_timeout_s=6.0)
    uploads.most = 5_000_000
    assert desk.api.room(desk.key) == (5_000_000, 6.0)
    after, told_after = desk.connect()
    desk.clock.advance(6)
    assert (told.disconnecting, told_after.disconnecting) == (False, True)
    before.dataReceived(ask[:10])
    desk.clock.advance(4)
    before.dataReceived(ask[10:])
    assert [answer.status for answer in answers(told.value())] == [200]
    desk.clock.advance(4)
    assert not told.disconnecting
    desk.clock.advance(2)
    assert told.disconnecting
    desk.api.settings = replace(desk.settings, timeout_s=60.0)
    longer, told_longer = desk.connect()
    desk.clock.advance(59)
    assert not told_longer.disconnecting
    for protocol in (before, after, longer):
        desk.lose(protocol)
    assert not desk.clock.getDelayedCalls()


class FullDisk(BytesIO):
    """Takes 10 bytes."""

    full = False

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 10:
            self.full = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def close(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SpooledTemporaryFile", lambda size: FullDisk())
    uploads = Uploads()
    desk = Desk(more=[uploads])
    answer = desk.post("/v1/up", b"x" * 20, Content_Type="text/csv")
    assert "No space left on device" in desk.refused(503, "unavailable", answer)
    assert answer.headers["retry-after"] == "5"
    assert uploads.calls == []
    assert desk.post("/v1/up", b"x" * 5, Content_Type="text/csv").status == 200
    assert "No space" not in str(desk.post("/v1/up", b"x" * 20, key="wrong").json)


def test_clients_are_not_told_what_the_house_is_made_of() -> None:
    desk = Desk()
    desk.health.set("store", False, "redis 10.0.0.7:6379: connection refused")
    desk.health.note("registry", "zookeeper 10.0.0.8: away")
    answer = desk.get("/readyz", public=True, key=None)
    assert answer.status == 503
    assert answer.json == {
        "ready": False,
        "reasons": ["store: not ready"],
        "parts": {"start": "ok", "store": "not ready"},
    }
    assert "10.0.0.7" in str(desk.get("/readyz").json)
    shown = desk.get("/openapi.json", public=True, key=None).json
    assert set(shown["paths"]) == {"/healthz", "/readyz", "/openapi.json", "/v1/allocate"}
    assert "/v1/push" in desk.get("/openapi.json").json["paths"]


def test_pages_in_browsers_may_read_when_to_ask_again() -> None:
    desk = Desk(node(served=()))
    answer = desk.get(f"/v1/allocate?token={desk.token()}", public=True, key=None)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
