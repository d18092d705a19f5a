"""How the commands for operators reach the API: URLs, keys, trust, and what is said when it does not work."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from imgateway.cli import api as module
from imgateway.cli.api import segment
from imgateway.router.problems import Problem
from imgateway.router.schema import Nodes
from tests.certificate import write_certificate
from tests.cli.fake_api import KEY, FakeApi

from .conftest import Ask

NONE = Nodes(())


def test_the_key(api: FakeApi, ask: Ask, tmp_path: Path) -> None:
    """From the command line or a file, else from the environment."""
    file = tmp_path / "key"
    file.write_text("from.file\n")
    api.say(NONE)
    for words, key in (((), KEY), (("--key", "typed.key"), "typed.key"), (("--key-file", file), "from.file")):
        assert ask("nodes", *map(str, words)).exit_code == 0
        assert api.asked[-1].headers["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_may_read(api: FakeApi, ask: Ask, tmp_path: Path, mode: int, warned: bool) -> None:
    file = tmp_path / "a key"
    file.write_text("from.file\n")
    file.chmod(mode)
    api.say(NONE)
    result = ask("nodes", "--key-file", str(file))
    said = f"Warning: others may read the API key in {file}: chmod 600 '{file}'\n"
    assert (result.exit_code, result.stderr) == (0, said if warned else "")


def test_a_key_from_a_pipe(api: FakeApi, ask: Ask) -> None:
    """As a shell's <(…) makes it: it has no mode that says anything."""
    reading, writing = os.pipe()
    os.write(writing, b"from.pipe\n")
    os.close(writing)
    api.say(NONE)
    result = ask("nodes", "--key-file", f"/dev/fd/{reading}")
    os.close(reading)
    assert (result.exit_code, result.stderr) == (0, "")
    assert api.asked[-1].headers["authorization"] == "Bearer from.pipe"


@pytest.mark.parametrize(
    ("router", "warned"),
    [
        ("http://gw.example.org:7991", True),
        ("http://192.0.2.1", True),
        ("http://[2001:db8::1]:7991", True),
        ("https://gw.example.org", False),
        ("http://127.0.0.5:7991", False),
        ("http://[::1]:7991", False),
        ("http://localhost:7991", False),
    ],
)
def test_a_key_in_the_clear(ask: Ask, monkeypatch: pytest.MonkeyPatch, router: str, warned: bool) -> None:
    monkeypatch.setattr(module.Api, "ask", lambda *_: {"nodes": []})
    result = ask("nodes", "--json", "--router", router)
    said = f"Warning: {router}: the API key goes over the network in the clear; use https://\n"
    assert (result.exit_code, result.stderr) == (0, said if warned else "")


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ((), 2, "no API key"),
        (("--key", "k", "--key-file", "{dir}/key"), 2, "exclude each other"),
        (("--key-file", "{dir}/none"), 1, "none: the API key cannot be read: No such file"),
        (("--key-file", "{dir}/bytes"), 1, "it is no text"),
        (("--key-file", "{dir}/empty"), 2, "empty is empty"),
        (("--key-file", "{dir}/lines"), 2, "lines is none: it has blanks"),
        (("--key", "sec ret"), 2, "the API key is none"),
        (("--key", "secret\r\nX: y"), 2, "the API key is none"),
        (("--key", "secretä"), 2, "the API key is none"),
        (("--key", "k", "--ca", "x", "--insecure"), 2, "--ca and --insecure exclude each other"),
    ],
)
def test_keys_that_are_none(
    api: FakeApi, ask: Ask, tmp_path: Path, words: tuple[str, ...], status: int, why: str
) -> None:
    (tmp_path / "key").write_text("k")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "lines").write_text("secret\nsecret")
    result = ask("nodes", *[word.format(dir=tmp_path) for word in words], env={"IMGATEWAY_API_KEY": ""})
    assert result.exit_code == status
    assert why in result.stderr
    assert not any(part in result.output for part in ("secret", "sec ret"))
    assert api.asked == []


