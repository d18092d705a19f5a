"""``imgateway send``"""

from __future__ import annotations

import os
from typing import Any

import click

from imgateway.cli.login import Login, LoginCommand, login_options, router_options, with_client
from imgateway.cli.options import DURATION, POSITIVE, addresses
from imgateway.cli.world import World, pass_world

__all__ = ("send",)


@click.command(cls=LoginCommand)
@router_options
@login_options
@click.argument("to")
@click.argument("body")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Send BODY N times.")
@click.option("--msg-id", metavar="ID", help="The message's id; with several messages ID-1, ID-2, …")
@click.option("--qos", type=click.IntRange(0, 1), default=1, show_default=True, help="0: no acknowledgement.")
@click.option(
    "--lane",
    type=click.IntRange(0, 1),
    default=0,
    show_default=True,
    help="1: to a room, what must not drown in its chat.",
)
@click.option("--rate", type=POSITIVE, metavar="R", help="At most R messages a second.")
@click.option("--content-type", metavar="TYPE", default="text/plain", show_default=True)
@click.option("--ttl", type=DURATION, help="How long the message is of use: 90s, 15m, 1h30m, 7d.")
@click.option("--copy-self", is_flag=True, help="Your own other devices get a copy.")
@click.option(
    "--timeout",
    type=POSITIVE,
    metavar="S",
    help="Give up when the login, or then an acknowledgement, takes longer than S seconds.",
)
@click.option("--json", "_", is_flag=True, expose_value=False, help="Without effect: JSON is printed anyway.")
@pass_world
def send(
    world: World,
    login: Login,
    to: str,
    body: str,
    count: int | None,
    msg_id: str | None,
    qos: int,
    lane: int,
    rate: float | None,
    content_type: str,
    ttl: float | None,
    copy_self: bool,
    timeout: float | None,
) -> None:
    """Send BODY to TO: user:bob, device:bob/phone, room:7; several with commas.

    With "-" as BODY each line of standard input is a message; a BODY that begins with "-" goes behind "--":
    send URL --user alice user:bob -- "-1". Prints one JSON line for each acknowledged
    message and address, in the order of sending: msg_id, address, code (OK or DUPLICATE), seq. Refusals go to
    stderr, in the same form. Exits with 0 when all were acknowledged.
    """
    from imgateway.cli.dispatch import Dispatch, Order
    from imgateway.frames import RING_KINDS

    if body == "-" and count is not None:
        raise click.UsageError("--count is for a BODY, not for lines of standard input")
    many = body == "-" or (count or 1) > 1
    if msg_id is not None:
        _check_msg_id(f"{msg_id}-{count or ''}" if many else msg_id)
    places = addresses(to)
    if lane and not all(place.partition(":")[0] in RING_KINDS for place in places):
        raise click.UsageError("--lane 1 is for rooms, such as room:7: users and devices have one lane")
    order = Order(
        to=places,
        # What the shell handed over, if it was no UTF-8 too.
        bodies=None if body == "-" else (os.fsencode(body), count or 1),
        name=msg_id or "",
        qos=qos,
        lane=lane,
        rate=rate or 0.0,
        content_type=content_type,
        ttl_s=max(1, round(ttl)) if ttl else 0,
        copy_self=copy_self,
        timeout_s=timeout or 0.0,
    )

    async def talk(client: Any, reactor: Any) -> int:
        return await Dispatch(client, reactor, order).run(world.lines)

    with_client(world, login, talk, timeout_s=order.timeout_s)


def _check_msg_id(longest: str) -> None:
    from imgateway.frames import MAX_MSG_ID_BYTES

    if not 1 <= len(os.fsencode(longest)) <= MAX_MSG_ID_BYTES:
        raise click.UsageError(
            f"a msg_id is 1 to {MAX_MSG_ID_BYTES} bytes, with what --count adds: {longest!r}"
        )
