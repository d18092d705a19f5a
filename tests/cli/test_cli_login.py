"""Who logs in with what, over which wire; and what is said when it fails."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import Result
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from imgateway.auth.keys import load_secret
from imgateway.auth.udp import load_udp_secret, udp_key
from imgateway.cli import remarks
from imgateway.cli.lines import plain
from imgateway.cli.progress import Progress
from imgateway.cli.trust import trusting, unverified
from imgateway.config import AuthSettings, UdpSettings
from imgateway.core.credentials import split
from imgateway.errors import CloseCode, ConnectRefused, LinkLost, StoreError
from imgateway.protocols.native import NativeAdapter
from imgateway.transports.datagram.client import DatagramClient
from tests.cli.fake_client import FakeClient, Stage

Run = Callable[..., Result]
URL = "tcp://127.0.0.1:7901"
KEY = "k" * 32


def login(run: Run, *args: str, url: str = URL, env: dict[str, str] | None = None) -> tuple[Result, Any]:
    stage = Stage()
    result = run("listen", url, "--timeout", "1", *args, stage=stage, env=env)
    return result, stage.client and stage.client.options


# ------------------------------------------------------------------------------------------------------ where


@pytest.mark.parametrize("command", ["listen", "send", "chat"])
def test_without_a_url_the_router_is_named_as_well(run: Run, command: str) -> None:
    result = run(command)
    assert result.exit_code == 2
    assert f" {command} [OPTIONS] {{URL|--router URL}}" in result.stderr
    assert "Missing argument 'URL'. A node prints its own at its start; or ask a router" in result.stderr
    assert "--router URL" in result.stderr.splitlines()[-1]


def test_what_else_is_missing_is_told_as_it_is(run: Run) -> None:
    result = run("send", URL)
    assert (result.exit_code, "router where" in result.stderr) == (2, False)
    assert "Missing argument 'TO'" in result.stderr


# ----------------------------------------------------------------------------------------------- credentials


def test_a_user_gets_a_token_from_the_secret_again_and_again(run: Run, data_dir: str) -> None:
    _, options = login(run, "--user", "bob", "--data-dir", data_dir)
    tokens = [options["token"]() for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        secret = load_secret(AuthSettings(), data_dir)
        found = jwt.decode(token, secret, algorithms=["HS256"], audience="imgateway")
        assert found["sub"] == "bob"
        assert "svc" not in found
    assert options["device"] == "cli-listen"


def test_who_sends_to_rooms_may(run: Run, data_dir: str) -> None:
    stage = Stage()
    args = ("send", URL, "--user", "bob", "--data-dir", data_dir)
    assert run(*args, "user:eve,room:7,room:a.b", "hi", stage=stage).exit_code == 0
    token = stage.client.options["token"]() if stage.client is not None else ""
    secret = load_secret(AuthSettings(), data_dir)
    found = jwt.decode(token, secret, algorithms=["HS256"], audience="imgateway")
    assert found["rooms"] == ["7", "a.b"]
    assert run(*args, "user:eve,room:", "hi", stage=Stage()).exit_code == 2


def test_who_follows_topics_may(run: Run, data_dir: str) -> None:
    stage = Stage()
    args = ("--user", "bob", "--data-dir", data_dir)
    topics = ("--subscribe", "topic:news,room:7", "--subscribe", "topic:a.b", "--count", "1")
    run("listen", URL, *args, *topics, "--timeout", "1", stage=stage)
    assert stage.client is not None
    assert stage.client.rooms == [("topic:news", "push"), ("room:7", "push"), ("topic:a.b", "push")]
    secret = load_secret(AuthSettings(), data_dir)
    token = stage.client.options["token"]()
    found = jwt.decode(token, secret, algorithms=["HS256"], audience="imgateway")
    assert found["topics"] == ["news", "a.b"]
    assert "rooms" not in found, "it is in the room itself"
    stage = Stage()
    assert run("send", URL, *args, "topic:news", "hi", stage=stage).exit_code == 0
    token = stage.client.options["token"]() if stage.client is not None else ""
    assert jwt.decode(token, secret, algorithms=["HS256"], audience="imgateway")["topics"] == ["news"]


def test_a_user_without_the_secret_is_told_of_both_ways_out(run: Run, tmp_path: Path) -> None:
    result, options = login(run, "--user", "bob", "--data-dir", str(tmp_path))
    assert (result.exit_code, options) == (1, None)
    assert result.stderr.count("\n") == 1
    assert "--data-dir" in result.stderr
    assert "--token" in result.stderr


def test_a_token_is_taken_as_it_is(run: Run) -> None:
    assert login(run, "--token", "abc")[1]["token"] == "abc"


def test_a_token_in_a_file_is_read_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    _, options = login(run, "--token", f"@{file}")
    assert options["token"]() == "abc"
    file.write_text("def\n")
    assert options["token"]() == "def"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_file_without_a_token(run: Run, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    result, options = login(run, "--token", f"@{file}")
    assert (result.exit_code, options) == (1, None)
    assert str(file) in result.stderr


def test_the_environment_may_hold_the_token(run: Run, data_dir: str) -> None:
    env = {"IMGATEWAY_TOKEN": "abc"}
    assert login(run, env=env)[1]["token"] == "abc"
    assert login(run, "--token", "def", env=env)[1]["token"] == "def"
    assert callable(login(run, "--user", "bob", "--data-dir", data_dir, env=env)[1]["token"])


def test_nobody_and_two_are_usage_errors(run: Run) -> None:
    assert login(run)[0].exit_code == 2
    assert login(run, "--user", "a", "--token", "b")[0].exit_code == 2


@pytest.mark.parametrize("name", ["device", "dev"])
def test_the_device_of_a_token_is_ours(run: Run, name: str) -> None:
    token = jwt.encode({"sub": "bob", name: "phone"}, KEY)
    assert login(run, "--token", token)[1]["device"] == "phone"
    assert login(run, "--token", token, "--device", "tv")[1]["device"] == "tv"


@pytest.mark.parametrize(
    "token", ["a", "a.b.c", "a.W10.c", "a.bnVsbA.c", "a.\xe9.c", jwt.encode({"device": 3}, KEY)]
)
def test_a_token_that_names_no_device(run: Run, token: str) -> None:
    assert login(run, "--token", token)[1]["device"] == "cli-listen"


# ------------------------------------------------------------------------------------------------------ wires


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("http://h:1",), "ws://"),
        (("h:1",), "tcp://"),
        (("tcp://h:1", "--protocol", "morse"), "native"),
        (("tcp://h:1", "--protocol", "json"), "ws://"),
        (("tcp://h:1", "--insecure"), "tls://"),
        (("ws://h:1", "--ca", "ca.pem"), "wss://"),
        (("tls://h:1", "--ca", "ca.pem", "--insecure"), "exclude"),
    ],
)
def test_wrong_wires_are_usage_errors(run: Run, args: tuple[str, ...], said: str) -> None:
    result = run("listen", *args, "--token", "t")
    assert result.exit_code == 2
    assert said in result.stderr


def test_json_on_websocket(run: Run) -> None:
    assert login(run, "--token", "t", "--protocol", "json", "--wait", url="ws://h:1")[1]["protocol"] == "json"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=h -days 1 -keyout"
    )
    subprocess.run([*command.split(), tmp_path / "key.pem", "-out", file], check=True, capture_output=True)
    return file


def test_other_authorities(run: Run, certificate: Path) -> None:
    certificate.write_bytes(certificate.read_bytes() * 2)
    tls = login(run, "--token", "t", "--ca", str(certificate), url="tls://h:1")[1]["tls"]
    assert IOpenSSLClientConnectionCreator.providedBy(tls)


def test_no_authority_at_all(run: Run) -> None:
    tls = login(run, "--token", "t", "--insecure", url="wss://münchen.example:1")[1]["tls"]
    assert verifyObject(IOpenSSLClientConnectionCreator, tls)
    assert tls.clientConnectionForTLS(None).get_context().get_verify_mode() == 0
    assert unverified("127.0.0.1").clientConnectionForTLS(None) is not None


@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_files_without_certificates(run: Run, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    result, _ = login(run, "--token", "t", "--ca", str(file), url="tls://h:1")
    assert result.exit_code == 1
    assert str(file) in result.stderr
    assert result.stderr.count("\n") == 1


def test_trusting_checks_the_host(certificate: Path) -> None:
    assert trusting("h", str(certificate)) is not None


# -------------------------------------------------------------------------------------------------- refusals


def refused(run: Run, error: Exception, *args: str) -> Result:
    stage = Stage()

    def prepare(client: FakeClient) -> None:
        client.refusal = error

    stage.prepare = prepare
    result = run("listen", URL, "--token", "t", *args, stage=stage)
    assert stage.client is not None
    assert stage.client.log == ["start", "close"]
    return result


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "cannot connect to h:1: 111: Connection refused.",
            f"nothing listens at {URL}; is the node running?",
        ),
        ("[('SSL', '', 'certificate verify failed')]", f"{URL}: the certificate is not trusted: --ca FILE, "),
        (
            "VerificationError(errors=[IPAddressMismatch(mismatched_id=IPAddress_ID(ip=IPv4Address('1')))])",
            f"{URL}: the certificate is not for 127.0.0.1: connect by a name that it is for, ",
        ),
        ("[('SSL', '', 'wrong version number')]", f"{URL}: no TLS on this port: try tcp://"),
        (
            "cannot connect to h:1: WebSocket connection upgrade failed [404]: Not Found",
            f"{URL}: no WebSocket there (404): is it the port of health and metrics? A node prints its ",
        ),
        ("closed by the peer", f"{URL}: closed by the peer; is this the right port and scheme?"),
        ("DNS lookup failed", f"{URL}: DNS lookup failed"),
    ],
)
def test_no_way_to_a_welcome(run: Run, reason: str, said: str) -> None:
    result = refused(run, LinkLost(reason))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {said}")
    assert result.stderr.count("\n") == 1


def test_tls_that_nobody_answers() -> None:
    """A port for ws:// waits for the rest of a line."""
    said = "no connection to h:1 within 10 s"
    error = remarks.explained(LinkLost(said), "wss://h:1", lambda *_: False)
    assert error == f"wss://h:1: {said}; is it there, and has this port TLS? If not: ws://"
    assert remarks.explained(LinkLost(said), "ws://h:1", lambda *_: False) == f"ws://h:1: {said}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tcp://127.0.0.1", "write tcp://HOST:PORT"),
        ("tls://:7901", "write tls://HOST:PORT"),
        ("udp://h", "write udp://HOST:PORT"),
        ("unix://socket", "write unix:///path/of/socket"),
        ("ws://", "write ws://HOST:PORT"),
        ("tcp://h:99999", "Port out of range"),
        ("tcp://u:p@h:1", "credentials do not belong into a URL"),
    ],
)
def test_a_url_that_says_not_enough_is_a_wrong_command_line(run: Run, url: str, said: str) -> None:
    for command in (("send", url, "user:bob", "x"), ("listen", url), ("probe", url)):
        stage = Stage()
        result = run(*command, "--token", "T", stage=stage)
        assert result.exit_code == 2
        assert said in result.stderr
        assert stage.client is None


