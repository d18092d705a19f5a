"""Which certificates a client believes, when not the system's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from OpenSSL.SSL import Connection
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from zope.interface import implementer

__all__ = ("Unverified", "trusting", "unverified")

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def trusting(host: str, ca: str) -> Any:
    """A connection creator that takes only certificates for `host` signed by one of this PEM file.

    :raises click.ClickException: the file has none.
    """
    try:
        found = [Certificate.loadPEM(block) for block in _PEM.findall(Path(ca).read_bytes())]
    except OSError as error:
        raise click.ClickException(f"{ca}: the certificates cannot be read: {error.strerror}") from None
    except Exception as error:  # OpenSSL's own, which say little
        raise click.ClickException(f"{ca}: has a broken certificate ({type(error).__name__})") from None
    if not found:
        raise click.ClickException(f"{ca}: has no certificate in PEM form")
    return optionsForClientTLS(host, trustRootFromCertificates(found))


@implementer(IOpenSSLClientConnectionCreator)
class Unverified:
    """Takes any certificate; still says which host it wants, for servers that have several."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._context = CertificateOptions(verify=False).getContext()

    def clientConnectionForTLS(self, protocol: Any) -> Connection:
        connection = Connection(self._context, None)
        connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection


def unverified(host: str) -> Unverified:
    return Unverified(host)
