"""Logging in: from an API key or a client certificate to a project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardstream.client.audit import Audit
from wardstream.client.people import Account, People
from wardstream.client.projects import Project, Projects
from wardstream.client.transport import Transport
from wardstream.errors import Invalid, NotFound
from wardstream.settings import client_settings

_HELP = "give it as an argument or export it; `wardstream-server env` prints all of them for the stack on this machine"


@dataclass(frozen=True)
class Identity:
    """Who the platform takes the caller for."""

    principal: str
    project: str | None
    role: str | None
    door: str


class Connection:
    """The platform as one caller sees it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.projects = Projects(transport)
        self.audit = Audit(transport)
        self.people = People(transport)
        self.account = Account(transport)

    def whoami(self) -> Identity:
        """Return who the caller is; raises `Unauthenticated` when the key or certificate is not known."""
        found = self.transport.json("GET", "/api/v1/whoami")
        return Identity(found["principal"], found.get("project"), found.get("role"), found["door"])

    def audit_entries(self, *, project: str | None = None, limit: int = 50, after: int | None = None) -> list[dict[str, Any]]:
        """Return the newest audit entries or, with `after`, the first ones after that number; oldest first, at most `limit` (up to 1000).

        A project's to its owners, all to an administrator. The whole trail is read by giving the last number as `after`, from 0 on.
        """
        found: list[dict[str, Any]] = self.transport.json(
            "GET", "/api/v1/audit", params={"project": project, "limit": limit, "after": after}
        )
        return found

    def close(self) -> None:
        """Close the connections; the objects made from this one cannot be used afterwards."""
        self.transport.close()


def connect(
    url: str | None = None,
    *,
    api_key: str | None = None,
    api_key_file: Path | str | None = None,
    ca: Path | str | None = None,
    certificate: tuple[Path | str, Path | str] | None = None,
) -> Connection:
    """Return a connection; what is not given comes from the environment.

    WARDSTREAM_URL, WARDSTREAM_CA, and either WARDSTREAM_API_KEY_FILE or WARDSTREAM_CERTIFICATE with
    WARDSTREAM_KEY. A certificate, given or from the environment, goes before a key from the environment.
    Nothing is sent yet. Raises `Invalid` naming what is missing.
    """
    found = client_settings()
    address, root = url or found.url, ca or found.ca
    if not address:
        raise Invalid(f"the platform's address is missing: url, or WARDSTREAM_URL; {_HELP}")
    if not root or not Path(root).is_file():
        raise Invalid(f"the platform's root certificate is missing: ca, or WARDSTREAM_CA, names the file; {_HELP}")
    if certificate is None and not (api_key or api_key_file) and found.certificate and found.key:
        certificate = (found.certificate, found.key)
    if certificate is None:
        bearer = _key(api_key, "api_key") if api_key else _key_from(api_key_file or found.api_key_file)
        return Connection(Transport(address, ca_file=Path(root), bearer=bearer))
    pair = (Path(certificate[0]), Path(certificate[1]))
    for path in pair:
        if not path.is_file():
            raise Invalid(f"there is no file {path}; certificate wants the certificate's file and the key's")
    return Connection(Transport(address, ca_file=Path(root), certificate=pair, door=True))


def login(
    url: str | None = None,
    *,
    project: str | None = None,
    api_key: str | None = None,
    api_key_file: Path | str | None = None,
    ca: Path | str | None = None,
    certificate: tuple[Path | str, Path | str] | None = None,
) -> Project:
    """Return the project that the key or certificate belongs to; inside a program no argument is needed.

    `project` may be left out, since each key and certificate belongs to one project; when given it is checked.
    Raises `Unauthenticated` for a wrong key, `NotFound` for another project's name, `Invalid` for a key of no project.
    """
    connection = connect(url, api_key=api_key, api_key_file=api_key_file, ca=ca, certificate=certificate)
    identity = connection.whoami()
    if identity.project is None:
        raise Invalid(
            f"{identity.principal} is not a member of a project; log in with a member's key (`wardstream member add` gives a token for one)"
        )
    if project is not None and project != identity.project:
        raise NotFound(f"there is no project {project!r} for {identity.principal}")
    return connection.projects.get(identity.project)


def _key_from(file: Path | str | None) -> str:
    if file is None:
        raise Invalid(f"an API key or a certificate is missing: api_key, api_key_file or certificate, or WARDSTREAM_API_KEY_FILE; {_HELP}")
    try:
        # What is not ASCII is replaced, for `_key` to refuse: a decoder's error would carry the file's content.
        text = Path(file).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise Invalid(f"the API key's file cannot be read: {file} ({error.strerror})") from error
    return _key(text.strip(), str(file))


def _key(text: str, place: str) -> str:
    """Return `text` if it can be an API key; raises `Invalid` naming the place alone, since the text may be a secret."""
    if text.split() != [text] or not (text.isascii() and text.isprintable()):
        raise Invalid(f"{place} holds no API key, which is one word of printable ASCII on one line")
    return text