@pytest.mark.parametrize(
    "url",
    [
        *("gw:1", "tcp://gw:1", "http://", "http://h:x", "http://h:0", "http://h:99999", "http://[::1"),
        *("http://u:secret@h", "http://h?key=secret", "http://h#secret", "http://h h"),
        *("http://u:secret@h:port", "shop.secret@h"),
    ],
)
def test_urls_that_are_none(ask: Ask, url: str) -> None:
    result = ask("nodes", "--router", url)
    assert result.exit_code == 2
    assert "--router" in result.stderr or "is no router's URL" in result.stderr
    assert "Traceback" not in result.output
    if "secret" in url:
        assert "secret" not in result.output


def test_a_router_must_be_named(ask: Ask) -> None:
    result = ask("nodes", env={"IMGATEWAY_ROUTER": ""})
    assert result.exit_code == 2
    assert "--router" in result.stderr


def test_a_path_before_the_apis_own(api: FakeApi, ask: Ask) -> None:
    api.say(NONE)
    assert ask("nodes", "--router", f"{api.url}/chat/").exit_code == 0
    assert api.asked[0].path == "/chat/v1/nodes"


@pytest.mark.parametrize(
    ("name", "said"),
    [("bob", "bob"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("a.b", "a.b"), ("é?#", "%C3%A9%3F%23")],
)
def test_ids_in_paths(name: str, said: str) -> None:
    assert segment(name) == said


# ------------------------------------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (Problem("forbidden", "it may not", "ask"), 1, "it may not; ask"),
        (Problem("forbidden", "it may not"), 1, "it may not"),
        (Problem("too-many", "slow down", "wait", retry_after_s=3), 1, "slow down; wait; again in 3 s"),
        (Problem("not-found", "no such path", "see"), 1, "no such path; is this the router's private port?"),
        (Problem("no-key", "evil \x1b[31m\nline"), 1, "evil \\u001b[31m\\nline"),
        ((418, "application/problem+json", b"{}"), 1, "the router says 418"),
        ((500, "application/problem+json", b"<html>"), 3, "answers with 500, and not as the API does"),
        ((200, "text/html", b"<html>"), 3, "answers with 200, and not as the API does"),
        ((200, "application/json", b"{"), 3, "answers with 200, and not as the API does"),
        ((200, "application/json", b'"\xff"'), 3, "answers with 200, and not as the API does"),
        ((302, "text/html", b""), 3, "answers with 302"),
        ((200, "application/json", b'{"nodes": 1}'), 3, "compare the versions"),
        ((204, "", b""), 3, "answers with 204, and not as the API does"),
        ((404, "application/json", b"{}"), 3, "a node serves it only with --keys FILE, a router at its"),
        (lambda port: None, 3, "the connection broke before an answer came"),
    ],
)
def test_answers_that_are_no_success(api: FakeApi, ask: Ask, answer: Any, status: int, said: str) -> None:
    api.say(answer)
    result = ask("nodes")
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert KEY not in result.output


def test_an_answer_that_is_too_long(api: FakeApi, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 10)
    api.say(NONE)
    result = ask("nodes")
    assert result.exit_code == 3
    assert "answers with more than 10 bytes" in result.stderr


