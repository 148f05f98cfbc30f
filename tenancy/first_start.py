"""What must be there before any process of the platform starts. Imports little: it runs at every start."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from tenancy.audit import AuditEvent, Outcome
from tenancy.authority.init import bootstrap
from tenancy.authority.store import write_file
from tenancy.credentials import ADMINISTRATOR, Secret, SecretKind, new_secret, parse_secret
from tenancy.repository import Repository
from wardstream.clock import Clock
from wardstream.database import connect, migrate
from wardstream.settings import ControlSettings

LOGIN_LINK_LIFETIME = timedelta(hours=24)

_MIGRATIONS = Path(__file__).parent / "migrations"


def initialise(settings: ControlSettings, clock: Clock) -> None:
    """Make authority, certificates, database, administrator's key and one-time link where they are missing."""
    bootstrap(settings, clock)
    engine = open_database(settings)
    first_credentials(Repository(engine), clock, key_file=settings.home / "admin.key", link_file=settings.home / "login-link")
    engine.dispose()


def open_database(settings: ControlSettings) -> Engine:
    """Return the tenancy database, made or migrated where it has to be."""
    if settings.database_url.startswith("sqlite:///"):
        Path(settings.database_url.removeprefix("sqlite:///")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = connect(settings.database_url)
    migrate(engine, _MIGRATIONS)
    return engine


def first_credentials(repository: Repository, clock: Clock, *, key_file: Path, link_file: Path) -> None:
    """Make the administrator's API key and a one-time link, each in a file of mode 0600, where they are missing.

    The key's file is the truth: removing it makes a new key and ends all before it. A new link is made when there is
    none that still opens. A run killed between file and database is completed by the next.
    """
    now = clock.now()
    with repository.transaction() as tenancy:
        key = _read(key_file, SecretKind.API_KEY)
        stored = tenancy.credentials.api_key(key.id) if key is not None else None
        if key is None or (stored is not None and (stored.ended_at is not None or not key.proves(stored.secret_hash))):
            key, stored = new_secret(SecretKind.API_KEY), None
            _write(key_file, key)
        if stored is None:
            tenancy.credentials.revoke_administrator_keys(now)
            tenancy.credentials.add_api_key(key, ADMINISTRATOR, now)
            tenancy.audit(AuditEvent("administrator", None, "api-key.issue", "administrator", Outcome.ALLOWED, {"key": key.id}), now)
        link = _read(link_file, SecretKind.LOGIN_LINK)
        known = tenancy.credentials.login_link(link.id) if link is not None else None
        if known is None or known.ended_at is not None or known.expires_at is None or known.expires_at <= now:
            link = new_secret(SecretKind.LOGIN_LINK)
            tenancy.credentials.add_login_link(link, now + LOGIN_LINK_LIFETIME)
            _write(link_file, link)


def _read(file: Path, kind: SecretKind) -> Secret | None:
    try:
        return parse_secret(file.read_text(encoding="utf-8"), kind)
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _write(file: Path, secret: Secret) -> None:
    write_file(file, secret.text + "\n", mode=0o600)
