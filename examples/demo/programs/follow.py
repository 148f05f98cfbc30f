"""A program that follows a topic until it is refused: prints when the last record and the first refusal came.

Arguments: topic, seconds to run at most. It asks the broker as impatiently as a live display would.
"""

import json
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaError

import wardstream

topic, seconds = sys.argv[1], float(sys.argv[2])
# Told to end, it goes on until the broker itself has refused it: that is what it is here to see.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
connection = wardstream.login().kafka_configuration()
consumer = Consumer({**connection, "auto.offset.reset": "latest", "enable.auto.commit": False, "log_level": 0})
consumer.subscribe([topic])
# A second client asks for the topic again and again, as one that is just started would: the first one is held back by a
# quota from the moment of the removal on, so it hears of its refusal late.
asking = Consumer({**connection, "log_level": 0})


def refusal() -> str | None:
    """Return what the broker says of the topic to a new request, if it refuses it."""
    error = asking.list_topics(topic, timeout=5).topics[topic].error
    return error.name() if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED else None


deadline, records, last, refused, asked = time.time() + seconds, 0, 0.0, None, 0.0
while time.time() < deadline and refused is None:
    message = consumer.poll(0.02)
    error = message.error() if message is not None else None
    if message is not None and error is None:
        records, last = records + 1, time.time()
        if records == 1:
            print(json.dumps({"following": True}), flush=True)
    elif error is not None and "AUTHORIZATION_FAILED" in error.name():
        refused = error.name()
    elif records and time.time() - asked > 0.05:
        asked = time.time()
        refused = refusal()
refused_at = time.time() if refused else None
# What was already on its way would come within the next second.
while refused_at and time.time() < refused_at + 1:
    message = consumer.poll(0.05)
    if message is not None and message.error() is None:
        records, last = records + 1, time.time()
print(json.dumps({"records": records, "last_record": last, "first_refusal": refused_at, "refusal": refused}), flush=True)
