"""Accounts, logging in, one's own sessions and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wardstream.client.transport import Transport, path_part

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """A session: its text is as good as a password until it ends."""

    text: str
    principal: str
    project: str | None
    expires_at: str
    recovery_codes: tuple[str, ...]


def log_in(transport: Transport, name: str, password: str, code: str, *, project: str | None = None) -> Session:
    """Open a session as one principal: an administrator, or the member that `name` is in `project`.

    Raises `Unauthenticated` for anything wrong, `Conflict` naming the projects where there are several and none is named.
    """
    body = {"name": name, "password": password, "code": code, "project": project}
    return _session(transport.json("POST", "/api/v1/login/password", json=body))


def begin_setup(transport: Transport, link: str, password: str) -> tuple[str, str]:
    """Choose the password of a new account; return the authenticator's URI and its secret."""
    found = transport.json("POST", "/api/v1/login/setup", json={"link": link, "password": password})
    return found["totp_uri"], found["totp_secret"]


def finish_setup(transport: Transport, link: str, code: str) -> Session:
    """Open the account with the authenticator's first code; the session has the recovery codes, this once."""
    return _session(transport.json("POST", "/api/v1/login/setup/finish", json={"link": link, "code": code}))


class People:
    """Accounts, for administrators."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Rows:
        """Return all accounts by name."""
        found: Rows = self._transport.json("GET", "/api/v1/people")
        return found

    def add(self, name: str, *, display: str = "", administrator: bool = False) -> tuple[str, str]:
        """Make an account; return the one-time link for its owner, and when it ends."""
        body = {"name": name, "display": display, "administrator": administrator}
        made = self._transport.json("POST", "/api/v1/people", json=body)
        return made["link"], made["expires_at"]

    def reset(self, name: str) -> tuple[str, str]:
        """End password, second factor and sessions of an account; return a one-time link for its owner, and when it ends."""
        made = self._transport.json("POST", f"/api/v1/people/{path_part(name)}/reset")
        return made["link"], made["expires_at"]

    def disable(self, name: str, *, disabled: bool = True) -> None:
        """Close an account, with its sessions, keys and certificates in every project, or open it again."""
        self._transport.json("PATCH", f"/api/v1/people/{path_part(name)}", json={"disabled": disabled})


class Account:
    """What one does with one's own account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def memberships(self) -> Rows:
        """Return the projects that the account may log in to, with member and role."""
        found: Rows = self._transport.json("GET", "/api/v1/account/memberships")
        return found

    def sessions(self) -> Rows:
        """Return one's sessions, the oldest first."""
        found: Rows = self._transport.json("GET", "/api/v1/account/sessions")
        return found

    def end_session(self, session: str) -> None:
        """End one of one's sessions, at once."""
        self._transport.json("DELETE", f"/api/v1/account/sessions/{path_part(session)}")

    def change_password(self, old: str, new: str, code: str) -> None:
        """Change one's password; every session ends."""
        self._transport.json("POST", "/api/v1/account/password", json={"old": old, "new": new, "code": code})

    def keys(self) -> Rows:
        """Return one's API keys, the oldest first; never the keys themselves."""
        found: Rows = self._transport.json("GET", "/api/v1/account/keys")
        return found

    def create_key(self, label: str, *, scopes: Sequence[str] | None = None, days: float | None = None) -> tuple[str, str]:
        """Return a new API key, shown this once, and its id. Scopes are read, write and run; none opens all that one may do."""
        body = {"label": label, "scopes": list(scopes) if scopes else None, "days": days}
        made = self._transport.json("POST", "/api/v1/account/keys", json=body)
        return made["api_key"], made["key"]["id"]

    def revoke_key(self, key: str) -> None:
        """Make one of one's keys worthless, at once."""
        self._transport.json("DELETE", f"/api/v1/account/keys/{path_part(key)}")


def _session(found: dict[str, Any]) -> Session:
    return Session(found["session"], found["principal"], found["project"], found["expires_at"], tuple(found["recovery_codes"]))
