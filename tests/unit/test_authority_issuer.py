"""What a certificate says, and which requests are answered."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from tenancy.authority import profile
from tenancy.authority.issuer import (
    LONGEST_REQUEST_BYTES,
    IssuedCertificate,
    Issuer,
    issue_platform,
    make_intermediate,
    make_root,
    new_key,
    read_request,
)
from tenancy.authority.profile import ACTING, DEVICE, EXECUTION, OWNER, PLATFORM, SERVICE, Intermediate, Profile
from wardstream.errors import Invalid

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ROOT = make_root(NOW)
INTERMEDIATES = {name: make_intermediate(ROOT, name, NOW) for name in Intermediate}
ISSUER = Issuer(root=ROOT.certificate, intermediates=INTERMEDIATES)

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def request(
    key: SigningKey | None = None, *, common_name: str = "whoever", extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
) -> str:
    key = key or new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def issued(kind: Profile = DEVICE, *, csr: str | None = None, lifetime: timedelta | None = None) -> IssuedCertificate:
    return ISSUER.issue(
        csr or request(), kind, principal="icu-west__ecg-bed1", project="icu-west", member="ecg-bed1", now=NOW, lifetime=lifetime
    )


def leaf(certificate: IssuedCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(certificate.chain.encode())[0]


def test_subject_prints_as_common_name_unit_organisation() -> None:
    assert leaf(issued()).subject.rfc4514_string() == "CN=icu-west__ecg-bed1,OU=member,O=wardstream"


def test_platform_subject_prints_as_the_brokers_rule_expects() -> None:
    certificate = issue_platform(INTERMEDIATES[Intermediate.PLATFORM], new_key().public_key(), name="ws-query", now=NOW)
    assert leaf(certificate).subject.rfc4514_string() == "CN=ws-query,OU=platform,O=wardstream"


def test_subject_of_the_request_is_ignored() -> None:
    certificate = leaf(issued(csr=request(common_name="ws-control")))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "icu-west__ecg-bed1"


def test_alternative_names_of_the_request_are_ignored() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    found = leaf(issued(csr=request(extensions=((names, False),)))).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(found) == [x509.UniformResourceIdentifier("wardstream://icu-west/ecg-bed1")]


@pytest.mark.parametrize(
    ("kind", "intermediate", "longest"),
    [
        (DEVICE, "outside", timedelta(days=7)),
        (OWNER, "outside", timedelta(days=7)),
        (SERVICE, "inside", timedelta(days=7)),
        (EXECUTION, "inside", timedelta(hours=1)),
        (ACTING, "inside", timedelta(minutes=10)),
    ],
)
def test_each_kind_has_its_issuer_and_its_longest_life(kind: Profile, intermediate: str, longest: timedelta) -> None:
    certificate = issued(kind)
    assert leaf(certificate).issuer == INTERMEDIATES[Intermediate(intermediate)].certificate.subject
    assert certificate.not_after == NOW + longest


def test_certificate_begins_five_minutes_early_for_slow_clocks() -> None:
    assert issued().not_before == NOW - timedelta(minutes=5)


def test_shorter_life_is_given_when_asked_for() -> None:
    assert issued(ACTING, lifetime=timedelta(seconds=90)).not_after == NOW + timedelta(seconds=90)


@pytest.mark.parametrize("lifetime", [timedelta(seconds=601), timedelta(0), timedelta(seconds=-1)])
def test_life_outside_the_profile_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(Invalid, match="between 1 and 600 seconds"):
        issued(ACTING, lifetime=lifetime)


def test_certificate_does_not_outlive_its_issuer() -> None:
    late = INTERMEDIATES[Intermediate.OUTSIDE].certificate.not_valid_after_utc - timedelta(days=1)
    certificate = ISSUER.issue(request(), DEVICE, principal="a__b", project="a", member="b", now=late)
    assert certificate.not_after == late + timedelta(days=1)


def test_member_certificate_may_call_and_not_serve() -> None:
    usage = leaf(issued()).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_platform_certificate_may_call_and_serve_on_the_loopback_address() -> None:
    certificate = leaf(issue_platform(INTERMEDIATES[Intermediate.PLATFORM], new_key().public_key(), name="ws-broker-1", now=NOW))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.IPv4Address("127.0.0.1")]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)


def test_platform_certificate_is_never_issued_on_a_request() -> None:
    with pytest.raises(Invalid, match="never on a request"):
        issued(PLATFORM)


def test_serials_are_random() -> None:
    serials = {issued().serial for _ in range(20)}
    assert len(serials) == 20
    assert max(serial.bit_length() for serial in serials) > 128


def test_chain_verifies_from_leaf_to_root() -> None:
    certificate, intermediate = x509.load_pem_x509_certificates(issued().chain.encode())
    verifier = PolicyBuilder().store(Store([ROOT.certificate])).time(NOW).build_client_verifier()
    assert len(verifier.verify(certificate, [intermediate]).chain) == 3


def test_renewed_intermediate_still_stands_behind_what_the_old_one_issued() -> None:
    old = INTERMEDIATES[Intermediate.INSIDE]
    renewed = make_intermediate(ROOT, Intermediate.INSIDE, NOW + timedelta(days=400), key=old.key)
    certificate = leaf(issued(SERVICE))
    certificate.verify_directly_issued_by(renewed.certificate)


def test_intermediate_cannot_make_another_authority() -> None:
    constraints = INTERMEDIATES[Intermediate.OUTSIDE].certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_authorities_carry_no_unit_that_a_broker_maps() -> None:
    units = {
        authority.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value
        for authority in (ROOT, *INTERMEDIATES.values())
    }
    assert units.isdisjoint({str(unit) for unit in profile.Unit})


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_foreign_key_types_are_refused(key: SigningKey) -> None:
    with pytest.raises(Invalid, match="P-256"):
        read_request(request(key))


def test_request_signed_by_another_key_is_refused() -> None:
    ours, theirs = (x509.load_pem_x509_csr(request().encode()) for _ in range(2))
    mine = ours.public_bytes(Encoding.DER)
    # A request is its body, the algorithm and the signature; signatures of P-256 differ in length, so the key inside the body is changed.
    forged = mine.replace(_point(ours), _point(theirs))
    with pytest.raises(Invalid, match="not signed by its own key"):
        read_request(x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM))


def _point(csr: x509.CertificateSigningRequest) -> bytes:
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
            key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
        ),
    ],
    ids=["basicConstraints", "keyUsage"],
)  # fmt: skip
def test_request_for_an_authority_is_refused(extension: x509.ExtensionType) -> None:
    with pytest.raises(Invalid, match="certificate authority"):
        read_request(request(extensions=((extension, True),)))


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "\x00\x01"]
)
def test_text_that_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not a certificate signing request"):
        read_request(text)


def test_certificate_in_place_of_a_request_is_refused() -> None:
    with pytest.raises(Invalid, match="not a certificate signing request"):
        read_request(issued().chain)


def test_oversized_request_is_refused_before_it_is_read() -> None:
    with pytest.raises(Invalid, match="at most 16384 bytes"):
        read_request(request() + " " * LONGEST_REQUEST_BYTES)


def test_name_beyond_what_a_certificate_holds_is_refused() -> None:
    with pytest.raises(Invalid, match="64 characters, got 65"):
        ISSUER.issue(request(), DEVICE, principal="a" * 65, project="a", member="b", now=NOW)
