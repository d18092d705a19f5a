"""A cluster on this machine, to look at and to try things on: make cluster

A Redis, two nodes that share their ports, a router, and HAProxy in front, in the foreground. Their log lines
come with the name of who wrote them. What dies is started again. Ctrl-C stops all of it, the clients first;
a second Ctrl-C waits for nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
PACKAGES = {"redis-server": "redis-server", "haproxy": "haproxy"}  # program: Debian package
# Behind --base.
TCP, WS, STATS = 1, 2, 9  # HAProxy
SHARED_TCP, SHARED_WS = 11, 12  # both nodes
NODES = {"a": 20, "b": 30}  # + 0 HTTP, 1 TCP and 2 WebSocket behind HAProxy, 3 UDP
REDIS, PUBLIC, PRIVATE = 63, 90, 91
NODES_ADVICE = "Try, in two other terminals:"
"""The line of a node's greeting after which it names commands, each with two blanks before it."""
START_S = 30.0
STOP_S = 45.0  # above node.drain_s
HURRY_S = 5.0
RESTART_S = 1.0


class Trouble(Exception):
    """What the operator has to change, in one line."""


class Part:
    """One process of the cluster, and how to tell that it works."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        works: Callable[[], bool],
        environment: dict[str, str] | None,
        keeps: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.works = works
        self.stopping = False
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._keeps = keeps  # files that it is to hold open
        self._advising = False
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Back when it works. :raises Trouble: it ended, or does not begin to work."""
        try:
            await self._begin()
        except OSError as error:
            raise Trouble(f"{self.name} cannot be started: {error}") from None
        end = time.monotonic() + START_S
        while not await asyncio.to_thread(self.works):
            if self._process is None or self._process.returncode is not None:
                raise Trouble(f"{self.name} ended; what it said is above")
            if time.monotonic() > end:
                raise Trouble(f"{self.name} does not work after {START_S:.0f} s")
            await asyncio.sleep(0.05)
        self._watching = asyncio.create_task(self._watch())

    async def _begin(self) -> None:
        # In a session of its own: the terminal's Ctrl-C is for us, who stop the others in order.
        self._process = await asyncio.create_subprocess_exec(
            *WITH_US,
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self._keeps,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(65_536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._say(line.decode(errors="replace"))
        if rest:
            self._say(rest.decode(errors="replace"))

    def _say(self, line: str) -> None:
        """On our output, but for what a node alone advises: the cluster's own advice comes last."""
        if line == NODES_ADVICE:
            self._advising = True
        elif not line.startswith(("  ", "or with ")):
            self._advising = False
        if not self._advising:
            say(self.name, line)

    async def _watch(self) -> None:
        """Start it again whenever it ends, until it is stopped."""
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if self._told():
                return
            say(self.name, f"ended ({status}); it is started again")
            while not await self._begun_again():
                if self._told():
                    return
            if self._told():
                self.signal(signal.SIGTERM)  # it was said to the one before

    async def _begun_again(self) -> bool:
        await asyncio.sleep(RESTART_S)
        if self._told():
            return False
        try:
            await self._begin()
        except OSError as error:  # no memory, too many processes: that may pass
            say(self.name, f"cannot be started: {error}; it is tried again")
            return False
        return True

    def _told(self) -> bool:
        return self.stopping

    def signal(self, number: signal.Signals) -> None:
        self.stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def gone(self) -> None:
        """Wait for the end of the process, and of what it had to say."""
        if self._process is not None:
            await self._process.wait()
            await self._reading
        if self._watching is not None:
            await self._watching


class Cluster:
    """All parts, in the order in which they start."""

    def __init__(self, place: Path, base: int) -> None:
        self.place, self.base = place, base
        self.data, self.keys, self.key = place / "nodes", place / "keys.toml", place / "api.key"
        self._lock: list[int] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def port(self, number: int) -> int:
        return self.base + number

    def at(self, number: int) -> str:
        return f"127.0.0.1:{self.port(number)}"

    # ------------------------------------------------------------------------------------- before the start

    def prepare(self) -> None:
        """Directories and an API key. :raises Trouble: something is missing, or in use."""
        missing = [
            package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None
        ]
        if missing:
            names = " ".join(missing)
            raise Trouble(f"make cluster needs {names}:  sudo apt-get install -y {names}")
        if not 0 <= self.base <= 65_535 - PRIVATE:
            raise Trouble(f"--base must be from 0 to {65_535 - PRIVATE}: ports are BASE+1 to BASE+{PRIVATE}")
        try:
            self._take_place()
            self._look_at_ports()
            self._make_files()
        except OSError as error:
            raise Trouble(f"{error.filename or shown(self.place)}: {error.strerror}") from None

    def _another_base(self) -> int:
        return (self.base + 1000) % 60_000

    def _look_at_ports(self) -> None:
        tcp = [TCP, WS, STATS, SHARED_TCP, SHARED_WS, REDIS, PUBLIC, PRIVATE]
        tcp += [first + more for first in NODES.values() for more in range(3)]
        udp = [first + 3 for first in NODES.values()]
        for letter, kind, numbers in (("t", socket.SOCK_STREAM, tcp), ("u", socket.SOCK_DGRAM, udp)):
            for port in map(self.port, numbers):
                with socket.socket(type=kind) as probe:
                    if kind == socket.SOCK_STREAM:  # for UDP it means to share the port
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind(("127.0.0.1", port))
                    except OSError as error:
                        if error.errno != errno.EADDRINUSE:
                            raise Trouble(f"port {port}: {error.strerror}") from None
                        raise Trouble(
                            f"port {port} is in use; see by whom with:  ss -l{letter}np 'sport = :{port}'  "
                            f'or take other ports: make cluster ARGS="--base {self._another_base()} '
                            f'--dir {shown(self.place)}"'
                        ) from None

    def _make_files(self) -> None:
        for directory in (self.place / "redis", self.data):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.key.exists() and self.keys.exists()):
            self.keys.unlink(missing_ok=True)
            options = ("--id", "local", "--scopes", "*", "--rate", "0", "--file", str(self.keys))
            made = subprocess.run([BIN / "imgateway", "apikey", *options], capture_output=True, text=True)
            if made.returncode:
                raise Trouble(made.stderr.strip())
            with open(os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(made.stdout)

    def _take_place(self) -> None:
        """Two Redis with one append-only file would ruin it. Ours has the lock too, should it outlive us."""
        self.place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = [os.open(self.place / "lock", os.O_WRONLY | os.O_CREAT, 0o600)]
        try:
            fcntl.flock(self._lock[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble(
                f"a cluster runs in {shown(self.place)} already; another one takes:  "
                f'make cluster ARGS="--base {self._another_base()} --dir {shown(self.place)}-2"'
            ) from None

    # ------------------------------------------------------------------------------------------- the parts

    def parts(self) -> list[Part]:
        return [self._redis(), *(self._node(name, first) for name, first in NODES.items()), self._router(),
                self._haproxy()]  # fmt: skip

    def _redis(self) -> Part:
        options = {"port": str(self.port(REDIS)), "bind": "127.0.0.1", "dir": str(self.place / "redis")}
        command = ["redis-server", str(HERE / "redis.conf")]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        return Part("redis", command, lambda: pongs(self.port(REDIS)), {"PATH": PATH}, self._lock)

    def _twistd(self, program: str) -> list[str]:
        redis = f"redis://{self.at(REDIS)}"
        command = [str(BIN / "twistd"), "-n", "--pidfile=", program, "--set", "log.format=text"]
        return [*command, "--data-dir", str(self.data), "--broker", redis, "--registry", redis]

    def _node(self, name: str, first: int) -> Part:
        udp = self.at(first + 3)
        listen = [
            # What both have: the kernel gives a client to one of them.
            f"native+tcp:shared:{self.at(SHARED_TCP)}",
            f"native,json+websocket:shared:{self.at(SHARED_WS)}",
            # What HAProxy comes to, and what cannot be shared.
            f"native+tcp:haproxy:{self.at(first + 1)}",
            f"native,json+websocket:haproxy:{self.at(first + 2)}",
            f"native+udp:{udp}",
        ]
        advertise = (
            f'["native+tcp=tcp://{self.at(TCP)}", "native,json+websocket=ws://{self.at(WS)}", '
            f'"native+udp=udp://{udp}"]'
        )
        command = [*self._twistd("imgateway"), "--node", name, "--http", self.at(first)]
        command += [word for one in listen for word in ("--listen", one)]
        command += ["--set", f"registry.advertise={advertise}"]
        return Part(f"node {name}", command, lambda: is_ready(self.at(first)), None)

    def _router(self) -> Part:
        command = [*self._twistd("imrouter"), "--keys", str(self.keys)]
        command += ["--public", self.at(PUBLIC), "--private", self.at(PRIVATE)]
        return Part("router", command, lambda: is_ready(self.at(PUBLIC)), None)

    def _haproxy(self) -> Part:
        places = {
            "CLIENTS_TCP": self.at(TCP),
            "CLIENTS_WS": self.at(WS),
            "STATS": self.at(STATS),
            "PATH": PATH,
        }
        for name, first in NODES.items():
            places[f"{name.upper()}_TCP"] = self.at(first + 1)
            places[f"{name.upper()}_WS"] = self.at(first + 2)
            places[f"{name.upper()}_HTTP"] = str(self.port(first))
        command = ["haproxy", "-db", "-f", str(HERE / "haproxy.cfg")]
        return Part("haproxy", command, lambda: answers(self.port(TCP)), places)

    # ------------------------------------------------------------------------------------------------ running

    async def run(self) -> None:
        """Until a signal comes. :raises Trouble: a part did not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked)
        started: list[Part] = []
        try:
            redis, *others = self.parts()
            for together in ([redis], others[:2], others[2:]):
                started += together
                await self._unless_stopped([asyncio.ensure_future(part.start()) for part in together])
            if not self._stop.is_set():
                tell(self.advice())
            await self._stop.wait()
        finally:
            # Clients first, while all that they lean on is there; Redis last.
            order = ("node", "router", "haproxy", "redis")
            for kind in order:
                await self._end([part for part in started if part.name.startswith(kind)])

    async def _unless_stopped(self, starting: Sequence[asyncio.Future[None]]) -> None:
        all_work: asyncio.Future[Any] = asyncio.gather(*starting)
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({all_work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if all_work.done():
                all_work.result()
        finally:
            # Nothing may begin any more while what has begun is ended.
            for one in (stop, *starting):
                one.cancel()
            await asyncio.gather(all_work, stop, *starting, return_exceptions=True)

    def _asked(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            say("cluster", "stopping; Ctrl-C again waits for nobody")
            self._stop.set()

    async def _end(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.signal(signal.SIGTERM)
        ending: asyncio.Future[Any] = asyncio.gather(*(part.gone() for part in parts), return_exceptions=True)
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({ending, hurry}, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ending.done():
            for part in parts:
                part.signal(signal.SIGTERM)  # a second one: at once
            await asyncio.wait({ending}, timeout=HURRY_S)
        if not ending.done():
            for part in parts:
                part.signal(signal.SIGKILL)
        for part, outcome in zip(parts, await ending, strict=True):
            if outcome is not None:
                say(part.name, f"{outcome!r}")  # a slip of ours: the other parts are ended all the same

    def advice(self) -> str:
        """What to try next."""
        command, data = shown(BIN / "imgateway"), shown(self.data)
        router, key = f"http://{self.at(PUBLIC)}", shown(self.key)
        return f"""
The cluster works:
  clients, through HAProxy      tcp://{self.at(TCP)}  ws://{self.at(WS)}
  the nodes' shared ports       tcp://{self.at(SHARED_TCP)}  ws://{self.at(SHARED_WS)}
  a UDP port for each           {"  ".join(f"udp://{self.at(first + 3)}" for first in NODES.values())}
  router, for clients           {router}
  router, for business servers  http://{self.at(PRIVATE)}  (its key is in {key})
  HAProxy's page                http://{self.at(STATS)}
Try, in two other terminals:
  {command} listen --router {router} --user bob --data-dir {data}
  {command} send --router {router} --user alice --data-dir {data} user:bob "hello"
A token for a client of yours, and a push as a business server makes it:
  {command} token bob --data-dir {data}
  curl -s -H "Authorization: Bearer $(cat {key})" -H 'Content-Type: application/json' \\
       -d '{{"to": ["user:bob"], "text": "hello"}}' http://{self.at(PRIVATE)}/v1/push
Where a client is to connect, as its program asks:
  curl -s -H "Authorization: Bearer $({command} token bob --data-dir {data})" {router}/v1/allocate
Then look at which node bob is, drain that one (if it is b, say b for a), and look again:
  export IMGATEWAY_ROUTER=http://{self.at(PRIVATE)} IMGATEWAY_API_KEY=$(cat {key})
  {command} nodes;  {command} online bob --sessions
  {command} drain a --wait;  {command} online bob --sessions;  {command} undrain a
Kill one with kill -9 and the pid in its line "listening": bob goes on at the other, and it is started again.
Ctrl-C stops it; the messages stay, in {shown(self.place)}.
"""


# Where Debian has haproxy and redis-server, which is not on everybody's path.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
# If we are killed the others are told to end: nobody would know of them.
WITH_US = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()
COLOURS = {"redis": 31, "node a": 32, "node b": 36, "router": 33, "haproxy": 35, "cluster": 1}


def say(name: str, line: str) -> None:
    colour = COLOURS[name] if sys.stdout.isatty() else 0
    head = f"\033[{colour}m{name:7}\033[0m" if colour else f"{name:7}"
    tell(f"{head} | {line}")


def tell(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        pass  # whoever read us has gone, or the terminal; the cluster is to be stopped in order all the same


def shown(path: Path) -> str:
    """As short as it can be said from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def pongs(port: int) -> bool:
    """Redis listens before it has read its file; until then it answers with an error."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as link:
            link.sendall(b"PING\r\n")
            return link.recv(100).startswith(b"+PONG")
    except OSError:
        return False


def is_ready(place: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{place}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="A Redis, two nodes, a router and HAProxy, on this machine.")
    parser.add_argument("--dir", default="data/cluster", help="where everything is kept [data/cluster]")
    parser.add_argument("--base", type=int, default=7700, help="ports are BASE+1 to BASE+91 [7700]")
    options = parser.parse_args()
    cluster = Cluster(Path(os.path.realpath(options.dir)), options.base)
    try:
        cluster.prepare()
        asyncio.run(cluster.run())
    except Trouble as trouble:
        sys.exit(f"cluster: {trouble}")
    except KeyboardInterrupt:
        sys.exit(130)  # before there was anything to stop


if __name__ == "__main__":
    main()
