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
    expected += struct.pack(">i", 2) + text("consumer_byte_rate") + struct.pack(">d?", 1.0, False)
    expected += text("producer_byte_rate") + struct.pack(">d?", 0.0, True) + struct.pack(">?", False)
    changes = {"icu__anna": {"consumer_byte_rate": 1.0, "producer_byte_rate": None}}
    assert wire.alter_quotas_request(changes) == expected


def test_only_the_refused_ones_of_a_change_of_quotas_are_named() -> None:
    def answer(error: int, message: str, user: str) -> bytes:
        return struct.pack(">h", error) + text(message) + struct.pack(">i", 1) + text("user") + text(user)

    body = struct.pack(">ii", 0, 2) + answer(0, "", "icu__anna") + answer(42, "no such quota", "icu__bert")
    assert wire.alter_quotas_answer(body) == {"icu__bert": "no such quota"}


def test_only_the_refused_ones_of_new_rows_are_named() -> None:
    rows = [AclRow(2, "icu.ecg", 3, "User:icu__anna", "*", 4, 3), AclRow(2, "icu.", 4, "anna", "*", 3, 3)]
    body = struct.pack(">iihh", 0, 2, 0, -1) + struct.pack(">h", 42) + text("no principal")
    assert wire.create_acls_answer(body, rows) == {"read on topic icu. and all that begin so for anna": "no principal"}
    with pytest.raises(Unavailable, match="other rows"):
        wire.create_acls_answer(body, rows[:1])


def test_settings_of_an_answer_are_those_set_on_the_topic() -> None:
    def entry(key: str, value: str, source: int) -> bytes:
        return text(key) + text(value) + struct.pack(">bbbi", 0, source, 0, 0)

    there = (
        struct.pack(">hhb", 0, -1, 2) + text("icu.ecg") + struct.pack(">i", 2) + entry("retention.ms", "5", 1) + entry("segment.ms", "9", 5)
    )
    gone = struct.pack(">hhb", 3, -1, 2) + text("icu.gone") + struct.pack(">i", 0)
    assert wire.describe_configs_answer(struct.pack(">ii", 0, 2) + there + gone) == {"icu.ecg": {"retention.ms": "5"}}


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
