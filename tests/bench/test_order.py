"""What the generators over UDP hand over of messages that come before their turn (bench/messages.h)."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.servers import HERE
from imgateway.transports.datagram.messages import data_head, forget, fragment_head

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
static void on_ack(void *who, uint32_t largest, uint64_t map) { (void)who, (void)largest, (void)map; }
static void on_closed(void *who) { (void)who; }
static void unexpected(const char *what) { fprintf(stderr, "%s\\n", what); exit(1); }
int main(int argc, char **argv) {
    static char line[2 * LARGEST + 2];
    static uint8_t in[LARGEST];
    uint32_t nexts[3] = {0};
    struct partial *partial = NULL;
    struct held *held = NULL;
    struct order order = {nexts, 3, &partial, argc > 1 ? NULL : &held};
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


def test_everything_in_any_order_and_twice(order: Order) -> None:
    dice = random.Random(7)
    for _ in range(20):
        pieces = [data(0, number) for number in range(20)]
        for number in range(20):
            pieces += fragments(1, number, number) if number % 3 else [data(1, number, number)]
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


def test_no_more_is_kept_than_the_gateway_would_keep(order: Order) -> None:
    told = order([data(1, number) for number in [*range(1, 322), 0, 321]])
    assert [was_taken for was_taken, _ in told] == [True] * 320 + [False, True, True]
    assert [len(frames) for _, frames in told] == [0] * 321 + [321, 1]


def test_who_keeps_nothing_does_not_take_it(program: Path) -> None:
    assert taken(program, [data(1, 1), data(1, 0), data(1, 1)], "keeps nothing") == [
        (False, []),
        (True, ["1.0"]),
        (True, ["1.1"]),
    ]
