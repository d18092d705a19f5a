"""The default policy hands an identity to the table."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from imgateway.auth.policy import DefaultPolicy
from imgateway.frames import EVERYONE, Address
from imgateway.interfaces import Identity, IPolicy


def test_it_is_a_policy() -> None:
    verifyObject(IPolicy, DefaultPolicy())
    assert DefaultPolicy().name == "default"


def test_it_asks_the_table_with_what_the_identity_says() -> None:
    policy, alice = DefaultPolicy(), Identity("alice", claims={"rooms": frozenset({"7"})})
    assert policy.may(alice, "publish", Address("user", "bob"))
    assert policy.may(alice, "publish", Address("room", "7"))
    assert policy.may(alice, "publish", Address("room", "8")), "if she is in it, which the node knows"
    assert not policy.may(alice, "publish", Address("area", "7"))
    assert not policy.may(alice, "publish", EVERYONE)
    assert policy.may(Identity("billing", service=True), "publish", EVERYONE)
    assert policy.may(alice, "read", Address("user", "alice"))
    assert not policy.may(alice, "read", Address("user", "bob"))


def test_areas() -> None:
    assert DefaultPolicy().areas(Address("room", "games.7")) == ("games",)
