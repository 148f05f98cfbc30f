"""Settings are whole or the process does not start."""

from pathlib import Path

import pytest

from wardstream.errors import Invalid
from wardstream.settings import RedisSettings, client_settings, environment_of, load

_TLS = {"TLS__CA_FILE": "/a", "TLS__CERTIFICATE_FILE": "/b", "TLS__KEY_FILE": "/c"}


def _environment(**values: str) -> dict[str, str]:
    return {f"WARDSTREAM_{name}": value for name, value in {"PORT": "7000", **_TLS, **values}.items()}


def test_settings_come_from_the_environment_by_path() -> None:
    found = load(RedisSettings, {**_environment(), "PATH": "/usr/bin"})

    assert found.port == 7000
    assert found.tls.key_file == Path("/c")


def test_an_unknown_setting_stops_the_start_and_is_named() -> None:
    with pytest.raises(Invalid, match="WARDSTREAM_PROT"):
        load(RedisSettings, _environment(PROT="1"))


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(Invalid, match="WARDSTREAM_PORT"):
        load(RedisSettings, _environment(PORT="many"))


def test_settings_survive_the_way_through_an_environment() -> None:
    found = load(RedisSettings, _environment())

    assert load(RedisSettings, environment_of(found)) == found


def test_a_client_takes_what_it_knows_and_leaves_the_rest() -> None:
    found = client_settings({"WARDSTREAM_URL": "https://127.0.0.1:1", "WARDSTREAM_KAFKA__X": "1", "HOME": "/"})

    assert found.url == "https://127.0.0.1:1"
    assert found.ca is None
