"""The online store's server: its configuration. Users are made by control; nobody is let in by default."""

from collections.abc import Mapping
from pathlib import Path

from wardstream.processes import write_private


def configuration(home: Path, ports: Mapping[str, int]) -> str:
    """Return the configuration of the stack's Redis: TLS 1.3 with client certificates only, users from the access list."""
    pki, folder = home / "pki", home / "redis"
    lines = {
        "bind": "127.0.0.1",
        "port": "0",
        "tls-port": str(ports["redis"]),
        "tls-cert-file": _quoted(pki / "platform" / "ws-redis.crt"),
        "tls-key-file": _quoted(pki / "platform" / "ws-redis.key"),
        # The root: with an intermediate alone Redis refuses every client. Whoever passes still needs a user's password.
        "tls-ca-cert-file": _quoted(pki / "root.pem"),
        "tls-auth-clients": "yes",
        "tls-protocols": _quoted("TLSv1.3"),
        "databases": "1",
        "aclfile": _quoted(folder / "users.acl"),
        "appendonly": "yes",
        "save": '""',
        "dir": _quoted(folder),
        "daemonize": "no",
        "logfile": '""',
        "loglevel": "notice",
        "always-show-logo": "no",
        "set-proc-title": "no",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def write_files(home: Path, ports: Mapping[str, int]) -> None:
    """Write the server's configuration; the access list is written by `tenancy.main init` and then by control."""
    folder = home / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / "redis.conf", configuration(home, ports))


def run_command(home: Path, redis_server: Path) -> list[str]:
    """Return the command that runs the server."""
    return [str(redis_server), str(home / "redis" / "redis.conf")]
