"""Every example of the guide runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from imgateway.client import connect as real_connect
from imgateway.errors import RequestFailed
from imgateway.frames import (
    Publish,
    Pull,
    Refused,
    Request,
    Response,
    Subscribe,
    Unsubscribed,
    UnsubscribedCode,
    parse_address,
)
from tests.client.fake_gateway import ROOM, World, begin, deliver, done

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


@pytest.fixture
def guide(world: World) -> dict[str, Any]:
    """The names that the examples define, with a token and a gateway."""

    async def connect(url: str, **options: Any) -> Any:
        client = await real_connect(url, transport=world.gateway, **options)
        world.clients.append(client)
        return client

    names: dict[str, Any] = {"TOKEN": "t", "__name__": "guide"}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S):
        exec(compile(block, str(GUIDE), "exec"), names)
        names["connect"] = connect
    return names


def test_the_first_conversation(world: World, guide: dict[str, Any], capsys: Any) -> None:
    running = begin(guide["main"](world.clock))
    for _ in range(3):
        world.turn()
    done(running)
    assert capsys.readouterr().out == "0 1\n"


def test_sending(world: World, guide: dict[str, Any]) -> None:
    client = world.up()
    telling = begin(guide["tell"](client))
    world.turn()
    assert done(telling) == []
    assert world.gateway.log[0].msg_id == "order-4711"


def test_files(world: World, guide: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    path = str(tmp_path / "file")
    first = world.client(outbox=path, device="till")
    first.publish("user:bob", b"x", msg_id="left").addErrback(lambda reason: None)
    first.close()
    world.turn()
    running = begin(guide["run_durably"](world.clock, path))
    world.turn(8)
    assert done(running).connected
    assert "from an earlier run: left" in capsys.readouterr().out
    assert [frame.msg_id for frame in world.gateway.pipe.of(Publish)] == ["left"]


def test_receiving(world: World, guide: dict[str, Any], capsys: Any) -> None:
    stored: list[Any] = []

    async def store(*what: Any) -> None:
        stored.append(what)

    running = begin(guide["serve"](world.clock, store))
    world.turn()
    done(running)
    world.gateway.pipe.say(deliver(0, 2, gap=True))
    assert stored == [("bob", b"1"), ("bob", b"2")]
    assert capsys.readouterr().out == "something in 0…2 is lost\n"


def test_iterating(world: World, guide: dict[str, Any]) -> None:
    client = world.up()
    reading = begin(guide["read_three"](client))
    world.gateway.pipe.say(deliver(0, 4))
    assert done(reading) == [b"1", b"2", b"3"]


def test_history(world: World, guide: dict[str, Any]) -> None:
    client = world.up(on_message=lambda message: None)
    asking = begin(guide["all_of"](client, "user:me"))
    world.gateway.pipe.say(deliver(0, 2, head=3, pulled=True))
    world.gateway.pipe.say(deliver(2, 3, head=3, pulled=True))
    assert [one.seq for one in done(asking)] == [1, 2, 3]
    assert [pull.after for pull in world.gateway.pipe.of(Pull)] == [0, 2]


def test_rooms(world: World, guide: dict[str, Any], capsys: Any) -> None:
    client = world.up(on_message=lambda message: None)
    watching = begin(guide["watch"](client))
    world.turn(8)
    assert done(watching).active
    assert [(publish.lane, publish.body) for publish in world.gateway.log] == [
        (0, b"hello everybody"),
        (1, b"a gift"),
    ]
    world.gateway.pipe.say(Unsubscribed(ROOM, 2))
    assert capsys.readouterr().out == f"put out of 7: {int(UnsubscribedCode.REMOVED)}\n"
    again = begin(guide["watch"](client))
    world.gateway.pipe.say(Refused("subscribe", "room:7", 2))
    assert done(again) == 2


def test_topics(world: World, guide: dict[str, Any]) -> None:
    client = world.up(on_message=lambda message: None)
    following = begin(guide["follow"](client))
    world.turn()
    assert done(following).active
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(parse_address("topic:news"), last=True)]


def test_requests(world: World, guide: dict[str, Any]) -> None:
    client = world.up()
    asking = [begin(guide["ask"](client)) for _ in range(2)]
    first, second = world.gateway.pipe.of(Request)
    world.gateway.pipe.say(Response(first.id, 0, b"sun"), Response(second.id, 101))
    assert [done(one) for one in asking] == [b"sun", 101]
    guide["answer_for"](client)
    world.gateway.pipe.say(Request(1, "client", "ping"))
    assert world.gateway.pipe.of(Response) == [Response(1, 0, b"pong")]
    assert issubclass(RequestFailed, Exception)
