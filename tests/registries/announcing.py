"""A process that announces a node in the registries whose URLs it is given, and then waits to be killed."""

from __future__ import annotations

import sys

from imgateway.config import RegistrySettings
from imgateway.tap.registries import make_registry
from tests.brokers.redis_server import Loop
from tests.registries.desks import node


def main() -> None:
    loop = Loop()
    for url in sys.argv[1:]:
        registry = make_registry(RegistrySettings(url=url), loop)
        registry.start(lambda nodes: None, lambda ok, why: None)
        registry.announce(node("child"))
    loop.until(lambda: False, 60.0)


main()