@pytest.mark.parametrize("url", ["ws://h", "wss://h/path", "unix:///run/it", "tcp://[::1]:7901"])
def test_a_url_that_says_enough(run: Run, url: str) -> None:
    stage = Stage()
    run("send", url, "--token", "T", "user:bob", "x", stage=stage)
    assert stage.client is not None


def test_a_web_socket_is_told_of_a_web_socket() -> None:
    error = LinkLost("wrong version number")
    assert remarks.explained(error, "wss://h:1", refuses) == "wss://h:1: no TLS on this port: try ws://"


NOT_UDP = (
    "a firewall may be between, or it is not native+udp that listens there: compare with the addresses "
    "that the node printed at its start"
)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            f"no answer from udp://h:1 within 10 s: {remarks.UNKNOWN}",
            "no answer from udp://h:1 within 10 s: ",
        ),
        ("no login within 5 s", "udp://h:1: no login within 5 s: "),
    ],
)
def test_who_is_not_heard_over_udp_is_asked_whether_it_is_there(reason: str, said: str) -> None:
    def silent(host: str, port: int) -> bool:
        assert (host, port) == ("h", 1)
        return False

    nobody = "nothing listens at udp://h:1; is the node running, with --listen native+udp:h:1?"
    assert remarks.explained(LinkLost(reason), "udp://h:1", refuses) == nobody
    assert remarks.explained(LinkLost(reason), "udp://h:1", silent) == said + NOT_UDP


