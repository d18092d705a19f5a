"""Where else a client may go that this node sends away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imgateway.interfaces import NodeInfo, NodeState

__all__ = ("MOST", "elsewhere")

MOST = 5
"""Places that a client is told of."""
ENCRYPTED = ("tls:", "wss:", "udp:")


def elsewhere(
    nodes: Iterable[NodeInfo],
    incarnation: str,
    protocol: str,
    transport: str,
    secure: bool,
    random: Callable[[], float],
) -> tuple[str, ...]:
    """URLs of other nodes that take logins over this protocol and transport, at most five, one of each node
    and none twice: processes may share an address, and a node that died is still known for a while.

    In an order drawn for each call, by the nodes' weights, so that a crowd spreads; nodes of our own region
    come first. `secure`: the client is connected with encryption, and addresses with it come first.

    :param incarnation: ours.
    :param random: floats in [0, 1).
    """
    nodes = tuple(nodes)
    region = next((one.region for one in nodes if one.incarnation == incarnation), "")
    found = []
    for node in nodes:
        if node.incarnation == incarnation or node.state is not NodeState.READY or node.weight <= 0:
            continue
        urls = [one.url for one in node.served if one.protocol == protocol and one.transport == transport]
        if urls:
            url = min(urls, key=lambda url: url.startswith(ENCRYPTED) is not secure)
            # The largest of such draws falls to each as often as its weight says.
            draw = random() ** (1 / node.weight)
            found.append((node.region == region, draw, url))
    found.sort(reverse=True)
    return tuple(dict.fromkeys(url for _, _, url in found))[:MOST]
