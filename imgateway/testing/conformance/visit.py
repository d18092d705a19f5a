"""One connection of the client under test, as its gateway sees it."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import CloseCode, ProtocolError
from imgateway.frames import Address, Bye, Frame, Hello, Keep, ResumePoint
from imgateway.interfaces import IConnection, IProtocolAdapter, IReceiver

__all__ = ("House", "Visit")

log = Logger()


class House(Protocol):
    """What a visit needs of the stage."""

    log: Address
    faults: list[str]
    record: bytes

    def now(self) -> float: ...
    def heard(self, visit: Visit, frame: Frame) -> None: ...
    def changed(self) -> None: ...


@implementer(IReceiver)
class Visit:
    """One connection of the client."""

    def __init__(self, stage: House, connection: IConnection) -> None:
        self.stage = stage
        self.connection = connection
        self.codec: Any = None
        self.came_s = stage.now()
        self.frames: list[Frame] = []
        self.times_s: list[float] = []
        """When each of `frames` came."""
        self.hello: Hello | None = None
        self.welcomed = False
        self.over = False
        self.left = False
        """It said goodbye."""

    # ------------------------------------------------------------------------------------------- IReceiver

    def opened(self, wire: IProtocolAdapter) -> None:
        self.codec = wire.codec(self.connection.stream, wire.carriage.max_frame_bytes)

    def received(self, data: bytes) -> None:
        if self.over:
            return
        try:
            for said in self.codec.receive(data):
                if not self._take(said):
                    break
        except ProtocolError as error:
            self.fault(f"sends what its wire does not allow: {error.reason}", error.code)
        except Exception:
            log.failure("the stage failed on what the client sent")
            self.fault("sends what makes this gateway fail; its log says how", CloseCode.INTERNAL_ERROR)
        self.stage.changed()

    def pause_sending(self) -> None:
        """The little that a scene sends may wait."""

    def resume_sending(self) -> None: ...

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        self.over = True
        self.stage.changed()

    # --------------------------------------------------------------------------------------------- inwards

    def _take(self, said: Frame | Keep | bytes) -> bool:
        """Whether what follows is of interest."""
        if isinstance(said, bytes):
            self.connection.send(said)
        elif isinstance(said, Keep):
            self.stage.record = said.data
            answer = said.reply if isinstance(said.reply, bytes) else said.reply()
            if answer:
                self.connection.send(answer)
        else:
            self.frames.append(said)
            self.times_s.append(self.stage.now())
            self.stage.heard(self, said)
        return not self.over

    def fault(self, what: str, code: CloseCode = CloseCode.BAD_FRAME) -> None:
        """As a gateway does: note it and close."""
        self.stage.faults.append(what)
        self.bye(code, what)

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]

    def point(self) -> ResumePoint | None:
        """Where the client says that it is in its log."""
        points = self.hello.resume if self.hello is not None else ()
        return next((one for one in points if one.address == self.stage.log and not one.lane), None)

    # -------------------------------------------------------------------------------------------- outwards

    def say(self, *frames: Frame) -> bool:
        """Send these; False: one cannot be said on this wire, or not carried here, and was left out."""
        said = True
        for frame in frames:
            data = self.codec.encode(frame)
            if data is None or 0 < self.connection.max_send_bytes < len(data):
                said = False
            elif data and not self.over:
                self.connection.send(data)
        return said

    def bye(self, code: int, reason: str = "", retry_after_s: float = 0.0) -> None:
        """Say goodbye, and close."""
        if not self.over:
            if self.codec is not None:
                self.say(Bye(code, reason, int(retry_after_s * 1000)))
            self.over = True
            self.connection.close(code)

    def cut(self) -> None:
        """The connection breaks, without a word."""
        self.over = True
        self.connection.abort()
