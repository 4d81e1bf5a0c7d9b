"""The bench's own certificate authority, the broker's certificate under it, and a password for each user of the broker.

Everything lands in one folder of mode 700, each file of mode 600; what is there already is kept, so that a second call
changes nothing. Must not print or log a key or a password.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3650
PASSWORD_BYTES = 18
SERVER_NAME = "broker"  # what boards ask for: their TLS compares names, not addresses


def private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a board's clock may be a little behind
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def make_authority(folder: Path) -> bool:
    """ca.pem, ca.der (for boards) and ca.key; whether they are new."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / "ca.key").exists():
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("brownout bench", "brownout bench", key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    private(folder / "ca.key", _key_bytes(key))
    private(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
    private(folder / "ca.der", certificate.public_bytes(serialization.Encoding.DER))
    return True


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def make_server(folder: Path, hosts: Iterable[str]) -> bool:
    """server.pem and server.key for a broker at these names or addresses; whether they are new."""
    if (folder / "server.key").exists():
        return False
    authority_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    public = authority_key.public_key()
    certificate = (
        _builder(SERVER_NAME, "brownout bench", key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private(folder / "server.key", _key_bytes(key))
    private(folder / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return True


def make_passwords(folder: Path, users: Iterable[str]) -> list[str]:
    """passwords.json, a password for each user; the users that are new."""
    path = folder / "passwords.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    fresh = [user for user in users if user not in known]
    if fresh:
        known |= {user: secrets.token_urlsafe(PASSWORD_BYTES) for user in fresh}
        private(path, (json.dumps(known, indent=2) + "\n").encode())
    return fresh


def access_list(bed: str, boards: Iterable[str]) -> str:
    """mosquitto's acl_file: each board speaks as itself alone and hears what is meant for it; the host hears all."""
    lines = ["user host", f"topic readwrite {bed}/#", "topic read $SYS/#"]
    for board in boards:
        lines += ["", f"user {board}"]
        lines += [f"topic write {bed}/{what}" for what in (f"g/{board}/#", f"ev/{board}", f"up/{board}", "re/#")]
        lines += [f"topic read {bed}/{what}" for what in (f"g/+/{board}", "g/+/all", "g/+/voters", f"cmd/{board}")]
    return "\n".join(lines) + "\n"
