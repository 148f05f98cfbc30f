"""The control process: its parts, wired, and what it does by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi import FastAPI
from prometheus_client import Gauge

from tenancy import api
from tenancy.access import AccessJournal
from tenancy.acls import AUDIT_TOPIC
from tenancy.audit_trail import AuditTrail
from tenancy.authentication import Authentication
from tenancy.authority.init import AuthorityKeys, open_authority
from tenancy.authority.profile import Intermediate
from tenancy.broker import Broker
from tenancy.checkpoints import Auditor, Chains
from tenancy.first_start import open_database
from tenancy.grants import EXECUTION_GRANT_LIFETIME, GrantSigner, GrantVerifier
from tenancy.model import Door
from tenancy.people import People
from tenancy.possession import Possession
from tenancy.project_limits import ProjectLimits
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers
from tenancy.repository import Repository
from tenancy.revocation import Peers, Revoker
from tenancy.service import TenancyService
from tenancy.sharing import Sharing
from wardstream.client.proof import platform_of
from wardstream.client.transport import Transport
from wardstream.clock import Clock
from wardstream.errors import WardstreamError
from wardstream.kafka import deliver, producer
from wardstream.server import application, platform_listener, serve
from wardstream.settings import ControlSettings, KafkaSettings, TlsSettings

logger = logging.getLogger(__name__)

# Drift is found within a minute; a process that missed a revocation is told within two seconds of its return.
_RECONCILE_SECONDS = 60.0
_RESUME_SECONDS = 2.0
# Until the first run succeeds, other processes wait for it: the registry's topic, the functions, their rights. What
# still fails then is tried ever more seldom.
_FIRST_SECONDS = 0.3
_LONGEST_WAIT_SECONDS = 5.0


def run(settings: ControlSettings, clock: Clock) -> None:
    """Serve until SIGTERM; reconcile at the start and every minute, and finish the revocations that a crash cut short."""
    engine = open_database(settings)
    keys = open_authority(settings)
    journal = AccessJournal.of(settings, clock)
    app, upkeep, auditor = build(settings, keys, Repository(engine), journal, clock)
    threads = [threading.Thread(target=each.run, name=type(each).__name__, daemon=True) for each in (upkeep, auditor)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        for each in (upkeep, auditor):
            each.stop()
        for thread in threads:
            thread.join(timeout=5)
        journal.close()
        engine.dispose()

    serve(app, [platform_listener(settings)], on_stop=stop)


# Processes that decide about data; the others only run what is decided.
_KEEP_CHAINS = frozenset({"gateway", "query", "stream-worker"})


_EXPIRING = Gauge("wardstream_certificates_expiring", "Members whose certificate outside ends within a day and is not renewed")
_AUTHORITY_LEFT = Gauge("wardstream_authority_seconds_left", "How long an issuing authority's certificate is still good", ["authority"])


class AuditTopic:
    """The topic with copies of all checkpoints, written as ws-audit, which can do nothing else."""

    def __init__(self, settings: ControlSettings) -> None:
        folder = settings.pki / "platform"
        tls = TlsSettings(ca_file=settings.tls.ca_file, certificate_file=folder / "ws-audit.crt", key_file=folder / "ws-audit.key")
        self._kafka = KafkaSettings(bootstrap_servers=settings.kafka.bootstrap_servers, tls=tls)
        self._producer: Producer | None = None

    def append(self, line: bytes) -> None:
        """Add a checkpoint, acknowledged by all brokers; raises `Unavailable` or `Denied`."""
        if self._producer is None:
            self._producer = producer(self._kafka, linger_ms=0)
        try:
            deliver(self._producer, [(AUDIT_TOPIC, None, line, [])], seconds=10)
        except WardstreamError:
            # A producer that was refused before its rights were there remembers it.
            self._producer = None
            raise


class Upkeep:
    """What control does by itself."""

    def __init__(
        self,
        *,
        repository: Repository,
        reconciler: Reconciler,
        revoker: Revoker,
        clock: Clock,
        ends: Sequence[Callable[[], int]],
    ) -> None:
        self._repository = repository
        self._ends = ends
        self._reconciler = reconciler
        self._revoker = revoker
        self._clock = clock
        self._stopped = threading.Event()
        self._waiting: str | None = "the first reconciliation"

    def waiting(self) -> str | None:
        """Return what broker and online store still lack, or None when the last run brought everything there."""
        return self._waiting

    def stop(self) -> None:
        """End `run` after the step it is at."""
        self._stopped.set()

    def run(self) -> None:
        """Resume revocations and reconcile until stopped. What fails is logged and tried again."""
        due, pause = 0.0, _FIRST_SECONDS
        while not self._stopped.is_set():
            # Revocations first: reconciling must not be what takes a removed member's rows away.
            self._guarded("revocations", self._revoker.resume)
            for each in self._ends:
                self._guarded("what has come to its end", each)
            if time.monotonic() >= due:
                done = self._guarded("reconciliation", self._reconcile) and self._waiting is None
                pause = _FIRST_SECONDS if done else min(pause * 2, _LONGEST_WAIT_SECONDS)
                due = time.monotonic() + (_RECONCILE_SECONDS if done else pause)
            self._stopped.wait(min(_RESUME_SECONDS, max(due - time.monotonic(), 0.05)))

    def _reconcile(self) -> None:
        if not self._reconciler.everything().settled:
            self._waiting = "brokers to show all rights"
            return
        with self._repository.transaction() as tenancy:
            tenancy.credentials.forget_expired(self._clock.now())
            _EXPIRING.set(tenancy.credentials.expiring(self._clock.now() + timedelta(days=1)))
            tenancy.shares.forget_voids(self._clock.now() - EXECUTION_GRANT_LIFETIME * 2)
        self._waiting = None

    def _guarded(self, what: str, part: Callable[[], object]) -> bool:
        try:
            part()
        except WardstreamError as error:
            if self._waiting != error.message:
                logger.warning("not done yet", extra={"what": what, "waiting_for": error.message, **error.details})
            self._waiting = error.message
            return False
        except Exception:
            # The thread must live: a fault here would end all reconciling without a sign.
            self._waiting = f"{what} failed; the log says why"
            logger.exception("not done", extra={"what": what})
            return False
        return True


def build(
    settings: ControlSettings, keys: AuthorityKeys, repository: Repository, journal: AccessJournal, clock: Clock
) -> tuple[FastAPI, Upkeep, Auditor]:
    """Return the application and what it does by itself, wired."""
    private = keys.grant_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    verifier = GrantVerifier(keys.grant_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), clock)
    with repository.transaction() as tenancy:
        for revocation in tenancy.revocations(since=clock.now() - EXECUTION_GRANT_LIFETIME):
            verifier.revoke(revocation.principal, revocation.generation)
        for void in tenancy.shares.voids(since=clock.now() - EXECUTION_GRANT_LIFETIME):
            verifier.void(void.project, void.member, (void.before or clock.now()).timestamp())
    broker = Broker(settings.kafka, replication_factor=settings.replication_factor)
    rights = threading.Lock()
    authorizer_log = settings.home / "logs" / "kafka-authorizer.log"
    reconciler = Reconciler(
        repository=repository,
        broker=broker,
        users=OnlineStoreUsers(settings.redis, keys.secret),
        secret=keys.secret,
        functions=settings.redis_functions_file,
        clock=clock,
        settle_seconds=settings.settle_seconds,
        rights=rights,
        authorizer_log=authorizer_log,
    )
    revoker = Revoker(
        repository=repository,
        broker=broker,
        peers=Peers(settings.peers, settings.tls),
        verifier=verifier,
        clock=clock,
        settle_seconds=settings.settle_seconds,
        rights=rights,
    )
    authentication = Authentication(
        repository=repository,
        issuer=keys.issuer,
        signer=GrantSigner(private, clock),
        verifier=verifier,
        intermediates={
            door: x509.load_pem_x509_certificate((settings.pki / f"{door}.pem").read_bytes()) for door in (Door.OUTSIDE, Door.INSIDE)
        },
        possession=Possession(
            secret=keys.secret, platform=platform_of(x509.load_pem_x509_certificate(keys.issuer.root.encode())), clock=clock
        ),
        clock=clock,
        link_file=settings.home / "login-link",
    )
    service = TenancyService(
        repository=repository, authentication=authentication, reconciler=reconciler, revoker=revoker, secret=keys.secret, clock=clock
    )
    sharing = Sharing(repository=repository, reconciler=reconciler, revoker=revoker, clock=clock)
    people = People(
        repository=repository, authentication=authentication, reconciler=reconciler, revoker=revoker, secret=keys.secret, clock=clock
    )
    upkeep = Upkeep(
        repository=repository,
        reconciler=reconciler,
        revoker=revoker,
        clock=clock,
        ends=[sharing.expire, service.expire_members, service.finish_closing],
    )
    pair = (settings.tls.certificate_file, settings.tls.key_file)
    keeping = {name: url for name, url in settings.peers.items() if name in _KEEP_CHAINS}
    chains = Chains(journal, {name: Transport(url, ca_file=settings.tls.ca_file, certificate=pair) for name, url in keeping.items()})
    for name in Intermediate:
        ends = x509.load_pem_x509_certificate((settings.pki / f"{name}.pem").read_bytes()).not_valid_after_utc
        _AUTHORITY_LEFT.labels(name).set_function(lambda ends=ends: (ends - clock.now()).total_seconds())  # type: ignore[misc]  # bound now
    auditor = Auditor(
        journal=journal,
        chains=chains,
        repository=repository,
        key=keys.checkpoint_key,
        authorizer_log=authorizer_log,
        mirror=AuditTopic(settings).append,
        clock=clock,
    )
    app = application("Wardstream control", ready={"reconciliation": upkeep.waiting})
    app.state.verifier = verifier
    app.state.clock = clock
    app.state.authentication = authentication
    app.state.service = service
    app.state.reconciler = reconciler
    app.state.limits = ProjectLimits(repository=repository, reconciler=reconciler, revoker=revoker, clock=clock)
    app.state.sharing = sharing
    app.state.people = people
    app.state.trail = AuditTrail(repository=repository, chains=chains, auditor=auditor, key=keys.checkpoint_key)
    for router in (api.public, api.platform, api.internal):
        app.include_router(router)
    return app, upkeep, auditor
