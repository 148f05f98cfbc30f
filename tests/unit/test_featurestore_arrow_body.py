"""Arrow bodies of strangers: what is taken, and what is refused before it takes memory or the process."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.arrow_body import arrow_table
from wardstream.errors import Invalid, LimitExceeded

ROWS = pa.table(
    {
        "patient": ["a", "bb", None],
        "rhythm": pa.array(["sinus", "af", "sinus"]).dictionary_encode(),
        "pulse": pa.array([70, None, 71], pa.int32()),
    }
)


def stream(batches: Sequence[pa.RecordBatch], **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def test_an_uncompressed_stream_is_taken_as_it_was_sent() -> None:
    batches = ROWS.to_batches(max_chunksize=2)
    assert arrow_table(stream(batches)).equals(ROWS)
    assert arrow_table(stream(batches, metadata_version=pa.ipc.MetadataVersion.V4)).equals(ROWS)
    assert arrow_table(stream([pa.RecordBatch.from_pylist([], ROWS.schema)])).num_rows == 0


def test_a_dictionary_counts_once_however_many_batches_use_it() -> None:
    column = pa.array(["x" * 10_000] * 100).dictionary_encode()
    batches = pa.table({"rhythm": column}).to_batches(max_chunksize=1)
    assert arrow_table(stream(batches)).num_rows == 100


def text_views(text: str, rows: int) -> pa.Array:
    """Rows that all point at one text."""
    one = pa.array([text]).cast(pa.string_view())
    view = one.buffers()[1].to_pybytes()[:16]
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view * rows), *one.buffers()[2:]])


@pytest.mark.parametrize("shared", [lambda text, rows: pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), [text]), text_views])
def test_a_text_that_many_rows_share_counts_for_each_of_them(shared: Callable[[str, int], pa.Array]) -> None:
    few, many = (stream([pa.record_batch({"note": shared("x" * 60_000, rows)})]) for rows in (10, 9_000))
    assert arrow_table(few).num_rows == 10
    assert arrow_table(stream([pa.record_batch({"note": shared("x", 0)})])).num_rows == 0
    with pytest.raises(LimitExceeded, match="more than 512 MiB once no value is shared"):
        arrow_table(many)


@pytest.mark.parametrize(
    "values", [pa.array([1, 2]), pa.nulls(2), pa.array([b"abc"] * 2, pa.binary(3)), pa.array([None, "b"], pa.large_string())]
)
def test_dictionaries_hold_plain_values(values: pa.Array) -> None:
    assert arrow_table(stream([pa.record_batch({"a": pa.DictionaryArray.from_arrays([0, None, 1], values)})])).num_rows == 3


def test_a_dictionary_of_lists_is_refused() -> None:
    with pytest.raises(Invalid, match="dictionaries of texts, numbers or times"):
        arrow_table(stream([pa.record_batch({"a": pa.DictionaryArray.from_arrays([0], pa.array([[1]]))})]))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused(compression: str) -> None:
    zeros = pa.record_batch({"pulse": np.zeros(1_000_000)})
    words = pa.record_batch({"rhythm": pa.array(["a" * 1000] * 10).dictionary_encode()})
    for batch in (zeros, words):
        with pytest.raises(Invalid, match="send the Arrow stream uncompressed"):
            arrow_table(stream([batch], compression=compression))


def test_dictionaries_that_grow_are_refused() -> None:
    grown = [pa.record_batch({"a": pa.DictionaryArray.from_arrays([0], words)}) for words in (["x"], ["x", "y"])]
    with pytest.raises(Invalid, match="without dictionary deltas"):
        arrow_table(stream(grown, emit_dictionary_deltas=True))


def test_rows_that_cost_no_bytes_are_refused() -> None:
    with pytest.raises(Invalid, match="more rows than bytes"):
        arrow_table(stream([pa.record_batch({"pulse": pa.nulls(10**9)})]))


def test_columns_that_share_their_bytes_are_refused() -> None:
    body = stream([pa.record_batch({"a": np.arange(1000), "b": np.arange(1000)})])
    offset, size, whole = (np.int64(number).tobytes() for number in (8000, 8000, 16_000))
    second = body.rindex(offset + size)
    end = body.rindex(np.arange(1000).tobytes())
    shared = body[:second] + bytes(8) + body[second + 8 : end] + body[end + 8000 :]
    with pytest.raises(Invalid, match="unpacks to more"):
        arrow_table(shared.replace(whole, size, 1))


def test_an_offset_beyond_the_texts_is_refused_and_not_followed() -> None:
    body = stream([pa.record_batch({"patient": ["abc", "defg"]})])
    offsets = np.array([0, 3, 7], np.int32).tobytes()
    assert body.count(offsets) == 1
    for patched in ([0, 3, 2**30], [0, 2**30, 7], [-(2**30), 3, 7]):
        with pytest.raises(Invalid, match="one Arrow IPC stream"):
            arrow_table(body.replace(offsets, np.array(patched, np.int32).tobytes()))


def test_names_and_texts_that_are_not_unicode_are_refused() -> None:
    body = stream([pa.record_batch({"patient": ["abcdefgh"]})])
    for text in (b"patient", b"abcdefgh"):
        with pytest.raises(Invalid, match="one Arrow IPC stream"):
            arrow_table(body.replace(text, b"\xff" * len(text)))


@pytest.mark.parametrize("body", [b"", b"no arrow", b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 16])
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="one Arrow IPC stream"):
        arrow_table(body)


@pytest.mark.parametrize("rows", [ROWS, pa.table({"note": pa.array(["a", None, "more than twelve"]).cast(pa.string_view())})])
def test_a_stream_damaged_anywhere_is_refused_or_read(rows: pa.Table) -> None:
    body = stream(rows.to_batches())
    for place in range(len(body)):
        for value in (0, 0xFF):
            damaged = bytearray(body)
            damaged[place] = value
            try:
                arrow_table(bytes(damaged)).to_pylist()
            except Invalid:
                continue
