"""The authority's keys and secrets on disk: one folder, mode 0700, that only control reads."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tenancy.authority.issuer import Authority, pem_of
from wardstream.errors import Invalid

_SECRET_BYTES = 32


def write_file(path: Path, content: bytes | str, *, mode: int = 0o600) -> None:
    """Put `content` at `path`: whoever looks sees the old file or the new one, never a part, also after a power cut.

    The file has `mode` from its first moment, whatever the umask.
    """
    raw = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_pem(key: ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption | None = None) -> str:
    """Return `key` as PKCS 8 PEM text, which is what Java and OpenSSL both read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


class AuthorityStore:
    """Keys of the authorities, the key that signs grants, and the secret that passwords are derived from.

    With a passphrase every key is encrypted with it. An authority's key and certificate share one file, so that no
    interruption separates them.
    """

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self._folder = folder
        self._passphrase = passphrase.encode() if passphrase else None

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Make the folder if it is not there, and hold it against another process until the block ends."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        with (self._folder / ".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield

    def authority(self, name: str) -> Authority | None:
        """Return the authority `name`, or None before it was made.

        Raises `Invalid` where the file cannot be read: a wrong passphrase, or a damaged file. Such a file is never
        replaced by a new authority, since everything issued so far would lose its issuer.
        """
        raw = self._read(f"{name}.pem")
        if raw is None:
            return None
        key = self._key(raw, f"{name}.pem")
        try:
            certificate = x509.load_pem_x509_certificate(raw)
        except ValueError as error:
            raise Invalid(f"the authority's file {name}.pem holds no certificate: restore it from a backup") from error
        if certificate.public_key() != key.public_key():
            raise Invalid(f"key and certificate in the authority's file {name}.pem do not belong together: restore it from a backup")
        return Authority(certificate, key)

    def keep_authority(self, name: str, authority: Authority) -> None:
        """Write `authority` durably, in place of an earlier one of this name."""
        write_file(self._folder / f"{name}.pem", private_pem(authority.key, self._encryption()) + pem_of(authority.certificate))

    def key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Return the private key `name`, or None before it was made; raises `Invalid` where it cannot be read."""
        raw = self._read(f"{name}.key")
        return None if raw is None else self._key(raw, f"{name}.key")

    def keep_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Write the private key `name` durably."""
        write_file(self._folder / f"{name}.key", private_pem(key, self._encryption()))

    def checkpoint_key(self) -> Ed25519PrivateKey:
        """Return the key that signs the audit's checkpoints, made where it is missing."""
        raw = self._read("audit.key")
        if raw is None:
            made = Ed25519PrivateKey.generate()
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption() or NoEncryption())
            write_file(self._folder / "audit.key", pem)
            return made
        key = self._loaded(raw, "audit.key")
        if not isinstance(key, Ed25519PrivateKey):
            raise Invalid("the authority's file audit.key holds a key of a foreign type: restore it from a backup")
        return key

    def secret(self) -> bytes | None:
        """Return the secret that passwords and pseudonym keys are derived from, or None before it was made."""
        raw = self._read("hmac.secret")
        if raw is None:
            return None
        try:
            secret = bytes.fromhex(raw.decode("ascii"))
        except (UnicodeDecodeError, ValueError):
            secret = b""
        if len(secret) != _SECRET_BYTES:
            raise Invalid("the authority's file hmac.secret is damaged: restore it from a backup")
        return secret

    def make_secret(self) -> bytes:
        """Return a new secret after writing it durably. Everything derived from an earlier one would be lost."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        write_file(self._folder / "hmac.secret", secret.hex() + "\n")
        return secret

    def _encryption(self) -> KeySerializationEncryption | None:
        return BestAvailableEncryption(self._passphrase) if self._passphrase else None

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _key(self, raw: bytes, name: str) -> ec.EllipticCurvePrivateKey:
        key = self._loaded(raw, name)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Invalid(f"the authority's file {name} holds a key of a foreign type: restore it from a backup")
        return key

    def _loaded(self, raw: bytes, name: str) -> PrivateKeyTypes:
        encrypted = b"ENCRYPTED PRIVATE KEY" in raw
        try:
            # A key written before a passphrase was set is read all the same; it stays as it is.
            return load_pem_private_key(raw, self._passphrase if encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            reason = "the passphrase is missing or wrong" if encrypted else "it is damaged: restore it from a backup"
            raise Invalid(f"the authority's file {name} cannot be read: {reason}") from error
