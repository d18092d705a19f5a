"""Very many sessions over UDP (bench/datagrams.c): how they are started, and where they get their tokens.

::

    python -m bench.datagrams DATA_DIR SESSIONS TAG PUBLISHERS

writes a line for each publisher and session, while the generator logs in: a million tokens fit into no pipe.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.generator import Generator
from bench.servers import CPU, HERE, OTHER_CPU, Server, compiled, free_port, gateway, pin
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.auth.udp import load_udp_secret, udp_key
from imgateway.config import AuthSettings, UdpSettings
from imgateway.core.credentials import key_id_of

PUBLISHERS = 8
"""As bench/datagrams.c has them, over TCP."""
AT_ONCE = 64
TAG = "u"
QUIET = (
    "session.heartbeat_s=3600",
    "session.dead_s=7200",
    "limits.login_rate=1000000",
    "limits.login_burst=1000000",
)
"""Nobody is asked whether he is there, so that the Pings alone are measured."""


def built(directory: Path, source: str = "datagrams") -> Path:
    """A generator. :raises ClickException: as `compiled`; and which package has OpenSSL's headers."""
    try:
        return compiled(directory, source, "crypto")
    except click.ClickException as error:
        if "openssl/" not in error.message and "-lcrypto" not in error.message:
            raise
        raise click.ClickException(
            "OpenSSL's headers are not installed: apt-get install libssl-dev"
        ) from None


@contextmanager
def on_both(
    directory: Path, broker: str, settings: tuple[str, ...] = (), cpu: int | None = CPU
) -> Iterator[tuple[Server, int]]:
    """A node with a UDP port, and a TCP port for those who publish."""
    tcp = free_port()
    listen = ("--listen", f"native+tcp:tcp:{tcp}:interface=127.0.0.1")
    with gateway(directory, broker, "native+udp", (*QUIET, *settings), cpu, listen) as server:
        yield server, tcp


@contextmanager
def crowd(
    program: Path,
    server: Server,
    tcp: int,
    sessions: int,
    pings_s: str,
    rate: float = 0.0,
    size: int = 100,
) -> Iterator[Generator]:
    """The generator. It tells when all are logged in, and after each part; SIGUSR1 begins the next one: Pings
    of each session every so many seconds, for each of `pings_s` (``300,60``); `rate` messages a second, to
    one of them each; both."""
    feeding: list[Any] = [
        sys.executable,
        "-m",
        "bench.datagrams",
        server.data_dir,
        sessions,
        TAG,
        PUBLISHERS if rate else 0,
    ]
    running: list[Any] = [
        program, "127.0.0.1", server.port, sessions, min(AT_ONCE, sessions), pings_s, rate, tcp, size, TAG,
    ]  # fmt: skip
    with (
        subprocess.Popen(
            list(map(str, feeding)), stdout=subprocess.PIPE, preexec_fn=pin(OTHER_CPU), cwd=HERE.parent
        ) as feeder,
        subprocess.Popen(
            list(map(str, running)),
            stdin=feeder.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=pin(OTHER_CPU),
        ) as child,
    ):  # fmt: skip
        assert feeder.stdout is not None
        feeder.stdout.close()  # the generator has it
        try:
            yield Generator(child)
        finally:
            child.terminate()
            feeder.terminate()


def credentials(data_dir: str, sessions: int, tag: str, publishers: int) -> Iterator[str]:
    """The tokens of the publishers; then for each session its token, key and key id."""
    made = partial(mint, load_secret(AuthSettings(), data_dir), ttl_s=86_400, now_s=time.time())
    udp_secret = load_udp_secret(UdpSettings(), data_dir)
    for number in range(publishers):
        yield made(f"publisher{number}", service=True)
    for number in range(sessions):
        yield with_key(made(f"{tag}{number}"), udp_secret)


def with_key(token: str, udp_secret: bytes) -> str:
    """A line of credentials: the token, its UDP key and key id."""
    key_id = key_id_of(token)
    return f"{token} {udp_key(udp_secret, key_id).hex()} {key_id.hex()}"


def main() -> None:
    data_dir, sessions, tag, publishers = sys.argv[1:]
    for line in credentials(data_dir, int(sessions), tag, int(publishers)):
        print(line)


if __name__ == "__main__":
    main()
