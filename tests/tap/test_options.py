"""The command line: every option, and what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgateway import __version__
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.tap import makeService
from imgateway.tap.check import check_broker
from imgateway.tap.options import Options
from imgateway.tap.router import Options as RouterOptions


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_without_options_everything_is_at_its_default() -> None:
    assert parsed().settings == Settings()


def test_every_named_option() -> None:
    settings = parsed(
        *("--data-dir", "/d", "--node", "n1", "--http", "tcp:1", "--broker", "memory:"),
        *("--listen", "native+tcp:tcp:1", "--listen", "json+websocket:tcp:2"),
    ).settings
    assert settings.node.data_dir == "/d"
    assert settings.node.name == "n1"
    assert settings.listen.http == "tcp:1"
    assert settings.broker.url == "memory:"
    assert settings.listen.clients == ("native+tcp:tcp:1", "json+websocket:tcp:2")


def test_no_http() -> None:
    assert parsed("--http", "").settings.listen.http == ""


def test_any_setting() -> None:
    settings = parsed("--set", "session.heartbeat_s=5", "--set", "node.name=x").settings
    assert settings.session.heartbeat_s == 5.0
    assert settings.node.name == "x"


def test_file_then_set_then_named(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[node]\nname = "file"\ndata_dir = "file"\ndrain_s = 5.0\n')
    settings = parsed("-c", str(file), "--set", "node.data_dir=set", "--node", "named").settings
    assert (settings.node.name, settings.node.data_dir, settings.node.drain_s) == ("named", "set", 5.0)


def test_settings_are_held_against_each_other_with_what_options_say(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[listen]\napi = "127.0.0.1:7991"\n')
    assert parsed("-c", str(file), "--keys", "keys.toml").settings.listen.api == "127.0.0.1:7991"


def test_load_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[limits]\nmax_addresses = 5\n")
    options = parsed("--config", str(file), "--node", "n")
    file.write_text("[limits]\nmax_addresses = 6\n")
    assert options.load().limits.max_addresses == 6
    assert options.load().node.name == "n"
    assert options.settings.limits.max_addresses == 5
    file.write_text("[limits]\nmax_addresses = 0\n")
    with pytest.raises(ConfigError, match=r"limits\.max_addresses"):
        options.load()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "limits.max_bodies=1"], "limits.max_bodies: no such setting"),
        (["--set", "nonsense"], "must be section.key=value"),
        (["--set", "session.dead_s=1"], "session.dead_s: must be above"),
        (["--data-dir", ""], "--data-dir: node.data_dir: must be"),
        (["--listen", "nonsense"], "PROTOCOL+TRANSPORT:ENDPOINT"),
        (["--config", "/nowhere/c.toml"], "/nowhere/c.toml"),
        (["--unknown"], "unknown"),
        (["--broker"], "broker"),
        (["argument"], "'argument': options only"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    line = ended.value.code
    assert isinstance(line, str)
    assert line.startswith("imgateway: ")
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--no-such-option"],
            "imgateway: option --no-such-option not recognized; all options: twistd imgateway --help",
        ),
        (
            ["--borker", "memory:"],
            "imgateway: option --borker not recognized; did you mean --broker?; "
            "all options: twistd imgateway --help",
        ),
        (
            ["--listen", "nonsense"],
            "imgateway: --listen: listen.clients: must be PROTOCOL+TRANSPORT:ENDPOINT each, such as "
            'native+tcp:tcp:7901, not "nonsense"; all settings: imgateway genconfig',
        ),
        (
            ["--set", "nonsense"],
            'imgateway: --set "nonsense": must be section.key=value; imgateway genconfig prints all',
        ),
    ],
)
def test_the_line_names_the_option_and_says_where_help_is(arguments: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == line


def test_a_value_that_is_looked_at_later_is_told_with_its_option() -> None:
    options = parsed("--broker", "foo:")
    with pytest.raises(ConfigError) as wrong:
        check_broker(options.settings)
    assert options.told(wrong.value).startswith("--broker: broker.url: 'foo:' is no broker; allowed: ")
    assert options.told(wrong.value).endswith("; all settings: imgateway genconfig")
    unsaid = parsed("--set", "broker.url=foo:").told(wrong.value)
    assert unsaid.startswith("broker.url: 'foo:' is no broker; ")
    assert options.told(ConfigError("tasks.db: in use")) == "tasks.db: in use"
    assert options.told(OperatorError("cannot listen on x: in use")) == "cannot listen on x: in use"


def test_a_place_that_cannot_be_listened_on_is_told_with_its_option() -> None:
    refused = OperatorError("listen.clients: cannot listen on x: in use; see by whom with:  ss -ltnp")
    assert parsed("--listen", "native+tcp:x").told(refused) == f"--listen: {refused}"
    assert parsed().told(refused) == str(refused)


def test_every_option_of_its_own_names_a_setting() -> None:
    for kind in (Options, RouterOptions):
        options = kind()
        for path in options.named.values():
            section, _, key = path.partition(".")
            assert hasattr(getattr(options.settings, section), key), path


def test_help_names_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    for option in ("--config", "--data-dir", "--http", "--broker", "--node", "--listen", "--set"):
        assert option in text


def test_version_is_ours_and_twisteds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--version")
    assert not ended.value.code
    text = capsys.readouterr().out
    assert f"imgateway {__version__}\n" in text
    assert "Twisted " in text


def test_a_service_that_cannot_be_composed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from twisted.internet import reactor

    monkeypatch.setattr(reactor, "seconds", reactor.seconds)  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    options = parsed("--data-dir", str(tmp_path), "--set", "plugins.listeners=nobody")
    with pytest.raises(SystemExit, match=r"imgateway: plugins\.listeners: .*nobody"):
        makeService(options)
