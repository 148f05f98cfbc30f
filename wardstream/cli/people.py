"""`wardstream login`, `person`, `session` and `key`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.credentials import write_secret
from wardstream.client.people import Session, begin_setup, finish_setup, log_in
from wardstream.errors import Invalid

people = typer.Typer(help="Accounts of people (administrators).", no_args_is_help=True)
sessions = typer.Typer(help="Your sessions.", no_args_is_help=True)
keys = typer.Typer(help="Your API keys.", no_args_is_help=True)

FileOption = Annotated[Path, typer.Option("--file", "-f", help="where the session goes, mode 0600; use it as WARDSTREAM_API_KEY_FILE")]
PasswordOption = Annotated[Path | None, typer.Option(help="file with the password; asked for if left out")]


def login(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="your account")],
    project: ProjectOption = None,
    file: FileOption = Path("wardstream.session"),
    password_file: PasswordOption = None,
    code: Annotated[str | None, typer.Option(help="of the authenticator, or a recovery code; asked for if left out")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Log in with password and authenticator code, and keep the session in a file."""
    password = _password(password_file)
    _keep(log_in(of(context).anonymous(), name, password, code or _asked("Code"), project=project), file, output)


def setup(
    context: typer.Context,
    link: Annotated[str, typer.Argument(help="the one-time link that an administrator gave you")],
    file: FileOption = Path("wardstream.session"),
    password_file: PasswordOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Open your account: choose a password, connect an authenticator app, and note the recovery codes."""
    transport = of(context).anonymous()
    password = _password(password_file, new=True)
    uri, secret = begin_setup(transport, link.rpartition("link=")[2] or link, password)
    say(f"Add this to your authenticator app: {uri}\nor type its secret: {secret}")
    done = finish_setup(transport, link.rpartition("link=")[2] or link, _asked("Code"))
    _keep(done, file, output)
    if output is Output.TABLE:
        say("Recovery codes, each good for one login without the authenticator. Keep them apart from your password:")
        for code in done.recovery_codes:
            say(f"  {code}")


@people.command("list")
def person_list(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List accounts."""
    found = of(context).connection().people.list()
    rows = [
        {
            "person": each["name"],
            "name": each["display"],
            "logs in by": each["source"],
            "administrator": each["administrator"],
            "state": "closed" if each["disabled"] else "open" if each["ready"] else "not set up yet",
            "locked until": each["locked_until"],
        }
        for each in found
    ]
    show(rows, output, empty="no accounts")


@people.command("add")
def person_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="account name, such as an e-mail address, in lower case")],
    display: Annotated[str, typer.Option(help="the person's name")] = "",
    administrator: Annotated[bool, typer.Option("--administrator", help="runs the platform; reads no data")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an account and print the one-time link by which its owner opens it."""
    link, ends = of(context).connection().people.add(name, display=display, administrator=administrator)
    show_one({"person": name, "link": link, "expires": ends}, output)
    if output is Output.TABLE:
        say(f"Its owner runs: wardstream set-up {link}")


@people.command("reset-password")
def person_reset(context: typer.Context, name: Annotated[str, typer.Argument()], output: OutputOption = Output.TABLE) -> None:
    """End a person's password, second factor and sessions, and print a one-time link for new ones."""
    link, ends = of(context).connection().people.reset(name)
    show_one({"person": name, "link": link, "expires": ends}, output)


@people.command("disable")
def person_disable(context: typer.Context, name: Annotated[str, typer.Argument()], output: OutputOption = Output.TABLE) -> None:
    """Close an account, with its sessions, keys and certificates in every project."""
    of(context).connection().people.disable(name)
    show_one({"closed": name}, output)


@people.command("enable")
def person_enable(context: typer.Context, name: Annotated[str, typer.Argument()], output: OutputOption = Output.TABLE) -> None:
    """Open a closed account again."""
    of(context).connection().people.disable(name, disabled=False)
    show_one({"open": name}, output)


@sessions.command("list")
def session_list(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List your sessions."""
    found = of(context).connection().account.sessions()
    rows = [
        {"session": s["id"], "opened": s["opened_at"], "last used": s["seen_at"], "ends": s["expires_at"], "from": s["source"]}
        for s in found
    ]
    show(rows, output, empty="no sessions")


@sessions.command("end")
def session_end(context: typer.Context, session: Annotated[str, typer.Argument()], output: OutputOption = Output.TABLE) -> None:
    """End one of your sessions."""
    of(context).connection().account.end_session(session)
    show_one({"ended": session}, output)


@keys.command("list")
def key_list(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List your API keys."""
    found = of(context).connection().account.keys()
    rows = [
        {"key": k["id"], "label": k["label"], "scopes": k["scopes"] or "all", "made": k["created_at"], "ends": k["expires_at"]}
        for k in found
    ]
    show(rows, output, empty="no keys")


@keys.command("create")
def key_create(
    context: typer.Context,
    label: Annotated[str, typer.Argument(help="where the key is used")],
    file: Annotated[Path, typer.Option("--file", "-f", help="where the key goes, mode 0600")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="read, write or run; repeatable; left out: all that you may do")
    ] = None,
    days: Annotated[float | None, typer.Option(help="days after which it ends")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an API key in your name and write it to a file."""
    key, key_id = of(context).connection().account.create_key(label, scopes=scopes, days=days)
    write_secret(file, key)
    show_one({"key": key_id, "file": file}, output)


@keys.command("revoke")
def key_revoke(context: typer.Context, key: Annotated[str, typer.Argument()], output: OutputOption = Output.TABLE) -> None:
    """Make one of your API keys worthless."""
    of(context).connection().account.revoke_key(key)
    show_one({"revoked": key}, output)


def _asked(what: str, *, confirm: bool = False) -> str:
    """Return a secret that is typed unseen."""
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))


def _password(file: Path | None, *, new: bool = False) -> str:
    if file is None:
        return _asked("New password" if new else "Password", confirm=new)
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read as text") from error


def _keep(session: Session, file: Path, output: Output) -> None:
    write_secret(file, session.text)
    shown: dict[str, object] = {"principal": session.principal, "file": file, "expires": session.expires_at}
    if output is not Output.TABLE and session.recovery_codes:
        shown["recovery_codes"] = list(session.recovery_codes)
    show_one(shown, output)
