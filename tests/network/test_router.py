"""Real routers over a real redis-server: clients find their node through one, and what business servers push
through two of them, one of which is killed, arrives once."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgateway.auth.keys import load_secret, make_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings
from imgateway.router.keys import entry_of, make_key
from tests.brokers.redis_server import RedisServer
from tests.network.nodes import CLI, DEADLINE_S, TWISTD, Ports, eventually, holding_ports

pytestmark = [pytest.mark.network, pytest.mark.server]


class Cluster:
    """A redis-server, nodes and routers as processes, with one directory and one API key."""

    def __init__(self, place: Path, ports: Ports) -> None:
        self.place = place
        self.ports = ports
        self.redis = RedisServer(place / "redis")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.public: dict[str, int] = {}
        self.private: dict[str, int] = {}
        self.data = place / "data"
        make_secret(str(self.data))
        self.key, key = make_key("shop", ["*"], rate=0.0)
        (place / "keys.toml").write_text(entry_of(key))

    def token(self, user: str) -> str:
        import time

        return mint(load_secret(AuthSettings(), str(self.data)), user, now_s=time.time())

    def begin(self, name: str, program: str, *options: str) -> None:
        common = ["--data-dir", str(self.data), "--broker", self.redis.url, "--registry", self.redis.url]
        with (self.place / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*TWISTD[:-1], program, *common, *options],
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def node(self, name: str) -> None:
        listen = f"native+tcp:tcp:{self.ports.take()}:interface=127.0.0.1"
        self.begin(name, "imgateway", "--node", name, "--listen", listen, "--http", "")

    def router(self, name: str, *more: str) -> None:
        public = self.public.setdefault(name, self.ports.take())
        private = self.private.setdefault(name, self.ports.take())
        self.begin(
            name,
            "imrouter",
            *("--public", f"127.0.0.1:{public}", "--private", f"127.0.0.1:{private}", "--keys", "keys.toml"),
            *("--set", f"router.tasks_url=sqlite:///{self.place}/{name}.db"),
            *more,
        )

    def ask(self, name: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """0: nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.private[name], timeout=DEADLINE_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def ready(self, name: str) -> None:
        def is_ready() -> bool:
            log = (self.place / f"{name}.log").read_text()
            assert self.processes[name].poll() is None, log
            return self.ask(name, "GET", "/readyz")[0] == 200

        eventually(is_ready, what=f"the readiness of {name}")

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            process.wait(DEADLINE_S)
        self.redis.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with holding_ports() as ports:
        cluster = Cluster(tmp_path, ports)
        try:
            yield cluster
        finally:
            cluster.end()


def test_through_two_routers_one_of_which_is_killed(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.node(name)
    for name in ("r1", "r2"):
        cluster.router(name)
    for name in ("r1", "r2"):
        cluster.ready(name)
    eventually(lambda: len(cluster.ask("r2", "GET", "/v1/nodes")[1]["nodes"]) == 2, what="both nodes")
    count = 60
    router = f"http://127.0.0.1:{cluster.public['r1']}"
    with subprocess.Popen(
        [*CLI, "listen", "--router", router, "--user", "bob", "--count", str(count), "--timeout", "20"],
        env={**os.environ, "IMGATEWAY_TOKEN": cluster.token("bob")},
        cwd=cluster.place,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as listener:

        def online() -> Any:
            return cluster.ask("r1", "GET", "/v1/online?user=bob")[1]["users"][0]["online"]

        eventually(online, what="bob")
        for number in range(count):
            if number == count // 2:
                cluster.processes["r1"].kill()
            asked = {"to": ["user:bob"], "text": str(number), "msg_id": f"order-{number}"}
            # As a business server does it: to one router; if that does not answer, the same to the other.
            answers = [cluster.ask(name, "POST", "/v1/push", asked) for name in ("r1", "r2")]
            codes = [body["outcomes"][0]["code"] for status, body in answers if status == 200]
            assert codes == (["OK", "DUPLICATE"] if number < count // 2 else ["OK"])
        out, _ = listener.communicate(timeout=DEADLINE_S)
    assert listener.returncode == 0
    assert [json.loads(line)["body"] for line in out.splitlines()] == [str(n) for n in range(count)]

    cluster.processes["r1"].wait(DEADLINE_S)
    cluster.router("r1")
    cluster.ready("r1")
    assert cluster.ask("r1", "POST", "/v1/nodes/a/drain?rate=100")[0] == 202
    eventually(
        lambda: cluster.ask("r2", "GET", "/v1/nodes/a/drain")[1]["state"] == "draining", what="the drain"
    )
    assert cluster.ask("r2", "POST", "/v1/nodes/a/undrain")[0] == 202
    log = "".join((cluster.place / f"{name}.log").read_text() for name in ("r1", "r2"))
    assert cluster.key.partition(".")[2] not in log


def test_while_redis_is_away_clients_still_find_their_node(cluster: Cluster) -> None:
    cluster.node("a")
    cluster.router("r", "--set", "router.timeout_s=1")
    cluster.ready("r")
    eventually(lambda: cluster.ask("r", "GET", "/v1/nodes")[1]["nodes"], what="the node")
    asked = {"to": ["user:bob"], "text": "x", "msg_id": "order"}
    cluster.redis.kill9()
    eventually(lambda: cluster.ask("r", "GET", "/readyz")[0] == 503, what="that it is noticed")
    status, told = cluster.ask("r", "POST", "/v1/push", asked)
    assert (status, told["msg_id"]) == (504, "order")
    assert cluster.ask("r", "GET", f"/v1/allocate?token={cluster.token('bob')}")[1]["endpoints"]
    cluster.redis.restart()
    cluster.ready("r")
    # What timed out is done when it can be, and once; who repeats it before that joins it.

    def outcome() -> Any:
        status, told = cluster.ask("r", "POST", "/v1/push", asked)
        assert status in (200, 504), told  # a busy machine may take longer than that second
        return told["outcomes"][0] if status == 200 else None

    outcomes = [eventually(outcome, what="an outcome") for _ in range(2)]
    assert outcomes[0]["code"] in ("OK", "DUPLICATE")
    assert outcomes[1] == {**outcomes[0], "code": "DUPLICATE"}
    assert outcomes[0]["seq"] & 0xFFFFF == 1


def test_what_a_router_does_not_start_with(cluster: Cluster) -> None:
    cluster.begin("r", "imrouter", "--keys", "keys.toml", "--broker", "embedded:")
    assert cluster.processes["r"].wait(DEADLINE_S) == 1
    log = (cluster.place / "r.log").read_text()
    assert log.startswith("imrouter: --broker: broker.url: embedded: lives in one node alone")
    assert log.count("\n") == 1
