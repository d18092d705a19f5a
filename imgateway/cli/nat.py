"""Datagrams through a bad line: every client gets a socket of its own to the gateway, as behind a NAT."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.protocol import DatagramProtocol

from imgateway.testing.alarm import Alarm
from imgateway.testing.conditions import BothWays
from imgateway.testing.lossy import DatagramCounts, LossyDatagrams

__all__ = ("DatagramRelay",)

Place = tuple[str, int]

MOST_CLIENTS = 500  # each is a file descriptor, two while it is rebound; the usual limit is 1,024
MAX_DATAGRAM_BYTES = 65_535


class DatagramRelay(DatagramProtocol):
    """The socket that clients talk to. Datagrams of one client more than `MOST_CLIENTS` are dropped.

    :param to: the gateway's address, numeric.
    :param idle_s: a client from and to whom nothing came for so long is forgotten.
    """

    noisy = False
    TALLIES = ("clients", "turned_away", "rebinds", "unsendable")

    def __init__(self, reactor: Any, to: Place, ways: BothWays, seed: int, idle_s: float) -> None:
        self.reactor = reactor
        self.to = to
        self.ways = ways
        self.seed = seed
        self.up, self.down = DatagramCounts(), DatagramCounts()
        self.clients = 0
        """How many there were."""
        self.turned_away = 0
        """Datagrams of clients for whom there was no room."""
        self.rebinds = 0
        self.unsendable = 0
        """Datagrams that the system did not take."""
        self._idle_s = idle_s
        self._flows: dict[Place, _Flow] = {}  # who was silent longest is first
        self._sweep = Alarm(reactor, self._forget_idle)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        client = addr[:2]
        flow = self._flows.pop(client, None)
        if flow is None:
            if len(self._flows) >= MOST_CLIENTS:
                self.turned_away += 1
                return
            try:
                flow = _Flow(self, client, self.clients + 1)
            except CannotListenError:  # no file descriptor is left
                self.turned_away += 1
                return
            self.clients += 1
        self._flows[client] = flow
        flow.go_up(datagram)
        self._set_sweep()

    def change(self, ways: BothWays) -> None:
        """Other conditions, from now on."""
        self.ways = ways
        for flow in self._flows.values():
            flow.up.conditions, flow.down.conditions = ways

    def happen(self, event: str) -> None:
        """``rebind``: every client comes from another port from now on."""
        assert event == "rebind"
        self.rebinds += 1
        for flow in self._flows.values():
            flow.rebind()

    def close(self) -> None:
        self._sweep.set(None)
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()
        assert self.transport is not None
        self.transport.stopListening()

    def send(self, port: Any, data: bytes, to: Place) -> None:
        """Write through a port; a line that loses datagrams may lose one that the system will not take."""
        try:
            port.write(data, to)
        except (OSError, MessageLengthError):
            self.unsendable += 1

    def active(self) -> int:
        """How many clients there are now."""
        return len(self._flows)

    def said(self, counts: DatagramCounts) -> str:
        """For people, in a few words."""
        return f"{counts.datagrams_in:,} → {counts.datagrams_out:,} datagrams"

    def heard(self, flow: _Flow) -> None:
        """The gateway sent something to this client: it is not idle."""
        self._flows[flow.client] = self._flows.pop(flow.client)

    def _forget_idle(self, now: float) -> None:
        for client, flow in list(self._flows.items()):
            if flow.used_at + self._idle_s > now:
                break
            self._flows.pop(client).close()
        self._set_sweep()

    def _set_sweep(self) -> None:
        first = next(iter(self._flows.values()), None)
        self._sweep.set(None if first is None else first.used_at + self._idle_s)


class _Flow:
    """One client: two lossy ways, and the socket that the gateway sees."""

    def __init__(self, relay: DatagramRelay, client: Place, number: int) -> None:
        self.client = client
        self.used_at = now = relay.reactor.seconds()
        self.up = LossyDatagrams(relay.ways.up, f"{relay.seed}/{number}/up", now, relay.up)
        self.down = LossyDatagrams(relay.ways.down, f"{relay.seed}/{number}/down", now, relay.down)
        self._relay = relay
        self._up_alarm = Alarm(relay.reactor, self._carry_up)
        self._down_alarm = Alarm(relay.reactor, self._carry_down)
        self._port = self._open()

    def go_up(self, data: bytes) -> None:
        self.used_at = now = self._relay.reactor.seconds()
        self.up.send(data, now)
        self._carry_up(now)

    def go_down(self, data: bytes) -> None:
        self.used_at = now = self._relay.reactor.seconds()
        self._relay.heard(self)
        self.down.send(data, now)
        self._carry_down(now)

    def rebind(self) -> None:
        try:
            port = self._open()
        except CannotListenError:  # no file descriptor is left: this client stays where it is
            return
        self._port.stopListening()
        self._port = port

    def close(self) -> None:
        self._up_alarm.set(None)
        self._down_alarm.set(None)
        self._port.stopListening()

    def _open(self) -> Any:
        # Not connected: such a socket is told when nobody listens, and Twisted's epoll reactor then closes
        # it. But a gateway may be restarted.
        wildcard = "::" if ":" in self._relay.to[0] else ""
        return self._relay.reactor.listenUDP(0, _Outside(self, self._relay.to), wildcard, MAX_DATAGRAM_BYTES)

    def _carry_up(self, now: float) -> None:
        for data, _ in self.up.due(now):
            self._relay.send(self._port, data, self._relay.to)
        self._up_alarm.set(self.up.wake_at)

    def _carry_down(self, now: float) -> None:
        for data, _ in self.down.due(now):
            self._relay.send(self._relay.transport, data, self.client)
        self._down_alarm.set(self.down.wake_at)


class _Outside(DatagramProtocol):
    """The socket towards the gateway, which hears nobody else."""

    noisy = False

    def __init__(self, flow: _Flow, gateway: Place) -> None:
        self._flow: _Flow | None = flow
        self._gateway = ip_address(gateway[0]), gateway[1]

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        assert self._flow is not None
        if (ip_address(addr[0]), addr[1]) == self._gateway:
            self._flow.go_down(datagram)

    def stopProtocol(self) -> None:
        self._flow = None
