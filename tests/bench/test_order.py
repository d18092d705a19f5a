"""What the generators over UDP hand over of messages that come before their turn (bench/messages.h)."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.servers import HERE
from imgateway.transports.datagram.incoming import Incoming
from imgateway.transports.datagram.messages import (
    Data,
    Forget,
    Fragment,
    ack,
    answer,
    challenge,
    close,
    data_head,
    forget,
    fragment_head,
    parse,
    reset_token,
)

pytestmark = [pytest.mark.network, pytest.mark.server]

Taken = tuple[bool, list[str]]
Order = Callable[[Sequence[bytes]], list[Taken]]

# A line of hex for each datagram; a line for each: was it taken, and the frames that were handed over.
TAKES = """
#define _GNU_SOURCE
#include "messages.h"
static void on_frame(void *who, const uint8_t *at, const uint8_t *end) {
    (void)who;
    printf(" %.*s", (int)(end - at), (const char *)at);
}
static void on_closed(void *who) { (void)who; }
static void unexpected(const char *what) { fprintf(stderr, "%s\\n", what); exit(3); }
int main(int argc, char **argv) {
    static char line[2 * LARGEST + 2];
    static uint8_t in[LARGEST];
    struct channel channels[3] = {0};
    struct partial *partial = NULL;
    struct held *held = NULL;
    struct order order = {channels, 3, &partial, argc > 1 ? NULL : &held};
    (void)argv;
    while (fgets(line, sizeof line, stdin)) {
        int n = (int)strcspn(line, "\\n") / 2;
        struct wants wants = {0};
        for (int i = 0; i < n; i++) sscanf(line + 2 * i, "%2hhx", &in[i]);
        int taken = messages(NULL, order, in, in + n, &wants);
        printf(" %d\\n", taken);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("takes")
    (place / "takes.c").write_text(TAKES)
    command = ["gcc", f"-I{HERE}", "-o", str(place / "takes"), str(place / "takes.c"), "-lcrypto"]
    subprocess.run(command, check=True)
    return place / "takes"


@pytest.fixture
def order(program: Path) -> Order:
    return lambda datagrams: taken(program, datagrams)


def taken(program: Path, datagrams: Sequence[bytes], *how: str) -> list[Taken]:
    lines = "".join(f"{datagram.hex()}\n" for datagram in datagrams)
    done = subprocess.run([program, *how], input=lines, capture_output=True, text=True, check=True)
    found = [line.split() for line in done.stdout.splitlines()]
    return [(words[-1] == "1", words[:-1]) for words in found]


def data(channel: int, number: int, barrier: int = 0) -> bytes:
    body = f"{channel}.{number}".encode()
    return data_head(channel, number, barrier, len(body)) + body


def fragments(channel: int, number: int, barrier: int = 0) -> list[bytes]:
    """A message in one fragment for each of its bytes."""
    body = f"{channel}.{number}".encode()
    last = len(body) - 1
    return [
        fragment_head(channel, number, barrier, index, last, 1) + body[index : index + 1]
        for index in range(last + 1)
    ]


def test_what_comes_before_its_turn_is_kept_until_it_is_due(order: Order) -> None:
    assert order([data(1, 2), data(1, 1), data(1, 2), data(1, 0), data(1, 1), data(1, 3)]) == [
        (True, []),
        (True, []),
        (True, []),
        (True, ["1.0", "1.1", "1.2"]),
        (True, []),
        (True, ["1.3"]),
    ]


def test_a_barrier_holds_other_channels(order: Order) -> None:
    assert order([data(1, 0, 2), data(2, 0), data(0, 1), data(0, 0)]) == [
        (True, []),
        (True, ["2.0"]),
        (True, []),
        (True, ["0.0", "0.1", "1.0"]),
    ]


def test_what_will_not_come_is_passed_over(order: Order) -> None:
    assert order([data(1, 1), data(1, 4), forget(1, 3), data(1, 3)]) == [
        (True, []),
        (True, []),
        (True, ["1.1"]),
        (True, ["1.3", "1.4"]),
    ]


def test_what_waits_behind_a_barrier_is_not_passed_over(order: Order) -> None:
    assert order([data(1, 1, 2), forget(1, 2), data(1, 0), data(0, 0), data(0, 1), data(1, 2)]) == [
        (True, []),
        (True, []),
        (True, []),
        (True, ["0.0"]),
        (True, ["0.1", "1.1"]),
        (True, ["1.2"]),
    ]


def test_fragments_of_several_messages_at_once(order: Order) -> None:
    """Of two channels, and of one."""
    some = [
        part
        for parts in zip(fragments(1, 0), fragments(2, 0), fragments(1, 1), strict=True)
        for part in parts
    ]
    told = order(some)
    assert all(was_taken for was_taken, _ in told)
    assert [frames for _, frames in told[-3:]] == [["1.0"], ["2.0"], ["1.1"]]


def test_no_more_messages_are_put_together_than_the_gateway_would(order: Order) -> None:
    """And what is passed over makes room."""
    first, *others = (fragments(1, number) for number in range(5))
    told = order([*(parts[0] for parts in others), first[0], forget(1, 2), data(2, 0), *fragments(1, 2)])
    assert [was_taken for was_taken, _ in told] == [True] * 4 + [False] + [True] * 5
    told = order([*(parts[0] for parts in others), forget(1, 2), fragments(2, 0)[0], fragments(2, 1)[0]])
    assert [was_taken for was_taken, _ in told] == [True] * 6 + [False]


def test_everything_in_any_order_and_twice(order: Order) -> None:
    dice = random.Random(7)
    for _ in range(20):
        pieces = [data(0, number) for number in range(20)]
        for number in range(20):
            pieces += fragments(1, number, number) if number % 5 == 1 else [data(1, number, number)]
            pieces.append(data(2, number, 20))
        pieces *= 2
        dice.shuffle(pieces)
        told = order(pieces)
        assert all(was_taken for was_taken, _ in told)
        frames = [tuple(map(int, frame.split("."))) for _, some in told for frame in some]
        for channel in range(3):
            assert [number for of, number in frames if of == channel] == list(range(20))
        for at, (channel, number) in enumerate(frames):
            waits_for = {0: 0, 1: number, 2: 20}[channel]
            assert sum(of == 0 for of, _ in frames[:at]) >= waits_for


def test_what_the_gateway_would_do(order: Order) -> None:
    """Whatever comes: it takes the same, and hands over the same."""
    dice = random.Random(7)
    for _ in range(50):
        barriers = [[0] * 100, *([dice.choice((0, 0, number // 2)) for number in range(100)] for _ in "12")]
        some: list[bytes] = []
        for at in range(600):
            channel, number = dice.randrange(3), at // 9 + dice.randrange(-3, 8)
            if number < 0:
                continue
            kind = dice.random()
            if kind < 0.01:
                some.append(forget(channel, number))
            elif kind < 0.4:
                some.append(dice.choice(fragments(channel, number, barriers[channel][number])))
            else:
                some.append(data(channel, number, barriers[channel][number]))
        assert order(some) == by_the_gateway(some)


def by_the_gateway(datagrams: Sequence[bytes]) -> list[Taken]:
    incoming = Incoming()
    told = []
    for datagram in datagrams:
        out: list[bytes] = []
        was_taken = True
        for message in parse(datagram):
            if isinstance(message, Data):
                was_taken = incoming.data(message, out)
            elif isinstance(message, Fragment):
                was_taken = incoming.fragment(message, out)
            elif isinstance(message, Forget):
                incoming.forget(message, out)
        told.append((was_taken, [body.decode() for body in out]))
    return told


def test_no_more_is_kept_than_the_gateway_would_keep(order: Order) -> None:
    told = order([data(1, number) for number in [*range(1, 66), 0, 65]])
    assert [was_taken for was_taken, _ in told] == [True] * 64 + [False, True, True]
    assert [len(frames) for _, frames in told] == [0] * 65 + [65, 1]


def test_the_last_fragment_waits_for_room_too(order: Order) -> None:
    *most, last = fragments(2, 1)
    told = order(
        [*[data(1, number) for number in range(1, 65)], *most, last, last, data(1, 0), last, data(2, 0)]
    )
    assert [was_taken for was_taken, _ in told] == [True] * 66 + [False, False, True, True, True]
    assert told[-1] == (True, ["2.0", "2.1"])


def test_what_comes_again_is_kept_once(order: Order) -> None:
    told = order([*[data(1, 1)] * 400, data(1, 2), data(1, 0)])
    assert told == [(True, [])] * 401 + [(True, ["1.0", "1.1", "1.2"])]


@pytest.mark.parametrize(
    "whole",
    [
        data(1, 200),
        data(1, 200, 300),
        fragment_head(1, 200, 300, 0, 1, 2) + b"ab",
        ack(7, 1),
        challenge(bytes(8)),
        answer(bytes(8)),
        forget(1, 200),
        close(1),
        reset_token(bytes(16)),
    ],
)
def test_what_its_datagram_cuts_off(program: Path, whole: bytes) -> None:
    for cut in range(1, len(whole)):
        assert refused(program, whole[:cut]) == "a message that its datagram cuts off\n"


@pytest.mark.parametrize(
    ("datagram", "says"),
    [
        (data(3, 0), "a channel that is none here"),
        (forget(3, 1), "a channel that is none here"),
        (data(1, 1 << 32), "a number that no message here has"),
        (data_head(1, 0, 0, (1 << 32) - 1) + b"1.0", "a message that its datagram cuts off"),
        (fragment_head(1, 0, 0, 2, 1, 1) + b"1", "a fragment outside its message"),
        (fragment_head(1, 0, 0, 0, 64, 1) + b"1", "a fragment outside its message"),
        (fragments(1, 0)[0] + fragments(1, 0, 1)[1], "fragments of one message that differ about it"),
        (b"\x0a", "a message of a kind that is not expected"),
    ],
)
def test_what_no_gateway_sends(program: Path, datagram: bytes, says: str) -> None:
    assert refused(program, datagram) == f"{says}\n"


def refused(program: Path, datagram: bytes) -> str:
    done = subprocess.run([program], input=f"{datagram.hex()}\n", capture_output=True, text=True)
    assert done.returncode == 3
    return done.stderr


def test_who_keeps_nothing_does_not_take_it(program: Path) -> None:
    assert taken(program, [data(1, 1), data(1, 0), data(1, 1)], "keeps nothing") == [
        (False, []),
        (True, ["1.0"]),
        (True, ["1.1"]),
    ]