def test_no_answer_in_time(api: FakeApi, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something accepts and says nothing: to HTTP, and to TLS."""
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    monkeypatch.setattr(module, "CONNECT_S", 0.04)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"127.0.0.1:{mute.getsockname()[1]}"
        for scheme, why in (("http", "no answer within 0.05 s"), ("https", "no TLS within 0.04 s")):
            result = ask("nodes", "--router", f"{scheme}://{place}")
            assert result.exit_code == 3
            assert f"{scheme}://{place}: {why}" in result.stderr


def test_hosts_that_are_not_there(ask: Ask) -> None:
    for host, why in (("a..b", "no host can have this name"), ("h.invalid", "Failed to resolve 'h.invalid'")):
        result = ask("nodes", "--router", f"http://{host}")
        assert result.exit_code == 3
        assert f"http://{host}: {why}" in result.stderr


def test_an_upload_that_is_cut_off(api: FakeApi, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("user\nbob\n")
    api.say(lambda port: None)
    result = ask("push", "--file", str(tmp_path / "u.csv"), "hello")
    assert result.exit_code == 3
    assert "during the upload; a wrong key, or a file larger than" in result.stderr
    assert "there may be a task or not: imgateway push --tasks" in result.stderr


def test_an_upload_that_nobody_reads(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a connection may take, and then too long."""
    monkeypatch.setattr(module, "CONNECT_S", 0.05)
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    (tmp_path / "u.csv").write_text("user\n" + "bob\n" * 5_000_000)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"http://127.0.0.1:{mute.getsockname()[1]}"
        result = ask("push", "--file", str(tmp_path / "u.csv"), "hello", "--router", place)
    assert result.exit_code == 3
    assert "nothing of the upload was taken for 0.1 s" in result.stderr
    assert "a wrong key" not in result.stderr
    assert "there may be a task or not" in result.stderr


def test_a_task_may_take_its_time(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router gives itself longer for what reads a whole task; for all else it does not."""
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    monkeypatch.setattr(module, "TASK_ANSWER_S", 0.06)
    (tmp_path / "u.csv").write_text("user\nbob\n")
    upload = ("push", "--file", str(tmp_path / "u.csv"), "hello")
    for words, limit_s in (
        (upload, 0.06),
        (("push", "--report", "t1"), 0.06),
        (("push", "--repush", "t1"), 0.06),
        (("push", "--pause", "t1"), 0.05),
        (("push", "--tasks"), 0.05),
    ):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            result = ask(*words, "--router", f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert f"no answer within {limit_s:g} s" in result.stderr


def test_nobody_listens(ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = ask("nodes", "--router", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 3
    assert "nothing listens there; is the router running" in result.stderr


def test_no_connection_in_time(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full lets others wait."""
    monkeypatch.setattr(module, "CONNECT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        try:
            for _ in range(3):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(full.getsockname())
            result = ask("nodes", "--router", f"http://127.0.0.1:{full.getsockname()[1]}")
        finally:
            for one in waiting:
                one.close()
    assert result.exit_code == 3
    assert "no connection within 0.05 s" in result.stderr


# -------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def over_tls(ask: Ask, tmp_path: Path) -> Any:
    """(words) → what `nodes` says over TLS, to a certificate that was made here."""
    place = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    fake = FakeApi(context).say(NONE)

    def over_tls(*words: str, url: str = fake.url) -> Result:
        return ask("nodes", "--router", url, *words)

    yield over_tls
    fake.close()


def test_whom_to_trust(over_tls: Callable[..., Result], tmp_path: Path) -> None:
    for words in (("--ca", str(tmp_path / "cert.pem")), ("--insecure",)):
        result = over_tls(*words)
        assert (result.exit_code, result.stderr) == (0, "")
    result = over_tls()
    assert result.exit_code == 3
    assert "the certificate is not trusted: --ca FILE, or --insecure" in result.stderr


def test_over_tls_too_a_reader_has_as_long_as_an_answer(
    over_tls: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    send = ssl.SSLSocket.sendall

    def sent(self: ssl.SSLSocket, data: Any, flags: int = 0) -> None:
        if not self.server_side:
            waits.append(self.gettimeout())
        send(self, data, flags)

    monkeypatch.setattr(ssl.SSLSocket, "sendall", sent)
    assert over_tls("--insecure").exit_code == 0
    assert set(waits) == {module.ANSWER_S}


def test_tls_that_breaks_once_it_was_asked(ask: Ask, tmp_path: Path) -> None:
    """What was asked may have been done."""
    place = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    fake = FakeApi(context)
    try:
        # A record with the right head, and nothing that anybody sealed.
        fake.say(
            lambda port: os.write(port.connection.fileno(), b"\x17\x03\x03\x00\x40" + bytes(64)) and None
        )
        result = ask("push", "user:bob", "x", "--router", fake.url, "--insecure")
    finally:
        fake.close()
    assert (result.exit_code, fake.asked[0].line) == (3, "POST /v1/push")
    assert "TLS fails: " in result.stderr
    assert f"again with --msg-id {fake.asked[0].json['msg_id']} it is there once" in result.stderr


def test_certificates_that_cannot_be_read(over_tls: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("rubbish")
    for name, why in (("none", "cannot be read: No such file"), ("rubbish", "has no certificate")):
        result = over_tls("--ca", str(tmp_path / name))
        assert result.exit_code == 1
        assert f"{name}: " in result.stderr
        assert why in result.stderr


def test_tls_on_a_port_without(over_tls: Callable[..., Result]) -> None:
    """Something that is no TLS answers the handshake."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = over_tls(url=f"https://127.0.0.1:{plain.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 3
    assert "no TLS on this port: try http://" in result.stderr
