"""An authenticator for tests: the token `tok` is anybody's, every other is refused with 1030."""

from collections.abc import Callable
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import LoginRefused
from imgateway.interfaces import IAuthenticator, Identity


@implementer(IPlugin, IAuthenticator)
class Doorman:
    name = "doorman"

    def authenticate(self, hello: Any, peer: str) -> Identity:
        if hello.token != "tok":
            raise LoginRefused("not today", detail=1030)
        return Identity(hello.user)

    def read(self) -> Callable[[], None]:
        return lambda: None


doorman = Doorman()
