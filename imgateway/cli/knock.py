"""Whether anybody listens at a UDP port, as far as the system says.

The transport does not ask for that: a gateway that is restarted refuses for a second what it takes in the
next. It is for who wonders why nothing came of a login.
"""

from __future__ import annotations

import socket

__all__ = ("refuses",)

WAIT_S = 0.5
"""For the other machine's word; a firewall may keep it to itself."""


def refuses(host: str, port: int) -> bool:
    """Whether a machine says that nobody listens at its UDP port. It takes up to half a second where nothing
    is said; an empty datagram is what is sent, which no gateway answers."""
    try:
        family, kind, number, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, number) as knocking:
            knocking.settimeout(WAIT_S)
            knocking.connect(place)
            knocking.send(b"")
            knocking.recv(1)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False
