"""The fakes of this room are what they say, and the node's parts provide their interfaces."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from imgateway.frames import Deliver, PublishAck, Welcome
from imgateway.interfaces import (
    IAuthenticator,
    IBroker,
    IBrokerListener,
    ICodec,
    IGateway,
    IListener,
    IProtocolAdapter,
    IReceiver,
    ISessionListener,
)
from tests.node.rig import AsciiWire, Diary, Rig


def test_providers() -> None:
    rig = Rig()
    bob = rig.login("bob")
    assert verifyObject(IBroker, rig.broker)
    assert verifyObject(IAuthenticator, rig.tokens)
    assert verifyObject(ISessionListener, Diary())
    assert verifyObject(IListener, rig.listener)
    assert verifyObject(IProtocolAdapter, AsciiWire())
    assert verifyObject(ICodec, AsciiWire().codec(True, 1000))
    assert verifyObject(IBrokerListener, rig.hub)
    assert verifyObject(IGateway, rig.node)
    assert verifyObject(IReceiver, bob.link)


def test_a_message_goes_round_on_both_brokers() -> None:
    for broker in (None, "memory"):
        rig = Rig(broker)
        bob = rig.login("bob")
        assert bob.kinds() == [Welcome]
        bob.publish("1", "user:bob", body=b"hello")
        assert sorted(map(str, bob.kinds())) == sorted(map(str, [PublishAck, Deliver]))
