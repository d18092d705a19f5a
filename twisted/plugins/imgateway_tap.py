"""Makes ``twistd imgateway`` known to Twisted.

Every twistd that finds this file imports it, whatever service it was asked for, so it imports nothing of ours
and names our module as a string.
"""

from twisted.application.service import ServiceMaker

imgateway = ServiceMaker(
    "imgateway",
    "imgateway.tap",
    "A gateway for long connections: TCP and WebSocket in front of one core.",
    "imgateway",
)
