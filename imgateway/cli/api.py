"""A router's HTTP API, asked one question after another.

Who asks only waits for the answer, so no reactor is started for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

import click
from msgspec import DecodeError, Struct, ValidationError, convert, json

from imgateway.cli.bar import remark
from imgateway.cli.lines import plain, tell

__all__ = ("Api", "Refused", "Unreachable", "in_doubt", "looks", "segment")

CONNECT_S = 10.0
ANSWER_S = 60.0
"""Without a byte; a router itself gives up after router.timeout_s, 30 s unless it is set."""
TASK_ANSWER_S = 330.0
"""The same for what looks at a whole push task: there it gives up after router.tasks_timeout_s, 300 s."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Some hundred thousand nodes; what is longer is no answer of a router."""
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long something that is followed may be out of sight, while routers are restarted."""


class _Failed(click.ClickException):
    """One line. `more`: what the command that asked knows about it."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))
        self.more = ""

    def format_message(self) -> str:
        return self.message + self.more


class Refused(_Failed):
    """The API said no. `kind`: of its problem document, see `imgateway.router.problems`."""

    exit_code = 1

    def __init__(self, kind: str, status: int, said: str, advice: str = "") -> None:
        super().__init__(f"{said}; {advice}" if advice else said)
        self._said = plain(said)
        self.kind = kind
        self.status = status

    def format_message(self) -> str:
        # The advice of a 504 is what `more` knows better: what may be done or not, and how to ask again.
        return self._said + self.more if self.more and self.status == 504 else super().format_message()

    @property
    def passing(self) -> bool:
        """The same question may be answered a little later."""
        return self.status in (429, 500, 503, 504)

    @property
    def in_doubt(self) -> bool:
        """What was asked may have been done."""
        return self.passing


class Unreachable(_Failed):
    """There is no API, or its answer did not come. `sent`: what was asked was on its way by then."""

    exit_code = 3

    def __init__(self, message: str, sent: bool = False) -> None:
        super().__init__(message)
        self.in_doubt = sent
        """What was asked may have been done."""


class Api:
    """:param router: ``http://HOST:PORT`` or ``https://HOST``; a path is put before the API's own.

    :param ca: a file of certificates in PEM form, to trust instead of the system's; "": the system's.
    :raises click.ClickException: the URL is none, or the file has no certificates.
    """

    def __init__(self, router: str, key: str, ca: str = "", insecure: bool = False) -> None:
        from urllib3.connectionpool import connection_from_url
        from urllib3.exceptions import HTTPError, InsecureRequestWarning

        if any(mark in router for mark in "@?#"):  # nor is it shown: what stands there may be a key
            raise click.UsageError(
                "--router: a URL has neither a key nor a query; keys are for --key-file and IMGATEWAY_API_KEY"
            )
        try:
            parts = urlsplit(router)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise click.UsageError(f"{router!r} is no router's URL; write https://HOST or http://HOST:PORT")
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        trust: dict[str, Any] = {}
        if parts.scheme == "https" and insecure:
            import warnings

            warnings.simplefilter("ignore", InsecureRequestWarning)
            trust = {"cert_reqs": "CERT_NONE"}
        elif parts.scheme == "https" and ca:
            trust = {"ssl_context": _trusting(ca)}
        try:
            # A pool, because a manager would take an id of dots in a path for a step up.
            self._pool = connection_from_url(self._url, retries=False, **trust)
        except HTTPError as error:
            raise click.UsageError(f"{router!r} is no router's URL: {error}") from None
        self._pool.ConnectionCls = _patient(self._pool.ConnectionCls)

    def ask(
        self,
        method: str,
        path: str,
        answer: type[Struct],
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        upload: tuple[IO[bytes], int, str] | None = None,
        slow: bool = False,
    ) -> Any:
        """The answer's JSON object, which has what `answer` has, and maybe more.

        :param query: name → text or number, or a list of them; empty ones are left out.
        :param body: an object. `upload`, instead: a file, its bytes and their content type.
        :param slow: the API looks at a whole push task for it.
        :raises Refused: with what the API says. :raises Unreachable: there is no answer.
        """
        asked = {name: value for name, value in (query or {}).items() if value not in ("", None)}
        target = self._path + path + ("?" + urlencode(asked, doseq=True) if asked else "")
        headers, sent = dict(self._headers), None
        answer_s = TASK_ANSWER_S if slow else ANSWER_S
        if upload is not None:
            sent, size, kind = upload
            headers |= {"Content-Type": kind, "Content-Length": str(size)}
        elif body is not None:
            sent = json.encode(body)  # type: ignore[assignment]
            headers["Content-Type"] = "application/json"
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        timeout = Timeout(connect=CONNECT_S, read=answer_s)
        try:
            told = self._pool.urlopen(
                method, target, sent, headers, redirect=False, timeout=timeout, preload_content=False
            )
            try:
                data = told.read(MAX_ANSWER_BYTES + 1)
            finally:
                told.release_conn()
        except (HTTPError, OSError) as error:
            raise self._unreachable(error, upload is not None, answer_s) from None
        if len(data) > MAX_ANSWER_BYTES:
            told.close()
            raise Unreachable(f"{self._url}: answers with more than {MAX_ANSWER_BYTES:,} bytes", sent=True)
        value = self._read(method, path, told.status, told.headers, data)
        try:
            convert(value, answer)
        except ValidationError as error:
            why = f"answers otherwise than this version knows ({error}): compare the versions"
            raise Unreachable(f"{self._url}: {why}", sent=True) from None
        return value

    def _read(self, method: str, path: str, status: int, headers: Mapping[str, str], data: bytes) -> Any:
        said = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        try:
            if said == "application/problem+json":
                raise _refused(path, status, headers, json.decode(data, type=_Problem))
            if 200 <= status < 300 and said == "application/json":
                return json.decode(data)
        except (DecodeError, UnicodeDecodeError):
            pass  # said below
        if status == 404:  # by somebody who does not know these paths, and so did nothing
            raise Unreachable(
                f"{self._url}: there is no HTTP API (it answers with 404): a node serves it only with --keys "
                "FILE, a router at its private port" + ("" if method == "GET" else "; nothing was done")
            )
        raise Unreachable(
            f"{self._url}: answers with {status}, and not as the API does; is this a router's private port?",
            sent=True,
        )

    def _unreachable(self, error: Exception, uploading: bool, answer_s: float) -> Unreachable:
        from urllib3.exceptions import (
            ConnectTimeoutError,
            LocationValueError,
            NewConnectionError,
            ReadTimeoutError,
            SSLError,
        )

        text = " ".join(str(error).split())
        url = self._url
        if isinstance(error, SSLError):
            if "certificate verify failed" in text or "doesn't match" in text:
                return Unreachable(
                    f"{url}: the certificate is not trusted: --ca FILE, or --insecure for a test"
                )
            if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
                return Unreachable(f"{url}: no TLS on this port: try http://")
            return Unreachable(f"{url}: TLS fails: {text}", sent=True)
        if isinstance(error, LocationValueError):
            return Unreachable(f"{url}: no host can have this name")
        if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
            return Unreachable(f"{url}: no connection within {CONNECT_S:g} s; is the address right?")
        if isinstance(error, NewConnectionError):
            why = "nothing listens there; is the router running, and is this its private port?"
            return Unreachable(f"{url}: {why if 'refused' in text else text.rpartition(': ')[2]}")
        if isinstance(error, ReadTimeoutError) and f"timeout={CONNECT_S})" in text:  # while it connects
            return Unreachable(f"{url}: no TLS within {CONNECT_S:g} s: is this port for http://?")
        if isinstance(error, ReadTimeoutError):
            return Unreachable(f"{url}: no answer within {answer_s:g} s", sent=True)
        if uploading and isinstance(error.args[-1], TimeoutError):
            why = f"nothing of the upload was taken for {ANSWER_S:g} s; is the router too busy?"
            return Unreachable(f"{url}: {why}", sent=True)
        if uploading:
            why = "a wrong key, or a file larger than router.tasks_upload_bytes, is cut off like this"
            return Unreachable(f"{url}: the connection broke during the upload; {why}", sent=True)
        why = "the connection broke before an answer came; is this a router's private port?"
        return Unreachable(f"{url}: {why}", sent=True)


