"""The client on the real reactor and real sockets: found by URL, reconnecting, killed with its outbox."""

from __future__ import annotations

import subprocess
import sys

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from imgateway.client import connect
from imgateway.client.adapters import protocol_named, transport_for
from imgateway.core.retry import fixed
from imgateway.errors import LinkLost
from imgateway.frames import Bye, Hello, Limits, Outcome, Publish, PublishAck, Resumed, Welcome, parse_address

pytestmark = pytest.mark.network


class Peer:
    """The gateway's side of one connection: welcomes, and acknowledges when told to."""

    def __init__(self, house, connection):
        self.house = house
        self.connection = connection
        self.codec = house.wire.codec(connection.stream, 1 << 20)

    def opened(self, wire): ...

    def pause_sending(self): ...

    def resume_sending(self): ...

    def lost(self, reason, code=1): ...

    def received(self, data):
        for frame in self.codec.receive(data):
            if isinstance(frame, Hello):
                resumed = (Resumed(parse_address("user:me"), 0, 7, 0, 0),)
                self.say(Welcome("device:me/phone", "me", "n", 1, 30.0, 0, 0, Limits(), resumed))
            elif isinstance(frame, Bye):
                self.connection.close(0)
            elif isinstance(frame, Publish):
                self.house.got.append(frame)
                while self.house.when_got:
                    self.house.when_got.pop().callback(None)
                if self.house.acks:
                    self.say(PublishAck(frame.msg_id, (Outcome(0, 7, len(self.house.got)),)))

    def say(self, frame):
        self.connection.send(self.codec.encode(frame))


class House:
    def __init__(self, protocol):
        self.wire = protocol_named(protocol)
        self.peers, self.got, self.when_got = [], [], []
        self.acks = True

    def accept(self, connection):
        self.peers.append(Peer(self, connection))
        return self.peers[-1]


@pytest.mark.parametrize(("scheme", "protocol"), [("tcp", "native"), ("ws", "native"), ("ws", "json")])
@pytest_twisted.ensureDeferred
async def test_a_conversation_and_a_reconnect(scheme, protocol):
    house = House(protocol)
    transport = transport_for(f"{scheme}://")
    listener = await transport.listen("tcp:0:interface=127.0.0.1", [house.wire], house.accept, reactor, {})
    url = f"{scheme}://127.0.0.1:{listener.port}"
    client = await connect(url, token="t", protocol=protocol, backoff=fixed(0.01))
    assert (await client.publish("user:bob", "hällo"))[0].seq == 1
    house.acks = False
    sent = client.publish("user:bob", b"again")
    reached = Deferred()
    house.when_got.append(reached)
    await reached
    house.acks = True
    house.peers[-1].connection.abort()
    assert (await sent)[0].seq == 3
    assert [frame.resent for frame in house.got] == [False, False, True]
    await client.close()
    await listener.stop()
    with pytest.raises(LinkLost):
        await connect(url, token="t", protocol=protocol)


KILLED = """
import os, sys
from twisted.internet import task
from imgateway.client import connect

async def main(reactor, url, path):
    client = await connect(url, token="t", outbox=path, reactor=reactor)
    sent = [client.publish("user:bob", str(n), msg_id=f"id{n}") for n in range(10)]
    client._sending.pump()
    os.kill(os.getpid(), 9)

task.react(lambda reactor: __import__("twisted").internet.defer.ensureDeferred(main(reactor, *sys.argv[1:])))
"""


@pytest_twisted.ensureDeferred
async def test_kill_9_loses_nothing(tmp_path):
    from twisted.internet import threads

    house = House("native")
    house.acks = False
    transport = transport_for("tcp://")
    listener = await transport.listen("tcp:0:interface=127.0.0.1", [house.wire], house.accept, reactor, {})
    url, path = f"tcp://127.0.0.1:{listener.port}", str(tmp_path / "box")
    run = await threads.deferToThread(
        subprocess.run, [sys.executable, "-c", KILLED, url, path], capture_output=True, timeout=60
    )
    assert run.returncode == -9, run.stderr
    house.got.clear()
    house.acks = True
    words = []
    done = Deferred()

    def on_outcome(publish, word):
        words.append((publish.msg_id, word[0].code))
        if len(words) == 10:
            done.callback(None)

    client = await connect(url, token="t", outbox=path, on_outcome=on_outcome)
    await done
    assert [frame.msg_id for frame in house.got] == [f"id{n}" for n in range(10)]
    assert words == [(f"id{n}", 0) for n in range(10)]
    await client.close()
    await listener.stop()