def test_what_the_transport_knows_of_it_is_told_as_it_is() -> None:
    reason = "no answer from udp://h:1 within 10 s: it asked where we are, and then no more"
    assert remarks.explained(LinkLost(reason), "udp://h:1", lambda host, port: False) == reason
    assert remarks.explained(LinkLost("no login within 5 s"), URL, refuses) == f"{URL}: no login within 5 s"


def test_the_transport_ends_what_it_does_not_know_with_these_words() -> None:
    client = DatagramClient(Clock(), ("127.0.0.1", 1), "udp://h:1", NativeAdapter(), None, bytes, 1.0)
    assert client._hint == remarks.UNKNOWN


def refuses(host: str, port: int) -> bool:
    """Nobody listens there."""
    return True


def test_with_patience_every_attempt_is_told(run: Run) -> None:
    result = refused(run, LinkLost(""), "--wait")
    assert result.stderr.splitlines()[0] == "no connection (why); trying again"


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 200])
def test_every_refusal_for_good_has_a_name_and_advice(run: Run, code: CloseCode) -> None:
    result = refused(run, ConnectRefused(code, "because\x1b"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {URL}: {code.name}: because\\u001b; ")
    assert result.stderr.count("\n") == 1


def test_refusals_of_a_later_gateway(run: Run) -> None:
    assert refused(run, ConnectRefused(299, "")).stderr == f"Error: {URL}: code 299: no reason given\n"
    text = refused(run, LinkLost("later", CloseCode.OVERLOADED)).stderr
    assert text == f"Error: {URL}: OVERLOADED: later\n"


def test_other_errors_say_it_themselves(run: Run) -> None:
    assert refused(run, StoreError("s.db is in use")).stderr == "Error: s.db is in use\n"


# --------------------------------------------------------------------------------------------------- remarks


def test_complaints_are_one_line_and_notes_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"log_format": "cannot write {what}", "what": "a\nb", "log_level": LogLevel.warn}
    remarks._complaint(event)
    remarks._complaint({**event, "log_level": LogLevel.info})
    remarks._complaint({"log_format": "no level"})
    remarks._complaint({**event, "log_level": LogLevel.critical, "log_failure": Failure(ValueError("why"))})
    assert capsys.readouterr().err == "cannot write a\\nb\ncannot write a\\nb: why\n"


def test_plain_leaves_what_is_printed_as_itself() -> None:
    assert plain("añ漢😀") == "añ漢😀"
    assert plain("a\tb\x00\x7f\udcff") == "a\\tb\\u0000\\u007f\\udcff"


class Terminal:
    """A stream that is a terminal, or not."""

    def __init__(self, tty: bool = True) -> None:
        self.tty, self.text = tty, ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def progress(stream: Terminal, *steps: tuple[float, int, int], results: bool = False) -> None:
    now = [0.0]
    with Progress("done", lambda: now[0], stream, results) as line:  # type: ignore[arg-type]
        for at, done, total in steps:
            now[0] = at
            line(done, total)


def test_progress_shows_after_a_while_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    progress(stream, (0.5, 1, 0), (1.0, 2, 0), (1.1, 3, 0), (1.3, 1000, 4000))
    assert stream.text == "\r\x1b[K2 done\r\x1b[K1,000/4,000 (25 %) done\r\x1b[K"


def test_progress_is_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, tty, results in ((Terminal(False), False, False), (Terminal(), True, True)):
        monkeypatch.setattr("sys.stdout", Terminal(tty))
        progress(stream, (2.0, 1, 0), results=results)
        assert stream.text == ""
    monkeypatch.setattr("sys.stdout", Terminal(False))
    stream = Terminal()
    progress(stream, (2.0, 1, 0), results=True)
    assert stream.text != ""


# -------------------------------------------------------------------------------------------------------- UDP

UDP_URL = "udp://127.0.0.1:7901"


def test_a_user_over_udp_has_a_key(run: Run, data_dir: str) -> None:
    secret = load_udp_secret(UdpSettings(), data_dir)
    _, options = login(run, "--user", "bob", "--data-dir", data_dir, url=UDP_URL)
    token, udp = split(options["token"]())
    assert udp is not None
    assert udp[1] == udp_key(secret, udp[0])
    assert "~" not in token
    _, options = login(run, "--user", "bob", "--data-dir", data_dir)
    assert "~" not in options["token"]()


def test_a_node_that_never_listened_on_udp_has_no_udp_secret(run: Run, data_dir: str) -> None:
    result, options = login(run, "--user", "bob", "--data-dir", data_dir, url="udp://127.0.0.1:7955")
    assert (result.exit_code, options) == (1, None)
    assert result.stderr == (
        f"Error: no UDP secret in {data_dir}/secrets: this node has never listened on udp; give it "
        "one more listener, --listen native+udp:127.0.0.1:7955 (or, for another node, name its directory "
        "with --data-dir); or log in with --token\n"
    )
    assert result.stderr.count("\n") == 1


def test_insecure_over_udp_seals_nothing(run: Run, data_dir: str, tmp_path: Path) -> None:
    _, options = login(run, "--user", "bob", "--data-dir", data_dir, "--insecure", url=UDP_URL)
    assert "~" not in options["token"]()
    assert options["tls"] is None
    _, options = login(run, "--token", "a.b.c~key", "--insecure", url=UDP_URL)
    assert options["token"] == "a.b.c"
    file = tmp_path / "token"
    file.write_text("a.b.c~key\n")
    _, options = login(run, "--token", f"@{file}", "--insecure", url=UDP_URL)
    assert options["token"]() == "a.b.c"
    _, options = login(run, "--token", f"@{file}", url=UDP_URL)
    assert options["token"]() == "a.b.c~key"


def test_udp_has_no_certificates(run: Run) -> None:
    result, _ = login(run, "--token", "t", "--ca", "x.pem", url=UDP_URL)
    assert result.exit_code == 2
    assert "--ca is for tls:// and wss://" in result.stderr
