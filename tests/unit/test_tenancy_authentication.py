"""Proofs, tokens and certificates, on a database of the test's own."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from fastapi import Request

import tenancy
import tenancy.routes.projects
from tenancy.authentication import ENROLMENT_LIFETIME, SESSION_LIFETIME, Authentication, Proof
from tenancy.authority.issuer import Issuer, issue_platform, make_intermediate, make_root, new_key
from tenancy.authority.profile import DEVICE, Intermediate
from tenancy.authority.store import private_pem
from tenancy.credentials import Holder, SecretKind, new_secret, parse_secret
from tenancy.first_start import LOGIN_LINK_LIFETIME, first_credentials
from tenancy.grants import GrantSigner, GrantVerifier
from tenancy.model import (
    MATERIALISER,
    Dataset,
    DatasetKind,
    DatasetPermission,
    Door,
    Member,
    MemberState,
    Principal,
    PrincipalKind,
    Project,
    Role,
    administrator,
)
from tenancy.possession import CHALLENGE_LIFETIME, TOKEN_LIFETIME, Challenge, Possession, ShownToken
from tenancy.reconcile import Settlement
from tenancy.repository import Repository, Transaction
from tenancy.service import TenancyService
from wardstream.client.credentials import signing_request
from wardstream.client.proof import fingerprint, message, platform_of
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from wardstream.names import DatasetName, MemberName, ProjectName

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ICU = ProjectName("icu-west")
OPEN = ProjectName("teaching")


class House:
    """One project of each kind with a member of each role, and the means to prove them."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOW)
        engine = connect(f"sqlite:///{folder / 'tenancy.sqlite'}")
        migrate(engine, Path(tenancy.__file__).parent / "migrations")
        self.engine = engine
        self.repository = Repository(engine)
        root = make_root(NOW)
        self.intermediates = {name: make_intermediate(root, name, NOW) for name in Intermediate}
        key = new_key()
        self.verifier = GrantVerifier(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), self.clock)
        self.link_file = folder / "login-link"
        self.key_file = folder / "admin.key"
        self.authentication = Authentication(
            repository=self.repository,
            issuer=Issuer(root=root.certificate, intermediates=self.intermediates),
            signer=GrantSigner(private_pem(key), self.clock),
            verifier=self.verifier,
            intermediates={
                Door.OUTSIDE: self.intermediates[Intermediate.OUTSIDE].certificate,
                Door.INSIDE: self.intermediates[Intermediate.INSIDE].certificate,
            },
            possession=Possession(secret=b"s" * 32, platform=platform_of(root.certificate), clock=self.clock),
            clock=self.clock,
            link_file=self.link_file,
        )
        with self.repository.transaction() as tenancy_:
            for name, sandboxed in ((ICU, True), (OPEN, False)):
                tenancy_.add_project(Project(name, "", sandboxed, NOW))
                for role in Role:
                    tenancy_.put_member(Member(name, MemberName(role.value), role, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW))

    def member(self, role: Role, project: ProjectName = ICU) -> Member:
        with self.repository.transaction() as tenancy_:
            return self.member_in(tenancy_, role, project)

    def token(self, role: Role, project: ProjectName = ICU) -> str:
        with self.repository.transaction() as tenancy_:
            token, _ = self.authentication.new_enrolment_token(tenancy_, self.member_in(tenancy_, role, project))
        assert token is not None
        return token

    @staticmethod
    def member_in(tenancy_: Transaction, role: Role, project: ProjectName) -> Member:
        found = tenancy_.member(project, MemberName(role.value))
        assert found is not None
        return found

    def api_key(self, role: Role = Role.DATA_OWNER, project: ProjectName = ICU) -> str:
        return self.authentication.enrol_api_key(self.token(role, project))[0]

    def proven(self, certificate: str, key: ec.EllipticCurvePrivateKey, door: Door) -> Principal:
        """Whom the holder of a certificate and its key is taken for."""
        challenge = self.authentication.challenge(certificate, door)
        token = self.authentication.door_token(certificate, door, challenge.nonce, signed(key, challenge)).token
        return self.authentication.exchange(Proof(door_token=ShownToken(token, digest(certificate))), door=door).principal

    def remove(self, role: Role) -> None:
        member = self.member(role)
        with self.repository.transaction() as tenancy_:
            tenancy_.put_member(replace(member, state=MemberState.REMOVED))
            tenancy_.credentials.revoke_all(Holder(member.project, member.name, member.generation), self.clock.now())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    return signing_request(key or new_key())


