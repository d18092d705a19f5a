"""``/v1/nodes``: the nodes that live, and sending the clients of one away."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from imgateway.interfaces import IGateway, NodeInfo, NodeState
from imgateway.router.problems import Problem
from imgateway.router.routes import Call, Route
from imgateway.router.schema import Drained, Nodes, Pace, Since

__all__ = ("Fleet",)

_WHICH = "`node` is a node's name, or its incarnation where two have one name."


class Fleet:
    """Nodes and their drains. What is told of a node is what it announced last."""

    def __init__(self, gateway: IGateway) -> None:
        self._gateway = gateway
        self._orders: dict[str, int] = {}
        """The last order that each node took from us: what it announced before says nothing of a drain."""

    def routes(self) -> Sequence[Route]:
        path, problems = "/v1/nodes/{node}/", ("not-found", "conflict")
        return [
            Route("GET", "/v1/nodes", self.nodes, "The nodes that live.", "read", {200: Nodes}),
            Route(
                "POST",
                path + "drain",
                self.drain,
                "Have a node send its clients to other nodes.",
                "drain",
                {202: Drained},
                query=Pace,
                problems=problems,
                description="It takes no logins until `undrain`. " + _WHICH,
            ),
            Route(
                "POST",
                path + "undrain",
                self.undrain,
                "Have a node take logins again; who was not sent away yet stays.",
                "drain",
                {202: Drained},
                problems=problems,
                description=_WHICH,
            ),
            Route(
                "GET",
                path + "drain",
                self.progress,
                "How far a drain is.",
                "read",
                {200: Drained},
                query=Since,
                problems=problems,
                description="With the `order` that it answered to, any router may be asked. " + _WHICH,
            ),
        ]

    def nodes(self, call: Call) -> Nodes:
        """All nodes, by name."""
        infos = self._gateway.nodes().values()
        return Nodes(tuple(sorted(infos, key=lambda info: (info.node, info.incarnation))))

    def drain(self, call: Call) -> Deferred[Drained]:
        """Begin a drain."""
        info = self._find(call)
        return self._gateway.drain(info.incarnation, call.query.rate).addCallback(self._told, info)

    def undrain(self, call: Call) -> Deferred[Drained]:
        """End it."""
        info = self._find(call)
        return self._gateway.undrain(info.incarnation).addCallback(self._told, info)

    def progress(self, call: Call) -> Drained:
        """How many sessions are left."""
        info = self._find(call)
        sent = info.state is NodeState.DRAINING and not info.leaving
        last = max(call.query.order, self._orders.get(info.incarnation, 0))
        return _drained(info, sent and info.orders >= last, info.orders)

    def _told(self, order: int, info: NodeInfo) -> Drained:
        if not order:
            raise Problem(
                "conflict",
                f"{info.node} did not take it: it is stopping, or gone, and not forgotten yet",
                "look at /v1/nodes again in 15 s",
            )
        nodes = self._gateway.nodes()
        self._orders = {one: number for one, number in self._orders.items() if one in nodes}
        # One that was not answered (-1) does not make what was announced before the others any newer.
        self._orders[info.incarnation] = max(order, self._orders.get(info.incarnation, 0))
        return _drained(nodes.get(info.incarnation, info), False, max(order, 0))

    def _find(self, call: Call) -> NodeInfo:
        wanted = call.path["node"]
        nodes = self._gateway.nodes()
        if wanted in nodes:
            return nodes[wanted]
        found = [info for info in nodes.values() if info.node == wanted]
        if not found:
            raise Problem(
                "not-found",
                "there is no such node",
                "GET /v1/nodes, or imgateway nodes, lists those that live",
            )
        if len(found) > 1:
            names = ", ".join(sorted(info.incarnation for info in found))
            raise Problem("conflict", "several nodes have this name", f"name one of {names}")
        return found[0]


def _drained(info: NodeInfo, done: bool, order: int) -> Drained:
    return Drained(info.node, info.incarnation, info.state.value, info.sessions, info.leaving, done, order)
