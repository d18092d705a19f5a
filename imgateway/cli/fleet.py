"""``imgateway nodes``, ``imgateway drain`` and ``imgateway undrain``"""

from __future__ import annotations

from typing import Any

import click

from imgateway.cli.access import Access, api_options
from imgateway.cli.api import Api, Refused, in_doubt, looks, segment
from imgateway.cli.bar import Bar
from imgateway.cli.lines import as_line, tell, write_line
from imgateway.cli.options import same_everywhere
from imgateway.cli.tables import show, when
from imgateway.cli.world import World, pass_world

__all__ = ("drain", "nodes", "undrain")

HEARD_S = 20.0
"""How long a node's announcement that it drains may take to get round: a registry forgets in 15 s."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.command()
@api_options()
@json_option
@same_everywhere
def nodes(access: Access, as_json: bool) -> None:
    """List the nodes that live, as they announced themselves."""
    from imgateway.router.schema import Nodes

    found = access.open().ask("GET", "/v1/nodes", Nodes)["nodes"]
    if as_json:
        for node in found:
            write_line(as_line(node))
        return
    columns = "NODE INCARNATION STATE SESSIONS LEAVING AWAY WEIGHT REGION ZONE STARTED SERVES".split()
    show(columns, [_row(node) for node in found])


def _row(node: Any) -> tuple[str | int, ...]:
    return (
        node["node"],
        node["incarnation"],
        node["state"],
        node["sessions"],
        node["leaving"],
        _away(node),
        node["weight"],
        node["region"],
        node["zone"],
        when(node["started_ms"]),
        " ".join(f"{one['protocol']}+{one['url']}" for one in node["served"]),
    )


def _away(node: Any) -> str:
    """Sessions without a client, which may come back to them: a node that drains tells who is still there."""
    return f"{max(0, node['sessions'] - node['leaving']):,}" if node["state"] == "draining" else ""


@click.command()
@api_options()
@click.argument("node")
@click.option(
    "--rate",
    type=click.IntRange(1, 1_000_000),
    default=500,
    show_default=True,
    metavar="R",
    help="Sessions a second that are sent away.",
)
@click.option("--wait", is_flag=True, help="Stay until nobody is left; Ctrl-C leaves the drain running.")
@json_option
@same_everywhere
@pass_world
def drain(world: World, access: Access, node: str, rate: int, wait: bool, as_json: bool) -> None:
    """Have NODE send its clients to other nodes, and take no logins.

    NODE is a name, or an incarnation where two have one name. It goes on running until it is stopped:
    "undrain" has it take clients again.
    """
    from imgateway.router.schema import Drained

    api = access.open()
    with in_doubt(f"{node} may drain or not: imgateway nodes shows it"):
        told = api.ask("POST", f"/v1/nodes/{segment(node)}/drain", Drained, {"rate": rate})
    if not wait:
        _tell(told, as_json, f"{node}: drains, {told['sessions']:,} sessions at {rate:,} a second")
        return
    try:
        _follow(world, api, told, as_json)
    except KeyboardInterrupt:
        tell(f"the drain of {node} goes on; imgateway undrain {node} ends it, imgateway nodes shows it")
        raise


def _follow(world: World, api: Api, told: Any, as_json: bool) -> None:
    """Until nobody is left.

    The node itself is followed, by its incarnation: one that was started meanwhile is another.
    """
    from imgateway.router.schema import Drained

    node, path = told["node"], f"/v1/nodes/{segment(told['incarnation'])}/drain"
    order = told["order"]
    began, begun, most, left = world.seconds(), False, told["leaving"], told["leaving"]
    shown = None
    with Bar(f"{node} drains", results=as_json) as bar:
        try:
            for told in looks(
                lambda: api.ask("GET", path, Drained, {"order": order}), world.pause, world.seconds
            ):
                left = told["leaving"]
                most = max(most, left)
                if as_json and told != shown:
                    write_line(as_line(told))
                    shown = told
                if told["order"] >= order and told["state"] == "draining":
                    begun = True
                    bar(most - left, most)
                elif begun:
                    raise click.ClickException(f"{node} takes clients again: somebody ended the drain")
                elif world.seconds() - began > HEARD_S:
                    raise click.ClickException(f"{node} does not drain, {HEARD_S:g} s after it was told to")
                if told["done"]:
                    break
        except Refused as error:
            if error.kind != "not-found":
                raise
            raise click.ClickException(
                f"{node} is gone; when it was last heard of, {left:,} clients were yet to be sent away"
            ) from None
    if not as_json:
        click.echo(f"{node}: nobody is left to be sent away; it may be stopped")


@click.command()
@api_options()
@click.argument("node")
@json_option
@same_everywhere
def undrain(access: Access, node: str, as_json: bool) -> None:
    """Have NODE take logins again; who was not sent away yet stays."""
    from imgateway.router.schema import Drained

    with in_doubt(f"{node} may take clients again or not: imgateway nodes shows it"):
        told = access.open().ask("POST", f"/v1/nodes/{segment(node)}/undrain", Drained)
    _tell(told, as_json, f"{node}: takes clients again")


def _tell(told: Any, as_json: bool, text: str) -> None:
    if as_json:
        write_line(as_line(told))
    else:
        click.echo(text)
