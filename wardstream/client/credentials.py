"""Certificates and API keys from a one-time token; the private key never leaves this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardstream.client.transport import Transport


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

    The token is used up. Raises `Unauthenticated` for a wrong, used or expired one; the key file stays then and is replaced next time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key_file, certificate_file, ca_file = folder / "key.pem", folder / "certificate.pem", folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    answer = transport.json("POST", "/api/v1/enrolments/certificate", json={"token": token, "csr": signing_request(key)})
    certificate_file.write_text(answer["certificate"])
    ca_file.write_text(answer["root"])
    return Credentials(answer["principal"], certificate_file, key_file, ca_file, answer["expires_at"])


def api_key(transport: Transport, token: str, file: Path) -> str:
    """Exchange `token` for an API key, write it to `file` (mode 0600) and return the principal it stands for."""
    answer = transport.json("POST", "/api/v1/enrolments/api-key", json={"token": token})
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(answer["api_key"] + "\n")
    return str(answer["principal"])


def signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a PEM certificate signing request of `key`; its subject is empty, since control sets the name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()
