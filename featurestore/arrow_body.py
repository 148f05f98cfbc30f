"""Arrow tables that strangers send: never larger than what was sent, and whole before anybody reads a value."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wardstream.errors import Invalid, LimitExceeded

# Places of fields in the tables of Arrow's format/Message.fbs.
_MESSAGE_HEADER = 2
_DICTIONARY_DATA, _DICTIONARY_IS_DELTA = 1, 2
_BATCH_COMPRESSION = 3
# How writers before version 1 of the format said it, in the message's own metadata.
_OLD_COMPRESSION = b"ARROW:experimental_compression"
# As much as the longest body: values that many rows share take no more than values that were sent one by one.
_MOST_BYTES = 512 << 20


def arrow_table(body: bytes) -> pa.Table:
    """Return the table of one Arrow IPC stream; its columns share the memory of `body`.

    Raises `Invalid` for anything else, and for what would take more memory than was sent: compressed batches, dictionaries
    that grow, columns that lie on top of each other. Offsets and texts are checked, since Arrow trusts what a stranger wrote.
    Raises `LimitExceeded` where rows share values that would take too much once each row has its own.
    """
    try:
        for message in pa.ipc.MessageReader.open_stream(body):
            _require_plain(message)
        batches, rows, size, apart = [], 0, 0, 0
        with pa.ipc.open_stream(body) as reader:
            schema = reader.schema
            schema.names  # noqa: B018  # a name that is not UTF-8 fails here, not in whoever asks for it later
            for batch in reader:
                # First, as the length alone costs nothing to write: every column that is read has a byte or more for each row.
                rows += batch.num_rows
                if rows > len(body):
                    raise Invalid("the Arrow stream has more rows than bytes: send columns that hold values")
                batch.validate(full=True)
                size += sum(_size(column) for column in batch.columns)
                if size > len(body):
                    raise Invalid("the Arrow stream unpacks to more than was sent: send each column with its own values")
                apart += sum(_size_apart(column) for column in batch.columns)
                if apart > _MOST_BYTES:
                    raise LimitExceeded(f"the rows hold more than {_MOST_BYTES >> 20} MiB once no value is shared: send them in parts")
                batches.append(batch)
            return pa.Table.from_batches(batches, schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise Invalid("the body must be one Arrow IPC stream (application/vnd.apache.arrow.stream)") from error


def _require_plain(message: pa.ipc.Message) -> None:
    """Refuse what Arrow would unpack or copy; asked of the message, since a batch that has been read is unpacked already."""
    if message.type not in ("record batch", "dictionary"):
        return
    content = message.metadata.to_pybytes()
    # Arrow has checked the tables' places when it read the message, and finds the fields in the same way.
    batch = _table(content, _field(content, _table(content, 0), _MESSAGE_HEADER))
    if message.type == "dictionary":
        delta = _field(content, batch, _DICTIONARY_IS_DELTA)
        if delta and content[delta]:
            raise Invalid("dictionaries must not grow along the Arrow stream: send the stream without dictionary deltas")
        batch = _table(content, _field(content, batch, _DICTIONARY_DATA))
    if _field(content, batch, _BATCH_COMPRESSION) or _OLD_COMPRESSION in content:
        raise Invalid("the Arrow stream is compressed: send the Arrow stream uncompressed")


def _table(content: bytes, place: int) -> int:
    """Return where the table is that `place` points to."""
    return place + int(struct.unpack_from("<I", content, place)[0])


def _field(content: bytes, table: int, number: int) -> int:
    """Return where a field of a table is; 0 where it was left out."""
    layout = table - int(struct.unpack_from("<i", content, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", content, layout)[0]:
        return 0
    offset = int(struct.unpack_from("<H", content, layout + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _size(column: pa.Array) -> int:
    # A dictionary is sent once and belongs to the batches that follow, each of which would count it.
    counted: int = (column.indices if isinstance(column, pa.DictionaryArray) else column).nbytes
    return counted


def _size_apart(column: pa.Array) -> int:
    """Return how many bytes the values take once no two rows share one, for the types in which they may."""
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        # Four numbers for each row, of which the first is the length; where there is no value it may be anything.
        views = np.frombuffer(column.buffers()[1] or b"", np.int32, 4 * (column.offset + len(column)))
        return int(views[4 * column.offset :: 4].clip(min=0).sum(dtype=np.int64))
    if not isinstance(column, pa.DictionaryArray):
        return 0
    values = kind.value_type
    if pa.types.is_null(values):
        return 0
    if pa.types.is_primitive(values) or pa.types.is_fixed_size_binary(values):
        return len(column) * int(values.bit_width) // 8
    if any(is_it(values) for is_it in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)):
        return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices), min_count=0).as_py())
    raise Invalid(f"a dictionary of the Arrow stream holds {str(values)[:70]}: send dictionaries of texts, numbers or times")
