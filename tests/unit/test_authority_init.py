"""What `bootstrap` leaves on disk, run once, twice and after an interruption."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from tenancy.authority import secrets
from tenancy.authority.init import PLATFORM_NAMES, bootstrap, open_authority
from tenancy.authority.store import AuthorityStore, write_file
from wardstream.clock import ManualClock
from wardstream.errors import Invalid, Unavailable
from wardstream.settings import ControlSettings, KafkaSettings, RedisSettings, TlsSettings

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def settings(home: Path, *, passphrase_file: Path | None = None) -> ControlSettings:
    pki = home / "pki"
    tls = TlsSettings(
        ca_file=pki / "root.pem", certificate_file=pki / "platform" / "ws-control.crt", key_file=pki / "platform" / "ws-control.key"
    )
    return ControlSettings(
        name="ws-control",
        port=1,
        home=home,
        tls=tls,
        platform_ca_file=pki / "platform.pem",
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", tls=tls),
        redis=RedisSettings(port=1, tls=tls),
        redis_functions_file=home / "functions.lua",
        database_url="sqlite://",
        pki=pki,
        passphrase_file=passphrase_file,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    before = contents(tmp_path)
    bootstrap(settings(tmp_path), ManualClock(NOW + timedelta(days=14)))
    assert contents(tmp_path) == before


def test_keys_are_private_and_certificates_are_not(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    pki = tmp_path / "pki"
    assert (pki / "authority").stat().st_mode & 0o777 == 0o700
    secret_files = [path for path in (pki / "authority").iterdir() if path.name != ".lock"]
    secret_files += [*pki.glob("platform/*.key"), *pki.glob("platform/*.pem"), *(tmp_path / "redis").iterdir()]
    assert {path.name: path.stat().st_mode & 0o777 for path in secret_files if path.stat().st_mode & 0o777 != 0o600} == {}
    assert {path.stat().st_mode & 0o777 for path in pki.glob("*.pem")} == {0o644}


def test_every_platform_process_has_key_and_chain_that_belong_together(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    folder = tmp_path / "pki" / "platform"
    for name in PLATFORM_NAMES:
        key = load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
        leaf, intermediate = x509.load_pem_x509_certificates((folder / f"{name}.crt").read_bytes())
        assert leaf.public_key() == key.public_key()
        assert leaf.subject.rfc4514_string() == f"CN={name},OU=platform,O=wardstream"
        leaf.verify_directly_issued_by(intermediate)
        assert (folder / f"{name}.pem").read_text() == (folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text()


@pytest.mark.parametrize("nth", range(0, 33, 2))
def test_run_killed_anywhere_is_completed_by_the_next(tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenancy.authority.store.os.fsync", _dies_at(nth))
    with pytest.raises(KeyboardInterrupt):
        bootstrap(settings(tmp_path), ManualClock(NOW))
    monkeypatch.undo()
    survived = {name: raw for name, raw in contents(tmp_path / "pki" / "authority").items() if not name.startswith(".")}
    bootstrap(settings(tmp_path), ManualClock(NOW))
    assert survived.items() <= contents(tmp_path / "pki" / "authority").items()
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    test_every_platform_process_has_key_and_chain_that_belong_together(tmp_path)


def _dies_at(nth: int) -> Callable[[int], None]:
    calls = iter(range(1000))

    def fsync(_descriptor: int) -> None:
        if next(calls) == nth:
            raise KeyboardInterrupt

    return fsync


def test_platform_certificates_are_replaced_past_their_half_life(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    before = contents(tmp_path / "pki")
    bootstrap(settings(tmp_path), ManualClock(NOW + timedelta(days=16)))
    after = contents(tmp_path / "pki")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"platform/{name}.{suffix}" for name in PLATFORM_NAMES for suffix in ("crt", "key", "pem")}


def test_intermediates_are_renewed_with_their_key(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    before = contents(tmp_path / "pki")
    bootstrap(settings(tmp_path), ManualClock(NOW + timedelta(days=400)))
    after = contents(tmp_path / "pki")
    assert after["root.pem"] == before["root.pem"]
    old, new = (x509.load_pem_x509_certificate(found["inside.pem"]) for found in (before, after))
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert new.public_key() == old.public_key()


def test_lost_half_is_made_again_from_the_whole(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    before = contents(tmp_path)
    (tmp_path / "pki" / "platform" / "ws-query.crt").unlink()
    (tmp_path / "pki" / "platform" / "ws-query.key").write_text("torn")
    bootstrap(settings(tmp_path), ManualClock(NOW))
    assert contents(tmp_path) == before


def test_damaged_authority_is_named_and_never_replaced(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    (tmp_path / "pki" / "authority" / "root.pem").write_text("torn")
    with pytest.raises(Invalid, match=r"root\.pem cannot be read: it is damaged"):
        bootstrap(settings(tmp_path), ManualClock(NOW))


def test_passphrase_encrypts_every_key_of_the_authority(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    bootstrap(settings(tmp_path, passphrase_file=passphrase), ManualClock(NOW))
    for path in (tmp_path / "pki" / "authority").iterdir():
        assert b"BEGIN PRIVATE KEY" not in path.read_bytes()
    open_authority(settings(tmp_path, passphrase_file=passphrase))
    with pytest.raises(Invalid, match="passphrase is missing or wrong"):
        open_authority(settings(tmp_path))
    passphrase.write_text("battery staple\n")
    with pytest.raises(Invalid, match="passphrase is missing or wrong"):
        open_authority(settings(tmp_path, passphrase_file=passphrase))


def test_empty_passphrase_file_is_refused(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("\n")
    with pytest.raises(Invalid, match="first line is the passphrase"):
        bootstrap(settings(tmp_path, passphrase_file=passphrase), ManualClock(NOW))


def test_authority_is_unavailable_before_it_was_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="init"):
        open_authority(settings(tmp_path))


def test_grants_are_verified_with_the_published_key(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    public = load_pem_public_key((tmp_path / "pki" / "grants.pub.pem").read_bytes())
    grant_key = open_authority(settings(tmp_path)).grant_key
    assert isinstance(grant_key.curve, ec.SECP256R1)
    assert grant_key.public_key() == public


def test_users_that_control_saved_are_kept(tmp_path: Path) -> None:
    bootstrap(settings(tmp_path), ManualClock(NOW))
    users = tmp_path / "redis" / "users.acl"
    saved = "user icu.read on sanitize-payload #abc ~p:{icu}:* resetchannels -@all +ping\n"
    write_file(users, users.read_text().replace("+function", "") + saved)
    bootstrap(settings(tmp_path), ManualClock(NOW))
    secret = open_authority(settings(tmp_path)).secret
    assert users.read_text() == secrets.platform_users(secret) + saved


def test_default_user_of_the_online_store_is_off() -> None:
    assert secrets.platform_users(b"s" * 32).splitlines()[0].split()[:3] == ["user", "default", "off"]


def test_derived_secrets_differ_by_purpose_and_name() -> None:
    secret = b"s" * 32
    derived = {
        secrets.redis_password(secret, "icu.read"),
        secrets.redis_password(secret, "icu.write"),
        secrets.pseudonym_key(secret, "icu").hex(),
        secrets.pseudonym_key(secret, "icu.read").hex(),
        secrets.redis_password(b"t" * 32, "icu.read"),
    }
    assert len(derived) == 5


def test_secret_that_is_damaged_is_named(tmp_path: Path) -> None:
    store = AuthorityStore(tmp_path)
    (tmp_path / "hmac.secret").write_text("zz\n")
    with pytest.raises(Invalid, match=r"hmac\.secret is damaged"):
        store.secret()
