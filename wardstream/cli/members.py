"""`wardstream member` and `wardstream credentials`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.credentials import api_key, enrol
from wardstream.client.projects import MemberAltered
from wardstream.errors import Invalid

app = typer.Typer(help="Add, alter, list and remove members.", no_args_is_help=True)
credentials = typer.Typer(help="Get certificates and API keys from enrolment tokens.", no_args_is_help=True)


_ROLES = "data-owner, data-scientist, observer, restricted, device, service, or a role of the project's own"
ReadOption = Annotated[list[str] | None, typer.Option("--read", help="dataset that a service or restricted member reads; repeatable")]
WriteOption = Annotated[list[str] | None, typer.Option("--write", help="dataset that a device or service writes; repeatable")]
ColumnsOption = Annotated[
    list[str] | None, typer.Option("--columns", help="<dataset>:<column>,<column> that a restricted member reads; repeatable")
]


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="lower-case words joined by '-' or '_', at most 24 characters")],
    role: Annotated[str, typer.Option(help=_ROLES)],
    reads: ReadOption = None,
    writes: WriteOption = None,
    columns: ColumnsOption = None,
    person: Annotated[str | None, typer.Option(help="account that logs in to this membership")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="days after which the membership ends by itself")] = None,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a member and print the enrolment token (owners)."""
    enrolment = (
        of(context)
        .project(project)
        .add_member(
            name,
            role,
            reads=reads or (),
            writes=writes or (),
            columns=_columns(columns or []),
            person=person,
            expires_at=datetime.now(UTC) + timedelta(days=days) if days is not None else None,
        )
    )
    show_one(
        {"principal": enrolment.principal, "token": enrolment.token, "expires": enrolment.expires_at, "settled": enrolment.settled}, output
    )
    if not enrolment.settled:
        say("The member is added; some part of the platform has not confirmed its rights yet and is asked again.")


@app.command("alter")
def alter(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    role: Annotated[str | None, typer.Option(help=_ROLES)] = None,
    reads: ReadOption = None,
    writes: WriteOption = None,
    columns: ColumnsOption = None,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a member's role, or the datasets that it reads and writes (owners); lists that are given replace those before."""
    parts = _columns(columns) if columns is not None else None
    done = of(context).project(project).alter_member(name, role=role, reads=reads, writes=writes, columns=parts)
    _show_altered(done, output)


@app.command("lost-key")
def lost_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option(help="what happened, for the audit")] = "lost",
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a member's lost or stolen key everywhere and print a token for another (owners)."""
    _show_altered(of(context).project(project).lost_key(name, reason=reason), output)


@app.command("list")
def list_(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the members of a project."""
    found = of(context).project(project).members()
    rows = [
        {
            "member": m.name,
            "role": m.custom_role or m.role,
            "principal": m.principal,
            "state": m.state,
            "reads": [*m.reads, *(f"{dataset}:{','.join(names)}" for dataset, names in m.columns.items())],
            "writes": list(m.writes),
            "person": m.person,
            "expires": m.expires_at,
        }
        for m in found
    ]
    show(rows, output)


@app.command("token")
def token(
    context: typer.Context, name: Annotated[str, typer.Argument()], project: ProjectOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Print a new enrolment token of a member (owners)."""
    enrolment = of(context).project(project).new_token(name)
    show_one({"principal": enrolment.principal, "token": enrolment.token, "expires": enrolment.expires_at}, output)


@app.command("remove")
def remove(
    context: typer.Context, name: Annotated[str, typer.Argument()], project: ProjectOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Remove a member: open connections, grants and programs end (owners)."""
    removal = of(context).project(project).remove_member(name)
    show_one({"removed": name, "settled": removal.settled, "seconds": removal.seconds}, output)
    if not removal.settled:
        say("The removal is decided; some part of the platform has not confirmed it yet and is asked again.")


@credentials.command("enrol")
def enrol_(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="token from `wardstream member add`")],
    folder: Annotated[Path, typer.Option("--folder", "-d", help="where key and certificate go")] = Path("credentials"),
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key here and have it certified (devices, owners)."""
    made = enrol(of(context).anonymous(), token, folder)
    show_one(
        {
            "principal": made.principal,
            "certificate": made.certificate_file,
            "key": made.key_file,
            "ca": made.ca_file,
            "expires": made.expires_at,
        },
        output,
    )


@credentials.command("api-key")
def api_key_(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="token from `wardstream project create` or `wardstream member add`")],
    file: Annotated[Path, typer.Option("--file", "-f", help="where the key goes, mode 0600")] = Path("wardstream.key"),
    output: OutputOption = Output.TABLE,
) -> None:
    """Exchange a token for an API key (people)."""
    principal = api_key(of(context).anonymous(), token, file)
    show_one({"principal": principal, "file": file}, output)


@credentials.command("door-token")
def door_token_(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Print a token of minutes for a client that shows the certificate and cannot sign, such as curl."""
    token = of(context).connection().transport.door_token()
    if output is Output.TABLE:
        print(token)  # the answer, to be used by a shell
    else:
        show_one({"token": token}, output)


@credentials.command("show")
def show_(
    certificate: Annotated[Path, typer.Argument(help="certificate.pem")] = Path("credentials/certificate.pem"),
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a certificate's principal and validity."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"{certificate} is not a readable PEM certificate") from error
    name = found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    until = found.not_valid_after_utc.astimezone(UTC)
    show_one({"principal": name, "serial": f"{found.serial_number:x}", "from": found.not_valid_before_utc, "until": until}, output)


def _show_altered(done: MemberAltered, output: Output) -> None:
    show_one({"principal": done.principal, "token": done.token, "settled": done.settled}, output)
    if not done.settled:
        say("The change is decided; some part of the platform has not confirmed it yet and is asked again.")


def _columns(texts: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        dataset, colon, names = text.partition(":")
        if not colon or not all(names.split(",")):
            raise Invalid(f"--columns wants <dataset>:<column>,<column>, got {text[:80]!a}")
        found.setdefault(dataset, []).extend(names.split(","))
    return found
