"""Enrolling spends a token only where its yield can be kept, and never destroys a credential that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from wardstream.client.credentials import api_key, enrol
from wardstream.client.transport import Transport
from wardstream.errors import Invalid, Unauthenticated

_CERTIFIED = {"certificate": "CERTIFICATE", "root": "ROOT", "principal": "icu__pump", "expires_at": "2030-01-01T00:00:00Z"}
_KEY = {"api_key": "wsk_1", "principal": "icu__anna"}


class _Control:
    """The platform's answer to a token: None refuses it."""

    def __init__(self, answer: dict[str, str] | None) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def json(self, method: str, path: str, *, json: Any) -> dict[str, str]:
        self.asked.append(json)
        if self.answer is None:
            raise Unauthenticated("the token is wrong, used or expired")
        return self.answer


def _enrol(control: _Control, folder: Path) -> object:
    return enrol(cast(Transport, control), "token", folder)


def _api_key(control: _Control, file: Path) -> object:
    return api_key(cast(Transport, control), "token", file)


def _mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_enrolling_leaves_a_private_key_with_its_certificate_and_root(tmp_path: Path) -> None:
    control = _Control(_CERTIFIED)

    _enrol(control, tmp_path / "new")

    found = {file.name: (file.read_text().strip(), _mode(file)) for file in (tmp_path / "new").iterdir()}
    assert found["certificate.pem"] == ("CERTIFICATE", 0o644)
    assert found["ca.pem"] == ("ROOT", 0o644)
    assert found["key.pem"][0].startswith("-----BEGIN PRIVATE KEY-----")
    assert found["key.pem"][1] == 0o600
    assert set(found) == {"key.pem", "certificate.pem", "ca.pem"}
    assert x509.load_pem_x509_csr(control.asked[0]["csr"].encode()).is_signature_valid


def test_a_refused_token_leaves_the_credential_that_was_there(tmp_path: Path) -> None:
    for name in ("key.pem", "certificate.pem", "ca.pem"):
        (tmp_path / name).write_text("works")

    with pytest.raises(Unauthenticated):
        _enrol(_Control(None), tmp_path)

    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(("key.pem", "certificate.pem", "ca.pem"), "works")


def test_a_refused_token_leaves_the_api_key_that_was_there(tmp_path: Path) -> None:
    file = tmp_path / "anna.key"
    file.write_text("works")

    with pytest.raises(Unauthenticated):
        _api_key(_Control(None), file)

    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(file, "works")]


@pytest.mark.parametrize(("ask", "answer"), [(_enrol, _CERTIFIED), (_api_key, _KEY)])
def test_no_token_is_spent_where_nothing_can_be_written(
    ask: Callable[[_Control, Path], object], answer: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    control = _Control(answer)

    with pytest.raises(Invalid, match="file/below"):
        ask(control, tmp_path / "file/below")

    assert control.asked == []


def test_no_token_is_spent_for_a_key_whose_place_is_a_folder(tmp_path: Path) -> None:
    control = _Control(_KEY)

    with pytest.raises(Invalid, match=r"Is a directory"):
        _api_key(control, tmp_path)

    assert control.asked == []


def test_a_key_in_place_of_a_readable_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "anna.key"
    file.touch(0o644)

    assert _api_key(_Control(_KEY), file) == "icu__anna"

    assert (file.read_text(), _mode(file)) == ("wsk_1\n", 0o600)
