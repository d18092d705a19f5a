"""Where somebody is, as text, and what to do about a place that one cannot listen at."""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.error import CannotListenError

from imgateway.errors import InUse, OperatorError

__all__ = ("cannot_listen", "host_port", "no_ride", "refusal", "rides", "source_of")


def host_port(host: str, port: int | str) -> str:
    """``192.0.2.1:7901``, ``[::1]:7901``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def source_of(host: str) -> str:
    """By what connections are counted that come from this address: "", which is not counted, if it is this
    machine's own, else the address."""
    return "" if host.startswith(("127.", "::ffff:127.")) or host == "::1" else host


def cannot_listen(error: CannotListenError, sockets: str, otherwise: str = "") -> str:
    """Why one cannot listen there, and what the operator can do.

    :param sockets: ``t`` or ``u``, as `ss` calls TCP and UDP.
    :param otherwise: what else does without permission, behind a port above 1023.
    """
    number = getattr(error.socketError, "errno", None)
    if _is_in_use(error):
        who = (
            f"ss -l{sockets}np 'sport = :{error.port}'"
            if isinstance(error.port, int)
            else f"lsof {os.fsdecode(error.port)}"
        )
        return f"the address is in use; see by whom with:  {who}"
    if number == errno.EACCES:
        return f"permission denied; take a port above 1023{otherwise}"
    if number == errno.EADDRNOTAVAIL:
        return f"{error.interface} is not an address of this machine; see them with:  ip address"
    if number == errno.ENOPROTOOPT:
        return (
            "this system cannot share a port among processes (SO_REUSEPORT, Linux 3.9 and newer); leave "
            "shared: out, and give each process a port of its own"
        )
    return str(error.socketError)


def refusal(message: str, error: BaseException | None) -> OperatorError:
    """With this message; `InUse` if `error` says that another process listens there."""
    if isinstance(error, CannotListenError) and _is_in_use(error):
        return InUse(message, error.port if isinstance(error.port, int) else 0)
    return OperatorError(message)


def rides(wire: Any) -> list[str]:
    """Which of our transports this wire rides on."""
    carriage = wire.carriage
    does = {
        "tcp": carriage.stream,
        "websocket": carriage.message,
        "udp": carriage.bare is not None or (carriage.sealed and carriage.message and not carriage.text),
    }
    return [name for name, it_does in does.items() if it_does]


def no_ride(wire: Any, transport: str, endpoint: str) -> OperatorError:
    """A listener asks for a transport that the wire does not ride on: which of ours it does."""
    others = rides(wire)
    instead = f"; it does on {' and '.join(others)}, as in {wire.name}+{others[0]}:PORT" if others else ""
    return OperatorError(
        f"{wire.name}+{transport}:{endpoint}: {wire.name} does not ride on {transport}{instead}"
    )


def _is_in_use(error: CannotListenError) -> bool:
    number = getattr(error.socketError, "errno", None)
    return number == errno.EADDRINUSE or error.socketError == "Cannot acquire lock"
