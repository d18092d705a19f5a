"""A self-made certificate for tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import Certificate, optionsForClientTLS


def write_certificate(directory: Path) -> Path:
    """Write key.pem and cert.pem for localhost and 127.0.0.1; returns the directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return directory


def write_own_certificate(file: Path, names: str, issuer: str = "") -> None:
    """Write a certificate without its key.

    :param names: such as ``DNS:localhost,IP:127.0.0.1``; "": it says none. :param issuer: "": itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    own, other = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in ("localhost", issuer or "localhost")
    )
    start = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(other)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
    )
    kinds = {"DNS": x509.DNSName, "IP": lambda text: x509.IPAddress(ipaddress.ip_address(text))}
    found = [kinds[one.partition(":")[0]](one.partition(":")[2]) for one in names.split(",") if one]
    if found:
        made = made.add_extension(x509.SubjectAlternativeName(found), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    file.write_bytes(pem)


def trusting(directory: Path) -> Any:
    """A connection creator that trusts this certificate."""
    root = Certificate.loadPEM((directory / "cert.pem").read_bytes())
    return optionsForClientTLS("localhost", trustRoot=root)
