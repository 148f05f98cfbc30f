"""The throw-away process in which one statement of a person runs; started by `engine.py`, confined, and ended after it.

It stands alone (imports nothing of ours) and is given nothing but a socket: over it come one request and open
descriptors of the Parquet files that the statement may read. It holds no path, no credential and no network; the
engine in it has external access off, its configuration locked and no name of a file. Arrow goes to standard output,
one line of JSON with the outcome back over the socket, after one byte that says "ready". The outcome holds no text of the engine: its messages suggest
names from the catalogue.

Request: 4 bytes length (big-endian), JSON {sql, max_rows, max_bytes, memory_mb, tables: [{name, columns, identity,
newest, files, schema}]}; then one byte per up to 200 descriptors that ride on it, tables in the order of the request.
`identity` and `newest` are empty where a table has no repeats; `schema` is an Arrow schema, base64.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import sys
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

DESCRIPTORS_A_MESSAGE = 200
READY = b"+"
_BATCH_ROWS = 32_768


def serve(channel: socket.socket, output: int) -> None:
    """Answer the one request that comes over `channel`, if any comes before the other side closes it."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    connection = duckdb.connect(":memory:", config=_CONFIGURATION)
    _warm(connection)
    channel.sendall(READY)
    size = _receive(channel, 4)
    if size is None:
        return
    request = json.loads(_receive(channel, struct.unpack(">I", size)[0]) or b"{}")
    descriptors = _descriptors(channel, sum(table["files"] for table in request["tables"]))
    try:
        outcome: dict[str, Any] = _run(connection, request, descriptors, output)
    except MemoryError:
        outcome = {"error": "memory"}
    except Exception as error:  # noqa: BLE001  # the one place where this process' failures become outcomes
        outcome = _outcome(error)
    os.close(output)
    channel.sendall(json.dumps(outcome).encode() + b"\n")


_CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "threads": 1,
    "max_temp_directory_size": "0KB",
}


def _warm(connection: duckdb.DuckDBPyConnection) -> None:
    """Touch what the first statement would otherwise wait for: the parser, the time zones, the way of Arrow in and out."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("warm", ds.InMemoryDataset(pa.table({"x": pa.array([1], pa.timestamp("us", "UTC"))})))
    connection.sql("SELECT date_trunc('hour', x), count(*) FROM warm GROUP BY 1").to_arrow_table()
    connection.unregister("warm")


def _run(connection: duckdb.DuckDBPyConnection, request: dict[str, Any], descriptors: list[int], output: int) -> dict[str, Any]:
    start = 0
    for number, table in enumerate(request["tables"]):
        own = descriptors[start : start + table["files"]]
        start += table["files"]
        # A name that no feature group can have: theirs begin with a letter.
        _register(connection, f"_source_{number}", table, own)
    connection.execute(f"SET memory_limit = '{int(request['memory_mb'])}MB'")
    connection.execute("SET lock_configuration = true")
    reader = connection.sql(request["sql"]).to_arrow_reader(_BATCH_ROWS)
    rows = 0
    with os.fdopen(output, "wb", closefd=False) as file:
        counted = _Counted(file, int(request["max_bytes"]))
        with pa.ipc.new_stream(counted, reader.schema) as writer:
            for batch in reader:
                rows += batch.num_rows
                if rows > request["max_rows"]:
                    return {"error": "rows"}
                writer.write_batch(batch)
    return {"rows": rows}


def _register(connection: duckdb.DuckDBPyConnection, source: str, table: dict[str, Any], descriptors: list[int]) -> None:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(table["schema"])))
    form = ds.ParquetFileFormat()
    fragments = [form.make_fragment(pa.PythonFile(os.fdopen(descriptor, "rb"), mode="r")) for descriptor in descriptors]
    connection.register(source, ds.FileSystemDataset(fragments, schema=schema, format=form))
    columns = ", ".join(map(_quoted, table["columns"]))
    if table["identity"]:
        identity, newest = ", ".join(map(_quoted, table["identity"])), ", ".join(f"{_quoted(name)} DESC" for name in table["newest"])
        rows = f"SELECT {columns} FROM {source} QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {newest}) = 1"  # noqa: S608  # quoted names
    else:
        rows = f"SELECT {columns} FROM {source}"  # noqa: S608  # quoted names
    connection.execute(f"CREATE VIEW {_quoted(table['name'])} AS {rows}")


class _Counted:
    """A file that takes no more than `limit` bytes."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file = file
        self._left = limit
        self.closed = False

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise _TooManyBytesError
        written: int = self._file.write(data)
        return written

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


class _TooManyBytesError(Exception):
    pass


# What may be said of an error: its kind and the one word of the person's own statement that it is about.
_COLUMN = re.compile(r'(?:Referenced column|does not have a column named|Values list .* does not have a column named) "([^"]{1,100})"')
_QUALIFIED = re.compile(r'Table "[^"]*" does not have a column named "([^"]{1,100})"')
_ALIAS = re.compile(r'Referenced table "([^"]{1,100})" not found')
_SIGNATURE = re.compile(r"the given name and argument types '([^'\n]{1,200})'")
_GROUPED = re.compile(r'column "([^"]{1,100})" must appear in the GROUP BY clause')
_AMBIGUOUS = re.compile(r'Ambiguous reference to column name "([^"]{1,100})"')


def _outcome(error: Exception) -> dict[str, Any]:
    text = str(error)
    if isinstance(error, _TooManyBytesError):
        return {"error": "bytes"}
    if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text or "bad_alloc" in text or "malloc" in text:
        return {"error": "memory"}
    for kind, pattern in (
        ("column", _QUALIFIED),
        ("column", _COLUMN),
        ("alias", _ALIAS),
        ("types", _SIGNATURE),
        ("grouping", _GROUPED),
        ("ambiguous", _AMBIGUOUS),
    ):
        if found := pattern.search(text):
            return {"error": kind, "subject": found[1]}
    for kind, classes in (
        ("conversion", (duckdb.ConversionException, duckdb.OutOfRangeException)),
        ("binding", (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.NotImplementedException)),
        ("refused", (duckdb.PermissionException, duckdb.IOException)),
        ("value", (duckdb.InvalidInputException,)),
    ):
        if isinstance(error, classes):
            return {"error": kind}
    return {"error": "engine", "subject": type(error).__name__}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _receive(channel: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            return None
        data += part
    return data


def _descriptors(channel: socket.socket, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        mark, descriptors, _, _ = socket.recv_fds(channel, 1, DESCRIPTORS_A_MESSAGE)
        if not mark or not descriptors:
            raise ConnectionError("fewer files came than the request names")
        found += descriptors
    return found


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
