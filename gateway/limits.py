"""How much a request may hold: what is larger is refused before it is read."""

from __future__ import annotations

import re

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardstream.errors import LimitExceeded

# A JSON request of 10,000 records or a topics.yaml; a program's files are 16 MiB before base64.
_MOST_BYTES = 32 << 20
_PROJECT = "/api/v1/projects/[^/]+"
# By whole paths, so that no name of a project or topic can look like one of them. Bodies that are read in parts may be large; the
# processes behind have limits of their own, below these. What is read before anybody is known is small.
_OTHERS = (
    (re.compile(rf"{_PROJECT}/feature-groups/[^/]+/[^/]+/rows"), 256 << 20),
    (re.compile(rf"{_PROJECT}/training-data"), 512 << 20),
    (re.compile(rf"{_PROJECT}/models/[^/]+/[^/]+/files/[^/]+"), 1 << 30),
    (re.compile(r"/(?:api/v1/enrolments|console)/.*"), 64 << 10),
)


class BodyLimit:
    """Answers `limit-exceeded` to a body that is longer than its path allows, by what it says of itself or by what has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = limit_of(scope["path"])
        shown = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
        error = LimitExceeded(f"a request holds at most {shown} here; send it in several")
        refusal = JSONResponse({"code": error.code, "message": error.message}, status_code=error.status, headers={"Connection": "close"})
        if _length(scope) > most:
            await refusal(scope, receive, send)
            return
        size, refused = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise error
            return message

        async def answered(message: Message) -> None:
            # Whatever the route made of the interruption: the caller is told the reason.
            nonlocal refused
            if size <= most:
                await send(message)
            elif not refused:
                refused = True
                await refusal(scope, receive, send)

        await self._app(scope, counted, answered)


def limit_of(path: str) -> int:
    """Return the longest body in bytes of a request to `path`."""
    return next((most for pattern, most in _OTHERS if pattern.fullmatch(path)), _MOST_BYTES)


def _length(scope: Scope) -> int:
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    # The server has refused what is not a number already.
    return int(text) if text.isdigit() else 0
