"""Every route over connections in memory, each answer held against the OpenAPI document."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface.verify import verifyObject

from imgateway.errors import CloseCode, LoginRefused, RequestFailed
from imgateway.frames import Address, Outcome, OutcomeCode, ResponseCode, SessionKey
from imgateway.interfaces import IGateway, NodeState, Served
from imgateway.router.keys import make_key
from imgateway.router.problems import KINDS, Problem
from imgateway.router.routes import Page, Route, Table
from imgateway.router.schema import Nodes
from tests.router.desk import NOW_S, SECRET, Desk, answers
from tests.router.fake_gateway import FakeGateway, node, presence


@pytest.fixture
def desk() -> Desk:
    return Desk(node("a"), node("b"))


def test_the_fake_is_a_gateway() -> None:
    verifyObject(IGateway, FakeGateway())


# ----------------------------------------------------------------------------------------------- the document


def test_the_document_is_openapi_and_names_every_route(desk: Desk) -> None:
    told = desk.get("/openapi.json", key=None).json
    assert told["openapi"] == "3.1.0"
    drawn = {(method.upper(), path) for path, item in told["paths"].items() for method in item}
    assert drawn == {(route.method, route.path) for route in desk.api.table.routes}
    operations = [one["operationId"] for item in told["paths"].values() for one in item.values()]
    assert len(set(operations)) == len(operations)
    for item in told["paths"].values():
        for one in item.values():
            scope = "Scope: `" in one.get("description", "")
            assert scope == ({"key": []} in one["security"])


def test_every_component_of_the_document_is_used(desk: Desk) -> None:
    told = desk.judge.document
    text = json.dumps(told)
    for name in told["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


def test_parameters_are_those_that_are_taken(desk: Desk) -> None:
    for route in desk.api.table.routes:
        operation = desk.judge.document["paths"][route.path][route.method.lower()]
        told = {(one["in"], one["name"]) for one in operation.get("parameters", ())}
        query = route.query.__struct_fields__ if route.query else ()
        path = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
        assert told == {("query", name) for name in query} | {("path", name) for name in path}
        assert ("requestBody" in operation) == (route.body is not None)


# ------------------------------------------------------------------------------------------------------ pages


def test_health(desk: Desk) -> None:
    assert desk.get("/healthz", key=None).json == {"status": "alive"}
    assert desk.get("/readyz", key=None).json == {"ready": True, "reasons": [], "parts": {"start": "ok"}}
    desk.health.set("store", False, "redis is away")
    desk.health.note("registry", "zookeeper is away")
    answer = desk.get("/readyz", key=None)
    assert (answer.status, answer.json["reasons"]) == (503, ["store: redis is away"])
    assert answer.json["parts"]["registry"] == "zookeeper is away"


def test_metrics(desk: Desk) -> None:
    desk.get("/v1/nodes")
    desk.get("/v1/nodes", key=None)
    answer = desk.get("/metrics", key=None)
    assert (answer.headers["content-type"], answer.body) == ("text/plain; version=0.0.4", b"metrics\n")
    values: dict[str, Any] = {measure.field: value for measure, value in desk.api.measures()}
    assert values["requests"] == {"get_nodes": 2, "get_metrics": 1}
    assert values["answers"] == {"200": 2, "401": 1}
    assert (values["running"], values["connections"]) == (0, 0)


def test_clients_see_their_part_alone(desk: Desk) -> None:
    seen = set()
    for route in desk.api.table.routes:
        path = route.path.replace("{", "").replace("}", "")
        answer = desk.ask(route.method, path, public=True)
        if answer.status != 404:
            seen.add(route.path)
    assert seen == {"/healthz", "/readyz", "/openapi.json", "/v1/allocate"}


# ----------------------------------------------------------------------------------------------- tokens, keys


def test_a_token(desk: Desk) -> None:
    answer = desk.post("/v1/tokens", {"user": "bob", "device": "phone", "ttl_s": 60, "rooms": ["7"]})
    assert answer.status == 201
    claims = jwt.decode(answer.json["token"], SECRET, ["HS256"], audience="imgateway", options=_TIMELESS)
    assert (claims["sub"], claims["device"], claims["rooms"]) == ("bob", "phone", ["7"])
    assert answer.json["expires_at"] == claims["exp"] == int(NOW_S) + 60
    assert answer.json["token_udp"].startswith(answer.json["token"] + "~")


_TIMELESS: Any = {"verify_exp": False, "verify_iat": False}


def test_a_token_without_udp(desk: Desk) -> None:
    desk.minting.udp = False
    assert desk.post("/v1/tokens", {"user": "bob"}).json["token_udp"] == ""


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"user": "b\u0000b"}, "user: an id must not"),
        ({"user": "bob", "device": "é" * 40}, "device: an id must be"),
        ({"user": "bob", "rooms": ["7", "\n"]}, "rooms[1]: an id"),
        ({"user": "bob", "topics": ["\n"]}, "topics[0]: an id"),
        ({"user": "bob", "ttl_s": 2_592_001}, "ttl_s: at most 2592000"),
        ({"user": "bob", "ttl_s": 0}, "$.ttl_s"),
        ({}, "missing required field `user`"),
        ({"user": "bob", "tll_s": 5}, "unknown field `tll_s`"),
        (b"{", "no JSON"),
        (b'{"user": "\xff"}', "no JSON"),
        (b"[]", "Expected `object`"),
        (b"\xff", "no JSON"),
        (b'{"user":"b","x":' + b"[" * 200_000, "unknown field `x`"),
    ],
)
def test_a_token_that_cannot_be(desk: Desk, asked: Any, why: str) -> None:
    assert why in desk.refused(400, "invalid-request", desk.post("/v1/tokens", asked))


def test_a_service_token_needs_its_own_scope(desk: Desk) -> None:
    text, key = make_key("web", ["tokens"])
    desk.keys.replace([key])
    asked = {"user": "shop", "service": True}
    assert "service-tokens" in desk.refused(403, "forbidden", desk.post("/v1/tokens", asked, key=text))
    user = {"user": "service:shop"}  # looks like the sender of what the key shop pushes
    assert "service-tokens" in desk.refused(403, "forbidden", desk.post("/v1/tokens", user, key=text))
    text, key = make_key("web", ["tokens", "service-tokens"])
    desk.keys.replace([key])
    token = desk.post("/v1/tokens", asked, key=text).json["token"]
    assert jwt.decode(token, options={"verify_signature": False})["svc"] is True


def test_no_tokens_where_only_a_public_key_is() -> None:
    desk = Desk(minting=False)
    assert "private key" in desk.refused(409, "conflict", desk.post("/v1/tokens", {"user": "bob"}))


@pytest.mark.parametrize("key", [None, "shop", "shop.wrong", "other.x", "é", "Basic abc"])
def test_without_a_good_key_nothing(desk: Desk, key: str | None) -> None:
    answer = desk.get("/v1/nodes", key=key)
    assert "imgateway apikey" in desk.refused(401, "no-key", answer)
    assert answer.headers["www-authenticate"] == 'Bearer realm="imgateway"'


def test_another_scheme_is_no_key(desk: Desk) -> None:
    answer = desk.get("/v1/nodes", key=None, Authorization=f"Basic {desk.key}")
    assert "there is no API key" in desk.refused(401, "no-key", answer)


def test_scopes(desk: Desk) -> None:
    for route in desk.api.table.routes:
        if not route.scope:
            continue
        text, key = make_key("k", [one for one in _ALL if one != route.scope])
        desk.keys.replace([key])
        answer = desk.ask(route.method, route.path.replace("{", "").replace("}", ""), key=text)
        assert f"has not the scope {route.scope} " in desk.refused(403, "forbidden", answer) + " "


_ALL = ["tokens", "service-tokens", "push", "read", "kick", "request", "drain"]


def test_a_key_has_its_rate(desk: Desk) -> None:
    text, key = make_key("slow", ["read"], rate=0.5, burst=2)
    desk.keys.replace([key])
    assert [desk.get("/v1/nodes", key=text).status for _ in range(2)] == [200, 200]
    answer = desk.get("/v1/nodes", key=text)
    assert "0.5 requests a second, 2 at once" in desk.refused(429, "too-many", answer)
    assert answer.headers["retry-after"] == "2"
    desk.clock.advance(2)
    assert desk.get("/v1/nodes", key=text).status == 200


# --------------------------------------------------------------------------------------------------- allocate


def test_allocate(desk: Desk) -> None:
    answer = desk.get("/v1/allocate?transport=tcp", key=desk.token(), public=True)
    told = answer.json
    assert sorted(one["url"] for one in told["endpoints"]) == ["tcp://a:7901", "tcp://b:7901"]
    assert {one["protocol"] + one["transport"] + one["token"] for one in told["endpoints"]} == {"nativetcp"}
    assert (told["heartbeat_s"], told["expires_at"]) == (30, int(NOW_S) + 3600)
    assert told["backoff"] == {"first_s": 0.5, "max_s": 30, "factor": 2, "jitter": 0.5}


def test_allocate_with_the_token_in_the_query(desk: Desk) -> None:
    assert desk.get(f"/v1/allocate?protocol=json&token={desk.token()}", key=None).status == 200


@pytest.mark.parametrize(
    ("token", "why"), [(None, "there is no token"), ("abc", "not valid"), ("a.b.c", "not valid")]
)
def test_allocate_needs_a_good_token(desk: Desk, token: str | None, why: str) -> None:
    assert why in desk.refused(401, "bad-token", desk.get("/v1/allocate", key=token))


def test_allocate_with_an_expired_token(desk: Desk) -> None:
    old = desk.token(now_s=NOW_S - 10_000)
    assert "expired" in desk.refused(401, "bad-token", desk.get("/v1/allocate", key=old))


@pytest.mark.parametrize(
    ("retry_s", "said"), [(7.2, "8"), (float("inf"), "86400"), (float("nan"), "86400"), (-1.0, "1")]
)
def test_an_authenticator_that_is_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, retry_s: float, said: str
) -> None:
    away = LoginRefused("the user database is away", CloseCode.UNAVAILABLE, retry_s)
    monkeypatch.setattr(desk.authenticator, "authenticate", lambda hello, peer: fail(away))
    answer = desk.get("/v1/allocate", key="t")
    assert "database is away" in desk.refused(503, "unavailable", answer)
    assert answer.headers["retry-after"] == said


@pytest.mark.parametrize(
    "query", ["?protocol=mqtt", "?transport=udp", "?protocol=json&transport=tcp", "?transport=x"]
)
def test_allocate_without_a_node_that_serves_it(desk: Desk, query: str) -> None:
    answer = desk.get("/v1/allocate" + query, key=desk.token())
    assert "no node is ready" in desk.refused(503, "unavailable", answer)
    assert answer.headers["retry-after"] == "5"


def test_bound_tokens() -> None:
    udp = (Served("native", "udp", "udp://a:7901"),)
    desk = Desk(node("a", served=udp), node("b"), bind_tokens=True)
    first = desk.token(device="phone", rooms=["9", "7"])
    told = desk.get("/v1/allocate", key=first).json["endpoints"]
    tokens = {one["node"]: one["token"] for one in told}
    assert tokens["a"].count("~") == 1
    assert "~" not in tokens["b"]
    claims = jwt.decode(tokens["b"], SECRET, ["HS256"], audience="imgateway", options=_TIMELESS)
    before = jwt.decode(first, SECRET, ["HS256"], audience="imgateway", options=_TIMELESS)
    assert claims.pop("jti") != before.pop("jti")
    assert claims == {**before, "node": "b", "rooms": ["7", "9"]}
    assert desk.get("/v1/allocate", key=tokens["a"]).status == 200


def test_a_bound_token_without_udp_key_is_bound_all_the_same() -> None:
    """The client sees that it cannot go there, and does not try with its own."""
    desk = Desk(node("a", served=(Served("native", "udp", "udp://a:7901"),)), bind_tokens=True)
    desk.minting.udp = False
    (told,) = desk.get("/v1/allocate", key=desk.token()).json["endpoints"]
    assert told["token"]
    assert "~" not in told["token"]


# ------------------------------------------------------------------------------------------------------- push


def test_push(desk: Desk) -> None:
    asked = {
        "to": ["user:42", "device:42/a%2Fb", "room:7", "all"],
        "text": "Grüße",
        "msg_id": "order-1",
        "ttl_s": 60,
        "lane": 1,
        "headers": {"b": "2", "a": "1"},
    }
    answer = desk.post("/v1/push", asked)
    assert answer.json == {
        "msg_id": "order-1",
        "outcomes": [
            {"address": text, "code": "OK", "epoch": 7, "seq": place + 1}
            for place, text in enumerate(asked["to"])
        ],
    }
    [(_, publish, sender, device)] = desk.gateway.calls
    assert (sender, device, publish.msg_id) == ("service:shop", "api", "order-1")
    assert publish.to[1] == Address("device", "42", "a/b")
    assert (publish.body, publish.content_type) == ("Grüße".encode(), "text/plain; charset=utf-8")
    assert (publish.qos, publish.ttl_s, publish.lane) == (1, 60, 1)
    assert publish.headers == (("b", "2"), ("a", "1"))


@pytest.mark.parametrize(
    ("asked", "body", "kind"),
    [
        ({"body": base64.b64encode(b"\0\xff").decode()}, b"\0\xff", ""),
        ({"body": ""}, b"", ""),
        ({"json": {"a": [1, None]}}, b'{"a": [1, null]}', "application/json"),
        ({"json": None}, b"null", "application/json"),
        ({"text": "x", "content_type": "text/markdown"}, b"x", "text/markdown"),
    ],
)
def test_bodies(desk: Desk, asked: Any, body: bytes, kind: str) -> None:
    assert desk.post("/v1/push", {"to": ["all"], "qos": 0, **asked}).status == 200
    publish = desk.gateway.calls[0][1]
    assert (publish.body, publish.content_type, publish.qos) == (body, kind, 0)


def test_a_push_without_a_msg_id_gets_one(desk: Desk) -> None:
    ids = [desk.post("/v1/push", {"to": ["all"], "text": ""}).json["msg_id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert [call[1].msg_id for call in desk.gateway.calls] == ids


def test_every_outcome_has_a_name(desk: Desk) -> None:
    codes = [*OutcomeCode, 77]
    desk.gateway.answers["publish"] = tuple(Outcome(code, 1, 2) for code in codes)
    answer = desk.post("/v1/push", {"to": [f"user:{code}" for code in codes], "text": ""})
    assert [one["code"] for one in answer.json["outcomes"]] == [*(code.name for code in OutcomeCode), "77"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"to": [], "text": ""}, "length >= 1"),
        ({"to": ["user:a", "bob"], "text": ""}, "to[1]: an address is KIND:ID"),
        ({"to": ["node:a"], "text": ""}, "nodes take no messages"),
        ({"to": ["all"] * 501, "text": ""}, "501 addresses, and 500 are the most | make several"),
        ({"to": ["all"]}, "give one of body, text and json"),
        ({"to": ["all"], "text": "", "json": 1}, "give one of"),
        ({"to": ["all"], "text": "", "msg_id": "é"}, "$.msg_id"),
        ({"to": ["all"], "text": "", "msg_id": "a\n"}, "msg_id: 1 to 64 printable"),
        ({"to": ["all"], "text": "", "msg_id": "x" * 65}, "$.msg_id"),
        ({"to": ["all"], "text": "", "qos": 2}, "$.qos"),
        ({"to": ["all"], "text": "", "lane": 2}, "$.lane"),
        ({"to": ["all"], "text": "", "ttl_s": -1}, "$.ttl_s"),
        ({"to": ["all"], "body": "?"}, "base64"),
        (b'{"to":["all"],"json":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
        ({"to": ["all"], "text": "", "at": "2026-01-01T00:00:00"}, "timezone"),
        ({"to": ["all"], "text": "", "at": "2026-01-01T00:00:00Z"}, "no push tasks"),
    ],
)
def test_a_push_that_cannot_be(desk: Desk, asked: Any, why: str) -> None:
    assert why in desk.refused(400, "invalid-request", desk.post("/v1/push", asked))
    assert desk.gateway.calls == []


def test_a_push_for_later() -> None:
    kept = []

    def schedule(key: str, push: Any, msg_id: str) -> Deferred[str]:
        kept.append((key, push.at.isoformat(), msg_id))
        return succeed("t1")

    desk = Desk(schedule=schedule)
    asked = {"to": ["all"], "text": "", "at": "2026-01-01T00:00:00+02:00", "msg_id": "m"}
    answer = desk.post("/v1/push", asked)
    assert (answer.status, answer.json) == (202, {"msg_id": "m", "task": "t1"})
    assert kept == [("shop", "2026-01-01T00:00:00+02:00", "m")]


# ------------------------------------------------------------------------------------- users, rooms, requests


def test_online(desk: Desk) -> None:
    desk.gateway.present = {"a/b": (presence("a/b"), presence("a/b", "web", online=False))}
    told = desk.get("/v1/online?user=a%2Fb&user=bob&user=a%2Fb").json["users"]
    one = {"user": "a/b", "online": True, "devices": ["phone"]}
    assert told == [one, {"user": "bob", "online": False, "devices": []}, one]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "user is missing"),
        ("?user=", "length >= 1"),
        ("?user=%ff", "not UTF-8"),
        ("?user=a&who=b", "unknown field `who`"),
        ("?user=%00", "user: an id"),
        ("?" + "user=a&" * 501, "length <= 500"),
        ("?" + "user=a&" * 1001, "at most 1,000"),
    ],
)
def test_online_with_a_query_that_is_none(desk: Desk, query: str, why: str) -> None:
    assert why in desk.refused(400, "invalid-request", desk.get("/v1/online" + query))


def test_sessions(desk: Desk) -> None:
    desk.gateway.present = {"bob": (presence("bob"),)}
    assert desk.get("/v1/users/bob/sessions").json == {
        "user": "bob",
        "sessions": [
            {
                "user": "bob",
                "device": "phone",
                "platform": "ios",
                "node": "a.1",
                "generation": 3,
                "since_ms": 1000,
                "online": True,
            }
        ],
    }


def test_kick(desk: Desk) -> None:
    desk.gateway.answers["kick"] = 2
    assert desk.ask("DELETE", "/v1/users/a%2Fb/sessions").json == {"user": "a/b", "kicked": 2}
    assert desk.ask("DELETE", "/v1/users/bob/sessions/x%25y?reason=spam%20%26%20more").status == 200
    assert desk.gateway.calls == [("kick", "a/b", None, "kicked"), ("kick", "bob", "x%y", "spam & more")]


def test_revoke(desk: Desk) -> None:
    assert desk.post("/v1/users/bob/revoke").json == {"user": "bob", "not_before_s": int(NOW_S)}
    assert desk.post("/v1/users/bob/revoke", {"not_before_s": 5}).json["not_before_s"] == 5
    assert desk.gateway.calls == [("revoke", "bob", int(NOW_S)), ("revoke", "bob", 5)]
    answer = desk.post("/v1/users/bob/revoke", {"not_before_s": int(NOW_S * 1000)})
    assert "not milliseconds" in desk.refused(400, "invalid-request", answer)


def test_rooms(desk: Desk) -> None:
    assert desk.get("/v1/rooms/7").json == {"room": "7", "members": 5}
    assert desk.gateway.calls == [("members", Address("room", "7"))]


def test_request(desk: Desk) -> None:
    asked = {"user": "bob", "device": "phone", "service": "ping", "method": "now", "text": "x"}
    assert desk.post("/v1/request", asked).json == {"code": 0, "body": "cG9uZw==", "text": "pong"}
    assert desk.gateway.calls == [("request", SessionKey("bob", "phone"), "ping", "now", b"x", 10.0)]
    desk.gateway.answers["request"] = b"\xff"
    assert desk.post("/v1/request", {**asked, "text": "y"}).json["text"] is None


def test_a_client_answers_with_a_code_of_its_own(desk: Desk) -> None:
    desk.gateway.answers["request"] = fail(RequestFailed(101, b"no"))
    asked = {"user": "bob", "device": "phone", "service": "ping"}
    assert desk.post("/v1/request", asked).json == {"code": 101, "body": "bm8=", "text": "no"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (ResponseCode.GONE, 404, "gone"),
        (ResponseCode.RATE, 429, "too-many"),
        (ResponseCode.DEADLINE, 504, "timeout"),
        (ResponseCode.FAILED, 502, "client-failed"),
        (ResponseCode.FORBIDDEN, 502, "client-failed"),
    ],
)
def test_a_client_that_does_not_answer(desk: Desk, code: int, status: int, kind: str) -> None:
    desk.gateway.answers["request"] = fail(RequestFailed(code, b"why not" if code == 6 else b""))
    answer = desk.post("/v1/request", {"user": "bob", "device": "phone", "service": "ping"})
    told = desk.refused(status, kind, answer)
    assert ("why not" if code == 6 else "could not be asked") in told
    assert answer.json["code"] == code


def test_a_request_may_take_longer_than_others(desk: Desk) -> None:
    waiting: Deferred[bytes] = Deferred()
    desk.gateway.answers["request"] = waiting
    asked = {"user": "bob", "device": "phone", "service": "ping", "deadline_s": 100}
    protocol, transport = desk.begin("POST", "/v1/request", asked)
    desk.clock.advance(99)
    assert transport.value() == b""
    waiting.callback(b"late")
    assert b'"late"' in transport.value()
    desk.lose(protocol)


# ------------------------------------------------------------------------------------------------------ nodes


def test_nodes(desk: Desk) -> None:
    told = desk.get("/v1/nodes").json["nodes"]
    assert [one["node"] for one in told] == ["a", "b"]
    assert told[0]["served"][0] == {"protocol": "native", "transport": "tcp", "url": "tcp://a:7901"}


def test_drain(desk: Desk) -> None:
    def draining(left: int) -> None:
        desk.gateway.known["a.1"] = node("a", state=NodeState.DRAINING, sessions=9, leaving=left, orders=1)

    answer = desk.post("/v1/nodes/a/drain?rate=250")
    assert (answer.status, answer.json["state"], answer.json["done"]) == (202, "ready", False)
    draining(9)
    assert desk.get("/v1/nodes/a/drain").json == {
        "node": "a",
        "incarnation": "a.1",
        "state": "draining",
        "sessions": 9,
        "leaving": 9,
        "done": False,
        "order": 1,
    }
    draining(0)
    assert desk.get("/v1/nodes/a.1/drain").json["done"] is True
    assert desk.post("/v1/nodes/a/undrain").status == 202
    assert desk.gateway.calls == [("drain", "a.1", 250), ("undrain", "a.1")]


def test_any_router_knows_of_an_order_by_its_number(desk: Desk) -> None:
    desk.gateway.answers["drain"] = 3
    assert desk.post("/v1/nodes/a/drain").json["order"] == 3
    other = Desk()
    for orders, done in ((2, False), (3, True)):
        other.gateway.known["a.1"] = node("a", state=NodeState.DRAINING, orders=orders)
        found = other.get("/v1/nodes/a/drain?order=3").json
        assert (found["done"], found["order"]) == (done, orders)
    assert other.get("/v1/nodes/a/drain?order=-1").status == 400


def test_a_drain_is_not_done_by_what_the_node_said_before_it(desk: Desk) -> None:
    """Drained, taken back and drained again at once: what is known of the node is from the first drain."""

    def draining(orders: int) -> None:
        desk.gateway.known["a.1"] = node("a", state=NodeState.DRAINING, orders=orders)

    def done() -> Any:
        return desk.get("/v1/nodes/a/drain").json["done"]

    desk.post("/v1/nodes/a/drain")
    draining(1)
    assert done()
    assert desk.post("/v1/nodes/a/undrain").json["done"] is False
    desk.gateway.answers["drain"] = 3
    assert desk.post("/v1/nodes/a/drain").json["done"] is False
    assert [done(), draining(2), done(), draining(3), done()] == [False, None, False, None, True]
    assert desk.post("/v1/nodes/a/drain").json["done"] is False, "somebody may be there that it does not know"


def test_an_older_node_says_nothing_of_orders(desk: Desk) -> None:
    desk.gateway.answers["drain"] = -1
    assert desk.post("/v1/nodes/a/drain").json["done"] is False
    desk.gateway.known["a.1"] = node("a", state=NodeState.DRAINING)
    assert desk.get("/v1/nodes/a/drain").json["done"] is True


def test_an_order_that_is_not_answered_leaves_the_one_before_it(desk: Desk) -> None:
    """What the node said before it was taken back says nothing still."""
    desk.post("/v1/nodes/a/drain")
    desk.gateway.answers["undrain"] = 2
    desk.post("/v1/nodes/a/undrain")
    desk.gateway.answers["drain"] = -1
    desk.post("/v1/nodes/a/drain")
    done = []
    for orders in (1, 3):
        desk.gateway.known["a.1"] = node("a", state=NodeState.DRAINING, orders=orders)
        done.append(desk.get("/v1/nodes/a/drain").json["done"])
    assert done == [False, True]


def test_orders_to_nodes_that_are_gone_are_forgotten(desk: Desk) -> None:
    desk.gateway.answers["drain"] = 7
    desk.post("/v1/nodes/a/drain")
    gone = desk.gateway.known.pop("a.1")
    desk.post("/v1/nodes/b/drain")
    desk.gateway.known["a.1"] = replace(gone, state=NodeState.DRAINING)
    assert desk.get("/v1/nodes/a/drain").json["done"] is True


def test_a_node_that_is_not_there(desk: Desk) -> None:
    assert "GET /v1/nodes" in desk.refused(404, "not-found", desk.post("/v1/nodes/c/drain"))
    desk.gateway.answers["drain"] = 0
    assert "stopping, or gone" in desk.refused(409, "conflict", desk.post("/v1/nodes/a/drain"))


def test_two_nodes_of_one_name() -> None:
    desk = Desk(node("a", incarnation="a.1"), node("a", incarnation="a.2"))
    assert "name one of a.1, a.2" in desk.refused(409, "conflict", desk.post("/v1/nodes/a/drain"))
    assert desk.post("/v1/nodes/a.2/drain").status == 202


@pytest.mark.parametrize("rate", ["0", "-1", "x", "1000001", "5&rate=6"])
def test_a_pace_that_is_none(desk: Desk, rate: str) -> None:
    answer = desk.post(f"/v1/nodes/a/drain?rate={rate}")
    assert "rate" in desk.refused(400, "invalid-request", answer)


# ------------------------------------------------------------------------------------------- paths and faults


@pytest.mark.parametrize(
    "path", ["/", "//", "/v1", "/v1/nodes/", "/v1/users//sessions", "/v2/nodes", "/x%2F"]
)
def test_other_paths_are_not_there(desk: Desk, path: str) -> None:
    assert "/openapi.json" in desk.refused(404, "not-found", desk.get(path))


def test_a_path_that_is_not_utf8(desk: Desk) -> None:
    answer = desk.get("/v1/rooms/%ff")
    assert "{room} in the path is not UTF-8" in desk.refused(400, "invalid-request", answer)


def test_other_methods_are_not_taken(desk: Desk) -> None:
    answer = desk.ask("PUT", "/v1/users/bob/sessions")
    assert "DELETE, GET, HEAD" in desk.refused(405, "method-not-allowed", answer)
    assert answer.headers["allow"] == "DELETE, GET, HEAD"
    assert desk.get("/v1/push").headers["allow"] == "POST"


def test_head_is_get_without_its_body(desk: Desk) -> None:
    head, got = desk.ask("HEAD", "/v1/nodes"), desk.get("/v1/nodes")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


def test_a_body_of_another_kind(desk: Desk) -> None:
    answer = desk.post("/v1/push", b"to=all", Content_Type="application/x-www-form-urlencoded")
    assert "must be application/json" in desk.refused(415, "wrong-content-type", answer)
    assert desk.post("/v1/push", {"to": ["all"], "text": ""}, Content_Type="").status == 200
    kind = "Application/JSON; charset=utf-8"
    assert desk.post("/v1/push", {"to": ["all"], "text": ""}, Content_Type=kind).status == 200


def test_what_fails_is_logged_and_told_without_its_words(desk: Desk, flush_logged_errors: Any) -> None:
    for fault in (ZeroDivisionError("secret"), fail(ZeroDivisionError("secret"))):
        desk.gateway.answers["members"] = fault
        answer = desk.get("/v1/rooms/7")
        assert "its log says why" in desk.refused(500, "internal", answer)
        assert b"secret" not in answer.body
    desk.gateway.answers["sessions"] = fail(KeyError("x"))
    assert desk.get("/v1/online?user=a").status == 500
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
    assert len(flush_logged_errors(KeyError)) == 1


def test_a_problem_that_cannot_be_written_is_a_failure(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    wrong = Problem("not-found", "there is no such room")
    wrong.msg_id = "\ud800"
    desk.gateway.answers["members"] = fail(wrong)
    desk.refused(500, "internal", desk.get("/v1/rooms/7"))
    assert len(flush_logged_errors(UnicodeEncodeError)) == 1
    assert not desk.clock.getDelayedCalls()
    values: dict[str, Any] = {measure.field: value for measure, value in desk.api.measures()}
    assert values["running"] == 0


def test_a_part_that_answers_with_what_it_does_not_answer(flush_logged_errors: Any) -> None:
    class Wrong:
        def routes(self) -> list[Route]:
            return [Route("GET", "/v1/wrong", lambda call: Page("text/x", b""), "", "", {200: Nodes})]

    desk = Desk(more=[Wrong()])
    assert desk.get("/v1/wrong").status == 500
    assert len(flush_logged_errors(TypeError)) == 1


def test_a_request_that_breaks_what_reads_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    monkeypatch.setattr(desk.keys, "admit", lambda text, scope: 1 / 0)
    assert desk.get("/v1/nodes").status == 500
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_two_routes_of_one_path() -> None:
    one = Route("GET", "/v1/x", lambda call: None, "", "", {204: None})
    with pytest.raises(ValueError, match="two routes for GET /v1/x"):
        Table([one, one])


def test_an_answer_without_a_body() -> None:
    class Silent:
        def routes(self) -> list[Route]:
            return [Route("DELETE", "/v1/x", lambda call: None, "", "push", {204: None})]

    desk = Desk(more=[Silent()])
    answer = desk.ask("DELETE", "/v1/x")
    assert (answer.status, answer.body, "content-length" in answer.headers) == (204, b"", False)


# -------------------------------------------------------------------------------------- time, load, the end


def test_what_takes_too_long(desk: Desk) -> None:
    waiting: Deferred[Any] = Deferred()
    desk.gateway.answers["publish"] = waiting
    protocol, transport = desk.begin("POST", "/v1/push", {"to": ["all"], "text": ""})
    desk.clock.advance(29)
    assert transport.value() == b""
    desk.clock.advance(1.5)
    assert b"504 Gateway Time-out" in transport.value()
    problem = answers(transport.value())[0].json
    assert "push again with this msg_id" in problem["advice"]
    assert problem["msg_id"] == desk.gateway.calls[-1][1].msg_id  # it had none: the gateway made one
    assert desk.api._running == 1  # it goes on, and counts
    waiting.callback((Outcome(0),))
    assert desk.api._running == 0
    desk.lose(protocol)


def test_a_question_that_takes_too_long_is_given_up(desk: Desk) -> None:
    given_up: list[Any] = []
    desk.gateway.answers["members"] = Deferred(given_up.append)
    protocol, transport = desk.begin("GET", "/v1/rooms/7")
    desk.clock.advance(31)
    assert b" 504 " in transport.value()
    assert (len(given_up), desk.api._running) == (1, 0)
    desk.lose(protocol)


def test_no_more_than_so_many_wait_at_once() -> None:
    desk = Desk(connections=2)
    waiting: list[Deferred[Any]] = [Deferred(), Deferred()]
    for one in waiting:
        desk.gateway.answers["publish"] = one
        protocol, _ = desk.begin("POST", "/v1/push", {"to": ["all"], "text": ""})
        desk.lose(protocol)  # nobody waits for it any more, and it goes on
    assert "/readyz" in desk.refused(503, "unavailable", desk.get("/v1/nodes"))
    assert desk.get("/readyz").status == 200
    token = desk.token()  # clients are sent on, whatever pushes wait for
    assert desk.get(f"/v1/allocate?token={token}", key=None, public=True).status == 200
    for one in waiting:
        one.callback((Outcome(0),))
    assert desk.get("/v1/nodes").status == 200


def test_until_it_has_started_only_health_answers(desk: Desk) -> None:
    desk.api.closed = "it is starting"
    answer = desk.get("/v1/nodes")
    assert "it is starting" in desk.refused(503, "unavailable", answer)
    assert answer.headers["retry-after"] == "1"
    assert desk.get("/healthz").status == 200


def test_stop_waits_for_what_runs(desk: Desk) -> None:
    desk.gateway.answers["members"] = waiting = Deferred[Any]()
    protocol, transport = desk.begin("GET", "/v1/rooms/7")
    done: list[Any] = []
    desk.api.stop().addCallback(done.append)
    assert done == []
    refused = desk.get("/v1/nodes")
    assert "it is stopping" in desk.refused(503, "unavailable", refused)
    assert refused.headers["connection"] == "close"
    waiting.callback(3)
    assert done == [None]
    assert b'"members":3' in transport.value()
    desk.lose(protocol)


def test_a_problem_can_be_written_whatever_it_quotes() -> None:
    told = json.loads(Problem("not-found", "no \ud800é", "ask for \udcff").document())
    assert (told["detail"], told["advice"]) == ("no \\ud800é", "ask for \\udcff")


def test_a_problem_has_a_known_kind() -> None:
    with pytest.raises(KeyError):
        Problem("no such", "")
    assert all(400 <= status < 600 for status, _ in KINDS.values())