def signed(key: ec.EllipticCurvePrivateKey, challenge: Challenge) -> str:
    text = message(challenge.platform, challenge.door, challenge.nonce)
    return base64.b64encode(key.sign(text, ec.ECDSA(hashes.SHA256()))).decode()


def digest(chain: str) -> str:
    return fingerprint(leaf(chain).public_bytes(Encoding.DER))


def leaf(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


def test_device_enrols_with_its_own_key_and_gets_its_principal(house: House) -> None:
    key = new_key()
    enrolled = house.authentication.enrol_certificate(house.token(Role.DEVICE), csr(key))
    certificate = leaf(enrolled.certificate)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=icu-west__device,OU=member,O=wardstream"
    assert enrolled.expires_at - NOW <= timedelta(days=7)
    proven = house.proven(enrolled.certificate, key, Door.OUTSIDE)
    assert (proven.name, proven.role) == ("icu-west__device", Role.DEVICE)


def test_token_enrols_once(house: House) -> None:
    token = house.token(Role.DATA_OWNER)
    house.authentication.enrol_api_key(token)
    for again in (lambda: house.authentication.enrol_api_key(token), lambda: house.authentication.enrol_certificate(token, csr())):
        with pytest.raises(Unauthenticated, match="used already"):
            again()


def test_token_ends(house: House) -> None:
    token = house.token(Role.DATA_OWNER)
    house.clock.advance(ENROLMENT_LIFETIME)
    with pytest.raises(Unauthenticated, match="ended at 2026-11-25 00:00 UTC"):
        house.authentication.enrol_api_key(token)


def test_token_with_a_wrong_secret_is_refused_without_a_hint(house: House) -> None:
    token = house.token(Role.DATA_OWNER)
    guess = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (guess, "wse_000000000000_" + "a" * 43, "", "wsk" + token[3:]):
        with pytest.raises(Unauthenticated, match="is not valid"):
            house.authentication.enrol_api_key(wrong)


def foreign_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(("request_of", "wrong"), [(foreign_key, "P-256"), (lambda: "hello", "PEM")])
def test_request_that_cannot_be_answered_leaves_the_token_good(house: House, request_of: Callable[[], str], wrong: str) -> None:
    token = house.token(Role.DEVICE)
    with pytest.raises(Invalid, match=wrong):
        house.authentication.enrol_certificate(token, request_of())
    assert house.authentication.enrol_certificate(token, csr()).principal == "icu-west__device"


def test_name_in_a_request_does_not_count(house: House) -> None:
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ws-control")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    enrolled = house.authentication.enrol_certificate(house.token(Role.DEVICE), request.public_bytes(Encoding.PEM).decode())
    assert "ws-control" not in leaf(enrolled.certificate).subject.rfc4514_string()


@pytest.mark.parametrize("role", [Role.DATA_SCIENTIST, Role.OBSERVER])
def test_scientist_of_a_sandboxed_project_holds_no_certificate_outside(house: House, role: Role) -> None:
    token = house.token(role)
    with pytest.raises(Denied, match=r"credentials api-key <token>.*wardstream program run"):
        house.authentication.enrol_certificate(token, csr())
    assert house.authentication.enrol_api_key(token)[1] == f"icu-west__{role}"
    assert house.authentication.enrol_certificate(house.token(role, OPEN), csr()).principal == f"teaching__{role}"


def test_device_gets_no_api_key(house: House) -> None:
    with pytest.raises(Denied, match="certificate signing request"):
        house.authentication.enrol_api_key(house.token(Role.DEVICE))


def test_service_enrols_through_its_worker_alone(house: House) -> None:
    with house.repository.transaction() as tenancy_:
        token, _ = house.authentication.new_enrolment_token(tenancy_, house.member_in(tenancy_, Role.SERVICE, ICU))
    assert token is None
    key = new_key()
    enrolled = house.authentication.service_certificate(ICU, MemberName("service"), csr(key), 7)
    assert house.proven(enrolled.certificate, key, Door.INSIDE).door is Door.INSIDE
    with pytest.raises(Unauthenticated):
        house.authentication.challenge(enrolled.certificate, Door.OUTSIDE)


@pytest.mark.parametrize("days", [0, 8])
def test_service_certificate_lives_for_days(house: House, days: int) -> None:
    with pytest.raises(Invalid, match="days must be from 1 to 7"):
        house.authentication.service_certificate(ICU, MemberName("service"), csr(), days)


def test_api_key_proves_its_member_at_the_outside_door_only(house: House) -> None:
    key = house.api_key()
    assert house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE).principal.name == "icu-west__data-owner"
    with pytest.raises(Unauthenticated, match="inside door"):
        house.authentication.exchange(Proof(api_key=key), door=Door.INSIDE)


