"""What a broker's refusal means for whoever asked."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from wardstream.errors import Denied, LimitExceeded, Unavailable, WardstreamError
from wardstream.kafka import kafka_error


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE])
def test_what_is_too_large_for_the_topic_is_a_limit_and_not_worth_another_try(code: int) -> None:
    error = kafka_error(KafkaException(KafkaError(code)), "produce")
    assert type(error) is LimitExceeded
    assert not error.retryable
    assert "max.message.bytes" in error.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Denied),
        # A topic that was made a moment ago is not known everywhere yet.
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Unavailable),
        (KafkaError.REQUEST_TIMED_OUT, Unavailable),
    ],
)
def test_a_refusal_is_denied_and_what_may_pass_is_worth_another_try(code: int, kind: type[WardstreamError]) -> None:
    assert type(kafka_error(KafkaException(KafkaError(code)), "produce")) is kind
