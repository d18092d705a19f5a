"""Makes ``twistd imgateway`` and ``twistd imrouter`` known to Twisted.

Every twistd that finds this file imports it, whatever service it was asked for, so it imports nothing of ours
and names our modules as strings.
"""

from twisted.application.service import ServiceMaker

imgateway = ServiceMaker(
    "imgateway",
    "imgateway.tap",
    "A gateway for long connections: TCP, UDP and WebSocket in front of one core.",
    "imgateway",
)

imrouter = ServiceMaker(
    "imrouter",
    "imgateway.tap.router",
    "The HTTP API of a cluster of gateway nodes: tokens, allocation, push, drain.",
    "imrouter",
)
