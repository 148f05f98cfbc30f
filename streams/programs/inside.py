"""The first program inside a sandbox: gives the job its few ways out, runs it, and hands signals and exit code through.

Stands alone (the standard library only) and is started isolated, so that nothing of the job is imported before the job
runs. Each port listens on the sandbox' own 127.0.0.1 and leads to a unix socket of the same name, behind which the
launcher connects to the same port outside: addresses that brokers advertise stay good inside.

Usage: inside.py <descriptor> <folder of sockets> <port,port,…> <command> [argument …]
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

STOP = b"T"
"""What the launcher sends when the job is to end by itself; the end of the line means that the launcher is gone."""

_CHUNK = 65536


def relay(connect: Callable[[], Awaitable[Streams]]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return a connection handler that joins each connection to a new one from `connect`, byte by byte."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await connect()
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer), return_exceptions=True)
        except asyncio.CancelledError:
            # The job has ended; left to asyncio, each open connection would print a traceback after the job's own output.
            return
        for each in (writer, far_writer):
            each.close()

    return handle


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on: the other direction may still have something to say."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def run(line: socket.socket, folder: Path, ports: Sequence[int], command: Sequence[str]) -> int:
    """Run `command` with the ways out and return its exit code, 128 + n when signal n ended it."""

    def to(port: int) -> Callable[[], Awaitable[Streams]]:
        return lambda: asyncio.open_unix_connection(folder / str(port))

    for port in ports:
        await asyncio.start_server(relay(to(port)), "127.0.0.1", port)
    try:
        child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127

    def signalled() -> None:
        try:
            said = line.recv(1)
        except BlockingIOError:
            return
        if child.returncode is None:
            child.terminate() if said == STOP else child.kill()
        if not said:
            asyncio.get_running_loop().remove_reader(line)

    line.setblocking(False)
    asyncio.get_running_loop().add_reader(line, signalled)
    code = await child.wait()
    return code if code >= 0 else 128 - code


def main(arguments: Sequence[str]) -> int:
    """Run what the launcher asks for."""
    descriptor, folder, ports, *command = arguments
    line = socket.socket(fileno=int(descriptor))
    return asyncio.run(run(line, Path(folder), [int(port) for port in ports.split(",") if port], command))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # What is left of the job (children that it started) ends with this process: it is the first of its process namespace.
    os._exit(code)
