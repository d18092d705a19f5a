import pytest

from imgateway.interfaces import Carriage
from imgateway.testing.wires import BareWire
from imgateway.transports.upgrade import Asked, Refusal, choose

NATIVE = BareWire("native", Carriage(subprotocols=("v1.protobuf", "v1.proto")))
JSON = BareWire("json", Carriage(text=True, subprotocols=("v1.json",)))
MQTT = BareWire("mqtt", Carriage(path="/mqtt", subprotocols=("mqtt",)))
CHAT = BareWire("chat", Carriage(path="chat", any_origin=True))
WIRES = [NATIVE, JSON, MQTT, CHAT]


@pytest.mark.parametrize(
    ("path", "offered", "wire", "answer"),
    [
        ("/", (), NATIVE, None),
        ("", (), NATIVE, None),
        ("/", ("v1.json",), JSON, "v1.json"),
        ("/", ("unknown", "v1.json", "v1.protobuf"), JSON, "v1.json"),  # the client's order decides
        ("/", ("v1.proto",), NATIVE, "v1.proto"),
        ("/mqtt", ("mqtt",), MQTT, "mqtt"),
        ("/mqtt", (), MQTT, None),
        ("/chat", (), CHAT, None),
    ],
)
def test_path_and_subprotocol_choose(path, offered, wire, answer):
    assert choose(WIRES, Asked(path, "host", "", offered)) == (wire, answer)


@pytest.mark.parametrize(
    ("path", "offered", "status"),
    [
        ("/nowhere", (), 404),
        ("/mqtt/", (), 404),
        ("/", ("v2",), 400),
        ("/mqtt", ("v1.json",), 400),
        ("/chat", ("anything",), 400),
    ],
)
def test_what_is_not_there_is_refused(path, offered, status):
    with pytest.raises(Refusal) as caught:
        choose(WIRES, Asked(path, "host", "", offered))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("origin", "allowed", "may"),
    [
        ("", (), True),
        ("", ("https://a.example",), True),
        ("https://gate.example", (), True),
        ("HTTPS://GATE.example:8443", (), True),
        ("http://gate.example", (), True),
        ("https://evil.example", (), False),
        ("https://gate.example.evil.example", (), False),
        ("https://evil.example/gate.example", (), False),
        ("null", (), False),
        ("http://[broken", (), False),
        ("https://a.example", ("https://a.example",), True),
        ("https://a.example", ("https://A.example/",), True),
        ("https://a.example:444", ("https://a.example",), False),
        ("http://a.example", ("https://a.example",), False),
        ("https://gate.example", ("https://a.example",), False),  # the list replaces the default
        ("null", ("null",), True),
        ("https://anybody", ("*",), True),
    ],
)
def test_origins(origin, allowed, may):
    asked = Asked("/", "gate.example", origin)
    if may:
        choose(WIRES, asked, allowed)
    else:
        with pytest.raises(Refusal) as caught:
            choose(WIRES, asked, allowed)
        assert caught.value.status == 403


def test_a_wire_for_any_origin():
    assert choose(WIRES, Asked("/chat", "h", "https://anybody"))[0] is CHAT


def test_an_ipv6_host():
    assert choose(WIRES, Asked("/", "[::1]", "http://[::1]:8080"))[0] is NATIVE
