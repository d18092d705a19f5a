"""What a node has of sessions on Redis: its claims, its leases, and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from msgspec.structs import replace

from imgateway.brokers.redis.leases import Leases
from imgateway.brokers.redis.logs import Logs
from imgateway.brokers.redis.sessions import Sessions
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.frames import LogKey, Message, SessionKey, log_of, parse_address
from imgateway.interfaces import Claim, Followed, Opened, Place, Publication
from tests.brokers.redis_desk import RedisDesk
from tests.brokers.redis_server import Loop, RedisServer


def log(text: str) -> LogKey:
    return log_of(parse_address(text))


class SessionDesk(RedisDesk):
    """One node. `told`: what `displaced` was called with; `regained`: the primaries where its lease had run
    out."""

    def __init__(
        self,
        *servers: RedisServer,
        loop: Loop | None = None,
        node: str = "n.1",
        max_devices: int = 3,
        reap: Callable[[Any, str], Any] = lambda primary, dead: False,
        seed: int = 7,
    ) -> None:
        super().__init__(*servers, loop=loop, incarnation=node, seed=seed)
        self.node = node
        self.told: list[tuple[SessionKey, int, int]] = []
        self.reasons: list[str] = []
        self.regained: list[Any] = []
        self.sessions = Sessions(
            primaries=self.primaries,
            incarnation=node,
            displaced=self._displaced,
            reactor=self.loop,
            flush_s=5.0,
            max_devices=max_devices,
            entropy=Random(node + str(seed)).randbytes,
        )
        self.logs = Logs(
            primaries=self.primaries,
            incarnation=node,
            reactor=self.loop,
            tell=lambda what, *values: None,
            attended=lambda log: True,
            rings=None,
            settings=BrokerSettings(),
            retention=RetentionSettings(),
            dedup_s=14_400,
        )
        self._grown: dict[str, int] = {}
        self._msg_ids = count()
        self.leases = Leases(
            primaries=self.primaries,
            incarnation=node,
            reactor=self.loop,
            online=self.sessions.online_at,
            regained=self._regained,
            reap=reap,
        )
        self.heard = self._heard
        self.renewed = self.sessions.renewed
        self.on_displaced: Callable[[SessionKey, int, int], None] = lambda session, generation, code: None

    def _displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        self.told.append((session, generation, int(code)))
        self.reasons.append(reason)
        self.on_displaced(session, generation, code)

    def _heard(self, primary: Any, item: list[Any]) -> None:
        assert item[0] == b"d"
        self.sessions.heard(primary, item)

    def _regained(self, primary: Any) -> None:
        self.regained.append(primary)
        self.sessions.renewed(primary)

    def start(self) -> SessionDesk:
        super().start()
        self.run(self.leases.start())
        return self

    def stop(self) -> None:
        self.run(self.sessions.stop())
        self.run(self.leases.stop())
        self.run(self.logs.stop())
        super().stop()

    def die(self) -> None:
        """Without a word."""
        self.leases._timers.cancel_all()
        self.sessions._positions._timers.cancel_all()
        super().stop()

    # --------------------------------------------------------------------------------------------- shorthands

    def claim(self, user: str = "bob", device: str = "phone", **more: Any) -> Claim:
        return Claim(SessionKey(user, device), **more)

    def open(self, user: str = "bob", device: str = "phone", **more: Any) -> Opened:
        """With where it stands in the logs that it follows, as far as `follow` would tell that."""
        found = self.run(self.sessions.open(self.claim(user, device, **more)))
        assert isinstance(found, Opened)
        return replace(found, places=(*found.places, *self.places(user, device)))

    def places(self, user: str = "bob", device: str = "phone") -> list[Place]:
        """In the logs beside the mailbox, by name, once their primaries have told."""
        session = SessionKey(user, device)
        self.loop.until(lambda: session not in self.sessions._positions.unplaced)
        seat = self.sessions._seats.get(session)
        others = [] if seat is None else seat.owed.others.items()
        others = sorted(others, key=lambda one: one[0].address.id)
        return [Place(where, 0, acked, 0, 0, parked) for where, (acked, parked) in others]

    def close(self, device: str, generation: int, forget: bool = False, user: str = "bob") -> None:
        self.run(self.sessions.close(SessionKey(user, device), generation, forget))

    def follow(self, generation: int, text: str, begin: int = 0, device: str = "phone") -> Followed:
        found = self.run(self.sessions.follow(SessionKey("bob", device), generation, log(text), begin))
        assert isinstance(found, Followed)
        return found

    def ack(self, generation: int, upto: int, text: str = "user:bob", device: str = "phone") -> None:
        self.sessions.advance(SessionKey("bob", device), generation, [(log(text), upto)])

    def online(self, user: str = "bob") -> dict[str, tuple[str, int]]:
        """Device → node, generation of those who are online."""
        found = self.run(self.sessions.present(user))
        return {one.session.device: (one.node, one.generation) for one in found if one.online}

    def devices(self, user: str = "bob") -> set[str]:
        return {one.session.device for one in self.run(self.sessions.present(user))}

    def cli(self, server: RedisServer, command: str, tag: str, kind: str, *rest: Any) -> Any:
        """A command on a key of a user (tag: the id) or log (tag: the address)."""
        _, bucket = self.primaries.of(tag)
        return server.cli(command, f"ig:{{{bucket}}}:{kind}:{tag}", *rest)

    def grow(self, text: str, head: int) -> None:
        """Publish until the log has so many entries."""
        while self._grown.setdefault(text, 0) < head:
            self._grown[text] += 1
            msg_id = str(next(self._msg_ids))
            message = Message(msg_id, "alice", self.node, "text/plain", b"hello", self.wall_ms)
            box = self.later(self.logs.publish(Publication(message, (parse_address(text),))))
        self.settle()
        assert box[0][0].seq == head

    def lose(self, server: RedisServer, text: str) -> None:
        """The log is gone."""
        address = parse_address(text)
        _, bucket = self.primaries.of(address.id if address.kind == "user" else text)
        server.cli("DEL", *(f"ig:{{{bucket}}}:{kind}:{text}" for kind in "hl"))
        del self._grown[text]