def _patient(kind: Any) -> Any:
    """Connections of this kind that wait for a reader as long as for an answer. urllib3's wait, while they
    send, for no longer than for a connection."""

    class Patient(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            self.timeout = ANSWER_S  # over TLS it is set anew from here, once there is a connection
            self.sock.settimeout(ANSWER_S)

    return Patient


def _trusting(ca: str) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise click.ClickException(f"{ca}: has no certificate in PEM form") from None
    except OSError as error:
        raise click.ClickException(f"{ca}: the certificates cannot be read: {error.strerror}") from None


class _Problem(Struct, frozen=True):
    type: str = ""
    title: str = ""
    detail: str = ""
    advice: str = ""


def _refused(path: str, status: int, headers: Mapping[str, str], problem: _Problem) -> Refused:
    kind = problem.type.rpartition(":")[2]
    said, advice = problem.detail or problem.title or f"the router says {status}", problem.advice
    if kind == "not-found" and path.count("/") == 2:
        advice = "is this the router's private port?"  # every API has this path; the clients' port has not
    waits = headers.get("Retry-After", "")
    if status in (429, 503) and waits.isdigit():
        advice = "; ".join(filter(None, (advice, f"again in {waits} s")))
    return Refused(kind, status, said, advice)


@contextmanager
def in_doubt(text: str) -> Iterator[None]:
    """Says this text if nobody can know whether what is asked within was done: there is no answer, or one
    that leaves it open, or Ctrl-C or SIGTERM ended the wait for it."""
    try:
        yield
    except (Refused, Unreachable) as error:
        if error.in_doubt:
            error.more = f"; {plain(text)}"
        raise
    except KeyboardInterrupt:
        tell(text)
        raise


def segment(name: str) -> str:
    """An id as one segment of a path, whatever is in it."""
    return quote(name, safe="").replace(".", "%2E") if not name.strip(".") else quote(name, safe="")


def looks(ask: Callable[[], Any], pause: Callable[[float], None], now: Callable[[], float]) -> Iterator[Any]:
    """Answers to the same question, about once a second, for as long as the caller wants them.

    :param now: a steady clock, in seconds.
    :raises Refused: :raises Unreachable: once nothing was to be seen for `PATIENCE_S`.
    """
    seen, troubled = now(), False
    while True:
        try:
            answer = ask()
        except (Refused, Unreachable) as error:
            passing = error.passing if isinstance(error, Refused) else True
            if not passing or now() - seen >= PATIENCE_S:
                raise
            if not troubled:
                remark(f"{error.message}; looking again for {PATIENCE_S:g} s")
            troubled = True
        else:
            seen, troubled = now(), False
            yield answer
        pause(POLL_S)
