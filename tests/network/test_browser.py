"""A real browser speaks the JSON form with a real node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .nodes import Node, eventually

pytestmark = [pytest.mark.network, pytest.mark.server]

PAGE = """<!doctype html><title>imgateway</title><script>
const steps = [];
const tell = () => fetch("/report", {method: "POST", body: JSON.stringify(steps)});
const ws = new WebSocket("WS_URL", ["imgateway.v1.json"]);
const say = frame => ws.send(JSON.stringify(frame));
ws.onopen = () => {
  steps.push(["protocol", ws.protocol]);
  say({hello: {token: "TOKEN", device: "browser"}});
};
ws.onmessage = event => {
  const frame = JSON.parse(event.data);
  const [name] = Object.keys(frame);
  steps.push([name, frame[name]]);
  if (name === "welcome")
    say({publish: {msgId: "1", to: ["user:bob"], text: "grüße \\u{1F600}", qos: 1}});
  if (name === "deliver" && frame.deliver.entries) {
    const {address, epoch, upto} = frame.deliver;
    say({deliverAck: {acks: [{address, epoch, upto}]}});
    say({ping: {nonce: "7"}});
  }
  if (name === "pong") { say({bye: {}}); }
};
ws.onclose = event => { steps.push(["close", event.code]); tell(); };
</script>"""


class Site:
    """Serves one page on 127.0.0.1 and takes its report."""

    def __init__(self, page: str = "") -> None:
        self.page = page
        self.report: list[Any] = []
        site = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/" else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(site.page.encode() if self.path == "/" else b"")

            def do_POST(self) -> None:
                site.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def make_site() -> Iterator[Callable[[], Site]]:
    made: list[Site] = []

    def make() -> Site:
        made.append(Site())
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Opens a page in a browser of its own."""
    started: list[subprocess.Popen[bytes]] = []
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "chromium is missing:  sudo apt-get install -y chromium"

    def open_page(url: str) -> None:
        switches = (
            "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
            "disable-component-update disable-sync disable-dev-shm-usage disable-extensions"
        )
        profile = tmp_path / f"profile{len(started)}"
        command = [
            program,
            *(f"--{switch}" for switch in switches.split()),
            f"--user-data-dir={profile}",
            url,
        ]
        started.append(
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    yield open_page
    for process in started:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_a_page_logs_in_sends_receives_and_acknowledges(
    make_node: Callable[..., Node],
    make_site: Callable[[], Site],
    browse: Callable[[str], None],
) -> None:
    site, stranger = make_site(), make_site()
    node = make_node(options=["--set", f"websocket.origins={site.origin}"]).start()
    for one in (site, stranger):
        one.page = PAGE.replace("WS_URL", node.ws_url).replace("TOKEN", node.token("bob"))
        browse(one.origin + "/")
    steps = eventually(lambda: site.report, 40, "the page's report")
    assert steps[0] == ["protocol", "imgateway.v1.json"]
    frames = {name: content for name, content in steps if name != "close"}
    assert {"welcome", "publishAck", "deliver", "pong"} <= set(frames)
    assert frames["welcome"]["user"] == "bob"
    (entry,) = frames["deliver"]["entries"]
    assert entry["message"]["text"] == "grüße \U0001f600"
    assert entry["message"]["device"] == "browser"
    assert steps[-1] == ["close", 4000]
    assert node.measure("imgateway_deliver_acks_total") == 1
    # The page of another origin never got so far as to say anything.
    assert eventually(lambda: stranger.report, 40, "the other page's report") == [["close", 1006]]


def test_without_a_list_only_pages_of_the_same_host_may(
    make_node: Callable[..., Node],
    make_site: Callable[[], Site],
    browse: Callable[[str], None],
) -> None:
    site = make_site()
    node = make_node().start()
    site.page = PAGE.replace("WS_URL", node.ws_url.replace("127.0.0.1", "localhost")).replace("TOKEN", "x")
    browse(site.origin + "/")
    assert eventually(lambda: site.report, 40, "the page's report") == [["close", 1006]]


def test_the_tutorials_lines_work_on_a_page_from_another_port_of_this_host(
    make_node: Callable[..., Node],
    make_site: Callable[[], Site],
    browse: Callable[[str], None],
) -> None:
    site = make_site()
    node = make_node().start()
    story = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
    lines, publish = re.findall(r"```javascript\n(.*?)```", story, re.S)
    lines = lines.replace("ws://127.0.0.1:7902/", node.ws_url).replace("TOKEN", node.token("carol"))
    report = (
        'fetch("/report", {method: "POST", body: JSON.stringify([Object.keys(JSON.parse(event.data))[0]])})'
    )
    watch = f'addEventListener("message", event => event.data.includes("publishAck") && {report})'
    greet = f'addEventListener("message", event => {{ {publish} }}, {{once: true}})'
    site.page = f"<!doctype html><title>x</title><script>{lines}; socket.{watch}; socket.{greet};</script>"
    browse(site.origin + "/")
    assert eventually(lambda: site.report, 40, "the page's report") == ["publishAck"]
