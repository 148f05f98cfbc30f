"""Logs in one format, metrics of every process."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

# The request that is being answered, told by the gateway to every process behind it.
_REQUEST: ContextVar[str | None] = ContextVar("request", default=None)

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


def begin_request(told: str | None) -> str:
    """Note the request that this task answers from now on: by the name it was told, or by one of its own; return it."""
    name = told if told is not None and re.fullmatch(r"[0-9A-Za-z-]{8,64}", told) else secrets.token_hex(8)
    _REQUEST.set(name)
    return name


def request_id() -> str | None:
    """Return the request that is being answered, or None outside of one."""
    return _REQUEST.get()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, then the values given as `extra`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := request_id()) is not None:
            line["request"] = request
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(process: str, level: str = "INFO") -> None:
    """Send all logs of this process to standard output, one JSON object a line."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "aiokafka", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
