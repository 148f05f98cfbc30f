"""Every error that the platform raises on purpose.

    WardstreamError
    ├── Invalid            422  exit 2   what was sent cannot be right
    │   └── InvalidName                  a name outside its grammar
    ├── Unauthenticated    401  exit 4   nobody is known to have sent this
    ├── Denied             403  exit 4   known, and not allowed
    ├── NotFound           404  exit 3   does not exist, or the caller may not know that it does
    ├── Conflict           409  exit 5   does not fit what is there
    │   └── UnsafeChange                 would lose data or order
    ├── LimitExceeded      429  exit 6   larger or longer than allowed
    └── Unavailable        503  exit 7   a part is away; trying again may help

`message` may be shown to anyone; `details` go to the log only.
"""

from __future__ import annotations

from typing import ClassVar


class WardstreamError(Exception):
    """Base of all; `code`, `status` and `exit_code` are what the doors and the CLI answer with."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class Invalid(WardstreamError):
    """The request can never succeed as it is; the message says what would be right."""

    code = "invalid"
    status = 422
    exit_code = 2


class InvalidName(Invalid):
    """A name outside its grammar."""

    code = "invalid-name"


class Unauthenticated(WardstreamError):
    """No proof of identity, or one that is wrong, used or expired."""

    code = "unauthenticated"
    status = 401
    exit_code = 4


class Denied(WardstreamError):
    """The caller is known and may not do this; only for things whose existence the caller may know."""

    code = "denied"
    status = 403
    exit_code = 4


class NotFound(WardstreamError):
    """Absent, or not for the caller to know about: both give the same answer."""

    code = "not-found"
    status = 404
    exit_code = 3


class Conflict(WardstreamError):
    """The request contradicts what exists."""

    code = "conflict"
    status = 409
    exit_code = 5


class UnsafeChange(Conflict):
    """Data or the order of records would be lost."""

    code = "unsafe-change"


class LimitExceeded(WardstreamError):
    """A limit on size, time, rows or number was reached; the message names it."""

    code = "limit-exceeded"
    status = 429
    exit_code = 6


class Unavailable(WardstreamError):
    """A broker, store or process did not answer in time; the same request may succeed later."""

    code = "unavailable"
    status = 503
    exit_code = 7
    retryable = True


_BY_CODE: dict[str, type[WardstreamError]] = {
    kind.code: kind
    for kind in (
        WardstreamError,
        Invalid,
        InvalidName,
        Unauthenticated,
        Denied,
        NotFound,
        Conflict,
        UnsafeChange,
        LimitExceeded,
        Unavailable,
    )
}
_BY_STATUS: dict[int, type[WardstreamError]] = {
    kind.status: kind for kind in (Invalid, Unauthenticated, Denied, NotFound, Conflict, LimitExceeded, Unavailable)
}


def error_from(status: int, code: str | None, message: str) -> WardstreamError:
    """Return the error that another process answered with; unknown codes fall back to the status."""
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status) or WardstreamError
    return kind(message)
