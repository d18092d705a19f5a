"""An authenticator, a policy, a backend, an interceptor and a session listener."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import LoginRefused
from imgateway.frames import OutcomeCode, Publish, Request, SessionKey, user_address
from imgateway.interfaces import (
    IAuthenticator,
    IBackend,
    Identity,
    IInterceptor,
    IPolicy,
    ISessionListener,
)


@implementer(IPlugin, IAuthenticator)
class Feathers:
    """The token is the user's name, if it is a bird's."""

    name = "feathers"

    def authenticate(self, hello: Any, peer: str) -> Identity:
        if hello.token not in ("robin", "wren", "crow"):
            raise LoginRefused("no bird")
        return Identity(hello.token)

    def read(self) -> Callable[[], None]:
        return lambda: None


@implementer(IPlugin, IPolicy)
class Pecking:
    """Nobody writes to the crow."""

    name = "pecking"

    def may(self, identity: Identity, action: str, address: Any) -> bool:
        return action != "publish" or address != user_address("crow")

    def areas(self, address: Any) -> tuple[str, ...]:
        return ("sky",) if address.kind == "room" else ()


@implementer(IPlugin, IBackend)
class Coop:
    """Counts, slowly; and tells the one who asked, by a message too."""

    name = "coop"
    gateway: Any = None

    def start(self, gateway: Any) -> None:
        self.gateway = gateway

    def request(self, caller: SessionKey, request: Request) -> Any:
        from twisted.internet import reactor

        answer = b"%s asks for %s" % (caller.user.encode(), request.body)
        note = Publish(f"note-{request.id}", (user_address(caller.user),), "text/plain", b"noted")
        self.gateway.publish(note, "coop")
        return deferLater(reactor, 0.01, lambda: answer)  # type: ignore[arg-type]


@implementer(IPlugin, IInterceptor)
class Plucking:
    """Changes some words and refuses others."""

    name = "plucking"

    def before_publish(self, identity: Identity, publish: Publish) -> Any:
        if b"cat" in publish.body:
            return OutcomeCode.FORBIDDEN
        return replace(publish, body=publish.body.replace(b"worm", b"w**m"))


@implementer(IPlugin, ISessionListener)
class Nest:
    """Greets who comes, by a file whose name the environment gives."""

    name = "nest"

    def _write(self, *words: object) -> None:
        import os

        with open(os.environ["NEST"], "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def opened(self, session: SessionKey, identity: Any) -> None:
        self._write("opened", session.user)

    def resumed(self, session: SessionKey, identity: Any) -> None:
        self._write("resumed", session.user)

    def closed(self, session: SessionKey, code: int, reason: str) -> None:
        self._write("closed", session.user, int(code))

    def stored_offline(self, address: Any, message: Any) -> None:
        self._write("stored", address.id)

    def gap(self, session: SessionKey, address: Any) -> None:
        self._write("gap", session.user, address.id)

    def entered(self, session: SessionKey, address: Any) -> None:
        self._write("entered", session.user, address.id)

    def left(self, session: SessionKey, address: Any) -> None:
        self._write("left", session.user, address.id)
