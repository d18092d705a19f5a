"""The commands that need no gateway."""

from __future__ import annotations

import platform
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import jwt
import pytest
from click.testing import Result

from imgateway import __version__, config
from imgateway.auth.keys import load_secret
from imgateway.auth.udp import load_udp_secret, udp_key
from imgateway.brokers.directory import DATABASE, Directory
from imgateway.cli.options import DURATION
from imgateway.core.credentials import key_id_of, split
from imgateway.errors import StoreError

Run = Callable[..., Result]


# ------------------------------------------------------------ version


def test_version_names_all_three(run: Run) -> None:
    result = run("version", "--data-dir", "anywhere")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"imgateway {__version__}"
    assert result.stdout.splitlines()[1].startswith("Twisted 2")
    assert result.stdout.splitlines()[2] == f"Python {platform.python_version()}"
    assert run("--version").stdout == f"imgateway {__version__}\n"


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom imgateway.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'twisted.internet.defer', 'jwt', 'cryptography', 'google.protobuf'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert "beside a node (twistd -n --pidfile= imgateway):" in done.stdout
    for name in "token chat send listen link genconfig checkconfig backup restore version".split():
        assert f"\n  {name} " in done.stdout


def test_a_wrong_command_line_is_status_2(run: Run) -> None:
    assert run("tokenize").exit_code == 2
    assert run("token").exit_code == 2


@pytest.mark.parametrize("words", [("conformance",), ("bench", "--help"), ("token", "bob")])
def test_ctrl_c_is_status_130_without_a_word(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Also while a command is still looking for its parts."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imgateway.cli.bench.import_module", interrupted)
    monkeypatch.setattr("click.Context.invoke", interrupted)
    result = run(*words)
    assert (result.exit_code, result.output) == (130, "")


# ------------------------------------------------------------ token


def claims(token: str, data_dir: str, audience: str = "imgateway") -> dict[str, object]:
    secret = load_secret(config.AuthSettings(), data_dir)
    return jwt.decode(token, secret, algorithms=["HS256"], audience=audience)


