"""Certificates and API keys from a one-time token; the private key never leaves this machine."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from wardstream.client.transport import Transport
from wardstream.errors import Invalid


@dataclass(frozen=True)
class Credentials:
    """Where an enrolled certificate lies."""

    principal: str
    certificate_file: Path
    key_file: Path
    ca_file: Path
    expires_at: str


def enrol(transport: Transport, token: str, folder: Path) -> Credentials:
    """Make a P-256 key in `folder`, have it certified with `token`, and return where all lies (key mode 0600).

    The token is used up. A key and a certificate that lie there stay as they are until the new ones are complete: also when
    `Unauthenticated` is raised for a wrong, used or expired token. Raises `Invalid`, with the token unused, when `folder`
    cannot be written.
    """
    key_file, certificate_file, ca_file = folder / "key.pem", folder / "certificate.pem", folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    with (
        _replacing(key_file, 0o600) as for_key,
        _replacing(certificate_file, 0o644) as for_certificate,
        _replacing(ca_file, 0o644) as for_ca,
    ):
        for_key.write(_private_pem(key))
        answer = transport.json("POST", "/api/v1/enrolments/certificate", json={"token": token, "csr": signing_request(key)})
        for_certificate.write(answer["certificate"])
        for_ca.write(answer["root"])
    return Credentials(answer["principal"], certificate_file, key_file, ca_file, answer["expires_at"])


def renew(transport: Transport, folder: Path, *, new_key: bool = False) -> Credentials:
    """Renew the certificate in `folder` with itself; `transport` shows it at the outside door.

    The key stays unless `new_key`: only the certificate's file changes, at once, so that whoever reads it finds a pair that
    belongs together. Raises `Unauthenticated` where the membership has ended or the certificate has expired.
    """
    key_file, certificate_file, ca_file = folder / "key.pem", folder / "certificate.pem", folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1()) if new_key else _key_of(key_file)
    with ExitStack() as files:
        for_certificate = files.enter_context(_replacing(certificate_file, 0o644))
        if new_key:
            files.enter_context(_replacing(key_file, 0o600)).write(_private_pem(key))
        answer = transport.json("POST", "/api/v1/account/certificate", json={"csr": signing_request(key)})
        for_certificate.write(answer["certificate"])
    return Credentials(answer["principal"], certificate_file, key_file, ca_file, answer["expires_at"])


def life_of(certificate_file: Path) -> tuple[datetime, datetime]:
    """Return from when until when a certificate is good; raises `Invalid` for a file that holds none."""
    try:
        found = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"{certificate_file} is not a readable PEM certificate") from error
    return found.not_valid_before_utc, found.not_valid_after_utc


def pkcs12(folder: Path, password: str, name: str) -> bytes:
    """Return key and certificates of `folder` as PKCS #12, encrypted with `password`, for clients that read nothing else."""
    if not password:
        raise Invalid("a password is wanted: the file holds the private key")
    try:
        leaf, *rest = x509.load_pem_x509_certificates((folder / "certificate.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"{folder / 'certificate.pem'} is not a readable PEM certificate") from error
    encryption = serialization.BestAvailableEncryption(password.encode())
    return serialize_key_and_certificates(name.encode(), _key_of(folder / "key.pem"), leaf, rest, encryption)


def _key_of(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(f"{file} is not a readable private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"{file} holds a key of another kind than ours: enrol anew")
    return key


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def api_key(transport: Transport, token: str, file: Path) -> str:
    """Exchange `token` for an API key, write it to `file` (mode 0600) and return the principal it stands for.

    Raises `Invalid`, with the token unused, when `file` cannot be written; what it held stays until the key is there.
    """
    with _replacing(file, 0o600) as target:
        answer = transport.json("POST", "/api/v1/enrolments/api-key", json={"token": token})
        target.write(answer["api_key"] + "\n")
    return str(answer["principal"])


def registry_settings(transport: Transport) -> dict[str, Any]:
    """Return the settings with which Confluent's `SchemaRegistryClient` logs in at the same door as `transport`, by certificate.

    The client asks for a token at each request; the certificate's key is proved when the one that is held ends. `transport`
    must stay open as long as the client. Raises `Invalid` where it has no certificate.
    """
    if transport.certificate is None:
        raise Invalid("these settings are for a login with a client certificate: a key goes into basic.auth.user.info")

    def fields(_: object) -> dict[str, str]:
        return {"bearer.auth.token": transport.door_token(), "bearer.auth.logical.cluster": "", "bearer.auth.identity.pool.id": ""}

    return {
        "url": f"{transport.url}/registry",
        "ssl.ca.location": str(transport.ca_file),
        "ssl.certificate.location": str(transport.certificate[0]),
        "ssl.key.location": str(transport.certificate[1]),
        "bearer.auth.credentials.source": "CUSTOM",
        "bearer.auth.custom.provider.function": fields,
        "bearer.auth.custom.provider.config": {},
    }


def write_bytes(file: Path, content: bytes) -> None:
    """Write bytes that hold a secret to `file` (mode 0600), whole or not at all."""
    with _replacing(file, 0o600) as target:
        target.buffer.write(content)  # type: ignore[attr-defined]  # a text file on a binary one


def write_secret(file: Path, text: str) -> None:
    """Write a secret to `file` (mode 0600), whole or not at all; raises `Invalid` where it cannot be written."""
    with _replacing(file, 0o600) as target:
        target.write(text + "\n")


def signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a PEM certificate signing request of `key`; its subject is empty, since control sets the name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@contextmanager
def _replacing(file: Path, mode: int) -> Iterator[IO[str]]:
    """Yield a file that takes the place of `file` when the block ends, and is gone, with `file` as it was, when the block fails.

    It is made before the block begins: a token is spent only where its yield can be kept.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise Invalid(f"{file} cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as target:
            os.fchmod(descriptor, mode)
            yield target
            target.flush()
            os.fsync(descriptor)
        temporary.replace(file)
    except OSError as error:
        raise Invalid(f"{file} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
