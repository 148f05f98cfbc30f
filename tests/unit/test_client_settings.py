"""A value where a group of settings is wanted is reported like every other wrong setting."""

from __future__ import annotations

import pytest

from wardstream.errors import Invalid
from wardstream.settings import RedisSettings, load

_WHOLE = {f"WARDSTREAM_{name}": "/x" for name in ("TLS__CA_FILE", "TLS__CERTIFICATE_FILE", "TLS__KEY_FILE")} | {"WARDSTREAM_PORT": "7000"}


@pytest.mark.parametrize("wrong", ["WARDSTREAM_TLS", "WARDSTREAM_TLS__CA_FILE__X", "WARDSTREAM_PORT__X"])
@pytest.mark.parametrize("first", [True, False])
def test_a_value_beside_the_settings_below_it_is_named(wrong: str, first: bool) -> None:
    added = {wrong: "x"}

    with pytest.raises(Invalid, match=r"WARDSTREAM_(TLS|TLS__CA_FILE|PORT): a value"):
        load(RedisSettings, {**added, **_WHOLE} if first else {**_WHOLE, **added})


def test_a_value_in_place_of_a_group_is_named() -> None:
    with pytest.raises(Invalid, match="WARDSTREAM_TLS: "):
        load(RedisSettings, {"WARDSTREAM_PORT": "7000", "WARDSTREAM_TLS": "x"})
