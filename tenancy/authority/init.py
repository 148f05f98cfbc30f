"""Makes, once, everything that certificates, grants and passwords hang on; run at each start of the platform."""

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tenancy.authority import secrets
from tenancy.authority.issuer import Authority, Issuer, issue_platform, make_intermediate, make_root, new_key, pem_of
from tenancy.authority.profile import Intermediate
from tenancy.authority.store import AuthorityStore, private_pem, write_file
from wardstream.clock import Clock
from wardstream.errors import Invalid, Unavailable
from wardstream.settings import ControlSettings

logger = logging.getLogger(__name__)

PLATFORM_NAMES = (
    "ws-broker-1",
    "ws-control",
    "ws-query",
    "ws-gateway",
    "ws-stream-worker",
    "ws-program-worker",
    "ws-redis",
    "ws-launcher",
    "ws-audit",
)


@dataclass(frozen=True)
class AuthorityKeys:
    """What control needs of the authority while it runs."""

    issuer: Issuer
    grant_key: ec.EllipticCurvePrivateKey
    checkpoint_key: Ed25519PrivateKey
    secret: bytes


def bootstrap(settings: ControlSettings, clock: Clock) -> None:
    """Make what is missing: root, intermediates, platform certificates, grant key, secret, the store's first users.

    Afterwards every file of the platform's certificates is there and good for at least half of its life. Repeating
    it changes nothing but certificates past their half-life; their issuers stay valid for what was issued before.
    A run killed anywhere is completed by the next. Raises `Invalid` where a key cannot be read: nothing that other
    things hang on is ever made anew.
    """
    now = clock.now()
    store = _store(settings)
    with store.exclusively():
        root = store.authority("root")
        if root is None:
            root = make_root(now)
            store.keep_authority("root", root)
            logger.info("root authority made", extra={"not_after": root.certificate.not_valid_after_utc.isoformat()})
        _publish(settings.pki / "root.pem", pem_of(root.certificate))
        intermediates = {name: _intermediate(store, root, name, now) for name in Intermediate}
        for name, authority in intermediates.items():
            _publish(settings.pki / f"{name}.pem", pem_of(authority.certificate))
        platform = settings.pki / "platform"
        platform.mkdir(mode=0o700, exist_ok=True)
        for process in PLATFORM_NAMES:
            _platform_certificate(platform, intermediates[Intermediate.PLATFORM], process, now)
        grant_key = store.key("grants")
        if grant_key is None:
            grant_key = new_key()
            store.keep_key("grants", grant_key)
        public = grant_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        _publish(settings.pki / "grants.pub.pem", public)
        signs = store.checkpoint_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        _publish(settings.pki / "audit.pub.pem", signs)
        _online_store_users(settings.home / "redis", store.secret() or store.make_secret())


def open_authority(settings: ControlSettings) -> AuthorityKeys:
    """Return the keys that `bootstrap` made. Raises `Unavailable` before it has run, `Invalid` for unreadable keys."""
    store = _store(settings)
    root, grant_key, secret = store.authority("root"), store.key("grants"), store.secret()
    intermediates = {name: store.authority(name) for name in Intermediate}
    found = {name: authority for name, authority in intermediates.items() if authority is not None}
    if root is None or grant_key is None or secret is None or len(found) < len(intermediates):
        raise Unavailable("the certificate authority is not there yet: run `python -m tenancy.main init` first")
    return AuthorityKeys(Issuer(root=root.certificate, intermediates=found), grant_key, store.checkpoint_key(), secret)


def _store(settings: ControlSettings) -> AuthorityStore:
    passphrase = None
    if settings.passphrase_file is not None:
        try:
            lines = settings.passphrase_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid("the authority's passphrase file cannot be read: passphrase_file must name a text file") from error
        if not lines or not lines[0]:
            raise Invalid("the authority's passphrase file is empty: its first line is the passphrase")
        passphrase = lines[0]
    return AuthorityStore(settings.pki / "authority", passphrase=passphrase)


def _intermediate(store: AuthorityStore, root: Authority, name: Intermediate, now: datetime) -> Authority:
    authority = store.authority(name)
    if authority is not None and not _past_half_life(authority.certificate, now):
        return authority
    renewed = make_intermediate(root, name, now, key=authority.key if authority else None)
    store.keep_authority(name, renewed)
    logger.info("intermediate made", extra={"intermediate": str(name), "not_after": renewed.certificate.not_valid_after_utc.isoformat()})
    return renewed


def _past_half_life(certificate: x509.Certificate, now: datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) / 2


def _platform_certificate(folder: Path, authority: Authority, name: str, now: datetime) -> None:
    """Keep <name>.pem (key and chain, what a broker reads) good, and <name>.key and <name>.crt equal to its halves.

    The one file that holds both is the truth; the halves are made from it at each run, so that an interruption
    between two writes leaves nothing that does not belong together.
    """
    whole = folder / f"{name}.pem"
    halves = _halves(whole, authority, now)
    if halves is None:
        key = new_key()
        halves = private_pem(key), issue_platform(authority, key.public_key(), name=name, now=now).chain
        write_file(whole, "".join(halves))
        logger.info("platform certificate issued", extra={"platform_name": name})
    _publish(folder / f"{name}.key", halves[0], mode=0o600)
    _publish(folder / f"{name}.crt", halves[1])


def _halves(whole: Path, authority: Authority, now: datetime) -> tuple[str, str] | None:
    """Return key and chain of a certificate that may stay, or None where a new one is due."""
    try:
        raw = whole.read_bytes()
        key = load_pem_private_key(raw, None)
        leaf, *rest = x509.load_pem_x509_certificates(raw)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != leaf.public_key() or rest != [authority.certificate]:
        return None
    if _past_half_life(leaf, now):
        return None
    return private_pem(key), pem_of(leaf) + "".join(pem_of(certificate) for certificate in rest)


def _publish(path: Path, content: str, *, mode: int = 0o644) -> None:
    """Make `path` hold `content`, touching it only where it does not."""
    try:
        if path.read_text(encoding="utf-8") == content and path.stat().st_mode & 0o777 == mode:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content, mode=mode)


def _online_store_users(folder: Path, secret: bytes) -> None:
    """Write the online store's first access list, and the launcher's password for its PING.

    A list that is there already belongs to control, which saves the projects' users in it; only the platform's own
    lines are put right.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = folder / "users.acl"
    wanted = secrets.platform_users(secret)
    try:
        found = users.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        found = []
    own = {line.split()[1] for line in wanted.splitlines()}
    others = [line for line in found if line.startswith("user ") and line.split()[1] not in own]
    _publish(users, wanted + "".join(f"{line}\n" for line in others), mode=0o600)
    _publish(folder / "launcher.password", secrets.redis_password(secret, secrets.LAUNCHER_USER) + "\n", mode=0o600)
