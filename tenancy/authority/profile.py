"""Which certificates exist: who issues them, for how long, under what name. Pure values, no keys."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardstream.errors import Invalid

ORGANISATION = "wardstream"

# A client whose clock is a little behind must not find a fresh certificate "not yet valid".
BACKDATED = timedelta(minutes=5)
ROOT_LIFETIME = timedelta(days=3652)
INTERMEDIATE_LIFETIME = timedelta(days=730)

# X.520 upper bound of a common name.
_COMMON_NAME_LENGTH = 64


class Intermediate(StrEnum):
    """The three issuing authorities. Each kind of listener trusts exactly one of them."""

    OUTSIDE = "outside"
    INSIDE = "inside"
    PLATFORM = "platform"


class Unit(StrEnum):
    """The OU of a subject. A broker's rule for members never matches a platform subject, and the reverse."""

    MEMBER = "member"
    PLATFORM = "platform"


@dataclass(frozen=True)
class Profile:
    """What a kind of certificate may be: its issuer, its longest life, and whether it also serves."""

    name: str
    intermediate: Intermediate
    unit: Unit
    longest: timedelta
    serves: bool = False

    def lifetime(self, wanted: timedelta | None) -> timedelta:
        """Return the life to issue for: the longest when nothing is wanted.

        Raises `Invalid` where more than the profile allows is wanted; a request is never silently shortened.
        """
        if wanted is None:
            return self.longest
        if not timedelta(0) < wanted <= self.longest:
            raise Invalid(
                f"a {self.name} certificate lives between 1 and {int(self.longest.total_seconds())} seconds, "
                f"got {int(wanted.total_seconds())}"
            )
        return wanted


DEVICE = Profile("device", Intermediate.OUTSIDE, Unit.MEMBER, timedelta(days=7))
OWNER = Profile("owner", Intermediate.OUTSIDE, Unit.MEMBER, timedelta(days=7))
# Flink reads its key store only when a job restarts, hence days for a service.
SERVICE = Profile("service", Intermediate.INSIDE, Unit.MEMBER, timedelta(days=7))
EXECUTION = Profile("execution", Intermediate.INSIDE, Unit.MEMBER, timedelta(hours=1))
ACTING = Profile("acting", Intermediate.INSIDE, Unit.MEMBER, timedelta(minutes=10))
PLATFORM = Profile("platform", Intermediate.PLATFORM, Unit.PLATFORM, timedelta(days=30), serves=True)


def subject(common_name: str, unit: Unit) -> x509.Name:
    """Return the subject that a broker prints as `CN=<common_name>,OU=<unit>,O=wardstream`.

    RFC 2253 prints the parts in the reverse of their order in the certificate; the brokers' rules are anchored on
    the printed form, so the order here is part of the access control.
    """
    if not 1 <= len(common_name) <= _COMMON_NAME_LENGTH:
        raise Invalid(f"a certificate's name must have 1 to {_COMMON_NAME_LENGTH} characters, got {len(common_name)}")
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(unit)),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def authority_subject(name: str) -> x509.Name:
    """Return the subject of a certificate authority; its OU is none of the units that a broker's rule matches."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "authority"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"wardstream {name}"),
        ]
    )


def member_uri(project: str, member: str) -> x509.UniformResourceIdentifier:
    """Return the name of a member inside its certificate: `wardstream://<project>/<member>`."""
    return x509.UniformResourceIdentifier(f"wardstream://{project}/{member}")


def extended_key_usage(profile: Profile) -> x509.ExtendedKeyUsage:
    """Return what a certificate may be used for: to call, and to serve where the profile says so.

    Brokers call each other with the certificate that they serve with, so a platform certificate needs both.
    """
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if profile.serves:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    return x509.ExtendedKeyUsage(usages)
