"""Passwords and keys derived from control's one secret, so that none of them needs to be stored."""

import hashlib
import hmac

CONTROL_USER = "ws-control"
LAUNCHER_USER = "ws-launcher"


def redis_password(secret: bytes, user: str) -> str:
    """Return the password of the online store's user `user`, the same on every call."""
    return _derived(secret, f"redis:{user}").hex()


def redis_password_hash(secret: bytes, user: str) -> str:
    """Return the same password as the store's access list holds it: SHA-256 in hex."""
    return hashlib.sha256(redis_password(secret, user).encode()).hexdigest()


def pseudonym_key(secret: bytes, project: str) -> bytes:
    """Return the 32-byte key that turns identifiers of `project` into pseudonyms; no two projects share one."""
    return _derived(secret, f"pseudonym:{project}")


def totp_key(secret: bytes) -> bytes:
    """Return the 32-byte key that people's second factors are encrypted with in the database."""
    return _derived(secret, "totp")


def _derived(secret: bytes, purpose: str) -> bytes:
    return hmac.digest(secret, purpose.encode(), "sha256")


def platform_users(secret: bytes) -> str:
    """Return the online store's access list of a fresh platform: nobody by default, control, and the launcher's PING.

    Control makes users and loads functions, and can read no key. The launcher learns only whether the store answers.
    """
    control, launcher = (redis_password_hash(secret, user) for user in (CONTROL_USER, LAUNCHER_USER))
    return (
        "user default off resetkeys resetchannels nocommands\n"
        f"user {CONTROL_USER} on #{control} resetkeys resetchannels nocommands +acl +function +ping\n"
        f"user {LAUNCHER_USER} on #{launcher} resetkeys resetchannels nocommands +ping\n"
    )