def test_token_with_its_udp_key(run: Run, data_dir: str) -> None:
    secret = load_udp_secret(config.UdpSettings(), data_dir)
    result = run("token", "bob", "--udp", "--data-dir", data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    token, udp = split(result.stdout.strip())
    assert claims(token, data_dir)["sub"] == "bob"
    assert udp == (key_id_of(token), udp_key(secret, key_id_of(token)))


def test_token_prints_a_token_alone(run: Run, data_dir: str) -> None:
    result = run("token", "bob", "--data-dir", data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    found = claims(result.stdout.strip(), data_dir)
    assert found["sub"] == "bob"
    assert found["exp"] - found["iat"] == 3600  # type: ignore[operator]
    assert "device" not in found
    assert "svc" not in found


def test_a_token_may_name_rooms(run: Run, data_dir: str) -> None:
    args = ("--room", "7", "--room", "room:a.b", "--data-dir", data_dir)
    assert claims(run("token", "bob", *args).stdout.strip(), data_dir)["rooms"] == ["7", "a.b"]
    for room, said in (("", "--room '': "), ("user:bob", "--room 'user:bob': is not a room")):
        result = run("token", "bob", "--room", room, "--data-dir", data_dir)
        assert result.exit_code == 2
        assert said in result.stderr


def test_a_token_may_name_topics(run: Run, data_dir: str) -> None:
    args = ("--topic", "news", "--topic", "topic:a.b", "--data-dir", data_dir)
    assert claims(run("token", "bob", *args).stdout.strip(), data_dir)["topics"] == ["news", "a.b"]
    result = run("token", "bob", "--topic", "room:7", "--data-dir", data_dir)
    assert result.exit_code == 2
    assert "--topic 'room:7': is not a topic; write news or topic:news" in result.stderr


def test_a_token_may_have_claims_for_a_policy(run: Run, data_dir: str) -> None:
    args = ("--claim", "tenant=red", "--claim", "note=a=b ", "--claim", "empty=", "--data-dir", data_dir)
    found = claims(run("token", "bob", *args).stdout.strip(), data_dir)
    assert (found["tenant"], found["note"], found["empty"], found["sub"]) == ("red", "a=b ", "", "bob")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tenant",), "--claim 'tenant': write NAME=VALUE, such as tenant=red"),
        (("=red",), "--claim '=red': write NAME=VALUE"),
        (("t=1", "t=2"), "--claim 't=2': t is there already"),
        (("exp=1",), "--claim 'exp=1': exp means something to the gateway: --ttl sets it"),
        (("sub=eve",), "it is the argument USER"),
        (("svc=true",), "--service sets it"),
        (("node=n1",), "this command sets it itself, or leaves it out"),
    ],
)
def test_claims_that_are_none_or_that_the_gateway_knows(
    run: Run, data_dir: str, words: tuple[str, ...], said: str
) -> None:
    args = [part for word in words for part in ("--claim", word)]
    result = run("token", "bob", *args, "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_router_makes_no_tokens_with_claims_of_ones_own(run: Run) -> None:
    result = run("token", "bob", "--claim", "tenant=red", "--router", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "a router makes no tokens with it" in result.stderr


def test_token_takes_device_ttl_and_service(run: Run, data_dir: str) -> None:
    args = ("--device", "phone", "--ttl", "1h30m", "--service", "--data-dir", data_dir)
    found = claims(run("token", "bob", *args).stdout.strip(), data_dir)
    assert found["exp"] - found["iat"] == 5400  # type: ignore[operator]
    assert (found["device"], found["svc"]) == ("phone", True)


def test_token_reads_the_default_directory(run: Run, data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(data_dir).parent)
    Path("data").symlink_to(data_dir)
    assert claims(run("token", "bob").stdout.strip(), data_dir)["sub"] == "bob"


def test_token_follows_the_nodes_configuration(run: Run, data_dir: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[node]\ndata_dir = "{data_dir}"\n[auth]\naudience = "chat"\n')
    token = run("token", "bob", "--config", str(file)).stdout.strip()
    assert claims(token, data_dir, "chat")["sub"] == "bob"


def test_token_without_a_secret_says_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(f"[auth]\nsecret_file = '{tmp_path}/k'\n")
    told = run("token", "bob", "--config", str(tmp_path / "set.toml")).stderr
    assert told.startswith(f"Error: auth.secret_file: {tmp_path}/k: the key cannot be read: No such file")
    assert "--data-dir" not in told
    result = run("token", "bob", "--data-dir", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "token.key" in result.stderr
    assert "--data-dir" in result.stderr


def test_token_cannot_be_made_where_others_issue_them(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[auth]\npublic_key_file = "key.pem"\n')
    result = run("token", "bob", "--config", str(file))
    assert result.exit_code == 1
    assert "public key" in result.stderr


def test_token_with_a_broken_configuration_names_the_setting(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[auth]\nleeway = 1\n")
    result = run("token", "bob", "--config", str(file))
    assert result.exit_code == 1
    assert "auth.leeway" in result.stderr


def test_token_for_no_user_is_a_usage_error(run: Run, data_dir: str) -> None:
    result = run("token", "x" * 65, "--data-dir", data_dir)
    assert result.exit_code == 2
    assert "64 bytes" in result.stderr
    assert run("token", "bob", "--device", "\x07", "--data-dir", data_dir).exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("30s", 30), ("15m", 900), ("1H30M", 5400), ("7d", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "-1", "0", "0s", "1h-2m", "99999d", "1 h", "nan", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


# ------------------------------------------------------------ settings


def test_genconfig_prints_what_checkconfig_takes(run: Run, tmp_path: Path) -> None:
    text = run("genconfig").stdout
    assert text == config.generate()
    file = tmp_path / "c.toml"
    file.write_text(text)
    result = run("checkconfig", str(file))
    assert (result.exit_code, result.stdout) == (0, "ok\n")


def test_checkconfig_warns_of_what_may_be_meant(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[listen]\nclients = ['chat+tcp:8081']\n")
    result = run("checkconfig", str(file))
    assert (result.exit_code, result.stdout) == (0, "ok\n")
    assert result.stderr.startswith("warning: listen.clients: chat+tcp:8081: whoever reaches it logs in")
    assert result.stderr.count("\n") == 1


def test_genconfig_writes_the_data_directory(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(run("genconfig", "--data-dir", '/srv/"im"').stdout)
    assert config.load(str(file)).node.data_dir == '/srv/"im"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[session]\nheartbeat_s = 0\n", "session.heartbeat_s"),
        ("[node\n", "line 1"),
        ("[nod]\n", "node"),
        ("[listen]\nclients = ['json+tcp:tcp:7901']\n", "json does not ride on tcp"),
    ],
)
def test_checkconfig_names_what_is_wrong(run: Run, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    result = run("checkconfig", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_checkconfig_takes_what_twistd_takes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("")
    assert run("checkconfig", str(file), "--set", "node.name=a", "--data-dir", "/srv").exit_code == 0
    result = run("checkconfig", str(file), "--set", "node.nam=a")
    assert result.exit_code == 1
    assert "node.nam" in result.stderr


def test_checkconfig_of_no_file(run: Run, tmp_path: Path) -> None:
    result = run("checkconfig", str(tmp_path / "none.toml"))
    assert result.exit_code == 1
    assert "none.toml" in result.stderr


# ------------------------------------------------------------ backup and restore


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What was asked of the broker's functions."""
    done: list[tuple[str, str, str]] = []

    def backup(data_dir: str, target: str, progress: Callable[[int, int], None]) -> None:
        done.append(("backup", data_dir, target))
        progress(1, 2)
        Path(target).write_bytes(b"x" * 1234)

    def restore(source: str, data_dir: str, progress: Callable[[int, int], None]) -> None:
        done.append(("restore", source, data_dir))
        if source == "bad":
            raise StoreError("bad is no copy")

    monkeypatch.setattr("imgateway.brokers.backup.backup", backup)
    monkeypatch.setattr("imgateway.brokers.backup.restore", restore)
    return done


def test_backup_copies_and_says_how_much(
    run: Run, copies: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    target = str(tmp_path / "copy")
    result = run("backup", target, "--data-dir", "node")
    assert (result.exit_code, result.stdout) == (0, f"{target}: 1,234 bytes\n")
    assert copies == [("backup", "node", target)]


def test_restore_puts_back(run: Run, copies: list[tuple[str, str, str]], tmp_path: Path) -> None:
    directory = str(tmp_path / "new")
    result = run("restore", "copy", "--data-dir", directory)
    assert result.exit_code == 0
    assert directory in result.stdout
    assert copies == [("restore", "copy", directory)]
    assert result.stderr.startswith(f"there is no secrets/token.key in {directory}: put yours back")


def test_restore_misses_no_secret_that_is_there_or_elsewhere(
    run: Run, copies: list[tuple[str, str, str]], data_dir: str, tmp_path: Path
) -> None:
    assert run("restore", "copy", "--data-dir", data_dir).stderr == ""
    file = tmp_path / "c.toml"
    file.write_text('[auth]\nsecret_file = "/run/token.key"\n')
    assert run("restore", "copy", "--config", str(file), "--data-dir", str(tmp_path)).stderr == ""


def test_backup_into_a_directory_that_is_not_there(run: Run, copies: list[tuple[str, str, str]]) -> None:
    result = run("backup", "/nodir/x", "--data-dir", "node")
    assert (result.exit_code, result.stderr) == (1, "Error: the directory /nodir does not exist\n")
    assert not copies


def test_restore_replaces_nothing_unless_told(
    run: Run, copies: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    (tmp_path / DATABASE).touch()
    result = run("restore", "copy", "--data-dir", str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--force" in result.stderr
    assert not copies
    assert run("restore", "copy", "--force", "--data-dir", str(tmp_path)).exit_code == 0
    assert copies == [("restore", "copy", str(tmp_path))]


def test_the_configuration_names_the_directory_too(
    run: Run, copies: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[node]\ndata_dir = "/nowhere"\n')
    assert run("restore", "copy", "--config", str(file)).exit_code == 0
    assert copies == [("restore", "copy", "/nowhere")]


def test_a_bad_copy_is_one_line(run: Run, copies: list[tuple[str, str, str]], tmp_path: Path) -> None:
    result = run("restore", "bad", "--data-dir", str(tmp_path))
    assert (result.exit_code, result.stderr) == (1, "Error: bad is no copy\n")


def test_backup_and_restore_of_a_real_database(run: Run, tmp_path: Path) -> None:
    from imgateway.brokers.schema import Database

    node, copy = tmp_path / "node", tmp_path / "copy"
    directory = Directory(node)
    directory.lock()
    database = Database(str(node / DATABASE))
    connection = database.open()
    database.prepare(connection)
    with connection:
        connection.execute("INSERT OR REPLACE INTO fact VALUES ('epoch', 5)")
    connection.close()
    assert run("backup", str(copy), "--data-dir", str(node)).exit_code == 0
    # The node runs: its lock is held.
    refused = run("restore", str(copy), "--force", "--data-dir", str(node))
    assert refused.exit_code == 1
    assert "in use" in refused.stderr
    directory.unlock()
    assert run("backup", str(copy), "--data-dir", str(node)).exit_code == 1
    assert run("restore", str(copy), "--force", "--data-dir", str(node)).exit_code == 0
    with closing(sqlite3.connect(node / DATABASE)) as restored:
        epoch = restored.execute("SELECT value FROM fact WHERE name = 'epoch'").fetchone()
    assert epoch is not None
    assert epoch != (5,)
    missing = run("backup", str(tmp_path / "other"), "--data-dir", str(tmp_path / "empty"))
    assert missing.exit_code == 1
    assert "--data-dir" in missing.stderr