def test_api_key_belongs_to_one_project(house: House) -> None:
    key = house.api_key()
    assert house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, project=ICU).principal.project == ICU
    with pytest.raises(Unauthenticated, match="not for project teaching"):
        house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, project=OPEN)


def test_no_secret_is_kept_in_clear(house: House, tmp_path: Path) -> None:
    secrets = [house.api_key(), house.token(Role.DEVICE)]
    house.engine.dispose()
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("tenancy.sqlite*"))
    for secret in secrets:
        assert secret.split("_", 2)[2].encode() not in kept


def test_nothing_that_a_removed_member_held_proves_anything(house: House) -> None:
    key = house.api_key()
    session = house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, open_session=True).session
    private = new_key()
    certificate = house.authentication.enrol_certificate(house.token(Role.DATA_OWNER), csr(private)).certificate
    challenge = house.authentication.challenge(certificate, Door.OUTSIDE)
    shown = house.authentication.door_token(certificate, Door.OUTSIDE, challenge.nonce, signed(private, challenge))
    token = house.token(Role.DATA_OWNER)
    house.remove(Role.DATA_OWNER)
    for proof in (Proof(api_key=key), Proof(session=session), Proof(door_token=ShownToken(shown.token, digest(certificate)))):
        with pytest.raises(Unauthenticated):
            house.authentication.exchange(proof, door=Door.OUTSIDE)
    with pytest.raises(Unauthenticated):
        house.authentication.challenge(certificate, Door.OUTSIDE)
    with pytest.raises(Unauthenticated):
        house.authentication.enrol_api_key(token)


def test_key_of_an_earlier_membership_does_not_come_back_with_the_member(house: House) -> None:
    key = house.api_key()
    member = house.member(Role.DATA_OWNER)
    with house.repository.transaction() as tenancy_:
        tenancy_.put_member(replace(member, generation=2))
    with pytest.raises(Unauthenticated, match="membership that has ended"):
        house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE)


