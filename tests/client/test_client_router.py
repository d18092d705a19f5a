"""A client that asks routers where to connect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.ssl import optionsForClientTLS

from imgateway.client.client import Client
from imgateway.client.router import Allocation, Place, RouterAway, RouterRefused, Waits
from imgateway.core.retry import fixed
from imgateway.errors import CloseCode, ConnectRefused, LinkLost
from imgateway.frames import Bye, Hello, Ping
from tests.client.fake_gateway import World, done


class FakeRouter:
    """Answers with `places`, or what `answers` has first. `tokens`: what it was asked with."""

    secure = False

    def __init__(self, *places: str, **more: Any) -> None:
        self.answer: Any = Allocation(tuple(Place(url) for url in places), **more)
        self.answers: list[Any] = []
        self.tokens: list[str] = []

    async def allocate(self, token: str) -> Allocation:
        self.tokens.append(token)
        answer = self.answers.pop(0) if self.answers else self.answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            answer = await answer
        return answer  # type: ignore[no-any-return]


def failed(started: Deferred[None]) -> Any:
    errors: list[Any] = []
    started.addErrback(lambda failure: errors.append(failure.value))
    (error,) = errors
    return error


def test_the_places_are_tried_in_order(world: World) -> None:
    router = FakeRouter("memory://a", "memory://b")
    client = world.up(url=(), router=router)
    assert (world.gateway.dialled, router.tokens) == (["memory://a"], ["t"])
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    world.wait(1)
    world.wait(1)
    assert world.gateway.dialled == ["memory://a"] * 2 + ["memory://b"]
    assert len(router.tokens) == 1, "not all have failed"
    router.answer = Allocation((Place("memory://c"),))
    world.gateway.reachable = True
    world.wait(1)
    assert world.gateway.dialled[-1] == "memory://c"
    assert (client.connected, len(router.tokens)) == (True, 2)


def test_a_bye_without_other_places_asks_the_router(world: World) -> None:
    router = FakeRouter("memory://a")
    client = world.up(url=(), router=router)
    router.answer = Allocation((Place("memory://b"),))
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 2_000))
    world.wait(1.9)
    assert len(world.gateway.dialled) == 1, "not before its time"
    world.wait(0.2)
    assert world.gateway.dialled == ["memory://a", "memory://b"]
    assert client.connected


def test_a_bye_with_other_places_is_followed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.client.adapters.transport_for", lambda url: None)
    router = FakeRouter("memory://a")
    world.up(url=(), router=router)
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 100, ("memory://b",)))
    world.wait(0.2)
    assert world.gateway.dialled == ["memory://a", "memory://b"]
    assert len(router.tokens) == 1
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 100, ("memory://b",)))  # it names itself
    world.wait(0.2)
    world.wait(1)
    assert len(router.tokens) == 2


@pytest.mark.parametrize("router_is_there", [None, False])
def test_a_bye_that_names_a_known_place_is_followed(
    world: World, monkeypatch: pytest.MonkeyPatch, router_is_there: bool | None
) -> None:
    monkeypatch.setattr("imgateway.client.adapters.transport_for", lambda url: None)
    a, b = places = ["memory://a", "memory://b"]
    if router_is_there is None:
        client = world.up(url=places)
    else:
        router = FakeRouter(*places)
        router.answers = [router.answer]
        router.answer = RouterAway("nobody is there")
        client = world.up(url=(), router=router)
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "draining", 100, (b,)))
    world.wait(0.2)
    assert (world.gateway.dialled, client.connected) == ([a, b], True)
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    for _ in range(3):
        world.wait(1)
    assert world.gateway.dialled[2:] == [b, a, b], "the other one stays known"


def test_places_of_many_byes_do_not_gather(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.client.adapters.transport_for", lambda url: None)
    client = world.up(url=(), router=FakeRouter("memory://a"))
    for n in range(9):
        world.gateway.pipe.say(
            Bye(CloseCode.GOING_AWAY, "", 100, tuple(f"memory://{n}.{m}" for m in range(9)))
        )
        world.wait(0.2)
        assert world.gateway.dialled[-1] == f"memory://{n}.0"
    assert len(client._session._course) == 32


def test_a_bye_does_not_lead_into_the_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.client.adapters.transport_for", lambda url: None)
    router = FakeRouter("tls://a")
    router.secure = True
    world.up(url=(), router=router)
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 100, ("tcp://b", "tls://c")))
    world.wait(0.2)
    assert world.gateway.dialled == ["tls://a", "tls://c"]


def test_a_lost_link_goes_back_to_where_it_was(world: World) -> None:
    router = FakeRouter("memory://a", "memory://b")
    world.up(url=(), router=router)
    world.gateway.pipe.cut()
    world.wait(1)
    assert world.gateway.dialled == ["memory://a"] * 2
    assert len(router.tokens) == 1


def test_the_router_names_the_waits(world: World) -> None:
    router = FakeRouter("memory://a", backoff=Waits(4.0, 9.0, 2.0, 0.0))
    client = world.client(url=(), router=router, backoff=None)
    client.start()
    world.turn()
    for wait in (4.0, 8.0, 9.0):
        world.gateway.reachable = False
        world.gateway.pipe.cut() if wait == 4.0 else None
        dialled = len(world.gateway.dialled)
        world.wait(wait - 0.1)
        assert len(world.gateway.dialled) == dialled
        world.wait(0.2)
        assert len(world.gateway.dialled) == dialled + 1


@pytest.mark.parametrize(("welcome_s", "pings"), [(0.0, 2), (30.0, 0)])
def test_the_router_names_a_heartbeat_and_welcome_a_better_one(
    world: World, welcome_s: float, pings: int
) -> None:
    world.gateway.heartbeat_s = welcome_s
    world.up(url=(), router=FakeRouter("memory://a", heartbeat_s=10.0))
    world.live(19)
    assert len(world.gateway.pipe.of(Ping)) == pings


def test_the_application_s_own_waits_win(world: World) -> None:
    router = FakeRouter("memory://a", backoff=Waits(100.0))
    world.up(url=(), router=router, backoff=fixed(1.0))
    world.gateway.pipe.cut()
    world.wait(1.1)
    assert len(world.gateway.dialled) == 2


@pytest.mark.parametrize("waits", [Waits(-1, -1, -1, -1), Waits(1e9, 1.0, 0.0, 7.0)])
def test_waits_that_make_no_sense(waits: Waits) -> None:
    policy = waits.policy(lambda: 0.999)
    assert all(0 <= policy(attempt) <= 1e9 for attempt in (0, 1, 10, 10_000))
    assert policy(3) > 0


def test_no_router_at_the_start(world: World) -> None:
    router = FakeRouter()
    router.answer = RouterAway("nobody is there")
    client = world.client(url=(), router=router)
    error = failed(client.start())
    assert isinstance(error, LinkLost)
    assert "nobody is there" in str(error)
    assert not world.gateway.dialled


def test_no_router_at_the_start_and_patience(world: World) -> None:
    router = FakeRouter("memory://a")
    router.answers = [RouterAway("nobody"), RouterAway("no node is ready", 7.0)]
    client = world.client(url=(), router=router, wait=True)
    started = client.start()
    world.turn()
    world.wait(1)
    assert len(router.tokens) == 2
    world.wait(6.9)
    assert len(router.tokens) == 2, "it said when"
    world.wait(0.2)
    assert done(started) is None
    assert client.connected


def test_no_router_and_a_place_that_the_application_knows(world: World) -> None:
    router = FakeRouter()
    router.answer = RouterAway("nobody is there")
    world.up(url="memory://own", router=router)
    assert world.gateway.dialled == ["memory://own"]


def test_a_router_s_own_request_that_is_cancelled_is_a_router_that_is_away(world: World) -> None:
    router = FakeRouter()
    asked: Deferred[Allocation] = Deferred()
    router.answers = [asked]
    client = world.client(url="memory://own", router=router)
    started = client.start()
    asked.cancel()  # as HTTP clients do with what takes too long
    world.turn()
    done(started)
    assert (client.connected, world.gateway.dialled) == (True, ["memory://own"])


def test_its_own_places_come_last(world: World) -> None:
    router = FakeRouter("memory://a", "memory://own")
    client = world.client(url=["memory://x", "memory://own"], router=router, wait=True)
    world.gateway.reachable = False
    client.start().addErrback(lambda failure: None)
    for _ in range(3):
        world.wait(1)
    assert world.gateway.dialled[:4] == ["memory://a", "memory://own", "memory://x", "memory://a"]


def test_routers_that_went_away_leave_what_they_said(world: World) -> None:
    router = FakeRouter("memory://a", "memory://b")
    client = world.up(url=(), router=router)
    router.answer = RouterAway("nobody is there")
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    for _ in range(4):
        world.wait(1)
    assert world.gateway.dialled == ["memory://a", "memory://a", "memory://b", "memory://a", "memory://b"]
    assert len(router.tokens) == 2
    world.gateway.reachable = True
    world.wait(1)
    assert client.connected


def test_a_token_that_the_router_does_not_take(world: World) -> None:
    router = FakeRouter()
    router.answer = RouterRefused("no such token", False)
    error = failed(world.client(url=(), router=router).start())
    assert isinstance(error, ConnectRefused)
    assert error.code == CloseCode.BAD_TOKEN
    router.answer = RouterRefused("not for you", True)
    error = failed(world.client(url=(), router=router, token=lambda: "t").start())
    assert isinstance(error, ConnectRefused)
    assert error.code == CloseCode.FORBIDDEN


def test_a_token_that_ran_out_is_fetched_anew(world: World) -> None:
    tokens = iter(["first", "second", "third"])
    router = FakeRouter("memory://a")
    client = world.up(url=(), router=router, token=lambda: next(tokens))
    router.answers = [RouterRefused("expired", False)]
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 1_000))
    world.wait(1.1)
    world.turn()
    assert router.tokens == ["first", "first", "second"]
    assert client.connected


def test_a_token_that_ran_out_while_nobody_could_be_reached(world: World) -> None:
    tokens = iter(["first", "second"])
    router = FakeRouter("memory://a")
    client = world.client(url=(), router=router, token=lambda: next(tokens), wait=True)
    world.gateway.reachable = False
    client.start()
    world.turn()
    router.answers = [RouterAway("no network"), RouterRefused("expired", False)]
    world.wait(1)
    world.gateway.reachable = True
    world.wait(1)
    world.wait(1)
    world.turn()
    assert (router.tokens[0], router.tokens[-1], client.connected) == ("first", "second", True)


def test_fresh_tokens_that_are_refused_end_it(world: World) -> None:
    router = FakeRouter()
    router.answer = RouterRefused("no such user", False)
    tokens = iter(["first", "second", "third"])
    started = world.client(url=(), router=router, token=lambda: next(tokens)).start()
    world.turn()
    error = failed(started)
    assert isinstance(error, ConnectRefused)
    assert error.code == CloseCode.BAD_TOKEN
    assert router.tokens == ["first", "second"]


def test_a_fresh_token_that_ran_out_before_a_router_answered(world: World) -> None:
    """Routers that are away take their time, all within one attempt."""
    tokens = iter("abcd")
    router = FakeRouter("memory://a")
    router.answers = [RouterRefused("expired", False)]
    client = world.up(url=(), router=router, token=lambda: next(tokens))
    assert router.tokens == ["a", "b"]
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 1_000))
    router.answers = [RouterRefused("expired", False)] * 2
    world.wait(1.1)
    world.turn()
    assert router.tokens[2:] == ["b", "c", "d"], "the login between was a good one"
    assert client.connected


# ---------------------------------------------------------------------------------- tokens for one node alone


def bound(*tokens: str) -> Allocation:
    return Allocation(tuple(Place(f"memory://{token}", token=token) for token in tokens))


def test_a_token_for_the_place(world: World) -> None:
    router = FakeRouter()
    router.answers = [bound("one", "two"), bound("three")]
    world.up(url=(), router=router)
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["one"]
    # What other nodes take only the router can say.
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "", 100, ("memory://elsewhere",)))
    world.wait(0.2)
    assert router.tokens == ["t", "t"]
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["three"]


def test_a_token_for_the_place_that_runs_out(world: World) -> None:
    router = FakeRouter()
    router.answers = [bound("one"), bound("two"), bound("three")]
    fetched: list[str] = []
    world.gateway.token_expires_ms = int(world.clock.seconds() * 1000) + 100_000
    client = world.client(url=(), router=router, token=lambda: fetched.append("x") or "t")
    ends: list[Any] = []
    client.when_closed().addErrback(lambda failure: ends.append(failure.value.code))
    client.start()
    world.turn()
    world.live(99)
    assert len(fetched) == 1, "a fresh token of its own would not do there"
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))
    world.turn()
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["two"]
    world.gateway.welcomes = False
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))
    world.turn()
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))  # fresh from the router
    world.turn()
    assert len(fetched) == 2
    client.close(0)
    world.turn()


def test_a_token_for_the_place_that_is_not_taken_any_more(world: World) -> None:
    router = FakeRouter()
    router.answers = [bound("one", "two"), bound("three"), bound("four")]
    client = world.client(url=(), router=router)
    ends: list[Any] = []
    client.when_closed().addErrback(lambda failure: ends.append(failure.value.code))
    client.start()
    world.turn()
    # Its secret, or the node's name, has changed since: what the router gives now may do.
    world.gateway.pipe.say(Bye(CloseCode.BAD_TOKEN))
    world.turn()
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["three"]
    world.gateway.welcomes = False
    world.gateway.pipe.say(Bye(CloseCode.BAD_TOKEN))
    world.turn()
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["four"]
    world.gateway.pipe.say(Bye(CloseCode.BAD_TOKEN))  # fresh from the router
    world.turn()
    assert ends == [CloseCode.BAD_TOKEN]


@pytest.mark.parametrize("code", [CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED])
@pytest.mark.parametrize("own", [(), ("memory://one",)])
def test_a_token_for_the_place_that_is_not_taken_while_no_router_is_there(
    world: World, code: CloseCode, own: tuple[str, ...]
) -> None:
    router = FakeRouter()
    router.answers = [bound("one", "two")]
    router.answer = RouterAway("nobody is there")
    client = world.up(url=own, router=router)
    world.gateway.welcomes = False
    for tried in ["two", *(["t"] if own else [])]:
        world.gateway.pipe.say(Bye(code))
        world.turn()
        assert [hello.token for hello in world.gateway.pipe.of(Hello)] == [tried]
    world.gateway.reachable = False
    world.gateway.pipe.cut() if own else world.gateway.pipe.say(Bye(code))
    asked = len(router.tokens)
    for _ in range(5):
        world.wait(1)
    assert len(router.tokens) == asked + 5, "as often as it waits"
    world.gateway.reachable = world.gateway.welcomes = True
    router.answer = bound("three")
    world.wait(1)
    assert [hello.token for hello in world.gateway.pipe.of(Hello)] == ["three"]
    assert client.connected


# ------------------------------------------------------------------------------------------- where it may go


@pytest.mark.parametrize(
    ("secure", "token", "goes"),
    [
        (False, "t", ["tcp://a:1", "tls://c:1"]),
        (True, "t", ["tls://c:1"]),
        (True, "t~AAAAAAAAAAAAAAAAAAAAAA", ["udp://b:1", "tls://c:1"]),
    ],
)
def test_where_it_goes(secure: bool, token: str, goes: list[str]) -> None:
    router = FakeRouter()
    router.secure = secure
    client = Client(token=token, router=router, reactor=World().clock)
    found = Allocation(tuple(map(Place, ("tcp://a:1", "udp://b:1", "tls://c:1", "pigeon://d", ""))))
    assert client._session._dial.allocated(found, "~" in token) == goes


@pytest.mark.parametrize("own", ["t", "t~AAAAAAAAAAAAAAAAAAAAAA"])
def test_over_udp_the_token_of_the_place_needs_its_own_key(own: str) -> None:
    client = Client(token=own, router=FakeRouter(), reactor=World().clock)
    bare, sealed = Place("udp://b:1", token="one"), Place("udp://c:1", token="two~AAAAAAAAAAAAAAAAAAAAAA")
    places = client._session._dial.allocated(
        Allocation((bare, sealed, Place("tcp://d:1", token="3"))), "~" in own
    )
    assert places == ["udp://c:1", "tcp://d:1"]


def test_nowhere_to_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    router = FakeRouter("tcp://a:1")
    router.secure = True
    client = Client(token="t", router=router, reactor=world.clock)
    error = failed(client.start())
    assert isinstance(error, LinkLost)
    assert "only places where this client does not go" in str(error)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "where to"),
        ({"router": "tcp://gw:1"}, "no router's URL"),
        ({"router": "https://u:p@gw"}, "credentials"),
        ({"router": "https://gw?x=1"}, "no router's URL"),
        ({"router": ["https://gw", "gw"]}, "no router's URL"),
        ({"router": "https://gw", "transport": "pigeon"}, "no transport is called"),
    ],
)
def test_mistakes(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Client(token="t", reactor=World().clock, **options)


def test_a_client_that_is_closed_while_it_asks(world: World) -> None:
    router = FakeRouter()
    router.answer = Deferred()
    client = world.client(url=(), router=router)
    client.start().addErrback(lambda failure: None)
    world.turn()
    closing = client.close(0)
    world.turn()
    assert done(closing) is None


def test_a_client_that_is_closed_while_the_router_s_name_is_looked_up(world: World) -> None:
    router = FakeRouter("memory://a")
    asking: Deferred[Any] = Deferred(lambda gone: gone.errback(RouterAway("no such name")))
    router.answers = [asking]
    client = world.client(url="memory://own", router=router)
    client.start().addErrback(lambda failure: None)
    world.turn()
    client.close(0)
    world.turn()
    assert not world.gateway.dialled


def test_trust_by_host() -> None:
    asked: list[str] = []

    class Transport:
        name, schemes = "mine", ("tls", "tcp")

        def connect(self, url: str, wire: Any, receiver: Any, reactor: Any, options: Any) -> Deferred[Any]:
            seen.append(options["tls"])
            return succeed(None)

    seen: list[Any] = []
    trust: Callable[[str], Any] = lambda host: asked.append(host) or f"for {host}"  # noqa: E731
    client = Client("tls://a:1", token="t", transport=Transport(), tls=trust, reactor=World().clock)
    for url in ("tls://a:1", "tcp://b:1"):
        client._session._dial.connect(url, None, None)
    assert (asked, seen) == (["a"], ["for a", None])


@pytest.mark.parametrize("url", ["tls://im_gw:1", "tls://[::1:1"])
def test_a_host_that_tls_cannot_check_is_passed_over(world: World, url: str) -> None:
    client = world.client(url=(url, "memory://b"), tls=optionsForClientTLS, wait=True)
    started = client.start()
    world.turn()
    world.wait(1)
    assert done(started) is None
    assert (client.connected, world.gateway.dialled) == (True, ["memory://b"])


@pytest.mark.parametrize("error", [KeyError("a"), OSError("ca.pem: no such file")])
def test_a_host_for_which_tls_fails_is_passed_over(world: World, error: Exception) -> None:
    broken = {"a"}
    told: list[str] = []

    def tls(host: str) -> None:
        if host in broken:
            raise error

    client = world.client(url=("tls://a:1", "tls://b:1"), tls=tls, wait=True)
    client.on_down = lambda code, reason: told.append(reason)
    started = client.start()
    world.wait(1)
    world.wait(1)
    assert done(started) is None
    assert (client.connected, world.gateway.dialled) == (True, ["tls://b:1"])
    assert told == [f"no TLS for tls://a:1: {error!r}"]
    with pytest.raises(LinkLost, match="no TLS for tls://a:1"):
        done(world.client(url="tls://a:1", tls=tls).start())
