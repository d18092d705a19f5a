"""The authenticator and the policy that come with imgateway.

Every twistd that finds this file imports it, whatever service it was asked for: PyJWT and the cryptography
below it are imported when a node makes its authenticator.
"""

from typing import Any

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


class _Token:
    """Makes the authenticator that checks signed tokens."""

    name = "token"

    def make(self, settings: Any, data_dir: str, seconds: Any) -> Any:
        return namedAny("imgateway.auth.token.TokenAuthenticator")(settings, data_dir, seconds)


# By name, so that this file's own imports stay those of any twistd.
implementer(IPlugin, namedAny("imgateway.interfaces.IAuthenticatorMaker"))(_Token)

token = _Token()
default = namedAny("imgateway.auth.policy.DefaultPolicy")()