def test_certificate_of_another_authority_is_refused(house: House) -> None:
    other = make_intermediate(make_root(NOW), Intermediate.OUTSIDE, NOW)
    issuer = Issuer(root=other.certificate, intermediates={Intermediate.OUTSIDE: other})
    forged = issuer.issue(csr(), DEVICE, principal="icu-west__device", project="icu-west", member="device", now=NOW)
    for proof in (forged.chain, "hello", "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Unauthenticated):
            house.authentication.challenge(proof, Door.OUTSIDE)


def test_expired_certificate_is_refused(house: House) -> None:
    enrolled = house.authentication.enrol_certificate(house.token(Role.DEVICE), csr())
    house.clock.advance(timedelta(days=8))
    with pytest.raises(Unauthenticated):
        house.authentication.challenge(enrolled.certificate, Door.OUTSIDE)


def test_certificate_in_which_the_gateway_acts_opens_no_door(house: House) -> None:
    principal = house.authentication.exchange(Proof(api_key=house.api_key()), door=Door.OUTSIDE).principal
    enrolled = house.authentication.acting_certificate(principal, csr(), 600)
    assert leaf(enrolled.certificate).not_valid_after_utc <= NOW + timedelta(seconds=600)
    with pytest.raises(Unauthenticated):
        house.authentication.challenge(enrolled.certificate, Door.INSIDE)
    with pytest.raises(Invalid, match="from 1 to 600"):
        house.authentication.acting_certificate(principal, csr(), 601)


def test_a_challenge_is_good_once_in_a_minute_for_its_certificate_door_platform_and_key(house: House) -> None:
    key, other = new_key(), new_key()
    certificate = house.authentication.enrol_certificate(house.token(Role.DEVICE), csr(key)).certificate
    another = house.authentication.enrol_certificate(house.token(Role.DATA_OWNER), csr(key)).certificate
    challenge = house.authentication.challenge(certificate, Door.OUTSIDE)

    wrong = [
        (certificate, challenge.nonce, signed(other, challenge)),
        (certificate, challenge.nonce, signed(key, replace(challenge, platform="0" * 64))),
        (certificate, challenge.nonce, signed(key, replace(challenge, door=Door.INSIDE))),
        (certificate, challenge.nonce, signed(key, replace(challenge, nonce="x"))),
        (certificate, challenge.nonce, base64.b64encode(key.sign(challenge.nonce.encode(), ec.ECDSA(hashes.SHA256()))).decode()),
        (certificate, challenge.nonce, "no base64"),
        (certificate, "x" * 5000, signed(key, challenge)),
        (another, challenge.nonce, signed(key, challenge)),
    ]
    for shown, nonce, signature in wrong:
        with pytest.raises(Unauthenticated):
            house.authentication.door_token(shown, Door.OUTSIDE, nonce, signature)

    late = house.authentication.challenge(certificate, Door.OUTSIDE)
    assert house.authentication.door_token(certificate, Door.OUTSIDE, challenge.nonce, signed(key, challenge)).token
    with pytest.raises(Unauthenticated):
        house.authentication.door_token(certificate, Door.OUTSIDE, challenge.nonce, signed(key, challenge))
    house.clock.advance(CHALLENGE_LIFETIME)
    with pytest.raises(Unauthenticated):
        house.authentication.door_token(certificate, Door.OUTSIDE, late.nonce, signed(key, late))


def test_a_doors_token_is_worthless_beside_another_certificate_and_after_its_minutes(house: House) -> None:
    key = new_key()
    certificate = house.authentication.enrol_certificate(house.token(Role.DEVICE), csr(key)).certificate
    another = house.authentication.enrol_certificate(house.token(Role.DEVICE), csr(key)).certificate
    challenge = house.authentication.challenge(certificate, Door.OUTSIDE)
    token = house.authentication.door_token(certificate, Door.OUTSIDE, challenge.nonce, signed(key, challenge)).token

    assert house.authentication.exchange(Proof(door_token=ShownToken(token, digest(certificate))), door=Door.OUTSIDE).grant
    for shown in (ShownToken(token, digest(another)), ShownToken(token, ""), ShownToken(challenge.nonce, digest(certificate))):
        with pytest.raises(Unauthenticated):
            house.authentication.exchange(Proof(door_token=shown), door=Door.OUTSIDE)
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(door_token=ShownToken(token, digest(certificate))), door=Door.INSIDE)
    with pytest.raises(Unauthenticated):
        house.verifier.verify(token)
    house.clock.advance(TOKEN_LIFETIME)
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(door_token=ShownToken(token, digest(certificate))), door=Door.OUTSIDE)


