"""A chain of lines in files: each line seals its content to all before it.

A line is `<content> TAB <seal>`. The content is a JSON object that begins with its number; the seal is SHA-256 over the seal
before and SHA-256 of the content (its commitment). So an export may put `#<commitment>` in the place of a content that its
reader may not see, and the whole chain up to a signed head can be checked all the same. Each content holds 16 random bytes:
a commitment tells nothing about what it stands for.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

FIRST_SEAL = "0" * 64
_SEAL = 64
_HIDDEN = b"#"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ChainHead:
    """Number and seal of a chain's newest line; 0 and zeros before the first."""

    number: int = 0
    seal: str = FIRST_SEAL


@dataclass(frozen=True)
class ChainCheck:
    """What checking a chain found: lines that are as they were written, and the number of the first that is not."""

    entries: int
    intact: bool
    broken_at: int | None
    head: ChainHead


def sealed(content: bytes, before: str) -> tuple[bytes, str]:
    """Return the line of `content`, which follows the seal `before`, and its own seal."""
    seal = _seal(before, sha256(content).digest())
    return b"%b\t%b\n" % (content, seal.encode()), seal


def hidden(line: bytes) -> bytes:
    """Return `line` with a commitment in the place of its content."""
    if line.startswith(_HIDDEN):
        return line
    content = line[: -_SEAL - 2]
    return b"#%b\t%b" % (sha256(content).hexdigest().encode(), line[-_SEAL - 1 :])


def check(lines: Iterable[bytes], known: Iterable[ChainHead] = (), *, after: ChainHead = ChainHead()) -> ChainCheck:  # frozen
    """Check lines that must follow `after`, and that every head in `known` is one of them.

    Finds any line edited, removed, added or moved; one cut off at the end, and a chain made anew, are found by a head in
    `known` that came after it. Reads a line once and keeps none.
    """
    wanted = {head.number: head.seal for head in known}
    number, before = after.number, bytes.fromhex(after.seal)
    for line in lines:
        number += 1
        seal = _checked(line, number, before)
        if seal is None or (number in wanted and wanted.pop(number) != seal.hex()):
            head = ChainHead(number - 1, before.hex())
            return ChainCheck(head.number - after.number, intact=False, broken_at=number, head=head)
        before = seal
    head = ChainHead(number, before.hex())
    if any(each > after.number for each in wanted):
        return ChainCheck(number - after.number, intact=False, broken_at=number + 1, head=head)
    return ChainCheck(number - after.number, intact=True, broken_at=None, head=head)


def _checked(line: bytes, number: int, before: bytes) -> bytes | None:
    """Return the seal of a line that is what line `number` after `before` can be, else None."""
    content = line[: -_SEAL - 2]
    if content.startswith(_HIDDEN):
        try:
            commitment = bytes.fromhex(content[1:].decode("ascii"))
        except (UnicodeDecodeError, ValueError):
            return None
        if content[1:] != hexlify(commitment) or len(commitment) != sha256().digest_size:
            return None
    elif content.startswith(b'{"n":%d,' % number):
        commitment = sha256(content).digest()
    else:
        return None
    seal = sha256(before + commitment).digest()
    return seal if line[-_SEAL - 2 :] == b"\t%b\n" % hexlify(seal) else None


def _seal(before: str, commitment: bytes) -> str:
    return sha256(bytes.fromhex(before) + commitment).hexdigest()


# Files


def segments(folder: Path) -> list[Path]:
    """Return the files of a chain in order; each is named by the number of its first line."""
    return sorted(folder.glob("[0-9]*.log"))


def read_lines(folder: Path, *, after: int = 0) -> Iterator[bytes]:
    """Yield the lines after number `after`, the one that is being written left out."""
    files = segments(folder)
    starts = [int(file.stem) for file in files]
    first = max((place for place, start in enumerate(starts) if start <= after + 1), default=0)
    for file, start in zip(files[first:], starts[first:], strict=True):
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start):
                if number > after and line.endswith(b"\n"):
                    yield line


def newest_lines(folder: Path) -> Iterator[bytes]:
    """Yield the lines from the newest to the oldest; a block of a file is kept at a time."""
    for file in reversed(segments(folder)):
        with file.open("rb") as opened:
            place, left = opened.seek(0, 2), b""
            first = True
            while place > 0:
                size = min(_BLOCK, place)
                place -= size
                opened.seek(place)
                block = opened.read(size) + left
                lines = block.splitlines(keepends=True)
                if first and lines and not lines[-1].endswith(b"\n"):
                    lines.pop()
                first = False
                left = lines.pop(0) if place > 0 and lines else b""
                yield from reversed(lines)
