import subprocess
import sys
from pathlib import Path

import pytest
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from imgateway.errors import LinkLost, OperatorError
from imgateway.interfaces import ITransportAdapter
from imgateway.testing.wires import BareWire, Network, Recorder, accepting, outcome

ROOT = Path(__file__).resolve().parents[2]


def built_in():
    return {plugin.name: plugin for plugin in getPlugins(ITransportAdapter)}


def test_the_built_in_transports_are_plugins():
    found = built_in()
    assert {"tcp", "websocket"} <= set(found)
    for plugin in found.values():
        assert verifyObject(ITransportAdapter, plugin)


def test_a_plugin_says_what_its_transport_says():
    from imgateway.transports.tcp import TCPTransport
    from imgateway.transports.websocket import WebSocketTransport

    found = built_in()
    for transport in (TCPTransport(), WebSocketTransport()):
        assert found[transport.name].schemes == transport.schemes


@pytest.mark.parametrize(("name", "url"), [("tcp", "tcp://127.0.0.1:1"), ("websocket", "ws://127.0.0.1:1")])
def test_a_plugin_listens_and_connects(name, url):
    plugin, network, made, wire = built_in()[name], Network(), [], BareWire()
    network.result(plugin.listen("1", [wire], accepting(made), network, {}))
    client = network.result(plugin.connect(url, wire, Recorder(), network, {}))
    client.send(b"x")
    network.settle()
    assert made[0].chunks == [b"x"]
    [error] = outcome(plugin.connect("x://", wire, Recorder(), network, {}))
    assert isinstance(error, LinkLost)
    [error] = outcome(plugin.listen("x", [wire], None, network, {}))
    assert isinstance(error, OperatorError)


def test_finding_the_transports_imports_nothing_heavy():
    program = (
        "import sys, twisted.plugins.imgateway_transports\n"
        "heavy = {'autobahn', 'OpenSSL', 'cryptography', 'google', 'twisted.internet.reactor'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == ""
