"""Settings from files and from the command line; what is wrong is told in one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.config import (
    LimitSettings,
    Settings,
    check,
    describe,
    generate,
    load,
    section_text,
)
from imgateway.config.describing import sections
from imgateway.config.toml import toml
from imgateway.errors import ConfigError

File = Callable[[str], str]


@pytest.fixture
def file(tmp_path: Path) -> File:
    def write(text: str) -> str:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        return str(path)

    return write


def refusal(path: str | None, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, sets)
    text = str(caught.value)
    assert "\n" not in text
    assert "`" not in text, "the words of the checking library"
    assert "$" not in text
    return text


def test_without_a_file_everything_has_its_default() -> None:
    assert load(None) == Settings()


def test_the_defaults_keep_the_rules_between_settings() -> None:
    check(Settings())


def test_a_file_changes_what_it_names(file: File) -> None:
    path = file('[node]\nname = "a"\n[session]\nheartbeat_s = 20\n[plugins]\nbackends = ["x", "y"]\n')
    settings = load(path)
    assert settings.node.name == "a"
    assert settings.session.heartbeat_s == 20.0
    assert settings.plugins.backends == ("x", "y")
    assert settings.limits == LimitSettings()


def test_a_set_comes_after_the_file(file: File) -> None:
    path = file('[node]\nname = "a"\ndata_dir = "d"\n')
    settings = load(path, ["node.name=b", "node.name = 'c'"])
    assert (settings.node.name, settings.node.data_dir) == ("c", "d")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("node.name=plain words", "plain words"),
        ("node.name=42", "42"),
        ("node.name=true", "true"),
        ('node.name="quoted = text"', "quoted = text"),
        ("node.name=a=b", "a=b"),
        ("node.name=", ""),
        ("node.name=1\nother = 2", "1\nother = 2"),
        ("session.dead_s=80", 80.0),
        ("quota.publish_rate=0", 0.0),
        ("limits.max_body_bytes=1_000", 1000),
        ("plugins.backends=a,b", ("a", "b")),
        ("compression.algorithms=br", ("br",)),
        ("plugins.backends=a", ("a",)),
        ("plugins.backends= a , b ", ("a", "b")),
        ("plugins.backends=", ()),
        ('plugins.backends=["a,b", "c"]', ("a,b", "c")),
        ("plugins.backends=7,8", ("7", "8")),
        ("log.level=debug", "debug"),
    ],
)
def test_a_value_of_the_command_line(text: str, value: Any) -> None:
    section, key = text.partition("=")[0].split(".")
    assert getattr(getattr(load(None, [text]), section), key) == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("limits.max_body_bytes=0", ["limits.max_body_bytes", "at least 1", "1,000,000", "bytes", "not 0"]),
        ("limits.max_body_bytes=1000001", ["limits.max_body_bytes"]),
        ("limits.max_body_bytes=many", ["limits.max_body_bytes", "a whole number", '"many"']),
        ("limits.max_body_bytes=1.5", ["a whole number", "not 1.5"]),
        ("limits.max_body_bytes=true", ["a whole number", "not true"]),
        ("limits.publish_window=1979-05-27", ["a whole number", "not date"]),
        ("limits.publish_window=[1, 2]", ["a whole number", "not [1, 2]"]),
        ("limits.publish_window=99999999999999999999", ["limits.publish_window"]),
        ("session.dead_s=nan", ["session.dead_s", "above 0", "not nan"]),
        ("session.dead_s=inf", ["session.dead_s", "at most a year", "not inf"]),
        ("session.dead_s=-1", ["session.dead_s", "seconds"]),
        ("log.level=loud", ["log.level", "debug, info, warn, error", '"loud"']),
        ("node.data_dir=", ["node.data_dir", "not empty"]),
        ("plugins.backends=[1]", ["plugins.backends", "a list of texts"]),
        ("compression.algorithms=zstd,gzip", ["compression.algorithms", "a list of zstd and br"]),
        ("compression.br_level=11", ["compression.br_level", "at most 9"]),
        ("node.nam=x", ["node.nam", "did you mean name?", "data_dir"]),
        ("nodes.name=x", ["nodes.name", "did you mean node?", "session"]),
        ("zzz.name=x", ["zzz.name", "there are node"]),
        ("node=x", ["section.key=value"]),
        ("node.name", ["section.key=value"]),
        ("", ["section.key=value"]),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(text: str, parts: list[str]) -> None:
    said = refusal(None, text)
    assert all(part in said for part in parts), said


def test_a_long_value_is_told_shortened() -> None:
    assert len(refusal(None, "log.level=" + "x" * 10_000)) < 200


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[limit]\nx = 1", ["limit:", "did you mean limits?"]),
        ("[limits]\nmax_bodybytes = 1", ["limits.max_bodybytes", "did you mean max_body_bytes?"]),
        ("heartbeat_s = 20", ["heartbeat_s: stands in no section; write it under [session]"]),
        ("secret_file = 'k'", ["secret_file: stands in no section; write it under [auth] or [udp]"]),
        ("[heartbeat_s]\nx = 1", ["heartbeat_s: no such section; there are node, "]),
        ("limits = 3", ["limits:", "[limits]", "not 3"]),
        ('[listen]\nclients = "native+tcp:tcp:1"', ["listen.clients", "a list of texts"]),
        ("[node]\nname = 42", ["node.name", "text", "not 42"]),
        ("[node]\nname = {a = 1}", ["node.name", "not dict"]),
        ("[[node]]\nname = 'a'", ["node:", "[node]", "not [a dict]"]),
    ],
)
def test_a_wrong_file_is_told_with_the_path_of_the_setting(file: File, text: str, parts: list[str]) -> None:
    said = refusal(file(text))
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[node]\nname = \n", "line 2, column 8"),
        ("[node]\nname = 'a'\nname = 'b'\n", "line 3"),
        ("[node\n", "line 1, column 6"),
        ("[node]\nname = ", "line 2, column 8"),
        ('[node]\nname = "a', "line 2, column 10"),
    ],
)
def test_a_syntax_error_is_told_with_its_place(file: File, text: str, place: str) -> None:
    path = file(text)
    assert re.match(re.escape(f"{path}: {place}"), refusal(path))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    assert refusal(missing) == f"{missing}: cannot be read: No such file or directory"
    assert "directory" in refusal(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b"[node]\nname = '\xe9'\n")
    assert "is not UTF-8 (byte 15)" in refusal(str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["session.dead_s=30"], ["session.dead_s", "above session.heartbeat_s (30.0)", "not 30.0"]),
        (["limits.max_addresses=501"], ["limits.max_addresses_service", "limits.max_addresses (501)"]),
        (["limits.control_abort_bytes=5"], ["limits.control_abort_bytes", "limits.control_pause_bytes"]),
        (["broker.waiting_entries=5"], ["broker.waiting_entries", "broker.batch_entries"]),
        (["broker.waiting_bytes=5"], ["broker.waiting_bytes", "broker.batch_bytes"]),
        (["broker.batch_bytes=5"], ["broker.batch_bytes", "limits.max_body_bytes"]),
        (["retention.bytes=5"], ["retention.bytes", "limits.max_body_bytes"]),
        (["rooms.memory_bytes=5"], ["rooms.memory_bytes", "limits.max_body_bytes"]),
        (["auth.secret_file=a", "auth.jwks_file=b"], ["auth.jwks_file", "auth.secret_file"]),
        (["listen.api=tcp:1"], ["listen.api", "router.keys_file", "imgateway apikey"]),
        (["router.backoff_max_s=0.1"], ["router.backoff_max_s", "router.backoff_first_s (0.5)", "not 0.1"]),
        (
            ["listen.clients=native,json+websocket:tcp:1"],
            ["listen.clients", "PROTOCOL+TRANSPORT", '"native"'],
        ),
        (["listen.clients=native+tcp"], ["listen.clients"]),
    ],
)
def test_settings_that_do_not_fit_each_other_are_told(sets: list[str], parts: list[str]) -> None:
    said = refusal(None, *sets)
    assert all(part in said for part in parts), said


def test_the_generated_file_is_the_defaults(file: File) -> None:
    assert load(file(generate())) == Settings()


def test_the_generated_file_names_every_setting_and_says_what_it_is() -> None:
    text = generate()
    assert tomllib.loads(text).keys() == sections().keys()
    flat = " ".join(line.removeprefix("# ") for line in text.split("\n") if line)
    for setting in describe():
        assert f"\n{setting.key} = {toml(setting.default)}\n" in text
        assert setting.description in flat
    for section in sections():
        assert section_text(section) in flat
    assert max(len(line) for line in text.split("\n") if line.startswith("#")) <= 100


def test_every_setting_is_described_in_a_line() -> None:
    every = {f"{s}.{f.name}" for s, cls in sections().items() for f in msgspec.structs.fields(cls)}
    assert {setting.path for setting in describe()} == every
    for setting in describe():
        assert setting.description.endswith("."), setting.path
        assert "\n" not in setting.description
    units = {setting.path: setting.unit for setting in describe()}
    assert units["session.dead_s"] == "seconds"
    assert units["limits.max_body_bytes"] == "bytes"
    assert units["quota.publish_rate"] == "per second"
    assert units["quota.publish_bytes_rate"] == "bytes per second"
    assert units["retention.bytes"] == "bytes"
    assert units["node.name"] == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_are_written_as_toml_reads_them(text: str) -> None:
    assert tomllib.loads(f"value = {toml(text)}") == {"value": text}
