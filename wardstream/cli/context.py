"""What every command has: how to log in, how to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli.output import Output
from wardstream.client.projects import Project
from wardstream.client.session import Connection, connect, login
from wardstream.client.transport import Transport
from wardstream.errors import Invalid
from wardstream.settings import client_settings


@dataclass(frozen=True)
class Context:
    """The global options; empty ones come from the environment."""

    url: str | None
    ca: Path | None
    api_key_file: Path | None
    certificate: tuple[Path, Path] | None

    def connection(self) -> Connection:
        """Return a connection of the caller."""
        return connect(self.url, api_key_file=self.api_key_file, ca=self.ca, certificate=self.certificate)

    def project(self, name: str | None = None) -> Project:
        """Return the caller's project; for an administrator, who belongs to none, the one named."""
        connection = self.connection()
        if name is not None:
            return connection.projects.get(name)
        return login(self.url, api_key_file=self.api_key_file, ca=self.ca, certificate=self.certificate)

    def by_certificate(self, folder: Path) -> Transport:
        """Return a transport that shows the certificate in `folder`, at the outside door."""
        found = client_settings()
        url, ca = self.url or found.url, self.ca or folder / "ca.pem"
        if not url:
            raise Invalid("give --url, or export WARDSTREAM_URL: the address of the door for client certificates")
        return connect(url, ca=ca, certificate=(folder / "certificate.pem", folder / "key.pem")).transport

    def anonymous(self) -> Transport:
        """Return a transport that shows no identity, for enrolment by token."""
        found = client_settings()
        url, ca = self.url or found.url, self.ca or found.ca
        if not url or not ca:
            raise Invalid("give --url and --ca, or export WARDSTREAM_URL and WARDSTREAM_CA (`wardstream-server env` prints them)")
        return Transport(url, ca_file=ca)


def of(context: typer.Context) -> Context:
    """Return what the global options made."""
    found = context.find_object(Context)
    if found is None:
        raise Invalid("this command runs through `wardstream`")
    return found


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or csv")]
ProjectOption = Annotated[str | None, typer.Option("--project", "-p", help="project; left out: the one your key belongs to")]
