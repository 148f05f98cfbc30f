"""Issues certificates. Acts on keys handed to it; reads no file and no clock of its own."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tenancy.authority.profile import (
    BACKDATED,
    INTERMEDIATE_LIFETIME,
    PLATFORM,
    ROOT_LIFETIME,
    Intermediate,
    Profile,
    authority_subject,
    extended_key_usage,
    member_uri,
    subject,
)
from wardstream.errors import Invalid

# A P-256 request has about 500 bytes; room for extensions that some tools add, none for a flood.
LONGEST_REQUEST_BYTES = 16 * 1024


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and the key that signs with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that was issued: what its owner gets, and what is kept of it."""

    chain: str
    """Leaf and issuing intermediate, PEM. A client sends both, since the brokers' clients trust the root."""
    serial: int
    not_before: datetime
    not_after: datetime


def read_request(pem: str | bytes) -> x509.CertificateSigningRequest:
    """Return the certificate signing request in `pem` after checking that it may be answered.

    Only its key counts afterwards: the subject and the extensions it asks for are ignored. Raises `Invalid` for
    what is not PEM, larger than 16 kB, not signed by its own key, not on curve P-256, or asks to be an authority.
    """
    raw = pem.encode() if isinstance(pem, str) else pem
    if len(raw) > LONGEST_REQUEST_BYTES:
        raise Invalid(f"a certificate signing request has at most {LONGEST_REQUEST_BYTES} bytes, got {len(raw)}")
    try:
        request = x509.load_pem_x509_csr(raw)
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("not a certificate signing request: expected PEM that begins with -----BEGIN CERTIFICATE REQUEST-----") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the request's key must be an elliptic-curve key on P-256 (prime256v1)")
    try:
        signed = request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        signed = False
    if not signed:
        raise Invalid("the request is not signed by its own key: make it again with the key that it names")
    if _asks_for_authority(request):
        raise Invalid("the request asks to be a certificate authority: leave out basicConstraints and keyCertSign")
    return request


def _asks_for_authority(request: x509.CertificateSigningRequest) -> bool:
    try:
        extensions = request.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Invalid("the request's extensions cannot be read: leave them out, they are not needed") from error
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return True
        if isinstance(value, x509.KeyUsage) and value.key_cert_sign:
            return True
    return False


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh private key on P-256, the only curve used here."""
    return ec.generate_private_key(ec.SECP256R1())


def make_root(now: datetime) -> Authority:
    """Return a new root authority, which signs intermediates only."""
    key = new_key()
    name = authority_subject("root")
    return Authority(_authority_certificate(name, key.public_key(), name, key, now, ROOT_LIFETIME, path_length=1), key)


def make_intermediate(
    root: Authority, intermediate: Intermediate, now: datetime, *, key: ec.EllipticCurvePrivateKey | None = None
) -> Authority:
    """Return an issuing authority under `root`.

    With `key`, the key of an earlier intermediate of this name, whatever that one issued stays valid under this one.
    """
    key = key or new_key()
    lifetime = min(INTERMEDIATE_LIFETIME, root.certificate.not_valid_after_utc - now)
    certificate = _authority_certificate(
        authority_subject(intermediate), key.public_key(), root.certificate.subject, root.key, now, lifetime, path_length=0
    )
    return Authority(certificate, key)


def _authority_certificate(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_name: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    *,
    path_length: int,
) -> x509.Certificate:
    return (
        _unsigned(name, key, issuer_name, issuer_key, now - BACKDATED, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _unsigned(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_name: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def issue(
    authority: Authority,
    profile: Profile,
    key: ec.EllipticCurvePublicKey,
    *,
    common_name: str,
    names: Sequence[x509.GeneralName],
    now: datetime,
    lifetime: timedelta | None = None,
) -> IssuedCertificate:
    """Return a certificate of `profile` for `key`, named `common_name`, signed by `authority`.

    Begins five minutes before `now`, ends `lifetime` after it (the profile's longest when None), and never
    outlives its authority. Raises `Invalid` where `lifetime` or `common_name` are not what the profile allows.
    """
    not_after = min(now + profile.lifetime(lifetime), authority.certificate.not_valid_after_utc)
    certificate = (
        _unsigned(subject(common_name, profile.unit), key, authority.certificate.subject, authority.key, now - BACKDATED, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(extended_key_usage(profile), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return IssuedCertificate(
        chain=pem_of(certificate) + pem_of(authority.certificate),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def issue_platform(authority: Authority, key: ec.EllipticCurvePublicKey, *, name: str, now: datetime) -> IssuedCertificate:
    """Return the certificate of the platform process `name`, such as ws-query, serving on this machine's loopback address."""
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
        member_uri("platform", name),
    ]
    return issue(authority, PLATFORM, key, common_name=name, names=names, now=now)


def pem_of(certificate: x509.Certificate) -> str:
    """Return `certificate` as PEM text, ending in a line break, so that texts can be joined to a chain."""
    return certificate.public_bytes(Encoding.PEM).decode()


class Issuer:
    """Answers certificate signing requests of members, with the intermediate that the profile names.

    Who may ask for which profile is decided before, in the service: this class checks the request, not the right.
    """

    def __init__(self, *, root: x509.Certificate, intermediates: dict[Intermediate, Authority]) -> None:
        self._root = root
        self._intermediates = intermediates

    @property
    def root(self) -> str:
        """The root certificate (PEM), which every client trusts."""
        return pem_of(self._root)

    def issue(
        self,
        request: str | bytes,
        profile: Profile,
        *,
        principal: str,
        project: str,
        member: str,
        now: datetime,
        lifetime: timedelta | None = None,
    ) -> IssuedCertificate:
        """Return a certificate in the name of `principal` for the key of `request`.

        The subject and extensions of the request are ignored. Raises `Invalid` for a request that `read_request`
        refuses, a lifetime beyond the profile's and a platform profile, which is never issued on a request.
        """
        if profile.serves:
            raise Invalid("platform certificates are made when the platform starts, never on a request")
        key = read_request(request).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - read_request promises it
        return issue(
            self._intermediates[profile.intermediate],
            profile,
            key,
            common_name=principal,
            names=[member_uri(project, member)],
            now=now,
            lifetime=lifetime,
        )
