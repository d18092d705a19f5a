"""Clients of the netty-chat wire at a real node: with each other, with others, absent, and killed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted

from imgateway.client import connect
from imgateway.wire import chat_pb2 as pb
from imgateway.wire.framing import length_prefixed

from .chat import ChatClient, chatting
from .nodes import Node, soon

pytestmark = pytest.mark.network
LISTEN = ["native+tcp:tcp:{tcp}:interface=127.0.0.1", "chat+tcp:tcp:{ws}:interface=127.0.0.1"]


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(listen=LISTEN).start()


async def login(node: Node, uid: int) -> ChatClient:
    return await chatting(node.ws, uid)


@pytest_twisted.ensureDeferred
async def test_single_group_and_a_repeat(node: Node) -> None:
    one, two, three = [await login(node, uid) for uid in (1, 2, 3)]
    msg_id = one.chat(2, "hi there")
    assert one.chat(2, "hi there", msg_id) == msg_id
    one.group([2, 3, 1], "to all")
    two.chat(1, "grüße")
    await soon(lambda: len(two.shown) + len(three.shown) + len(one.shown) >= 5, what="all of them")
    for client in (one, two, three):
        await client.pinged()
    assert (two.texts(), three.texts()) == (["hi there", "to all"], ["to all"])
    assert sorted(one.texts()) == ["grüße", "to all"]
    first, second = [msg for msg in two.heard if msg.msg_type == 1]
    assert (first.msg_id, first.from_uid, first.to_uid, first.chat_type) == (msg_id, 1, 2, 1)
    assert (second.from_uid, second.to_uid, second.chat_type, list(second.to_uid_list)) == (
        1,
        2,
        2,
        [2, 3, 1],
    )


@pytest_twisted.ensureDeferred
async def test_a_group_of_more_than_one_publish_may_name(node: Node) -> None:
    one, last = await login(node, 1), await login(node, 301)
    one.group(list(range(2, 302)), "many")
    await soon(lambda: last.shown, what="the last one's copy")
    assert last.texts() == ["many"]
    for uid in (2, 202):  # who was not there finds it
        assert await texts_of(node, uid, 1) == ["many"]


async def texts_of(node: Node, uid: int, count: int) -> list[str]:
    client = await login(node, uid)
    await soon(lambda: len(client.shown) >= count, what=f"what waits for {uid}")
    await client.pinged()
    return client.texts()


@pytest_twisted.ensureDeferred
async def test_with_a_client_of_another_wire(node: Node) -> None:
    chat = await login(node, 7)
    shown: list[Any] = []
    alice = await connect(node.url, token=node.token("alice"), on_message=shown.append)
    await alice.publish("user:7", "hello")
    await alice.publish("user:7", b"\xff\x00")  # this wire cannot say it
    await alice.publish("user:7", "over")
    await soon(lambda: len(chat.shown) == 2, what="the messages")
    assert [json.loads(body) for body in chat.shown] == [
        {"from": "alice", "text": "hello"},
        {"from": "alice", "text": "over"},
    ]
    # The client cannot name who is no number; a user with a number it can, whatever wire that one is on.
    eight = await connect(node.url, token=node.token("8"), on_message=shown.append)
    chat.chat(8, "answer")
    await soon(lambda: shown, what="the answer")
    (received,) = shown
    message = received.message
    assert (message.sender, message.content_type, message.body) == ("7", "text/plain", b"answer")
    await eight.publish("user:7", "bye")
    await soon(lambda: len(chat.shown) == 3, what="the last one")
    assert (chat.heard[-1].from_uid, chat.shown[-1]) == (8, '{"text":"bye"}')
    await alice.close(1.0)
    await eight.close(1.0)


@pytest_twisted.ensureDeferred
async def test_what_is_sent_to_the_absent_waits_over_a_kill(node: Node) -> None:
    one = await login(node, 1)
    one.chat(2, "are you there?")
    await one.pinged()
    await soon(lambda: node.measure("imgateway_outcomes_total") >= 1, what="the store")
    node.kill()
    await node.started()
    assert await texts_of(node, 2, 1) == ["are you there?"]


@pytest_twisted.ensureDeferred
async def test_written_is_not_arrived(node: Node) -> None:
    """Who did not speak again after a message is sent it again; who did, is not."""
    one, two = await login(node, 1), await login(node, 2)
    one.chat(2, "first")
    await soon(lambda: two.shown, what="the message")
    await two.pinged()  # it has arrived
    one.chat(2, "second")
    await soon(lambda: len(two.shown) == 2, what="the message")
    await two.kill()
    assert await texts_of(node, 2, 1) == ["second"]
    assert await texts_of(node, 2, 0) == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_pings_and_does_not_read(node: Node) -> None:
    """Its system takes a few, the rest stays in ours: then speaking proves nothing."""
    one = await login(node, 1)
    with socket.socket() as two:
        two.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        two.connect(("127.0.0.1", node.ws))
        ping, greeting = (
            pb.Msg(msg_id="x", from_uid=2, msg_type=kind).SerializeToString() for kind in (4, 3)
        )
        two.sendall(length_prefixed(greeting))
        texts = [f"{number} {'x' * 60_000}" for number in range(4)]
        for text in texts:
            one.chat(2, text)
        await one.pinged()
        await soon(lambda: node.measure("imgateway_entries_delivered_total") >= 4, what="the deliveries")
        for _ in range(3):
            two.sendall(length_prefixed(ping))
            await one.pinged()
        two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no goodbye
    assert await texts_of(node, 2, 4) == texts


@pytest_twisted.ensureDeferred
async def test_a_bad_frame_ends_one_connection(node: Node) -> None:
    one, two = await login(node, 1), await login(node, 2)
    assert one.transport is not None
    one.transport.write(b"\x02\xff\xff")
    await soon(lambda: one.lost, what="its end")
    assert one.shown == []
    await two.pinged()


@pytest_twisted.ensureDeferred
async def test_the_same_number_again_takes_over(node: Node) -> None:
    old = await login(node, 1)
    new = await login(node, 1)
    await soon(lambda: old.lost, what="the end of the older connection")
    assert old.shown == []  # it is not told why: it would print that
    await new.pinged()
