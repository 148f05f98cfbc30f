"""The protocol's bytes: requests as Kafka reads them, answers of any shape."""

import struct

import pytest

from tenancy import wire
from tenancy.wire import AclRow
from wardstream.errors import Unavailable


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def test_quota_request_names_user_key_and_value() -> None:
    expected = struct.pack(">i", 1) + struct.pack(">i", 1) + text("user") + text("icu__anna")
    expected += struct.pack(">i", 1) + text("consumer_byte_rate") + struct.pack(">d??", 1.0, False, False)
    assert wire.alter_quota_request("icu__anna", "consumer_byte_rate", 1.0) == expected


def test_rows_of_an_answer_are_read_whole() -> None:
    row = text("User:icu__anna") + text("*") + struct.pack(">bb", 3, 3)
    resource = struct.pack(">b", 2) + text("icu.") + struct.pack(">b", 4) + struct.pack(">i", 1) + row
    answer = struct.pack(">ihh", 0, 0, -1) + struct.pack(">i", 1) + resource
    assert wire.describe_acls_answer(answer) == {AclRow(2, "icu.", 4, "User:icu__anna", "*", 3, 3)}


def test_refused_question_is_an_error_and_not_an_empty_list() -> None:
    with pytest.raises(Unavailable, match="error 31"):
        wire.describe_acls_answer(struct.pack(">ih", 0, 31) + text("no") + struct.pack(">i", 0))


@pytest.mark.parametrize("length", range(12))
def test_answer_that_ends_too_early_is_an_error(length: int) -> None:
    answer = struct.pack(">ihh", 0, 0, -1) + struct.pack(">i", 1)
    with pytest.raises(Unavailable, match="too early"):
        wire.describe_acls_answer(answer[:length])


def test_quotas_of_an_answer_are_read_by_user() -> None:
    entity = struct.pack(">i", 1) + text("user") + text("icu__anna")
    values = struct.pack(">i", 1) + text("consumer_byte_rate") + struct.pack(">d", 1.0)
    answer = struct.pack(">ihh", 0, 0, -1) + struct.pack(">i", 1) + entity + values
    assert wire.describe_quotas_answer(answer) == {"icu__anna": {"consumer_byte_rate": 1.0}}
