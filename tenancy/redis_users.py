"""Users of the online store: two a project, one that reads and one that writes, each shut into the project's keys."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import redis
from redis.exceptions import RedisError, ResponseError

from tenancy.authority.secrets import CONTROL_USER, redis_password, redis_password_hash
from wardstream.errors import Invalid, Unavailable
from wardstream.names import ProjectName
from wardstream.settings import RedisSettings

logger = logging.getLogger(__name__)

LIBRARY = "wardstream"
_USERS_PER_CALL = 500


class StoreAccess(StrEnum):
    """What a user of the online store may do."""

    READ = "read"
    WRITE = "write"


# Commands one by one: categories let through SCAN, RANDOMKEY and DBSIZE, which show other projects' keys.
_COMMANDS = {
    # The query process reads, and removes the rows of a group with its table; it sets none.
    StoreAccess.READ: ("hmget", "hgetall", "hdel", "fcall_ro", "ping"),
    StoreAccess.WRITE: ("hget", "hset", "hdel", "unlink", "fcall", "ping"),
}


@dataclass(frozen=True)
class StoreUser:
    """A user with its password's SHA-256 and the one pattern of keys that it reaches."""

    name: str
    password_hash: str
    keys: str
    commands: frozenset[str]

    def rule(self) -> list[str]:
        """Return the words of ACL SETUSER that make exactly this user, whatever it was before."""
        return ["reset", "on", f"#{self.password_hash}", f"~{self.keys}", "nocommands", *(f"+{name}" for name in sorted(self.commands))]


def user_name(project: ProjectName, access: StoreAccess) -> str:
    """Return the name of a project's user."""
    return f"{project}.{access}"


def users_of(project: ProjectName, secret: bytes) -> frozenset[StoreUser]:
    """Return the users that `project` should have; passwords follow from control's secret and are stored nowhere."""
    return frozenset(
        StoreUser(
            name=user_name(project, access),
            password_hash=redis_password_hash(secret, user_name(project, access)),
            # The braces put all keys of a project into one slot of a cluster, so that one call may touch many.
            keys=f"p:{{{project}}}:*",
            commands=frozenset(_COMMANDS[access]),
        )
        for access in StoreAccess
    )


class OnlineStoreUsers:
    """Control's hand on the online store: makes users, removes them, loads the functions. Can read no key. Thread-safe."""

    def __init__(self, settings: RedisSettings, secret: bytes) -> None:
        self._client = redis.Redis(
            host=settings.host,
            port=settings.port,
            username=CONTROL_USER,
            password=redis_password(secret, CONTROL_USER),
            ssl=True,
            ssl_ca_certs=str(settings.tls.ca_file),
            ssl_certfile=str(settings.tls.certificate_file),
            ssl_keyfile=str(settings.tls.key_file),
            ssl_check_hostname=True,
            socket_timeout=5,
            socket_connect_timeout=2,
            decode_responses=True,
            # CLIENT SETINFO at each connection is a command that ws-control may not run.
            driver_info=None,
            protocol=2,
        )

    def found(self) -> frozenset[StoreUser]:
        """Return the projects' users that are there now; the platform's own are left out."""
        lines: list[str] = self._ask("ACL", "LIST")
        users = (_parsed(line) for line in lines)
        return frozenset(user for user in users if user is not None and "." in user.name)

    def put(self, users: Collection[StoreUser]) -> None:
        """Make or put right `users`, durably. Raises `Unavailable` naming those that are refused, all others made."""
        refused: dict[str, str] = {}
        ordered = sorted(users, key=lambda one: one.name)
        for start in range(0, len(ordered), _USERS_PER_CALL):
            part = ordered[start : start + _USERS_PER_CALL]
            with self._client.pipeline(transaction=False) as calls:
                for user in part:
                    calls.execute_command("ACL", "SETUSER", user.name, *user.rule())  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                try:
                    answers = calls.execute(raise_on_error=False)
                except RedisError as error:
                    raise Unavailable("the online store does not answer control", reason=str(error)) from error
            for user, answer in zip(part, answers, strict=True):
                if isinstance(answer, RedisError):
                    refused[user.name] = str(answer)
        if len(refused) < len(users):
            self._ask("ACL", "SAVE")
        if refused:
            named = "; ".join(f"{name}: {reason}" for name, reason in sorted(refused.items())[:5])
            raise Unavailable(f"the online store refused {len(refused)} of {len(users)} users: {named}", refused=refused)

    def remove(self, names: Collection[str]) -> None:
        """Remove users and cut their open connections, durably."""
        if names:
            self._ask("ACL", "DELUSER", *sorted(names))
            self._ask("ACL", "SAVE")

    def load_functions(self, file: Path) -> None:
        """Make the function library equal to `file`; does nothing where it already is.

        Raises `Invalid` where the file is away or Redis cannot compile it.
        """
        try:
            code = file.read_text(encoding="utf-8")
        except OSError as error:
            raise Invalid("the online store's function library cannot be read: redis_functions_file must name it") from error
        libraries = self._ask("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
        if any(code in _flat(library) for library in libraries):
            return
        try:
            self._client.execute_command("FUNCTION", "LOAD", "REPLACE", code)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except ResponseError as error:
            raise Invalid("the online store refuses its function library", reason=str(error)) from error
        except RedisError as error:
            raise Unavailable("the online store does not answer", reason=str(error)) from error
        logger.info("functions of the online store loaded")

    def _ask(self, *words: str) -> list[str]:
        try:
            answer: list[str] = self._client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except RedisError as error:
            raise Unavailable("the online store does not answer control", reason=str(error)) from error
        return answer


def _flat(library: object) -> list[object]:
    return list(library.values()) if isinstance(library, dict) else list(library) if isinstance(library, list) else []


def _parsed(line: str) -> StoreUser | None:
    """Return the user of one line of ACL LIST; one that is more or less than ours ever are differs from all of ours."""
    words = line.split()
    if len(words) < 3 or words[0] != "user":
        return None
    name, rest = words[1], words[2:]
    hashes = [word[1:] for word in rest if word.startswith("#")]
    keys = [word[1:] for word in rest if word.startswith("~")]
    commands = {word.removeprefix("+") for word in rest if word.startswith(("+", "-")) and word != "-@all"}
    usual = {"on", "sanitize-payload", "resetchannels", "-@all"}
    odd = {word for word in rest if word[0] not in "#~+" and word not in usual}
    return StoreUser(name, ",".join(hashes), ",".join(keys), frozenset(commands | odd) if "on" in rest else frozenset({"off"}))
