"""Ending a member's access everywhere, also on connections that are open and requests that wait inside a broker.

The order at the broker matters, and the other processes are told meanwhile. First the bound on what the principal may
fetch: it empties fetches that a broker is holding back, which were allowed when they came in and would
deliver otherwise. Then its rows. Then the generation, so that whoever comes back has another principal, and neither the
bound nor an old key follows. Each step may be repeated; how far one has come is in the database, and control goes on
from there after a crash.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tenancy.broker import STOPPED, Broker
from tenancy.grants import GrantVerifier
from tenancy.reconcile import Settlement
from tenancy.repository import Repository, Revocation, Step
from tenancy.shares import Void
from wardstream.client.transport import Transport
from wardstream.clock import Clock
from wardstream.errors import Unavailable, WardstreamError
from wardstream.settings import TlsSettings

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 0.02
# A process that is up answers in milliseconds; one that is not is told again in the background.
_PEER_SECONDS = 1.0


GATEWAY = "gateway"


class Peers:
    """The other processes, each told over its platform port of what ended."""

    def __init__(self, addresses: Mapping[str, str], tls: TlsSettings) -> None:
        self.names = frozenset(addresses)
        self._transports = {
            name: Transport(url, ca_file=tls.ca_file, certificate=(tls.certificate_file, tls.key_file), timeout_seconds=_PEER_SECONDS)
            for name, url in addresses.items()
        }

    def tell(self, revocation: Revocation) -> frozenset[str]:
        """Tell the revocation's peers at the same time and return those that acknowledged; takes about a second at most."""
        return self._send("revocations", {"principal": revocation.principal, "generation": revocation.generation}, revocation.peers)

    def tell_void(self, void: Void) -> frozenset[str]:
        """Tell the void's peers and return those that acknowledged: the gateway first, so that what it sends on is taken by the others."""
        before = void.before.timestamp() if void.before is not None else 0.0
        body = {"project": void.project, "member": void.member, "before": before}
        first = void.peers & {GATEWAY}
        return self._send("voids", body, first) | self._send("voids", body, void.peers - first)

    def _send(self, path: str, body: Mapping[str, object], peers: frozenset[str]) -> frozenset[str]:
        # A name that is no longer among the settings belongs to a process that no longer exists.
        asked = [name for name in sorted(peers) if name in self._transports]
        gone = peers - self.names
        if not asked:
            return gone

        def one(name: str) -> bool:
            try:
                self._transports[name].json("POST", f"/internal/v1/{path}", json=body)
            except WardstreamError as error:
                logger.warning("a process was not told that rights ended", extra={"peer": name, "what": path, "reason": error.message})
                return False
            return True

        with ThreadPoolExecutor(len(asked)) as pool:
            told = list(pool.map(one, asked))
        return gone | {name for name, answer in zip(asked, told, strict=True) if answer}


