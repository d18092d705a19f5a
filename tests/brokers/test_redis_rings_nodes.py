"""Rings that nodes share: told everywhere once and in order, whatever becomes of lines and servers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from imgateway.brokers.redis import watching
from imgateway.brokers.redis.packing import pack
from imgateway.frames import EVERYONE, Address, OutcomeCode, log_of
from tests.brokers.redis_rings import ROOM, House, Node, build, house, room
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.server
__all__ = ("build", "house")

OK, DUPLICATE, RATE = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.RATE
MEMORY = "--appendonly", "no"


def bodies(node: Node, address: Address = ROOM) -> list[bytes]:
    """What a node was told of a ring, in order."""
    return [entry.message for told in node.told if told[0] == log_of(address) for entry in told[4]]


def kept(node: Node, address: Address = ROOM) -> list[bytes]:
    """What stands in Redis."""
    found: list[bytes] = []
    after = 0
    while True:
        batch = node.desk.run(node.rings._watching._ask_redis(node.rings._place(log_of(address)), after))
        found += [entry.message for entry in batch.entries]
        if batch.upto >= batch.head:
            return found
        after = batch.upto


# ------------------------------------------------------------------------------------------------- two nodes


def test_what_is_published_at_either_reaches_both_once_and_in_order(house: House) -> None:
    nodes = [house.node(rate=0.0, classes=("*: entries=500",)) for _ in range(2)]
    for node in nodes:
        node.watch()
        node.watch(EVERYONE)
    random = Random(3)
    sent: list[list[bytes]] = [[], []]
    for n in range(300):
        which = random.randrange(2)
        sent[which].append(b"%d.%d" % (which, n))
        nodes[which].later(random.choice([ROOM, ROOM, EVERYONE]), body=sent[which][-1])
        if random.random() < 0.2:
            house.loop.iterate(0)
    house.settle()
    for node in nodes:
        assert sorted(bodies(node) + bodies(node, EVERYONE)) == sorted(sent[0] + sent[1])
        for address in (ROOM, EVERYONE):
            assert bodies(node, address) == bodies(nodes[0], address) == kept(node, address)
            for which, mine in enumerate(sent):
                here = [body for body in bodies(node, address) if body.startswith(b"%d." % which)]
                assert here == [body for body in mine if body in here], "each node's order is kept"


def test_a_watch_and_its_position_are_one(house: House) -> None:
    """Whoever begins to watch in the middle of a flood is told all that follows its position, and no more."""
    publisher, node = house.node(rate=0.0), house.node(rate=0.0)
    random, sent = Random(5), 0
    for _ in range(30):
        box = node.desk.later(node.rings.watch(log_of(ROOM)))
        for _ in range(random.randrange(1, 60)):
            publisher.later(body=b"%d" % sent)
            sent += 1
            if random.random() < 0.3:
                house.loop.iterate(0)
        house.settle()
        head = box[0].head
        assert bodies(node) == [b"%d" % n for n in range(head, sent)], "seqs begin at 1"
        node.rings.unwatch(log_of(ROOM))
        node.told.clear()


def test_the_rate_and_repeats_span_nodes(house: House) -> None:
    one, other = house.node(rate=0.01, burst=3), house.node(rate=0.01, burst=3)
    first = one.publish(msg_id="1")
    assert other.publish(msg_id="1") == (DUPLICATE, first.epoch, first.seq)
    codes = [node.publish().code for node in (one, other, one, other)]
    assert codes == [OK, OK, RATE, RATE]


def test_what_is_watched_is_not_forgotten(house: House) -> None:
    """The server forgets in two days who watches what; who lives says so again, a few in each second."""
    node, dead, publisher = house.node(), house.node(), house.node()
    cli = house.servers[0].cli
    for n in range(3):
        node.watch(room(n))
        dead.watch(room(n + 1))
    dead.kill()
    names = sorted(cli("KEYS", "ig:{*}:watch:*"), key=lambda name: name[-1])
    for name in names:
        assert 0 < cli("PEXPIRE", name, 100_000_000) <= 1
    node.upkeep(watching.WATCH_AGAIN_S - 1)
    assert node.rings._watching._again == []
    for _ in range(4):
        node.upkeep(1)
    assert [cli("PTTL", name) > 100_000_000 for name in names] == [True, True, True, False]
    publisher.publish(room(1))
    house.settle()
    assert (len(node.told), node.moved) == (1, [])


def test_a_node_that_is_gone_is_forgotten(house: House) -> None:
    node, other = house.node(), house.node()
    node.watch()
    other.watch()
    other.kill()
    server = house.servers[0]
    house.loop.until(lambda: server.cli("PUBSUB", "NUMSUB", "ig:node:n.2")[1] == 0)
    node.publish()
    (name,) = server.cli("KEYS", "ig:{*}:watch:0:room:7")
    assert server.cli("HKEYS", name) == [b"n.1"]
    house.settle()
    assert len(bodies(node)) == 1


# -------------------------------------------------------------------------------- calls that are repeated


def test_a_call_that_is_run_again_answers_the_same_and_changes_nothing(house: House) -> None:
    node = house.node()
    primary = node.desk.primary
    law = [99, 10.0, 3, 1 << 20, 600_000, 1_000]
    bucket = node.rings._place(log_of(ROOM)).bucket

    def publish(mark: str) -> list[Any]:
        return [0, bucket, "0:room:7", mark, 0, 0, 200, 1 << 20, 600_000, b"x"]

    asked = [publish("a"), publish(""), publish("a"), [1, bucket, "0:room:7"], publish("b"), publish("c")]
    packed = pack([[], law, asked])
    first = node.desk.run(primary.call("ring", "n.1", 1, packed))
    assert first == [99, first[1], 1, 0, 1, 2, -1, [1, 2, 2], 3, 0]
    for _ in range(2):
        assert node.desk.run(primary.call("ring", "n.1", 1, packed)) == first
    assert kept(node) == [b"x"] * 3
    assert house.servers[0].cli("HKEYS", "ig:answers:n.1:rings") == [b"1"]
    node.desk.run(primary.call("ring", "n.1", 2, pack([[1, *range(9, 20_000)], law, [publish("d")]])))
    assert house.servers[0].cli("HKEYS", "ig:answers:n.1:rings") == [b"2"], "what came need not be kept"
    assert house.servers[0].cli("PTTL", "ig:answers:n.1:rings") > 0


def test_an_answer_that_is_lost_is_given_again(house: House) -> None:
    """The server did it, and the line broke before it could say so."""
    node, server = house.node(rate=10.0, burst=8), house.servers[0]
    boxes = [node.later(msg_id=str(n)) for n in range(10)]
    for _ in range(3):
        node.emit(room(8))
    node.rings._turns.flush()
    house.loop.iterate(0)
    while not server.cli("EXISTS", "ig:rings"):
        pass
    assert boxes == [[]] * 10
    node.desk.primary._line.drop(ConnectionError("pulled"))
    house.settle()
    assert [box[0].code for box in boxes] == [OK] * 8 + [RATE] * 2
    assert len(kept(node)) == 8
    assert len(kept(node, room(8))) == 3, "qos 0 comes once, too"
    assert node.measure().room_publishes == 11


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_under_load_loses_nothing_and_repeats_nothing(start: Any, build: Any, seed: int) -> None:
    """On a primary whose every write is on disk."""
    server, random = start(), Random(seed)
    house = build(server)
    nodes = [house.node(rate=0.0, classes=("*: entries=5000",)) for _ in range(2)]
    for node in nodes:
        node.watch()
    boxes: list[list[Any]] = []
    sent: list[list[bytes]] = [[], []]
    for _ in range(4):
        for n in range(60):
            which = random.randrange(2)
            sent[which].append(b"%d.%d" % (which, len(sent[which])))
            boxes.append(nodes[which].later(body=sent[which][-1]))
            if random.random() < 0.3:
                house.loop.iterate(0)
            if n == 30:
                server.kill9()
                server.restart()
        house.settle()
    assert {box[0].code for box in boxes} == {OK}
    assert len({box[0].epoch for box in boxes}) == 1, "nothing was lost"
    found = kept(nodes[0])
    for which, mine in enumerate(sent):
        assert [body for body in found if body.startswith(b"%d." % which)] == mine
    for node in nodes:
        told = bodies(node)
        assert len(told) == len(set(told))
        assert told == [body for body in found if body in set(told)], "told in order; the rest was moved over"
        assert bool(node.moved) or told == found


# ------------------------------------------------------------------------------------------ subscriptions


def test_after_a_lost_subscription_only_what_moved_is_told(house: House) -> None:
    publisher, node = house.node(), house.node()
    logs = [log_of(room(n)) for n in range(3)]
    for n in range(3):
        node.watch(room(n))
    at = publisher.publish(room(0)).seq
    house.settle()
    # It hears nothing for a while, and is forgotten, as when its connection is lost.
    node.desk.heard = lambda primary, item: None
    cli = house.servers[0].cli
    cli("DEL", *cli("KEYS", "ig:{*}:watch:*"))
    for n in (1, 1, 2):
        publisher.publish(room(n))
    house.settle()
    assert (node.moved, [told[0] for told in node.told]) == ([], [logs[0]])
    node.desk.heard = node.rings.heard
    node.renewed(node.desk.primary)
    house.settle()
    epoch = node.told[0][1]
    assert sorted(node.moved) == [(logs[1], epoch, at + 2), (logs[2], epoch, at + 3)]
    assert node.seqs(room(1), after=at) == [at + 1, at + 2]
    assert node.read(room(1), after=at).gap is False
    publisher.publish(room(1))
    house.settle()
    assert node.told[-1][:4] == (logs[1], epoch, at + 2, at + 4)


def test_a_hole_is_told_so_that_it_is_read(house: House) -> None:
    """A hint went lost, for whatever reason: the next one does not fit."""
    node = house.node()
    node.watch()
    node.desk.heard = lambda primary, item: None
    node.publish()
    house.settle()
    node.desk.heard = node.rings.heard
    node.publish()
    house.settle()
    assert [told[2:4] for told in node.told] == [(1, 2)]
    assert [entry.seq for entry in node.read(after=0).entries] == [1, 2], "by asking"
    assert node.rings.read(log_of(ROOM), 1).called


def test_a_watch_of_what_is_watched_says_what_was_not_told_yet(house: House) -> None:
    """Whoever asks may have been shown it at another node."""
    node, other = house.node(), house.node()
    log, late = log_of(ROOM), []
    epoch = node.watch().epoch
    node.desk.heard = lambda primary, item: late.append(item)
    other.publish()
    house.settle()
    boxes = [node.desk.later(node.rings.watch(log)) for _ in range(2)]
    for item in late:
        node.rings.heard(node.desk.primary, item)
    node.desk.heard = node.rings.heard
    house.settle()
    assert boxes == [[(epoch, 1, 1)]] * 2
    assert (node.moved, node.told) == ([(log, epoch, 1)], []), "the others read it"
    assert node.seqs() == [1]
    other.publish()
    house.settle()
    assert [told[2:4] for told in node.told] == [(1, 2)]


def test_hints_that_come_before_the_answer_wait_for_it(house: House) -> None:
    node, other = house.node(), house.node()
    epoch = other.publish().epoch
    box = node.desk.later(node.rings.watch(log_of(ROOM)))
    again = node.desk.later(node.rings.watch(log_of(ROOM)))
    entry = (2).to_bytes(8, "big") + bytes(16) + b"late"
    for upto, after in ((1, 0), (2, 1)):
        node.rings.heard(node.desk.primary, [b"r", b"0:room:7", epoch, after, upto, after, [entry]])
    assert (box, node.told) == ([], [])
    house.settle()
    assert box == again == [(epoch, 1, 1)]
    assert [(told[2], told[3]) for told in node.told] == [(1, 2)]
    node.rings.heard(node.desk.primary, [b"r", b"0:room:7", epoch, 1, 2, 1, [entry]])
    assert len(node.told) == 1, "not twice"


def test_who_unwatches_before_the_answer_is_told_nothing(house: House) -> None:
    node = house.node()
    box = node.desk.later(node.rings.watch(log_of(ROOM)))
    node.rings.heard(node.desk.primary, [b"r", b"0:room:7", 5, 0, 1, 0, [bytes(24)]])
    node.rings.unwatch(log_of(ROOM))
    node.publish()
    house.settle()
    assert (box[0][1:], node.told) == ((1, 0), [])
    assert house.servers[0].cli("KEYS", "ig:{*}:watch:*") == []


def test_answers_of_older_questions_do_not_count(house: House) -> None:
    node = house.node()
    box = node.desk.later(node.rings.watch(log_of(ROOM)))
    node.rings.renewed(node.desk.primary)
    node.later()
    house.settle()
    assert box[0][1:] == (1, 0)
    assert (len(node.told), node.moved) == (1, [])


# --------------------------------------------------------------------------------------------- other rings


@pytest.fixture
def apart(start: Any, house: House) -> tuple[House, RedisServer]:
    """A house whose rings are on a primary of their own, in memory only."""
    return house, start(*MEMORY)


def test_rings_on_a_primary_of_their_own(apart: tuple[House, RedisServer]) -> None:
    house, rings = apart
    node = house.node(rings=(rings,))
    node.watch()
    node.publish()
    house.settle()
    assert len(node.told) == 1
    assert rings.cli("EXISTS", "ig:rings") == 1
    assert house.servers[0].cli("KEYS", "ig:{*}:*") == []


def test_rings_on_several_primaries(house: House, start: Any) -> None:
    """Each has its own counter and epoch; one that is away holds up only its own."""
    servers = start(*MEMORY), start(*MEMORY)
    node, other = (house.node(rings=servers, rate=0.0) for _ in range(2))
    rooms = [room(n) for n in range(12)]
    at = {address: node.rings._place(log_of(address)).primary for address in rooms}
    assert len(set(at.values())) == 2
    for address in rooms:
        other.watch(address)
    boxes = {address: [node.later(address) for _ in range(5)] for address in rooms}
    house.settle()
    epochs = {at[address]: {box[0].epoch for box in boxes[address]} for address in rooms}
    first, last = epochs.values()
    assert (len(first), len(last), len(first | last)) == (1, 1, 2)
    assert [other.heard(address) for address in rooms] == [
        [box[0].seq for box in boxes[one]] for one in rooms
    ]
    servers[0].kill9()
    more = {address: node.later(address) for address in rooms}
    up = [one for one in node.desk.primaries.each_ring() if f":{servers[1].port}" in one.name]
    house.loop.until(lambda: all(more[address] for address in rooms if at[address] in up))
    assert {at[address] for address, box in more.items() if not box} == set(at.values()) - set(up)
    servers[0].restart()
    house.settle()
    assert {box[0].code for box in more.values()} == {OK}


def test_rings_that_are_lost_have_a_new_epoch_and_those_who_watch_are_told(
    apart: tuple[House, RedisServer],
) -> None:
    house, rings = apart
    nodes = [house.node(rings=(rings,)) for _ in range(2)]
    for node in nodes:
        node.watch()
    before = nodes[0].publish()
    nodes[0].publish(room(1))
    house.settle()
    rings.kill9()
    boxes = [nodes[0].later(body=b"%d" % n) for n in range(5)]
    house.loop.spin(0.05)
    assert boxes == [[]] * 5, "they wait"
    assert nodes[0].rings.waiting == 5
    assert nodes[0].rings.waiting_bytes == 5
    rings.restart()
    house.settle()
    (epoch,) = {box[0].epoch for box in boxes}
    assert epoch not in (0, before.epoch)
    assert [box[0].seq for box in boxes] == [1, 2, 3, 4, 5]
    for node in nodes:
        told = [one for one in node.told if one[1] == epoch]
        assert node.moved or told, "another epoch is told, one way or the other"
        assert {one[1] for one in node.moved} <= {epoch}
        assert [entry.message for entry in node.read(after=0).entries] == [b"0", b"1", b"2", b"3", b"4"]
        assert node.read(room(1)).entries == ()
    nodes[1].publish(body=b"5")
    house.settle()
    assert [bodies(node)[-1] for node in nodes] == [b"5", b"5"]


def test_who_watches_is_told_of_a_new_epoch_though_nobody_publishes(apart: tuple[House, RedisServer]) -> None:
    house, rings = apart
    node = house.node(rings=(rings,))
    node.watch()
    before = node.publish().epoch
    house.settle()
    rings.kill9()
    rings.restart()
    house.settle()
    ((log, epoch, head),) = node.moved
    assert (log, head) == (log_of(ROOM), 0)
    assert epoch != before


def test_rings_that_are_emptied_under_its_hands_are_noticed(house: House) -> None:
    node = house.node()
    node.watch()
    node.publish()
    house.settle()
    cli = house.servers[0].cli
    cli("DEL", *cli("KEYS", "ig:*ring*"), *cli("KEYS", "ig:*watch*"))
    node.upkeep(0)
    assert [moved[0] for moved in node.moved] == [log_of(ROOM)]
    node.publish()
    house.settle()
    assert len(bodies(node)) == 2


def test_a_promoted_replica_has_other_rings(start: Any, build: Any) -> None:
    """It lacks the last writes: seqs that were given once are not taken for others'."""
    first, second = start(), start()
    house = build(first)
    node = house.node(rate=0.0)
    node.watch()
    seen = node.publish(msg_id="a")
    second.replica_of(first)
    second.cli("REPLICAOF", "NO", "ONE")  # what follows it does not get
    lost = node.publish(msg_id="b")
    house.settle()
    first.kill9()
    second.cli("CONFIG", "SET", "port", first.port)
    house.settle()
    again = node.publish(msg_id="c")
    assert again.code == OK
    assert again.epoch not in (0, seen.epoch)
    assert node.publish(msg_id="a").code == OK, "what it was lost with it"
    house.settle()
    assert node.moved or node.told[-1][1] == again.epoch
    assert {told[1] for told in node.told} == {seen.epoch, again.epoch}
    assert kept(node) == [bytes(100)] * 2
    assert lost.seq == seen.seq + 1
    for _ in range(2):
        node.upkeep(0)
    assert node.measure().rings == 1, "the old ring went with its epoch"


def test_who_reads_when_the_broker_stops_gets_no_answer(start: Any, build: Any) -> None:
    house = build(start())
    node = house.node()
    node.publish()
    node.watch()
    reads = [node.rings.read(log_of(ROOM), 0) for _ in range(2)]
    node.kill()
    for read in reads:
        with pytest.raises(CancelledError):
            node.desk.run(read)
