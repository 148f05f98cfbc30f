"""Wardstream: `wardstream.login()` for programs; the kernel that every other package stands on."""

from __future__ import annotations

import importlib
from typing import Any

# Where the SDK's names are made. Late, because every process of the platform imports this package, and none but programs
# wants the SDK with Arrow: half a second of each start.
_SDK = {
    "Connection": "session",
    "Enrolment": "projects",
    "Execution": "programs",
    "Feature": "features",
    "FeatureGroup": "features",
    "FeatureSelection": "features",
    "FeatureStore": "features",
    "Identity": "session",
    "InsertReport": "features",
    "Member": "projects",
    "Project": "projects",
    "connect": "session",
    "login": "session",
}


def __getattr__(name: str) -> Any:
    # `from wardstream import errors` asks here for "errors" first, so the SDK is only imported for its own names.
    if name in _SDK:
        return getattr(importlib.import_module(f"wardstream.client.{_SDK[name]}"), name)
    raise AttributeError(f"module 'wardstream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SDK])
