"""A whole node on UDP in memory, with its data directory on disk: tokens, keys and settings as in life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imgateway.auth.keys import load_secret
from imgateway.auth.policy import DefaultPolicy
from imgateway.auth.token import TokenAuthenticator, mint
from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.client import Client
from imgateway.config import Settings
from imgateway.node.service import Node
from imgateway.tap.doors import door, transport_options, udp_keys
from imgateway.testing.disk import Steps
from imgateway.testing.network import Network

__all__ = ("URL", "Place")

URL = "udp://127.0.0.1:7901"


class Place:
    """A node that listens on UDP, on a network in memory, with its data directory on disk.

    :param seed: of the dice of its lines.
    """

    def __init__(
        self, data_dir: str, listen: str = "native+udp:127.0.0.1:7901", seed: int = 3, **udp: Any
    ) -> None:
        settings = Settings()
        self.settings = replace(
            settings,
            node=replace(settings.node, data_dir=data_dir),
            listen=replace(settings.listen, clients=(listen,)),
            udp=replace(settings.udp, **udp),
        )
        self.network = Network(seed=seed, capacity=4_194_304)
        self.network.advance(1_000_000)
        self.clients: list[Client] = []
        self.start()

    def start(self) -> None:
        self.steps = Steps()
        broker = EmbeddedBroker(
            reactor=self.network,
            now_ms=lambda: int(self.network.seconds() * 1000),
            random=lambda: 0.5,
            lane=self.steps,
        )
        options = transport_options(self.settings, udp_keys(self.settings))
        self.node = Node(
            self.settings,
            broker,
            TokenAuthenticator(self.settings.auth, self.settings.node.data_dir, self.network.seconds),
            DefaultPolicy(),
            self.network,  # type: ignore[arg-type]
            lambda: int(self.network.seconds() * 1000),
            lambda: 0.5,
            "n.1",
            doors=[door(text, self.network, options) for text in self.settings.listen.clients],
        )
        self.result(self.node.start())

    def settle(self) -> None:
        while True:
            self.network.settle()
            if not self.steps.choices():
                return
            self.steps.run()

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 64)):
            self.network.advance(1 / 64)
            self.settle()

    def result(self, deferred: Deferred[Any], within_s: float = 0) -> Any:
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.settle()
        waited = 0.0
        while not results and waited < within_s:
            self.pass_time(0.25)
            waited += 0.25
        assert results, "it has not fired"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def token(self, user: str, udp: bool = True) -> str:
        directory = self.settings.node.data_dir
        token = mint(load_secret(self.settings.auth, directory), user, now_s=self.network.seconds())
        return with_udp_key(token, load_udp_secret(self.settings.udp, directory)) if udp else token

    def client(self, user: str, token: Callable[[], str] | None = None, **options: Any) -> Client:
        source = token or (lambda: self.token(user))
        client = Client(URL, token=source, device="phone", reactor=self.network, **options)
        self.clients.append(client)
        return client

    def end(self) -> None:
        for client in self.clients:
            client.close(0)
        self.pass_time(5)
        self.node.stop()
        stopped = self.node.stop()
        self.result(stopped, 5)
