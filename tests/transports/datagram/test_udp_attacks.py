"""What others send changes nothing, and draws no more than it is worth."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgateway.errors import CloseCode
from imgateway.transports.datagram.messages import Answer, answer, challenge, data_head, reset_token
from imgateway.transports.datagram.packets import (
    LARGEST,
    LONGEST,
    NO_COOKIE,
    RESET_BYTES,
    Hello,
    Reason,
    Refused,
    Reset,
    Retry,
    parse,
)
from imgateway.transports.datagram.seal import Cookies, private_key, session_keys, shared_secret
from tests.transports.datagram.peers import (
    HOME,
    KEY_ID,
    RESET_KEY,
    UDP_KEY,
    Accept,
    Device,
    House,
    dice,
    state,
)

ELSEWHERE = ("198.51.100.9", 9)


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def device(house: House) -> Device:
    return Device(house).login().send(b"one")


def unchanged(house: House, data: bytes, place: Any = ELSEWHERE, answers: int = 0) -> list[Any]:
    before = state(house)
    sent = house.put(data, place)
    assert state(house) == before
    assert len(sent) <= answers
    assert sum(len(one) for one, _ in sent) <= len(data)
    return sent


# --------------------------------------------------------------------------------------------- before a login


def test_a_login_costs_two_round_trips(house: House) -> None:
    device = Device(house).login()
    assert [type(one) for one in device.met] == [Retry, Accept]
    assert house.receivers[0].chunks == [b"hello"]
    assert house.receivers[0].events == ["opened"]
    assert house.connections[0].secure
    assert house.connections[0].peer == "192.0.2.7:4000"
    assert house.connections[0].source == "192.0.2.7"


def test_a_stranger_is_asked_where_he_is_and_forgotten(house: House) -> None:
    sent = unchanged(house, Device(house).hello(), answers=1)
    assert isinstance(parse(sent[0][0]), Retry)


def test_no_key_is_made_before_a_good_cookie() -> None:
    asked: list[bytes] = []

    def key_of(key_id: bytes) -> bytes:
        asked.append(key_id)
        return UDP_KEY

    house = House(key_of=key_of)
    device = Device(house)
    device.hear(house.put(device.hello()))
    assert asked == []
    device.hear(house.put(device.hello()))
    assert asked == [KEY_ID]


def test_the_cookie_is_of_one_address(house: House) -> None:
    device = Device(house)
    device.hear(house.put(device.hello()))
    assert isinstance(parse(unchanged(house, device.hello(), ELSEWHERE, 1)[0][0]), Retry)
    assert isinstance(parse(unchanged(house, device.hello(), (HOME[0], HOME[1] + 1), 1)[0][0]), Retry)


@pytest.mark.parametrize(("age_s", "good"), [(9.0, True), (10.0, True), (20.0, False), (1e6, False)])
def test_the_cookie_is_good_for_two_buckets(house: House, age_s: float, good: bool) -> None:
    device = Device(house)
    device.hear(house.put(device.hello()))
    house.clock.advance(age_s)
    answer_ = parse(house.put(device.hello())[0][0])
    assert isinstance(answer_, Accept) == good
    assert isinstance(answer_, Retry) != good


def test_cookies_of_a_clock_that_ran_over() -> None:
    cookies = Cookies(b"s")
    late = (2**32 - 1) * 10.0
    cookie = cookies.make(b"a", late)
    assert cookies.good(cookie, b"a", late)
    assert not cookies.good(NO_COOKIE, b"a", 0.0)
    assert not cookies.good(cookie, b"b", late)
    assert not Cookies(b"t").good(cookie, b"a", late)


def test_a_hello_that_comes_again_gets_the_same_accept(house: House) -> None:
    device = Device(house).login()
    hello = device.hello()
    for _ in range(3):
        sent = unchanged(house, hello, HOME, 1)
        assert parse(sent[0][0]) == device.met[-1]
        house.clock.advance(6)
    assert len(house.receivers) == 1


def test_nor_after_the_connection_was_closed(house: House) -> None:
    device = Device(house).login()
    house.connections[0].close(0)
    house.clock.advance(0)
    device.hear(house.put(device.hello()))
    assert len(house.receivers) == 1
    house.clock.advance(9)
    assert isinstance(parse(house.put(device.hello())[0][0]), Accept)
    assert len(house.receivers) == 1


def test_what_was_remembered_is_forgotten(house: House) -> None:
    for seed in range(50):
        Device(house, seed=seed).login()
        house.clock.advance(15)
    greeting = house.server._greeting
    assert 0 < len(greeting._known) + len(greeting._known_before) <= 4
    house.clock.advance(1000)
    Device(house, seed=99).login()
    assert len(greeting._known) == 1
    assert not greeting._known_before


def test_a_hello_with_another_number_is_still_the_same_client(house: House) -> None:
    device = Device(house).login()
    cookie = Cookies(b"c" * 32).make(b"\xc0\0\2\7\x0f\xa0", house.clock.seconds())
    device.greeting.retried(Retry(device.greeting.hello_id, cookie), 0.0)
    assert parse(unchanged(house, device.hello(), HOME, 1)[0][0]) == device.met[-1]


def test_a_wrong_key_is_refused(house: House) -> None:
    device = Device(house, key=b"x" * 16)
    device.hear(house.put(device.hello()))
    sent = unchanged(house, device.hello(), HOME, 1)
    assert parse(sent[0][0]) == Refused(device.greeting.hello_id, Reason.KEY)


def test_another_version_is_told_so(house: House) -> None:
    hello = bytearray(Device(house).hello())
    hello[1] = 7
    sent = unchanged(house, bytes(hello), answers=1)
    assert parse(sent[0][0]) == Refused(bytes(hello[18:26]), Reason.VERSION)


def test_unsealed_where_sealed_is_spoken(house: House) -> None:
    device = Device(house, key=b"")
    sent = unchanged(house, device.hello(), HOME, 1)
    assert parse(sent[0][0]) == Refused(device.greeting.hello_id, Reason.UNSEALED)


def test_sealed_where_nothing_is() -> None:
    house = House(unsealed=True, key_of=None)
    device = Device(house)
    assert parse(house.put(device.hello())[0][0]) == Refused(device.greeting.hello_id, Reason.KEY)


def test_unsealed_where_it_may_be() -> None:
    house = House(unsealed=True)
    house.on_received = lambda connection, data: connection.send(b"re:" + data)
    device = Device(house, key=b"").login().send(b"plain to see")
    assert b"plain to see" in device.datagrams(b"plain to see")[0]
    assert device.received[-1] == b"re:plain to see"
    assert not house.connections[0].secure
    assert house.connections[0].place == HOME
    assert [type(one) for one in device.met] == [Accept]  # on loopback nobody need prove where he is
    assert Device(house, ("192.0.2.7", 4001), seed=2).login().accepted is not None


def test_a_public_key_that_is_none(house: House) -> None:
    """All zeros has no shared secret with anybody."""
    device = Device(house)
    device.greeting._public = bytes(32)
    from imgateway.transports.datagram.seal import hello_key

    device.greeting._key = hello_key(UDP_KEY, bytes(32))
    device.greeting._hello = device.greeting._built(NO_COOKIE)
    device.hear(house.put(device.hello()))
    assert unchanged(house, device.hello(), HOME) == []


@pytest.mark.parametrize(
    "payload", [b"", b"\x0a", data_head(0, 1, 0, 1) + b"x", data_head(0, 0, 0, 1200) + b"x"]
)
def test_a_greeting_without_a_first_message(house: House, payload: bytes) -> None:
    device = Device(house)
    device.greeting._payload = payload.ljust(1106, b"\0")
    device.greeting._hello = device.greeting._built(NO_COOKIE)
    device.hear(house.put(device.hello()))
    assert unchanged(house, device.hello(), HOME) == []


def test_whom_the_node_does_not_want(house: House) -> None:
    house.refuses = True
    device = Device(house)
    device.hear(house.put(device.hello()))
    assert unchanged(house, device.hello(), HOME) == []
    house.refuses = False
    assert device.login().accepted is not None


def test_a_pause_drops_greetings_and_nothing_else(house: House, device: Device) -> None:
    other = Device(house, ("192.0.2.8", 1), seed=5)
    house.server.pause()
    assert unchanged(house, other.hello(), other.place) == []
    device.send(b"two")
    assert house.receivers[0].chunks == [b"hello", b"one", b"two"]
    house.server.resume()
    other.login()
    assert len(house.receivers) == 2


def test_spoofed_greetings_leave_nothing_behind() -> None:
    """100,000 addresses, each asked once where it is; who is logged in does not notice."""
    house = House()
    device = Device(house).login()
    hello = Device(house, seed=3).hello()
    house.put(hello, ("10.0.0.0", 1))
    before = state(house)
    tracemalloc.start()
    try:
        base = 0
        for number in range(100_000):
            if number == 10_000:
                base, _ = tracemalloc.get_traced_memory()
            place = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 7)
            house.server.datagramReceived(hello, place)
            ((data, where),) = house.transport.sent
            assert where == place
            assert len(data) <= len(hello)
            house.transport.sent.clear()
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - base < 2_000
    assert state(house) == before
    device.send(b"still here")
    assert house.receivers[0].chunks[-1] == b"still here"


# ---------------------------------------------------------------------------------------------- after a login


def test_a_datagram_counts_once(house: House, device: Device) -> None:
    (data,) = device.datagrams(b"two")
    house.put(data)
    for place in (HOME, ELSEWHERE):
        assert unchanged(house, data, place) == []
    assert house.receivers[0].chunks == [b"hello", b"one", b"two"]


def test_every_bit_counts(house: House, device: Device) -> None:
    (data,) = device.datagrams(b"two")
    for bit in range(64, 8 * len(data)):  # the first 64 are the cid: another connection's, or nobody's
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        assert unchanged(house, bytes(flipped), HOME) == []
    house.put(data)
    assert house.receivers[0].chunks[-1] == b"two"


def test_nothing_shorter_or_longer(house: House, device: Device) -> None:
    (data,) = device.datagrams(b"two")
    for size in range(len(data)):
        assert unchanged(house, data[:size], HOME) == []
    for more in (1, 100, 2000):
        assert unchanged(house, data + bytes(more), HOME) == []
    house.put(data)
    assert house.receivers[0].chunks[-1] == b"two"


def test_a_datagram_of_another_connection(house: House, device: Device) -> None:
    other = Device(house, ("192.0.2.8", 1), seed=5).login()
    assert other.accepted is not None
    (data,) = device.datagrams(b"two")
    assert unchanged(house, other.accepted.cid + data[8:], HOME) == []


def test_what_we_sent_ourselves(house: House, device: Device) -> None:
    house.connections[0].send(b"to the device")
    house.clock.advance(0)
    ((data, _),) = house.taken()
    assert unchanged(house, data, HOME) == []


def test_recorded_traffic_is_not_opened_with_the_key_of_the_token(house: House) -> None:
    """Who records everything, and gets hold of the UDP key later, lacks the secret of the exchange."""
    device = Device(house).login()
    hello, accept = parse(device.hello()), device.met[-1]
    assert isinstance(hello, Hello)
    assert isinstance(accept, Accept)
    assert device.accepted is not None
    guesses = [b"", bytes(32), UDP_KEY, hello.public, accept.public]
    for shared in guesses:
        keys = session_keys(shared, UDP_KEY, KEY_ID, hello.public, accept.public, accept.cid)
        assert not set(keys) & set(device.accepted.keys)
    shared = shared_secret(private_key(dice(1)(32)), accept.public)
    assert (
        session_keys(shared, UDP_KEY, KEY_ID, hello.public, accept.public, accept.cid) == device.accepted.keys
    )
    assert device.accepted.keys.to_client != device.accepted.keys.to_server


def test_what_breaks_the_grammar_ends_its_connection_alone(house: House, device: Device) -> None:
    other = Device(house, ("192.0.2.8", 1), seed=5).login()
    sent = house.put(device.saying(b"\x3f"))
    assert house.receivers[0].code == CloseCode.BAD_FRAME
    device.hear(sent)
    assert [note.code for note in device.notes if hasattr(note, "code")] == [CloseCode.BAD_FRAME]
    other.send(b"two")
    assert house.receivers[1].chunks[-1] == b"two"


def test_what_a_client_has_no_reason_to_say(house: House, device: Device) -> None:
    house.put(device.saying(reset_token(bytes(16))))
    assert house.receivers[0].reason is None
    assert house.receivers[0].chunks == [b"hello", b"one"]


@pytest.mark.parametrize("size", [37, 1_200, LONGEST])
def test_a_question_draws_one_answer_and_no_larger_one(house: House, device: Device, size: int) -> None:
    questions = b"".join(challenge(b"%8d" % number) for number in range(size // 37))
    question = device.saying(questions + bytes(size - 28 - len(questions)))
    assert len(question) == size
    ((answered, where),) = house.put(question)
    assert (len(answered), where) == (size, HOME)
    device.hear([(answered, where)])
    assert device.notes[1:] == [Answer(b"%8d" % 0)]
    assert unchanged(house, question, HOME) == []  # a replay


def test_a_question_from_elsewhere_draws_no_answer(house: House, device: Device) -> None:
    sent = house.put(device.saying(challenge(b"12345678") + bytes(1_000)), ("192.0.2.99", 5))
    assert [(len(data), where) for data, where in sent] == [(37, ("192.0.2.99", 5))]  # asked itself


def test_the_longest_datagram(house: House, device: Device) -> None:
    assert unchanged(house, device.saying(bytes(LONGEST - 27)), HOME) == []
    assert house.put(device.saying(challenge(b"12345678") + bytes(LONGEST - 37))) != []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=1300),
        st.builds(lambda kind, body: bytes([kind]) + body, st.integers(0xF0, 0xFF), st.binary(max_size=1300)),
        st.builds(
            lambda version, seed: (b"\xf1" + bytes([version]) + dice(seed)(30) * 40)[:LARGEST],
            st.integers(0, 3),
            st.integers(0, 9),
        ),
        st.builds(lambda head, body: head + body, st.sampled_from([b"\0" * 8]), st.binary(max_size=1200)),
    )
)
def test_any_bytes_from_anywhere(data: bytes) -> None:
    house = House()
    device = Device(house).login()
    cid = device.accepted.cid if device.accepted else b""
    for datagram in (data, cid + data):
        before = state(house)
        sent = house.put(datagram, ELSEWHERE)
        assert state(house) == before
        assert len(sent) <= 1
        assert sum(len(one) for one, _ in sent) < max(1, len(datagram))
    device.send(b"two")
    assert house.receivers[0].chunks == [b"hello", b"two"]


@given(st.binary(max_size=1300))
def test_parsing_never_raises(data: bytes) -> None:
    for datagram in (data, *(bytes([kind]) + data for kind in range(0xF0, 0x100))):
        packet = parse(datagram)
        assert packet is None or len(datagram) <= LARGEST


# --------------------------------------------------------------------------------------------------- resets


def test_whoever_goes_on_with_what_is_not_there_is_told(house: House, device: Device) -> None:
    again = House(seed=9)  # the process was killed; another one has the same secret
    (data,) = device.datagrams(b"x" * 40)
    ((told, where),) = again.put(data)
    assert where == HOME
    assert len(told) == RESET_BYTES < len(data)
    reset = parse(told)
    assert isinstance(reset, Reset)
    assert device.accepted is not None
    assert reset.cid == device.accepted.cid
    tokens = [note.token for note in device.notes if hasattr(note, "token")]
    assert tokens == [reset.token]


def test_a_reset_is_shorter_than_what_it_answers(house: House) -> None:
    assert house.put(bytes(RESET_BYTES)) == []
    assert len(house.put(bytes(RESET_BYTES + 1))) == 1


def test_an_address_is_told_once_a_second(house: House) -> None:
    assert len(house.put(bytes(50))) == 1
    assert house.put(bytes(60)) == []
    assert len(house.put(bytes(50), ELSEWHERE)) == 1
    house.clock.advance(1)
    assert len(house.put(bytes(50))) == 1


def test_and_a_thousand_addresses_a_second(house: House) -> None:
    told = sum(len(house.put(bytes(50), (f"10.0.{n >> 8}.{n & 255}", 5))) for n in range(3000))
    assert told == 1000
    assert len(house.server._reset_to) == 1000
    house.clock.advance(1)
    assert len(house.put(bytes(50), ("10.9.9.9", 5))) == 1


def test_other_secrets_make_other_tokens(device: Device) -> None:
    other = House(reset_key=b"other" * 6)
    (data,) = device.datagrams(b"x" * 40)
    reset = parse(other.put(data)[0][0])
    assert isinstance(reset, Reset)
    assert reset.token not in [note.token for note in device.notes if hasattr(note, "token")]
    assert RESET_KEY != b"other" * 6


# ---------------------------------------------------------------------------------------------- a new address

NAT = (HOME[0], 4999)


def test_a_new_address_is_asked_first(house: House, device: Device) -> None:
    house.on_received = lambda connection, data: connection.send(b"re:" + data)
    (data,) = device.datagrams(b"moved")
    sent = house.put(data, NAT)
    to_new = [one for one, place in sent if place == NAT]
    assert len(to_new) == 1
    assert len(to_new[0]) <= len(data)
    assert [place for _, place in sent if place != NAT] == [HOME]  # the answer goes where it went
    device.place = NAT
    device.hear(sent)
    (question,) = [note for note in device.notes if hasattr(note, "nonce")]
    device.hear(house.put(device.saying(answer(question.nonce)), NAT))
    assert house.connections[0].peer == "192.0.2.7:4999"
    device.send(b"on")
    device.hear(house.pass_time(3))
    assert device.received == [b"re:moved", b"re:on"]  # what was on its way to the old place went again
    assert house.receivers[0].chunks == [b"hello", b"one", b"moved", b"on"]
    assert house.connections[0]._candidate is None


def test_the_answer_must_come_from_there(house: House, device: Device) -> None:
    (data,) = device.datagrams(b"moved")
    device.place = NAT
    device.hear(house.put(data, NAT))
    (question,) = [note for note in device.notes if hasattr(note, "nonce")]
    from_home = device.saying(answer(question.nonce))
    house.put(device.saying(answer(bytes(8))), NAT)
    house.put(from_home, HOME)
    assert house.connections[0].peer == "192.0.2.7:4000"
    house.put(device.saying(answer(question.nonce)), NAT)
    assert house.connections[0].peer == "192.0.2.7:4999"
    assert house.receivers[0].reason is None


def test_who_is_back_does_not_move_by_a_late_answer(house: House, device: Device) -> None:
    (data,) = device.datagrams(b"by the other network")
    device.place = NAT
    device.hear(house.put(data, NAT))
    (question,) = [note for note in device.notes if hasattr(note, "nonce")]
    late = device.saying(answer(question.nonce))
    device.place = HOME
    house.put(device.saying(bytes(60)), HOME)
    house.put(late, NAT)
    assert house.connections[0].peer == "192.0.2.7:4000"
    # It was asked a moment ago, and is not asked again before the second is over.
    assert not [where for _, where in house.put(device.saying(bytes(60)), NAT) if where == NAT]
    house.clock.advance(1)
    assert [where for _, where in house.put(device.saying(bytes(60)), NAT) if where == NAT]


def test_an_answer_that_nobody_asked_for(house: House, device: Device) -> None:
    house.put(device.saying(answer(bytes(8))), NAT)
    assert house.connections[0].peer == "192.0.2.7:4000"


def test_an_old_datagram_from_elsewhere_moves_nothing(house: House, device: Device) -> None:
    """A captured one that was overtaken: it is taken, for it is authentic, but nobody is asked."""
    (late,) = device.datagrams(b"late")
    device.send(b"later")
    assert [place for _, place in house.put(late, ELSEWHERE) + house.pass_time(2)] == [HOME]
    assert house.connections[0]._candidate is None
    assert house.receivers[0].chunks == [b"hello", b"one", b"late", b"later"]


def test_one_question_a_second(house: House, device: Device) -> None:
    def asked(place: Any) -> int:
        return sum(where == place for _, where in house.put(device.saying(bytes(60)), place))

    assert asked(NAT) == 1
    assert asked(NAT) == 0
    assert asked(ELSEWHERE) == 0  # nor by changing the place
    house.clock.advance(1)
    assert asked(ELSEWHERE) == 1
    assert house.connections[0]._candidate.address[-2:] == (9).to_bytes(2)


def test_never_more_than_came_from_there(house: House, device: Device) -> None:
    small = device.saying(b"\0")
    assert house.put(small, NAT) == []
    assert len(small) == 29
    (sent,) = [one for one, place in house.put(device.saying(b"\0"), NAT) if place == NAT]
    assert len(sent) <= 58


def test_what_was_on_its_way_goes_again_at_once(house: House, device: Device) -> None:
    house.pass_time(1)
    (data,) = device.datagrams(b"moved")
    device.place = NAT
    device.hear(house.put(data, NAT))
    house.connections[0].send(b"to the old place")
    house.clock.advance(0)
    assert [place for _, place in house.taken()] == [HOME]
    (question,) = [note for note in device.notes if hasattr(note, "nonce")]
    device.hear(house.put(device.saying(answer(question.nonce)), NAT))
    assert device.received == [b"to the old place"]


def test_a_datagram_without_messages_lets_a_connection_sleep_on(house: House, device: Device) -> None:
    house.pass_time(2)
    house.put(device.saying(bytes(60)))
    assert house.connections[0]._flow._out is None


def test_two_greetings_are_not_sealed_with_one_number(house: House) -> None:
    """The cookie makes them differ, and the key is the same."""
    device = Device(house)
    first = parse(device.hello())
    device.login()
    second = parse(device.hello())
    assert isinstance(first, Hello)
    assert isinstance(second, Hello)
    assert first.public == second.public
    assert (first.number, second.number) == (0, 1)
    assert first.sealed != second.sealed
