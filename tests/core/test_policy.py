"""The default table of who may do what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from imgateway.core.policy import ACTIONS, RULES, areas, may, names
from imgateway.frames import KINDS, Address

NOTHING: Mapping[str, Any] = {}


def address(kind: str, ident: str = "x") -> Address:
    return Address(kind, "" if kind == "all" else ident, "phone" if kind == "device" else "")


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("action", ACTIONS)
def test_a_service_may_everything(action: str, kind: str) -> None:
    assert may("billing", True, NOTHING, action, address(kind))


@pytest.mark.parametrize("service", [True, False])
def test_an_unknown_action_is_refused(service: bool) -> None:
    assert not may("a", service, NOTHING, "delete", address("user", "a"))


CLIENT = {
    "publish": {"user", "device", "service", "room"},
    "publish-first": set(),
    "subscribe": {"room"},
    "read": {"room"},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("action", ACTIONS)
def test_a_client_without_grants(action: str, kind: str) -> None:
    assert may("alice", False, NOTHING, action, address(kind)) == (kind in CLIENT[action])


def test_the_own_log_is_the_only_one_to_read() -> None:
    assert may("alice", False, NOTHING, "read", address("user", "alice"))
    assert may("alice", False, NOTHING, "subscribe", address("user", "alice"))
    assert not may("alice", False, NOTHING, "read", address("user", "Alice"))
    assert not may("alice", False, NOTHING, "read", address("service", "alice"))
    assert not may("alice", False, NOTHING, "read", address("device", "alice"))


def test_grants_open_what_they_name() -> None:
    grants = {"rooms": frozenset({"7"}), "topics": ["news"]}
    assert names(grants, address("room", "7"))
    assert not names(grants, address("room", "8"))
    assert not may("a", False, grants, "publish", address("topic", "7"))
    for action in ("publish", "subscribe", "read"):
        assert may("a", False, grants, action, address("topic", "news"))
    assert may("a", False, grants, "publish-first", address("room", "7"))
    assert not may("a", False, grants, "publish-first", address("room", "8"))
    assert not may("a", False, {"all": ["", "x"], "alls": [""], "areas": ["x"]}, "publish", address("all"))
    assert not may("a", False, {"areas": ["x"], "nodes": ["x"]}, "publish", address("area"))


@pytest.mark.parametrize("grant", ["77", b"7", 7, None, True])
def test_a_grant_that_is_no_collection_grants_nothing(grant: Any) -> None:
    assert not names({"rooms": grant}, address("room", "7"))
    assert not may("a", False, {"topics": grant}, "publish", address("topic", "7"))


def test_the_table_names_known_actions_and_kinds() -> None:
    assert {action for action, _ in RULES} == set(ACTIONS)
    assert {kind for _, kind in RULES} <= KINDS


def test_a_room_is_in_the_area_before_its_first_dot() -> None:
    assert areas(address("room", "games.7")) == areas(address("room", "games.7.b")) == ("games",)
    assert areas(address("room", "7")) == areas(address("room", ".7")) == areas(address("area", "a.b")) == ()
    assert areas(address("user", "a.b")) == ()
