"""Passwords, one-time codes and recovery codes. Acts on values handed to it; keeps nothing."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardstream.errors import Invalid

_SHORTEST, _LONGEST = 12, 200
_STEP_SECONDS = 30
_CODES, _CODE_BYTES = 10, 10
_NONCE = 12


class Passwords:
    """Makes and checks password hashes. Its cost is RFC 9106's second recommended option (section 4): 64 MiB, three passes."""

    def __init__(self, *, time_cost: int = 3, memory_kib: int = 65_536) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=2)
        # Somebody who does not exist costs as much to refuse as somebody who does.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    def hash(self, password: str, name: str) -> str:
        """Return the Argon2id hash of a new password; raises `Invalid` for one that is too short, too long or easy to guess.

        NIST SP 800-63B section 5.1.1.2: length counts, and no rules about kinds of characters.
        """
        if not _SHORTEST <= len(password) <= _LONGEST:
            raise Invalid(f"a password has {_SHORTEST} to {_LONGEST} characters, got {len(password)}: a few words make a good one")
        if name.lower() in password.lower() or len(set(password)) < _SHORTEST // 2:
            raise Invalid("the password is too easy to guess: leave the account's name out of it, and use more different characters")
        return self._hasher.hash(password)

    def fits(self, password: str, kept: str | None) -> bool:
        """Return whether the password is the one whose hash was kept; takes as long where none was."""
        if not password or len(password) > _LONGEST:
            password, kept = "", None
        try:
            self._hasher.verify(kept or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return kept is not None


def new_totp_secret() -> str:
    """Return a secret for an authenticator app (RFC 6238), in base 32."""
    return pyotp.random_base32()


def totp_uri(secret: str, name: str) -> str:
    """Return what an authenticator app reads, as a link or a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name="Wardstream")


def totp_step(secret: str, code: str, now: float, last_step: int | None) -> int | None:
    """Return the time step that `code` belongs to, or None where it is wrong, too old or was used: a code counts once.

    One step earlier and one later are taken, for clocks that differ.
    """
    if len(code) != 6 or not (code.isascii() and code.isdigit()):
        return None
    present = int(now // _STEP_SECONDS)
    for step in (present, present - 1, present + 1):
        if hmac.compare_digest(pyotp.TOTP(secret).generate_otp(step), code):
            return step if last_step is None or step > last_step else None
    return None


def new_recovery_codes() -> list[str]:
    """Return codes that stand in for a lost authenticator, each once."""
    return [secrets.token_hex(_CODE_BYTES) for _ in range(_CODES)]


def recovery_hash(code: str) -> str:
    """Return what is kept of a recovery code; it is random, so one round of SHA-256 leaves nothing to guess."""
    return hashlib.sha256(code.strip().lower().replace("-", "").encode()).hexdigest()


def seal(text: str, key: bytes, name: str) -> str:
    """Return a person's TOTP secret as the database keeps it; it opens with the same key for the same person only."""
    nonce = secrets.token_bytes(_NONCE)
    return (nonce + AESGCM(key).encrypt(nonce, text.encode(), name.encode())).hex()


def unseal(sealed: str, key: bytes, name: str) -> str:
    """Return what was sealed; raises `Invalid` where it was meddled with."""
    raw = bytes.fromhex(sealed)
    try:
        return AESGCM(key).decrypt(raw[:_NONCE], raw[_NONCE:], name.encode()).decode()
    except InvalidTag as error:
        raise Invalid(f"the second factor of {name} cannot be read: reset the account") from error


def matching(code: str, kept: Sequence[str]) -> str | None:
    """Return the kept hash that a recovery code has, or None."""
    wanted = recovery_hash(code)
    return next((each for each in kept if hmac.compare_digest(each, wanted)), None)
