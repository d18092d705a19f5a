"""What is told on stderr, beside the results: lost links, gaps, the client's complaints, why it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from zope.interface import implementer

from imgateway.cli.lines import tell
from imgateway.client.values import Gap
from imgateway.errors import CloseCode, ConnectRefused, GatewayError, LinkLost
from imgateway.frames import Address, OutcomeCode, Start, address_text

__all__ = ("ADVICE", "Losses", "MISTAKES", "STARTS", "advice_on", "explained", "remark_on", "show_log")

STARTS = {start.name.lower(): start for start in Start}

_OTHER_VERSION = "client and gateway do not understand each other: compare their versions (imgateway version)"
ADVICE: dict[int, str] = {
    CloseCode.KICKED: "the business or an operator ended this session",
    CloseCode.REPLACED: "two programs used this user and device at once; --device names another",
    CloseCode.DISPLACED: "another device of this user logged in; the login policy keeps the newest",
    CloseCode.LOGIN_CONFLICT: "another device of this user is online; the login policy keeps the first",
    CloseCode.BAD_TOKEN: "is it from this gateway? --user wants the --data-dir of that very node",
    CloseCode.TOKEN_EXPIRED: "take a fresh one: imgateway token USER",
    CloseCode.REVOKED: "this user's older tokens were revoked; take a fresh one: imgateway token USER",
    CloseCode.WRONG_AUDIENCE: "the token is for another service; --config tells --user the node's audience",
    CloseCode.BAD_FRAME: _OTHER_VERSION,
    CloseCode.FRAME_TOO_LARGE: "the gateway takes no frames of this size",
    CloseCode.UNEXPECTED_FRAME: _OTHER_VERSION,
    CloseCode.FORBIDDEN: "the gateway's policy does not let this user in",
}
"""What to do about a refusal."""

MISTAKES = {
    "Connection refused": "nothing listens at {url}; is the node running?",
    "No such file or directory": "nothing listens at {url}; is the node running?",
    "certificate verify failed": "{url}: the certificate is not trusted: --ca FILE, or --insecure for a test",
    "VerificationError(": "{url}: the certificate is not for {host}: connect by a name that it is for, which "
    "says:  openssl s_client -connect {place} </dev/null | openssl x509 -noout -ext subjectAltName  "
    "(--insecure checks nothing, for a test)",
    "upgrade failed [404]": "{url}: no WebSocket there (404): is it the port of health and metrics? "
    "A node prints its ports at its start",
    "wrong version number": "{url}: no TLS on this port: try {plain}://",
}
"""What a transport's reason has in it → what that means to whoever typed the URL."""


SILENT = ("no answer from", "no login within")
"""How a reason begins if nothing came."""
UNKNOWN = "is it there, and its UDP port open to us?"
"""How the transport's ends if it knows no more."""


def explained(error: GatewayError, url: str, refuses: Callable[[str, int], bool]) -> str:
    """One line: where, what and what to do. `refuses`: whether nobody listens at a UDP port."""
    if not isinstance(error, ConnectRefused | LinkLost):
        return str(error)
    name, reason = _code_name(error.code), error.reason or "no reason given"
    if name == "LOST":
        if url.startswith("udp:") and reason.startswith(SILENT):
            return _why_silent(reason, url, refuses)
        return _why_not(reason, url)
    # A reason that asks is our own, about what was typed: it says what to look at.
    advice = "" if reason.endswith("?") else ADVICE.get(error.code)
    said = (reason, advice) if reason.upper() != name else (advice or reason,)
    # A router answers for itself by its URL; otherwise it was a node that said so.
    where = f"a node of {url}" if url.startswith(("http:", "https:")) and url not in reason else url
    return f"{where}: {name}: " + "; ".join(filter(None, said))


def _why_silent(reason: str, url: str, refuses: Callable[[str, int], bool]) -> str:
    """Why nothing came of a greeting over UDP."""
    place = urlsplit(url)
    if refuses(place.hostname or "", place.port or 0):
        return f"nothing listens at {url}; is the node running, with --listen native+udp:{place.netloc}?"
    what, _, why = reason.partition(": ")
    if why and why != UNKNOWN:
        return reason
    return (
        f"{what if url in what else f'{url}: {what}'}: a firewall may be between, or it is not native+udp "
        "that listens there: compare with the addresses that the node printed at its start"
    )


