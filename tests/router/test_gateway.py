"""A router over a cluster of real nodes that share a store in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.auth.policy import DefaultPolicy
from imgateway.config import LimitSettings
from imgateway.errors import CloseCode, ConfigError, RequestFailed
from imgateway.frames import (
    Outcome,
    OutcomeCode,
    Publish,
    Request,
    Response,
    ResponseCode,
    SessionKey,
    log_of,
    parse_address,
)
from imgateway.interfaces import IBrokerListener, IGateway, IPolicy, IRegistry, NodeInfo, NodeState
from imgateway.registries.memory import Board, MemoryRegistry
from imgateway.router.gateway import RouterGateway, _Ears
from tests.node.cluster_rig import Cluster, Facet
from tests.node.rig import START_MS

BOB = SessionKey("bob", "phone")
OK, FORBIDDEN, TOO_LARGE = OutcomeCode.OK, OutcomeCode.FORBIDDEN, OutcomeCode.TOO_LARGE


class Place:
    """A cluster of the nodes a and b, and routers of it."""

    def __init__(self, policy: Any = None) -> None:
        self.cluster = Cluster("a", "b")
        self.a, self.b = self.cluster.rigs
        self.board = Board()
        for name in ("a", "b"):
            self.board.post(f"{name}.1", NodeInfo(name, f"{name}.1"))
        self.said: list[tuple[str, bool, str]] = []
        self.noted: list[tuple[str, str]] = []
        self.policy = policy or DefaultPolicy()
        self.router = self.start("r.1")

    def start(self, incarnation: str, registry: Any = None) -> RouterGateway:
        router = self.make(incarnation, registry)
        assert self.result(router.start()) is None
        return router

    def make(self, incarnation: str, registry: Any = None) -> RouterGateway:
        self.facet = Facet(self.cluster, incarnation)
        self.cluster.facets.append(self.facet)
        return RouterGateway(
            self.facet,  # type: ignore[arg-type]
            registry or MemoryRegistry(self.board),
            self.policy,
            LimitSettings(),
            incarnation,
            self.cluster.clock,
            lambda: self.cluster.wall_ms,
            lambda *said: self.said.append(said),
            lambda *noted: self.noted.append(noted),
        )

    def result(self, deferred: Deferred[Any]) -> Any:
        box: list[Any] = []
        deferred.addBoth(box.append)
        self.cluster.settle()
        [one] = box
        if isinstance(one, Failure):
            one.raiseException()
        return one

    def publish(self, msg_id: str, *to: str, router: RouterGateway | None = None, **more: Any) -> Any:
        publish = Publish(msg_id, tuple(map(parse_address, to)), **more)
        return self.result((router or self.router).publish(publish, "service:shop"))


@pytest.fixture
def place() -> Place:
    return Place()


def test_it_is_a_gateway(place: Place) -> None:
    verifyObject(IGateway, place.router)
    verifyObject(IBrokerListener, place.facet.listener)


def test_a_push_arrives_wherever_they_are(place: Place) -> None:
    bob, eve = place.a.login("bob"), place.b.login("eve")
    outcomes = place.publish("1", "user:bob", "user:eve", "device:bob/phone", "user:nobody")
    assert [outcome.code for outcome in outcomes] == [0] * 4
    assert (bob.shown(), eve.shown()) == (["1"], ["1"])


def test_what_two_routers_push_arrives_once(place: Place) -> None:
    bob = place.b.login("bob")
    first = place.publish("order-1", "user:bob", body=b"x")
    second = place.publish("order-1", "user:bob", body=b"x", router=place.start("r.2"))
    assert [one.code for one in first] == [OutcomeCode.OK]
    assert second == (Outcome(OutcomeCode.DUPLICATE, first[0].epoch, first[0].seq),)
    assert bob.shown() == ["order-1"]


def test_the_message_is_the_services(place: Place) -> None:
    place.publish("1", "user:bob", ttl_s=60, content_type="text/plain", headers=(("a", "b"),), lane=1)
    [(_, publication)] = [call for call in place.facet.calls if call[0] == "publish"]
    message = publication.message
    assert (message.sender, message.device) == ("service:shop", "api")
    assert (message.sent_ms, message.expires_ms) == (START_MS, START_MS + 60_000)
    assert (message.content_type, message.headers) == ("text/plain", (("a", "b"),))
    assert (publication.exempt, publication.lane) == (True, 1)


def test_what_is_too_large_is_refused(place: Place) -> None:
    large = (Outcome(OutcomeCode.TOO_LARGE),) * 2
    assert place.publish("1", "user:bob", "all", body=b"x" * 65_537) == large
    assert place.publish("1", "user:bob", "all", headers=(("a", "x" * 16_400),)) == large
    assert place.publish("1", "user:bob", "all", headers=tuple((str(n), "") for n in range(1_020))) == large
    assert place.publish("1", "user:bob", body=b"x" * 65_536)[0].code == OutcomeCode.OK


def test_qos_0_goes_once_to_whoever_is_there(place: Place) -> None:
    bob = place.a.login("bob")
    outcomes = place.publish("1", "user:bob", "device:bob/phone", "user:bob", "user:eve", qos=0)
    assert outcomes == (Outcome(OutcomeCode.OK),) * 4
    assert bob.shown() == ["1"]
    assert place.result(place.router.mailbox("bob")).head == 0


@implementer(IPolicy)
class NoRooms:
    name = "no-rooms"

    def may(self, identity: Any, action: str, address: Any) -> bool:
        assert identity.service
        return address.kind != "room" and not (address.kind == "all" and action == "publish-first")

    def areas(self, address: Any) -> tuple[str, ...]:
        return ()


def test_the_policy_is_asked() -> None:
    verifyObject(IPolicy, NoRooms())
    place = Place(NoRooms())
    bob = place.a.login("bob")
    codes = [one.code for one in place.publish("1", "room:7", "user:bob", "all")]
    assert codes == [OutcomeCode.FORBIDDEN, OutcomeCode.OK, OutcomeCode.OK]
    codes = [one.code for one in place.publish("2", "all", "user:bob", lane=1)]
    assert codes == [OutcomeCode.FORBIDDEN, OutcomeCode.OK]
    assert bob.shown() == ["1", "1", "2"]
    forbidden = (Outcome(OutcomeCode.FORBIDDEN),)
    assert place.publish("3", "room:7") == place.publish("3", "room:7", qos=0) == forbidden
    assert place.publish("4", "room:7", "user:bob", qos=0)[1].code == OutcomeCode.OK


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    ("to", "more", "codes"),
    [
        ("user:bob device:bob/phone user:bob user:eve", {}, [OK] * 4),
        ("room:7 user:bob all room:7", {}, [FORBIDDEN, OK, OK, FORBIDDEN]),
        ("all user:bob", {"lane": 1}, [FORBIDDEN, OK]),
        ("room:7 room:8", {}, [FORBIDDEN] * 2),
        ("user:bob room:7", {"body": b"x" * 65_537}, [TOO_LARGE] * 2),
        ("user:bob", {"headers": (("a", "x" * 16_400),), "ttl_s": 5}, [TOO_LARGE]),
    ],
    ids=["twice", "forbidden", "first", "none", "large", "headers"],
)
def test_a_node_does_and_says_the_same(
    to: str, more: dict[str, Any], codes: list[OutcomeCode], qos: int
) -> None:
    """Business code is told what is refused, also of what is not stored."""
    publish = Publish("1", tuple(map(parse_address, to.split())), qos=qos, **more)
    place = Place(NoRooms())
    told = place.result(place.router.publish(publish, "service:shop", "web"))
    other = Place()
    node = other.a.node
    node.read(node.settings, NoRooms())()
    told_by_node = other.result(node.publish(publish, "service:shop", "web"))
    assert [one.code for one in told] == [one.code for one in told_by_node] == codes
    calls = [call for call in place.facet.calls if call[0] in ("publish", "emit")]
    assert calls == [call for call in other.cluster.facets[0].calls if call[0] in ("publish", "emit")]
    assert len(calls) == (OK in codes)


def test_kick(place: Place) -> None:
    phone, web = place.a.login("bob"), place.b.login("bob", "web")
    assert place.result(place.router.kick("bob", "web", "spam")) == 1
    assert (phone.code, web.code) == (None, CloseCode.KICKED)
    assert place.result(place.router.kick("bob", None, "spam")) == 1
    assert phone.code is CloseCode.KICKED
    assert place.result(place.router.kick("bob", None, "spam")) == 0


def test_request(place: Place) -> None:
    bob = place.b.login("bob")
    asking = place.router.request(BOB, "ping", "now", b"?", 5.0)
    place.cluster.settle()
    [question] = bob.of(Request)
    assert (question.service, question.method, question.body) == ("ping", "now", b"?")
    bob.send(Response(question.id, 0, b"!"))
    assert place.result(asking) == b"!"
    with pytest.raises(RequestFailed) as told:
        place.result(place.router.request(SessionKey("eve", "phone"), "ping", "", b""))
    assert told.value.code == ResponseCode.GONE


def test_revoke(place: Place) -> None:
    bob = place.a.login("bob")
    place.result(place.router.revoke("bob", START_MS // 1000 + 1))
    assert bob.code is CloseCode.REVOKED


def test_sessions_of_a_node_that_is_gone_are_not_online(place: Place) -> None:
    place.a.login("bob")
    place.b.login("bob", "web")
    place.board.post("a.1", None)
    found = place.result(place.router.sessions("bob"))
    assert {one.session.device: one.online for one in found} == {"phone": False, "web": True}


def test_drain(place: Place) -> None:
    bob = place.a.login("bob")
    assert place.result(place.router.drain("a.1", 5)) == 1
    place.cluster.advance(5)
    assert bob.code is CloseCode.GOING_AWAY
    assert place.result(place.router.undrain("a.1")) == 2
    assert place.a.login("bob").link is not None
    assert place.result(place.router.drain("c.1", 5)) == 0


def test_nodes(place: Place) -> None:
    assert set(place.router.nodes()) == {"a.1", "b.1"}
    place.board.post("a.1", NodeInfo("a", "a.1", NodeState.DRAINING))
    assert place.router.nodes()["a.1"].state is NodeState.DRAINING


def test_it_has_no_sessions_of_its_own(place: Place) -> None:
    room = parse_address("room:7")
    assert place.result(place.router.join(BOB, room)) is False
    assert place.result(place.router.leave(BOB, room)) is False
    assert place.result(place.router.members(room)) == 0
    assert place.facet.listener.attended(log_of(room)) is False


def test_a_node_does_not_kick_or_drain_a_router(place: Place) -> None:
    other = place.start("r.2")
    assert place.result(other.drain("r.1", 5)) == place.result(other.undrain("r.1")) == 0
    assert place.publish("1", "user:bob")[0].code == OutcomeCode.OK


def test_what_a_broker_says_to_nodes_is_nothing_to_a_router() -> None:
    said: list[Any] = []
    ears = _Ears(said.append, lambda ok, why: said.append((ok, why)), lambda *stored: said.append(stored))
    log = log_of(parse_address("user:bob"))
    for name, values in {
        "arrived": (log, 1, 0, 0, ()),
        "moved": (log, 1, 0),
        "passed": (log.address, None),
        "displaced": (BOB, 1, 200, ""),
        "entered": (BOB, log.address),
        "left": (BOB, log.address),
        "congested": (True,),
    }.items():
        assert getattr(ears, name)(*values) is None
    assert said == []
    ears.healthy(False, "away")
    ears.control(b"x")
    ears.unattended(log, None)
    assert said == [(False, "away"), b"x", (log, None)]


# ------------------------------------------------------------------------------------------------- life


@implementer(IRegistry)
class Registry:
    """A registry that does as the test says."""

    name = "test"

    def __init__(self, start: Any = None, stop: Any = None) -> None:
        self.answers = {"start": start, "stop": stop}
        self.stopped = 0
        self.changed: Any = None
        self.healthy: Any = None

    def start(self, changed: Any, healthy: Any) -> Any:
        self.changed, self.healthy = changed, healthy
        return self.answers["start"] or succeed(None)

    def announce(self, info: NodeInfo) -> Deferred[None]:
        raise NotImplementedError

    def withdraw(self) -> Deferred[None]:
        raise NotImplementedError

    def stop(self) -> Deferred[None]:
        self.stopped += 1
        return self.answers["stop"] or succeed(None)


def test_the_nodes_stay_known_while_the_registry_is_away(place: Place) -> None:
    registry = Registry()
    verifyObject(IRegistry, registry)
    router = place.start("r.2", registry)
    nodes: Mapping[str, NodeInfo] = {"a.1": NodeInfo("a", "a.1")}
    registry.changed(nodes)
    registry.healthy(False, "zookeeper is away")
    assert router.nodes() == nodes
    registry.healthy(True, "")
    assert place.noted[-2:] == [("registry", "zookeeper is away"), ("registry", "")]
    place.facet.listener.healthy(False, "redis is away")
    assert place.said == [("store", False, "redis is away")]


def test_a_start_that_fails_leaves_nothing_open(place: Place) -> None:
    registry = Registry(start=fail(ConfigError("registry.url: no")))
    router = place.make("r.2", registry)
    with pytest.raises(ConfigError, match=r"registry\.url: no"):
        place.result(router.start())
    assert (registry.stopped, place.facet.listens) == (1, False)


def test_a_broker_that_does_not_start(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    router = place.make("r.2", registry)
    monkeypatch.setattr(place.facet, "start", lambda listener, name: fail(ConfigError("broker.url: no")))
    with pytest.raises(ConfigError, match=r"broker\.url: no"):
        place.result(router.start())
    assert registry.stopped == 0


def test_stop(place: Place, flush_logged_errors: Any) -> None:
    registry = Registry(stop=fail(ZeroDivisionError()))
    router = place.start("r.2", registry)
    waiting = router.request(BOB, "ping", "", b"")
    with pytest.raises(RequestFailed):
        place.result(waiting)
    assert place.result(router.stop()) is None
    assert place.result(router.stop()) is None
    assert (registry.stopped, place.facet.listens) == (1, False)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
