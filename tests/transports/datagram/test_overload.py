"""A gateway that is asked for three times what it can do goes on doing all that it can."""

from __future__ import annotations

from collections import deque
from socket import AF_INET, MSG_PEEK
from typing import Any

import pytest

from imgateway.transports.datagram import reader as reading
from imgateway.transports.datagram import wakeups
from imgateway.transports.datagram.reader import Reader

from .peers import Device, House

DEVICES = 2_000
COST_S = 0.001
"""Of a datagram, in or out."""
CAPACITY = 1 / (3 * COST_S)
"""Pings a second: each is three datagrams; or two, when its pong is acknowledged with the next one."""
EVERY_S = DEVICES / (3 * CAPACITY)
AT_ONCE, AT_A_TIME = 50, 12
ROOM = 260
"""Datagrams that the socket holds; others are lost."""
SECONDS = 10


class Handle:
    """A socket; who reads or writes it is busy for a while."""

    family = AF_INET

    def __init__(self, house: House) -> None:
        self.clock = house.clock
        self.waiting: deque[tuple[bytes, Any]] = deque()
        self.dropped = self.read = self.written = 0
        self.out: list[tuple[bytes, Any]] = []

    def getsockopt(self, level: int, option: int) -> int:
        return ROOM * 512

    def arrive(self, data: bytes, place: Any) -> None:
        if len(self.waiting) < ROOM:
            self.waiting.append((data, place))
        else:
            self.dropped += 1

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        if not self.waiting:
            raise BlockingIOError
        if flags == MSG_PEEK:
            return self.waiting[0]
        self.clock.rightNow += COST_S
        self.read += 1
        return self.waiting.popleft()

    def sendto(self, data: bytes, place: Any) -> None:
        self.clock.rightNow += COST_S
        self.written += 1
        self.out.append((data, place))


class Crowd:
    """Devices that ping all the time, one ping at a time each, and the gateway's reactor."""

    def __init__(self) -> None:
        self.house = House()
        self.house.on_received = lambda connection, data: connection.send(b"pong")
        self.devices: dict[Any, Device] = {}
        for number in range(DEVICES):
            place = (f"192.0.2.{number % 250}", 1_000 + number)
            device = Device(self.house, place, seed=number + 1).login()
            self.devices[place] = device
        self.house.pass_time(15)
        for device in self.devices.values():
            device.hear(self.house.taken())
        self.handle = Handle(self.house)
        self.house.server.transport.socket = self.handle
        self.house.server.reader = Reader(
            self.handle,  # type: ignore[arg-type]
            2_000,
            self.house.server.datagramReceived,
            None,
            self.house.clock.seconds,
        )

    def run(self, seconds: float) -> float:
        """So long; pongs a second."""
        clock = self.house.clock
        began = clock.seconds()
        pongs = sum(len(device.received) for device in self.devices.values())
        due = {place: began + EVERY_S * n / DEVICES for n, place in enumerate(self.devices)}
        while clock.seconds() < began + seconds:
            self.turn()
            now = clock.seconds()
            for place, device in self.devices.items():
                if due[place] <= now and not device.flow.unacked():
                    due[place] = max(due[place] + EVERY_S, now)
                    device.flow.send(b"ping")
                wanted = device.flow.due()
                if wanted is not None and wanted <= now:
                    for one in device.datagrams():
                        self.handle.arrive(one, place)
        return (sum(len(device.received) for device in self.devices.values()) - pongs) / seconds

    def turn(self) -> None:
        """As Twisted's: what is due, and nothing that this sets off; then what is there is read."""
        clock, handle = self.house.clock, self.handle
        busy = handle.read + handle.written
        for call in [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]:
            if call.active():
                clock.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        self.house.server.reader.doRead()
        out, handle.out = handle.out, []
        for data, place in out:
            self.devices[place].hear([(data, place)])
        if handle.read + handle.written == busy:
            clock.rightNow += 1 / 256


def test_under_three_times_the_load_all_is_done_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", AT_ONCE)
    monkeypatch.setattr(wakeups, "AT_A_TIME", AT_A_TIME)
    crowd = Crowd()
    crowd.run(SECONDS)  # until those who wait are many
    assert crowd.handle.dropped > CAPACITY
    assert crowd.run(SECONDS) > CAPACITY