class Revoker:
    """Carries out what was decided. `rights` is the reconciler's lock: rows are not given back meanwhile."""

    def __init__(
        self,
        *,
        repository: Repository,
        broker: Broker,
        peers: Peers,
        verifier: GrantVerifier,
        clock: Clock,
        settle_seconds: float,
        rights: threading.Lock,
    ) -> None:
        self._repository = repository
        self._broker = broker
        self._peers = peers
        self._verifier = verifier
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._rights = rights
        # One thread at a time works at the brokers, so that no step is done twice at once.
        self._turn = threading.Lock()

    @property
    def peers(self) -> frozenset[str]:
        """Which processes a new revocation has to reach."""
        return self._peers.names

    def carry_out(self, revocation: Revocation) -> Settlement:
        """Do what is left of `revocation`. Settled means: no broker allows the principal anything, every process has dropped it.

        Never raises for a part that is away: what could not be done stays in the database and is repeated by `resume`.
        """
        start = time.monotonic()
        self._verifier.revoke(revocation.principal, revocation.generation)
        try:
            # At the same time: grants and sessions end also while a broker is away, and a process that is slow to answer
            # holds up neither the broker's part nor, outside of the turn, another revocation.
            with ThreadPoolExecutor(1) as pool:
                telling = pool.submit(self._tell, revocation)
                with self._turn:
                    self._at_brokers(self._newest(revocation), start + self._settle_seconds)
                    self._next_generation(self._newest(revocation))
                telling.result()
            done = self._finish(revocation)
        except WardstreamError as error:
            # Grants, keys and sessions are ended all the same; only what is open at the broker has to wait for it.
            logger.error("a revocation waits for the broker", extra={"principal": revocation.principal, "reason": error.message})
            done = False
        return Settlement(done, time.monotonic() - start)

    def resume(self) -> int:
        """Go on with every unfinished revocation and void; returns how many are still not at their end."""
        with self._repository.transaction() as tenancy:
            unfinished, voids = tenancy.revocations(unfinished=True), tenancy.shares.voids()
        left = sum(not self.carry_out(revocation).settled for revocation in unfinished)
        return left + sum(not self.make_void(void) for void in voids)

    def make_void(self, void: Void) -> bool:
        """Make grants void that were signed until now; returns whether every process knows. Who is away is told by `resume`."""
        with self._repository.transaction() as tenancy:
            void = tenancy.shares.void(void.id)
            if void.before is None:
                # After the change was kept: whoever read what was before it has signed before this.
                void = replace(void, before=self._clock.now())
                tenancy.shares.put_void(void)
        if void.before is not None:
            self._verifier.void(void.project, void.member, void.before.timestamp())
        told = self._peers.tell_void(void)
        with self._repository.transaction() as tenancy:
            newest = tenancy.shares.void(void.id)
            newest = replace(newest, peers=newest.peers - told)
            tenancy.shares.put_void(newest)
        return not newest.peers

    def _newest(self, revocation: Revocation) -> Revocation:
        with self._repository.transaction() as tenancy:
            return tenancy.revocation(revocation.principal)

    def _at_brokers(self, revocation: Revocation, deadline: float) -> None:
        with self._rights:
            if revocation.step is Step.DECIDED:
                self._broker.set_consumer_rate(revocation.principal, STOPPED)
                self._keep(revocation, Step.THROTTLED)
            elif revocation.step is not Step.THROTTLED:
                return
            self._broker.delete_all_acls(revocation.principal)
        asked = (f"User:{revocation.principal}",)
        while any(self._broker.everywhere(lambda address: self._broker.acl_rows(address, asked))):
            if time.monotonic() > deadline:
                raise Unavailable("a broker still shows rows of a removed member")
            time.sleep(_LOOK_AGAIN_SECONDS)
        self._keep(revocation, Step.ROWS_GONE)

    def _next_generation(self, revocation: Revocation) -> None:
        if revocation.step is not Step.ROWS_GONE:
            return
        with self._repository.transaction() as tenancy:
            member = tenancy.member(revocation.project, revocation.member)
            if member is not None and member.generation == revocation.generation:
                tenancy.put_member(replace(member, generation=revocation.generation + 1))
            tenancy.put_revocation(replace(tenancy.revocation(revocation.principal), step=Step.GENERATION))

    def _tell(self, revocation: Revocation) -> None:
        """Tell who has not acknowledged. Two tellings at once may tell a process twice, which changes nothing for it."""
        told = self._peers.tell(revocation)
        with self._repository.transaction() as tenancy:
            newest = tenancy.revocation(revocation.principal)
            tenancy.put_revocation(replace(newest, peers=newest.peers - told))

    def _finish(self, revocation: Revocation) -> bool:
        """Return whether nothing is left to do, and keep that."""
        with self._repository.transaction() as tenancy:
            newest = tenancy.revocation(revocation.principal)
            if newest.step is Step.GENERATION and not newest.peers:
                newest = replace(newest, step=Step.DONE)
                tenancy.put_revocation(newest)
        return newest.step is Step.DONE

    def _keep(self, revocation: Revocation, step: Step) -> None:
        # On the newest row: who acknowledged meanwhile stays so.
        with self._repository.transaction() as tenancy:
            tenancy.put_revocation(replace(tenancy.revocation(revocation.principal), step=step))