def _why_not(reason: str, url: str) -> str:
    """Why there is no Welcome, from what the transport says: the usual mistakes by what to do about them."""
    mistake = _mistake(reason, url)
    if not mistake and reason.endswith("closed by the peer"):
        return f"{url}: {reason}; is this the right port and scheme?"
    return mistake or (reason if url in reason else f"{url}: {reason}")


def _mistake(reason: str, url: str) -> str:
    if url.startswith("wss:") and "no connection to" in reason and "within" in reason:
        return f"{url}: {reason}; is it there, and has this port TLS? If not: ws://"
    for said, meaning in MISTAKES.items():
        if said in reason:
            parts = urlsplit(url)
            place, plain_scheme = parts.netloc, "ws" if url.startswith("ws") else "tcp"
            return meaning.format(url=url, plain=plain_scheme, host=parts.hostname, place=place)
    return ""


def _code_name(code: int) -> str:
    return CloseCode(code).name if code in {int(known) for known in CloseCode} else f"code {code}"


def remark_on(client: Any, url: str, patient: bool = False) -> None:
    """Tell of links that end, and of the next that is up; of gaps, too.

    :param patient: the client goes on when the first attempt fails, so that is told as well.
    """
    down = False

    def on_down(code: int, reason: str) -> None:
        nonlocal down
        # What ends the command is told by its error line.
        if code < 200 and (patient or client.welcome is not None):
            down = True
            why = _mistake(reason, url) or reason or _code_name(code)
            tell(f"no connection ({why}); trying again")

    def on_up(welcome: Any) -> None:
        nonlocal down
        if down:
            tell("connected again")
        down = False

    client.on_down, client.on_up = on_down, on_up
    client.on_gap = Losses().lose
    client.on_unsubscribed = put_out


class Losses:
    """Tells what cannot be shown any more."""

    def __init__(self) -> None:
        self._begun: set[tuple[Address, int]] = set()

    def lose(self, gap: Gap) -> None:
        """A log that began anew is told once for its lanes, which have the same epoch."""
        name = address_text(gap.address)
        if gap.after != gap.upto:
            lane = f"lane {gap.lane}, " if gap.lane else ""
            tell(
                f"{name} ({lane}epoch {gap.epoch}): something after {gap.after} and up to {gap.upto} is lost"
            )
        elif (gap.address, gap.epoch) not in self._begun:
            self._begun.add((gap.address, gap.epoch))
            tell(f"{name} (epoch {gap.epoch}): what came before may be lost (the gateway was restarted)")


def put_out(subscription: Any) -> None:
    """Tell of a room that we are not in any more."""
    code = subscription.ended
    tell(
        f"{address_text(subscription.address)}: no more from there ({getattr(code, 'name', f'code {code}')})"
    )


def advice_on(address: str, code: int) -> str:
    """What to do about an outcome; "" where its name says enough."""
    kind, _, name = address.partition(":")
    if code != OutcomeCode.FORBIDDEN:
        return ""
    if kind == "room":
        return (
            "who sends there must be in the room, or have a token that names it: imgateway token USER --room "
            f"{name}"
        )
    if kind == "topic":
        return f"who sends there must have a token that names it: imgateway token USER --topic {name}"
    if kind in ("all", "area", "node"):
        return f"who sends to {address} needs a service token: imgateway token USER --service"
    return ""


def show_log() -> None:
    """From now on what the client complains of is one line on stderr, and what it merely notes is dropped."""
    globalLogBeginner.beginLoggingTo([_complaint], redirectStandardIO=False, discardBuffer=True)


@implementer(ILogObserver)
def _complaint(event: LogEvent) -> None:
    if event.get("log_level", LogLevel.info) < LogLevel.warn:
        return
    failure = event.get("log_failure")
    tell(f"{formatEvent(event)}" + (f": {failure.getErrorMessage()}" if failure is not None else ""))