def test_session_ends_by_time_and_by_leaving(house: House) -> None:
    key = house.api_key()
    first = house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, open_session=True).session
    second = house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, open_session=True).session
    assert first is not None
    assert house.authentication.exchange(Proof(session=first), door=Door.OUTSIDE).principal.name == "icu-west__data-owner"
    house.authentication.end_session(first)
    house.authentication.end_session(first)
    with pytest.raises(Unauthenticated, match="log in again"):
        house.authentication.exchange(Proof(session=first), door=Door.OUTSIDE)
    house.clock.advance(SESSION_LIFETIME)
    with pytest.raises(Unauthenticated, match="log in again"):
        house.authentication.exchange(Proof(session=second), door=Door.OUTSIDE)


def test_execution_has_a_principal_and_a_certificate_of_its_own(house: House) -> None:
    scientist = house.authentication.exchange(Proof(api_key=house.api_key(Role.DATA_SCIENTIST)), door=Door.OUTSIDE).principal
    grant, ends = house.authentication.execution_grant(scientist, ICU, "e-1", None)
    assert ends - NOW == timedelta(hours=1)
    principal = house.verifier.verify(grant)
    assert (principal.execution, principal.door, principal.name) == ("e-1", Door.INSIDE, "icu-west__data-scientist")
    key = new_key()
    inside = house.proven(house.authentication.execution_certificate(grant, csr(key)).certificate, key, Door.INSIDE)
    assert inside.name == "icu-west__data-scientist"


def test_program_runs_as_a_service_that_only_reads(house: House) -> None:
    scientist = house.authentication.exchange(Proof(api_key=house.api_key(Role.DATA_SCIENTIST)), door=Door.OUTSIDE).principal
    grant, _ = house.authentication.execution_grant(scientist, ICU, "e-1", MemberName("service"))
    assert house.verifier.verify(grant).name == "icu-west__service"
    with house.repository.transaction() as tenancy_:
        lab = Dataset(ICU, DatasetName("lab"), DatasetKind.TOPIC, DatasetPermission.EDITABLE, 1, {}, "icu-west__data-owner")
        tenancy_.add_dataset(lab, NOW)
        tenancy_.put_member(replace(house.member_in(tenancy_, Role.SERVICE, ICU), writes=frozenset({lab.name})))
    with pytest.raises(Denied, match="only a data owner"):
        house.authentication.execution_grant(scientist, ICU, "e-2", MemberName("service"))


@pytest.mark.parametrize("run_as", ["nobody", "data-owner"])
def test_program_runs_as_nobody_else(house: House, run_as: str) -> None:
    owner = house.authentication.exchange(Proof(api_key=house.api_key()), door=Door.OUTSIDE).principal
    with pytest.raises(NotFound, match=f"service {run_as} of project icu-west is not there"):
        house.authentication.execution_grant(owner, ICU, "e-1", MemberName(run_as))


def test_program_never_runs_as_the_materialiser(house: House) -> None:
    with house.repository.transaction() as tenancy_:
        tenancy_.put_member(Member(ICU, MATERIALISER, Role.SERVICE, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW))
    owner = house.authentication.exchange(Proof(api_key=house.api_key()), door=Door.OUTSIDE).principal
    with pytest.raises(Denied, match="platform's own"):
        house.authentication.execution_grant(owner, ICU, "e-1", MATERIALISER)


def test_ordinary_grant_opens_no_execution(house: House) -> None:
    granted = house.authentication.exchange(Proof(api_key=house.api_key()), door=Door.OUTSIDE)
    with pytest.raises(Denied, match="not an execution's"):
        house.authentication.execution_certificate(granted.grant, csr())


