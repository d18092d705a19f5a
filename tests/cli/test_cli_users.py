"""``imgateway online``, ``kick`` and ``token --router`` against an API whose answers are scripted."""

from __future__ import annotations

import json

import pytest

from imgateway.cli.users import AT_ONCE
from imgateway.router.problems import Problem
from imgateway.router.schema import Kicked, Online, Sessions, SessionTold, Token, UserOnline
from tests.cli.fake_api import FakeApi

from .conftest import Ask


def test_online(api: FakeApi, ask: Ask) -> None:
    api.say(Online((UserOnline("bob", True, ("phone", "desk")), UserOnline("a/b", False, ()))))
    result = ask("online", "bob", "a%2Fb")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "USER  ONLINE  DEVICES\nbob   yes     phone desk\na/b   no      -\n"
    assert (api.asked[0].line, api.asked[0].query) == ("GET /v1/online", {"user": ["bob", "a/b"]})
    lines = [json.loads(line) for line in ask("online", "bob", "a%2Fb", "--json").stdout.splitlines()]
    assert lines[0] == {"user": "bob", "online": True, "devices": ["phone", "desk"]}


def test_many_users_are_asked_about_in_pieces(api: FakeApi, ask: Ask) -> None:
    api.say(Online((UserOnline("x", True, ()),)))
    result = ask("online", *[f"u{n}" for n in range(AT_ONCE + 1)], "--json")
    assert len(result.stdout.splitlines()) == 2
    assert [len(one.query["user"]) for one in api.asked] == [AT_ONCE, 1]


def test_sessions(api: FakeApi, ask: Ask) -> None:
    bob = SessionTold("bob", "phone", "ios", "n1.aa", 3, 1_795_276_416_685, False)
    api.say(Sessions("bob", (bob,)), Sessions("..", ()))
    result = ask("online", "--sessions", "bob", "..")
    assert result.stdout.splitlines() == [
        "USER  DEVICE  PLATFORM  ONLINE  SINCE                 NODE",
        "bob   phone   ios       no      2026-11-21 15:53:36Z  n1.aa",
    ]
    assert [one.path for one in api.asked] == ["/v1/users/bob/sessions", "/v1/users/%2E%2E/sessions"]


def test_kick(api: FakeApi, ask: Ask) -> None:
    api.say(Kicked("bob", 2), Kicked("a/b", 1), Kicked("eve", 0))
    result = ask("kick", "bob", "a%2Fb/my%2Fphone", "eve", "--reason", "maintenance")
    assert (result.exit_code, result.output) == (
        0,
        "bob: 2 closed\na%2Fb/my%2Fphone: 1 closed\neve: 0 closed\n",
    )
    assert [one.line for one in api.asked] == [
        "DELETE /v1/users/bob/sessions",
        "DELETE /v1/users/a%2Fb/sessions/my%2Fphone",
        "DELETE /v1/users/eve/sessions",
    ]
    assert api.asked[0].query == {"reason": ["maintenance"]}
    api.say(Kicked("eve", 0), Kicked("bob", 1))
    lines = [json.loads(line) for line in ask("kick", "eve/x", "bob", "--json").stdout.splitlines()]
    assert lines == [{"user": "eve", "kicked": 0, "device": "x"}, {"user": "bob", "kicked": 1}]


def test_a_refusal_ends_it(api: FakeApi, ask: Ask) -> None:
    api.say(Kicked("bob", 2), Problem("timeout", "no result within 30 s", "it may be done or not"))
    result = ask("kick", "bob", "eve", "mallory")
    assert (result.exit_code, result.stdout) == (1, "bob: 2 closed\n")
    assert result.stderr == (
        "Error: no result within 30 s; eve may be kicked or not: imgateway online --sessions eve shows it\n"
    )
    assert len(api.asked) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("online",),
        ("online", "a/b"),
        ("online", "x" * 65),
        ("online", ""),
        ("kick",),
        ("kick", "a/b/c"),
        ("kick", "50%"),
    ],
)
def test_what_is_no_user(api: FakeApi, ask: Ask, words: tuple[str, ...]) -> None:
    result = ask(*words)
    assert result.exit_code == 2
    assert api.asked == []


def test_a_token_from_a_router(api: FakeApi, ask: Ask) -> None:
    api.say(Token("T", "T~K", 1), Token("T", "T~K", 1), Token("T", "", 1))
    words = ("token", "bob", "--router", api.url)
    assert ask(*words).output == "T\n"
    assert api.asked[0].line == "POST /v1/tokens"
    of_user = {"user": "bob", "device": "", "ttl_s": 3600, "service": False}
    assert api.asked[0].json == of_user | {"rooms": [], "topics": []}
    more = ("--device", "phone", "--ttl", "90s", "--service", "--room", "7", "--topic", "news", "--udp")
    assert ask(*words, *more).output == "T~K\n"
    of_user = {"user": "bob", "device": "phone", "ttl_s": 90, "service": True}
    assert api.asked[1].json == of_user | {"rooms": ["7"], "topics": ["news"]}
    result = ask(*words, "--udp")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no UDP secret" in result.stderr


def test_a_token_from_one_place(api: FakeApi, ask: Ask, data_dir: str) -> None:
    """Without --router it is made here, whatever the environment says."""
    assert ask("token", "bob", "--data-dir", data_dir).stdout.count(".") == 2
    for words in (("--data-dir", data_dir), ("--config", "x")):
        assert ask("token", "bob", "--router", api.url, *words).exit_code == 2
    for words in (("--key", "k"), ("--key-file", "f"), ("--ca", "c"), ("--insecure",)):
        result = ask("token", "bob", "--data-dir", data_dir, *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "are for --router" in result.stderr
    assert api.asked == []
