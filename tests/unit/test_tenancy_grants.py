"""Grants: what control signed, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import OctKey

from tenancy.authority.issuer import new_key
from tenancy.authority.store import private_pem
from tenancy.grants import GRANT_LIFETIME, CautiousVerifier, GrantSigner, GrantVerifier, Recent
from tenancy.model import Door, Principal, PrincipalKind, Role, administrator
from wardstream.clock import ManualClock
from wardstream.errors import Unauthenticated, Unavailable
from wardstream.names import DatasetName, MemberName, ProjectName

ANNA = Principal(
    PrincipalKind.MEMBER,
    project=ProjectName("icu-west"),
    member=MemberName("anna"),
    role=Role.SERVICE,
    generation=2,
    door=Door.INSIDE,
    sandboxed=True,
    reads=frozenset({DatasetName("ecg_10s_1")}),
    writes=frozenset({DatasetName("lab")}),
    execution="e-1",
)


class Pair:
    def __init__(self) -> None:
        key = new_key()
        self.clock = ManualClock(datetime(2026, 11, 24, tzinfo=UTC))
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.signer = GrantSigner(private_pem(key), self.clock)
        self.verifier = GrantVerifier(self.public, self.clock)


@pytest.mark.parametrize("principal", [ANNA, administrator()])
def test_grant_carries_the_whole_principal(principal: Principal) -> None:
    pair = Pair()
    token, _ = pair.signer.sign(principal)
    assert pair.verifier.verify(token) == principal


def test_expired_grant_is_refused_also_when_it_was_seen_before() -> None:
    pair = Pair()
    token, ends = pair.signer.sign(ANNA)
    pair.verifier.verify(token)
    assert ends == pair.clock.now() + GRANT_LIFETIME
    pair.clock.advance(GRANT_LIFETIME)
    with pytest.raises(Unauthenticated, match="expired"):
        pair.verifier.verify(token)


def test_grant_of_the_future_is_refused() -> None:
    pair = Pair()
    pair.clock.advance(timedelta(minutes=2))
    token, _ = pair.signer.sign(ANNA)
    behind = GrantVerifier(pair.public, ManualClock(datetime(2026, 11, 24, tzinfo=UTC)))
    with pytest.raises(Unauthenticated):
        behind.verify(token)


def test_revoked_generation_is_refused_and_the_next_is_not() -> None:
    pair = Pair()
    token, _ = pair.signer.sign(ANNA)
    pair.verifier.revoke("icu-west__anna", 1)
    assert pair.verifier.verify(token) == ANNA
    pair.verifier.revoke("icu-west__anna__g2", 2)
    pair.verifier.revoke("icu-west__anna", 1)
    with pytest.raises(Unauthenticated, match="no longer a member"):
        pair.verifier.verify(token)


def test_grant_of_another_key_is_refused() -> None:
    token, _ = Pair().signer.sign(ANNA)
    with pytest.raises(Unauthenticated):
        Pair().verifier.verify(token)


def test_grant_signed_with_the_public_key_as_a_password_is_refused() -> None:
    pair = Pair()
    token, _ = pair.signer.sign(ANNA)
    claims = jws.extract_compact(token.encode()).payload
    forged = jws.serialize_compact({"alg": "HS256"}, claims, OctKey.import_key(pair.public.hex()), algorithms=["HS256"])
    with pytest.raises(Unauthenticated):
        pair.verifier.verify(forged)


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "ü" * 10])
def test_what_is_no_grant_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        Pair().verifier.verify(token)


def test_every_changed_character_is_found() -> None:
    pair = Pair()
    token, _ = pair.signer.sign(administrator())
    head, body, signature = token.split(".")
    changed = body[:-3] + ("A" if body[-3] != "A" else "B") + body[-2:]
    with pytest.raises(Unauthenticated):
        pair.verifier.verify(f"{head}.{changed}.{signature}")


def test_cautious_verifier_accepts_nobody_before_it_knows_who_was_removed_lately() -> None:
    pair, away = Pair(), True

    def recent() -> Recent:
        if away:
            raise Unavailable("control is away")
        return Recent([("icu-west__eve", 1)], [])

    token, _ = pair.signer.sign(ANNA)
    removed, _ = pair.signer.sign(replace(ANNA, member=MemberName("eve"), generation=1))
    verifier = CautiousVerifier(pair.public, pair.clock, recent)
    with pytest.raises(Unavailable, match="who was removed lately: control is away"):
        verifier.verify(token)
    away = False
    assert verifier.verify(token) == ANNA
    with pytest.raises(Unauthenticated, match="no longer a member"):
        verifier.verify(removed)
