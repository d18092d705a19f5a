"""Makes ``shared:`` known to Twisted's endpoint descriptions.

Every twistd that finds this file imports it, whatever service it was asked for; the parser itself is imported
when somebody uses it.
"""

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _Shared:
    prefix = "shared"

    def parseStreamServer(self, reactor: Any, *args: object, **kwargs: object) -> Any:
        return namedAny("imgateway.transports.shared.shared_endpoint")(reactor, *args, **kwargs)


shared = _Shared()
