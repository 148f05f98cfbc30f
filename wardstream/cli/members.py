"""`wardstream member` and `wardstream credentials`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from rich.console import Console
from rich.progress import Progress

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.agent import RenewalAgent
from wardstream.client.credentials import api_key, enrol, pkcs12, renew, write_bytes, write_secret
from wardstream.client.devices import device_tokens, read_devices
from wardstream.client.projects import MemberAltered
from wardstream.errors import Invalid

app = typer.Typer(help="Add, alter, list and remove members.", no_args_is_help=True)
credentials = typer.Typer(help="Get certificates and API keys from enrolment tokens.", no_args_is_help=True)


_ROLES = "data-owner, data-scientist, observer, restricted, device, service, or a role of the project's own"
FolderOption = Annotated[Path, typer.Option("--folder", "-d", help="where key.pem, certificate.pem and ca.pem lie")]
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


@app.command("add-devices")
def add_devices(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with the columns name and writes; several datasets separated by ';'")],
    tokens: Annotated[Path, typer.Option("--tokens", help="where name, principal, token and end of each go, mode 0600")] = Path(
        "tokens.csv"
    ),
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add many devices and write their enrolment tokens to a file (owners). Repeating it adds what is missing.

    Every row is checked before the first device is added.
    """
    found = of(context).project(project)
    rows = read_devices(file)
    there = {member.name: member for member in found.members() if member.state == "active"}
    datasets = {dataset.name for dataset in found.topics.list()}
    faults = [
        f"line {row.line}: dataset {name} is not there: create it first" for row in rows for name in row.writes if name not in datasets
    ]
    for row in rows:
        known = there.get(row.name)
        if known is not None and (known.role != "device" or set(known.writes) != set(row.writes)):
            faults.append(
                f"line {row.line}: {row.name} is a member already, as {known.role}, writing {', '.join(known.writes) or 'nothing'}"
            )
    if faults:
        raise Invalid(f"{file} was not used, nothing was added: " + "; ".join(faults[:20]))
    missing = [row for row in rows if row.name not in there]
    made = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for row in bar.track(missing, description="devices"):
            enrolment = found.add_member(row.name, "device", writes=row.writes)
            made.append((row.name, enrolment.principal, enrolment.token, enrolment.expires_at))
            write_secret(tokens, device_tokens(made))
    show_one({"added": len(made), "there already": len(rows) - len(missing), "tokens": tokens if made else None}, output)


@credentials.command("renew")
def renew_(
    context: typer.Context,
    folder: FolderOption = Path("credentials"),
    new_key: Annotated[bool, typer.Option("--new-key", help="make another key too")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Renew the certificate in a folder with itself, at the door for client certificates (WARDSTREAM_URL)."""
    made = renew(of(context).by_certificate(folder), folder, new_key=new_key)
    show_one({"principal": made.principal, "certificate": made.certificate_file, "expires": made.expires_at}, output)


@credentials.command("agent")
def agent(
    context: typer.Context,
    folder: FolderOption = Path("credentials"),
    once: Annotated[bool, typer.Option("--once", help="renew if half of the life is over, and end")] = False,
) -> None:
    """Keep the certificate in a folder good: renew it from half of its life on, until stopped.

    Clients read the new one at their next connection; the file changes at once, and the key stays.
    """
    RenewalAgent(folder, lambda: of(context).by_certificate(folder), say=say).run(once=once)


@credentials.command("list")
def list_certificates(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the certificates of a project's members that have not expired (owners)."""
    found = of(context).project(project).certificates()
    rows = [
        {
            "serial": each["serial"],
            "principal": each["principal"],
            "profile": each["profile"],
            "issued": each["issued_at"],
            "expires": each["expires_at"],
            "revoked": each["revoked_at"],
        }
        for each in found
    ]
    show(rows, output, empty="no certificates")


@credentials.command("export")
def export(
    folder: FolderOption = Path("credentials"),
    file: Annotated[Path, typer.Option("--pkcs12", help="where the PKCS #12 file goes, mode 0600")] = Path("credentials.p12"),
    password_file: Annotated[Path | None, typer.Option(help="file with its password; asked for if left out")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write key and certificates as PKCS #12, for Java and Windows clients."""
    if password_file is None:
        password = str(typer.prompt("Password of the file", hide_input=True, confirmation_prompt=True, err=True))
    else:
        try:
            password = password_file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{password_file} cannot be read as text") from error
    write_bytes(file, pkcs12(folder, password, "wardstream"))
    show_one({"file": file}, output)


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
