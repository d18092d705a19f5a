"""``imgateway probe``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from imgateway.cli.login import Login, login_options
from imgateway.cli.options import POSITIVE
from imgateway.cli.world import World, pass_world

if TYPE_CHECKING:
    from imgateway.cli.probing import Found

__all__ = ("probe",)


@click.command()
@login_options
@click.option(
    "--count", type=click.IntRange(1, 100_000), default=20, show_default=True, help="So many Pings."
)
@click.option(
    "--interval", type=POSITIVE, metavar="S", default=0.2, show_default=True, help="One every S seconds."
)
@click.option(
    "--timeout",
    type=POSITIVE,
    metavar="S",
    default=10.0,
    show_default=True,
    help="Wait so long for an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line, for programs.")
@pass_world
def probe(world: World, login: Login, count: int, interval: float, timeout: float, as_json: bool) -> None:
    """Measure what URL gives on this line: the time of a login, round trips, how long it takes from another
    address; over UDP also loss and the largest datagram, each way.

    Take a user of its own for it (--user probe): the device that it leaves behind reads no messages. Exits
    with 0 if it got in and had answers.
    """
    from imgateway.cli.lines import as_line, plain, write_line
    from imgateway.cli.probing import Plan
    from imgateway.cli.probing import probe as measure
    from imgateway.cli.remarks import explained
    from imgateway.errors import GatewayError

    found: list[Found] = []

    async def main(reactor: Any) -> int:
        found.append(await measure(reactor, login, Plan(count, interval, timeout)))
        return 0

    try:
        status = world.run(main)
    except GatewayError as error:
        raise click.ClickException(plain(explained(error, login.url, world.refuses))) from None
    if status == 0 and as_json:
        write_line(as_line(fields(login.url, found[0])))
    elif status == 0:
        for line in table(login.url, found[0]):
            click.echo(plain(line))
    click.get_current_context().exit(status)


def fields(url: str, found: Found) -> dict[str, Any]:
    """For programs: times in milliseconds, sizes in bytes, shares of 1."""
    times = found.times
    result: dict[str, Any] = {
        "url": url,
        "node": found.node,
        "user": found.user,
        "connect_ms": _ms(found.connect_s),
        "welcome_ms": _ms(found.welcome_s),
        "pings": times.asked,
        "pongs": len(times.answered),
        "rtt_ms": {name: _ms(times.percentile(share)) for name, share in SHARES.items()},
        "resume_ms": None if found.resumed_s is None else _ms(found.resumed_s),
    }
    if found.path is not None and found.largest is not None:
        path = found.path
        result["udp"] = {
            "sent": path.sent,
            "lost_up": path.lost_up,
            "loss_up": _share(path.lost_up, path.sent),
            "received": path.received,
            "lost_down": path.lost_down,
            "loss_down": _share(path.lost_down, path.received),
            "resent": path.resent,
            "largest_up": found.largest.largest_up,
            "largest_down": found.largest.largest_down,
        }
    return result


SHARES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def table(url: str, found: Found) -> Iterator[str]:
    """For people."""
    said = fields(url, found)
    yield f"{url}, node {found.node}, as {found.user}"
    yield _row("handshake", f"connected {said['connect_ms']} ms", f"then welcome {said['welcome_ms']} ms")
    rtt = [f"{name} {value} ms" for name, value in said["rtt_ms"].items()]
    yield _row("round trip", *rtt, f"{said['pongs']} of {said['pings']} answered")
    udp = said.get("udp")
    if udp is not None:
        yield _row(
            "loss",
            f"up {udp['loss_up']:.1%} ({udp['lost_up']} of {udp['sent']})",
            f"down {udp['loss_down']:.1%} ({udp['lost_down']} of {udp['received']})",
        )
        yield _row("largest datagram", *(f"{way} {_size(udp[f'largest_{way}'])}" for way in ("up", "down")))
    resumed = "nothing came" if said["resume_ms"] is None else f"traffic again after {said['resume_ms']} ms"
    yield _row("reconnect" if udp is None else "new address", resumed)


def _row(name: str, *values: str) -> str:
    return f"  {name:16}  " + "   ".join(values)


def _size(size: int) -> str:
    return f"{size:,} B" if size else "below 1,200 B"


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