def test_first_start_makes_a_key_and_a_link_that_opens_once(house: House) -> None:
    first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
    assert {oct(file.stat().st_mode & 0o777) for file in (house.key_file, house.link_file)} == {"0o600"}
    key, link = house.key_file.read_text(), house.link_file.read_text().strip()
    assert house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE).principal.kind is PrincipalKind.ADMINISTRATOR
    opened = house.authentication.exchange(Proof(link=link), door=Door.OUTSIDE)
    assert opened.session is not None
    assert not house.link_file.exists()
    with pytest.raises(Unauthenticated, match="used already"):
        house.authentication.exchange(Proof(link=link), door=Door.OUTSIDE)


def test_second_start_keeps_key_and_unused_link(house: House) -> None:
    def start() -> tuple[str, str]:
        first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
        return house.key_file.read_text(), house.link_file.read_text()

    assert start() == start()


def test_link_ends_and_the_next_start_makes_another(house: House) -> None:
    first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
    old = house.link_file.read_text().strip()
    house.clock.advance(LOGIN_LINK_LIFETIME)
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(link=old), door=Door.OUTSIDE)
    first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
    assert house.authentication.exchange(Proof(link=house.link_file.read_text().strip()), door=Door.OUTSIDE).session


def test_removing_the_administrators_key_file_makes_a_new_key_and_ends_the_old_with_its_sessions(house: House) -> None:
    first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
    old = house.key_file.read_text()
    session = house.authentication.exchange(Proof(api_key=old), door=Door.OUTSIDE, open_session=True).session
    house.key_file.unlink()
    first_credentials(house.repository, house.clock, key_file=house.key_file, link_file=house.link_file)
    made = house.authentication.exchange(Proof(api_key=house.key_file.read_text()), door=Door.OUTSIDE)
    assert made.principal.kind is PrincipalKind.ADMINISTRATOR
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(api_key=old), door=Door.OUTSIDE)
    with pytest.raises(Unauthenticated, match="log in again"):
        house.authentication.exchange(Proof(session=session), door=Door.OUTSIDE)


@pytest.mark.parametrize("kind", list(SecretKind))
def test_secret_is_only_what_its_first_letters_say(kind: SecretKind) -> None:
    secret = new_secret(kind)
    assert parse_secret(f" {secret.text}\n", kind) == secret
    assert all(parse_secret(secret.text, other) is None for other in SecretKind if other is not kind)


def test_refused_step_leaves_no_entry_and_no_certificate(house: House) -> None:
    token = house.token(Role.DATA_SCIENTIST)
    with house.repository.transaction() as tenancy_:
        before = tenancy_.last_audit_sequence()
    with pytest.raises(Denied):
        house.authentication.enrol_certificate(token, csr())
    with house.repository.transaction() as tenancy_:
        assert tenancy_.last_audit_sequence() == before
        assert not tenancy_.credentials.holders_at(NOW)


def test_a_feature_groups_topic_is_deleted_by_the_feature_store_alone(house: House) -> None:
    deleted: list[str] = []

    class Service:
        def delete_dataset(self, principal: Principal, project: ProjectName, name: DatasetName) -> Settlement:
            deleted.append(name)
            return Settlement(settled=True, seconds=0.0)

    def delete(dataset: str, peer: str) -> None:
        key = new_key()
        chain = issue_platform(house.intermediates[Intermediate.INSIDE], key.public_key(), name=peer, now=NOW).chain
        der = leaf(chain).public_bytes(Encoding.DER)
        request = Request({"type": "http", "extensions": {"tls": {"client_certificate": der}}})
        tenancy.routes.projects.delete_dataset(ICU, dataset, administrator(), cast(TenancyService, Service()), request)

    with pytest.raises(Conflict, match="delete the feature group"):
        delete("vitals_1", "ws-gateway")
    delete("notes", "ws-gateway")
    delete("vitals_1", "ws-query")
    assert deleted == ["notes", "vitals_1"]
