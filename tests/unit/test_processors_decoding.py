"""From bytes to measurements: every way in which a record can be wrong, with the reason it gets."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import numpy as np
import pytest

from streams.model import PROCESSOR_KINDS, Measurement, Unusable
from streams.processors import reads, waveform
from streams.runtimes.decoding import RecordDecoder
from wardstream.errors import NotFound, Unavailable

_NOW = 1_700_000_000_000
_KIND = PROCESSOR_KINDS["ecg_10s"]
_SCHEMAS = {
    7: json.dumps(waveform.SCHEMA),
    8: json.dumps(reads.SCHEMA),
    9: "not a schema",
    10: '"string"',
    11: json.dumps(
        {
            **waveform.SCHEMA,
            "name": "Other",
            "namespace": "elsewhere",
            "fields": [*waveform.SCHEMA["fields"], {"name": "ward", "type": "string"}],
        }
    ),
}
GOOD: dict[str, Any] = waveform.pack(np.zeros(3), device="ecg-bed1", lead="II", rate=(3, 1), start_ms=_NOW, unit="mV", scale=0.001)


def _schema_of(number: int) -> str:
    if number == 404:
        raise NotFound("schema id 404 is not known")
    if number == 503:
        raise Unavailable("no answer")
    return _SCHEMAS[number]


def _decoder() -> RecordDecoder:
    return RecordDecoder(_KIND, _KIND.checked({"devices": ["ecg-bed1"]}), _schema_of)


def _value(record: dict[str, Any], number: int = 7) -> bytes:
    content = io.BytesIO()
    content.write(b"\x00" + number.to_bytes(4, "big"))
    fastavro.schemaless_writer(content, json.loads(_SCHEMAS[number]), record)
    return content.getvalue()


def _decode(value: bytes | None, *, closing: bool = False) -> Measurement:
    return _decoder().decode(value, arrived_ms=_NOW, closing=closing)


def test_a_good_record_becomes_a_measurement_with_times_in_milliseconds() -> None:
    found = _decode(_value(GOOD))
    assert (found.key, found.event_ms, found.span_ms, found.closing) == (("ecg-bed1",), _NOW, 1000, False)


def test_a_writer_with_another_name_and_more_fields_is_understood() -> None:
    assert _decode(_value({**GOOD, "ward": "3"}, 11)).key == ("ecg-bed1",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the record has no value"),
        (b"", "the record has no value"),
        (b"{}", "not Avro: a value begins with a zero byte"),
        (b"\x00\x00", "not Avro"),
        (b"\x00\x00\x00\x01\x94", "schema id 404 is not known"),
        (_value(GOOD)[:-4], "does not fit its schema 7"),
        (_value(GOOD) + b"\x00", "does not fit its schema 7: 1 bytes are left over"),
        (b"\x00\x00\x00\x00\x07" + b"\xff" * 40, "does not fit its schema 7"),
        (b"\x00\x00\x00\x00\x08\x02x", "schema 8 cannot be read as DeviceWaveform: it lacks lead, fs_num, t0"),
        (b"\x00\x00\x00\x00\x09\x02x", "schema 9 cannot be parsed"),
        (b"\x00\x00\x00\x00\x0a\x02x", "schema 10 is not a record"),
        (_value({**GOOD, "scale": float("nan")}), "scale is NaN or infinite"),
        (_value({**GOOD, "offset": float("-inf")}), "offset is NaN or infinite"),
        (_value({**GOOD, "count": 5}), "count 5 needs 10"),
        (_value({**GOOD, "device_id": "ecg-bed9"}), "the device is not one of this processor's"),
        (_value({**GOOD, "t0": _NOW + 300_001}), "its event time is 300 s ahead of its time of arrival, at most 300 s are allowed"),
        (_value({**GOOD, "t0": -1}), "its event time lies before 1970"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(value: bytes | None, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        _decode(value)


def test_a_record_is_judged_by_the_time_it_arrived_whenever_it_is_read() -> None:
    value = _value({**GOOD, "t0": _NOW + 300_001})
    with pytest.raises(Unusable, match="ahead of its time of arrival"):
        _decoder().decode(value, arrived_ms=_NOW)
    found = _decoder().decode(value, arrived_ms=_NOW + 1)
    assert (found.event_ms, found.reached_ms) == (_NOW + 300_001, _NOW + 1)


def test_no_reason_contains_a_value_of_the_record() -> None:
    with pytest.raises(Unusable) as caught:
        _decode(_value({**GOOD, "device_id": "anna-svensson"}))
    assert "anna" not in str(caught.value)


def test_without_the_registry_nothing_is_said_about_a_record() -> None:
    with pytest.raises(Unavailable):
        _decode(b"\x00\x00\x00\x01\xf7" + b"x")


def test_a_schema_that_appears_later_is_found() -> None:
    known: dict[int, str] = {}

    def schema_of(number: int) -> str:
        if number not in known:
            raise NotFound("not yet")
        return known[number]

    decoder = RecordDecoder(_KIND, _KIND.checked({}), schema_of)
    with pytest.raises(Unusable, match="schema id 7 is not known"):
        decoder.decode(_value(GOOD), arrived_ms=_NOW)
    known[7] = _SCHEMAS[7]
    assert decoder.decode(_value(GOOD), arrived_ms=_NOW).event_ms == _NOW


def test_a_closing_header_ends_a_replay_whatever_the_record_holds() -> None:
    assert _decode(_value(GOOD), closing=True).closing
    assert _decode(_value(waveform.closing("ecg-bed1", "II", (3, 1), _NOW))).closing
