"""The built-in adapters as Twisted's plugin system offers them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from imgateway.frames import Ping
from imgateway.interfaces import IProtocolAdapter, IProtocolMaker
from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "adapter", "stream"), [("native", NativeAdapter, True), ("json", JsonAdapter, False)]
)
def test_offered(name: str, adapter: type, stream: bool) -> None:
    (offered,) = (plugin for plugin in getPlugins(IProtocolAdapter) if plugin.name == name)
    assert verifyObject(IProtocolAdapter, offered)
    assert offered.carriage == adapter.carriage
    assert offered.traits == adapter.traits
    codec = offered.codec(stream, 1000)
    assert list(codec.receive(codec.encode(Ping(7)))) == [Ping(7)]


def test_made() -> None:
    (maker,) = (plugin for plugin in getPlugins(IProtocolMaker) if plugin.name == "mqtt")
    assert verifyObject(IProtocolMaker, maker)
    adapter = maker.make(None, lambda: 0.0, lambda: 0)
    assert verifyObject(IProtocolAdapter, adapter)
    assert adapter.carriage.subprotocols == ("mqtt",)


def test_light() -> None:
    program = (
        "import sys, twisted.plugins.imgateway_protocols as dropin\n"
        "assert dropin.native.name == 'native'\n"
        "heavy = {'google', 'autobahn', 'OpenSSL', 'imgateway.protocols', 'twisted.internet.reactor'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"  # an exit with text writes it to stderr
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == ""
