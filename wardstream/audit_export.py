"""An export of the audit, checked without the platform that made it.

Lines: one with format, project and public key; for each chain one that names it, then its lines; one that counts the
checkpoints, then these; a last one that says, signed, what and how many they are. See `wardstream.chain` for what a chain's line is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from wardstream.chain import ChainCheck, ChainHead, check
from wardstream.errors import Invalid

FORMAT = "wardstream-audit-1"
# The chain in the database, which an export has as entries of control's.
RIGHTS = "rights"


@dataclass(frozen=True)
class ExportCheck:
    """What checking an export found."""

    project: str | None
    chains: dict[str, ChainCheck] = field(default_factory=dict)
    checkpoints: int = 0
    checkpoints_intact: bool = True
    newest_at: str | None = None

    @property
    def intact(self) -> bool:
        """Whether everything is as it was written, up to the newest checkpoint."""
        return self.checkpoints > 0 and self.checkpoints_intact and all(each.intact for each in self.chains.values())


def heads_of(lines: Iterable[bytes], key: Ed25519PublicKey) -> tuple[dict[str, list[ChainHead]], bool]:
    """Return the heads that checkpoints name, by chain, and whether all of them are signed and follow each other."""
    heads: dict[str, list[ChainHead]] = {}
    before: bytes | None = None
    intact = True
    for line in lines:
        try:
            content = orjson.loads(line)
            signature = base64.b64decode(content.pop("signature"), validate=True)
            key.verify(signature, orjson.dumps(content))
            follows = before is None or content["previous"] == hashlib.sha256(before).hexdigest()
            found = {name: ChainHead(int(number), str(seal)) for name, (number, seal) in content["heads"].items()}
        except (InvalidSignature, KeyError, ValueError, TypeError, AttributeError, binascii.Error):
            intact = False
            continue
        intact = intact and follows
        before = line
        for name, head in found.items():
            if head.number:
                heads.setdefault(name, []).append(head)
    return heads, intact


def statement(key: Ed25519PrivateKey, project: str | None, chains: Sequence[str], lines: int, digest: str) -> bytes:
    """Return the last line of an export: what it is of, how many lines it has, and their hash, signed."""
    content = {"end": lines, "format": FORMAT, "project": project, "chains": list(chains), "sha256": digest}
    return orjson.dumps({**content, "signature": base64.b64encode(key.sign(orjson.dumps(content))).decode()}) + b"\n"


def verify_export(file: Path, public_key: bytes | None = None) -> ExportCheck:
    """Check an export: its signed end, its chains against themselves and against its checkpoints.

    `public_key` (PEM) is the platform's, kept by whoever checks; without it the export's own is taken, which proves only that
    nobody changed it who could not sign. Raises `Invalid` for a file that is no export.
    """
    with file.open("rb") as opened:
        try:
            header = orjson.loads(opened.readline())
            found_format, names = header["format"], list(header["chains"])
            key = load_pem_public_key(public_key if public_key is not None else str(header["public_key"]).encode())
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise Invalid(f"{file} is not an export of the audit, or the key is not a PEM public key") from error
        if found_format != FORMAT or not isinstance(key, Ed25519PublicKey):
            raise Invalid(f"{file} is not an export of the audit in the format {FORMAT}")
        opened.seek(0)
        ended = _ended(opened, key, header["project"], names)
        # The checkpoints come last: read the file again rather than keep its lines.
        opened.seek(0)
        lines = [line.rstrip(b"\n") for line in _checkpoints(opened)]
        heads, intact = heads_of(lines, key)
        opened.seek(0)
        opened.readline()
        sections = _Sections(opened)
        checked = {name: check(sections.lines(name), heads.get(name, ())) for name in names}
    # A chain that a checkpoint knows and the export has not was taken out.
    whole = heads.keys() - {RIGHTS} <= set(names)
    newest = orjson.loads(lines[-1])["at"] if lines and intact else None
    return ExportCheck(header["project"], checked, len(lines), intact and ended and whole, newest)


def _ended(file: Iterable[bytes], key: Ed25519PublicKey, project: object, names: Sequence[str]) -> bool:
    """Return whether the last line says, signed, what the lines before it are."""
    digest, lines, last = hashlib.sha256(), 0, b""
    for line in file:
        digest.update(last)
        lines, last = lines + 1, line
    try:
        content = orjson.loads(last)
        signature = base64.b64decode(content.pop("signature"), validate=True)
        key.verify(signature, orjson.dumps(content))
        told = (content["end"], content["sha256"], content["project"], content["chains"])
    except (InvalidSignature, KeyError, ValueError, TypeError, AttributeError, binascii.Error):
        return False
    return last.endswith(b"\n") and told == (lines - 1, digest.hexdigest(), project, list(names))


def _checkpoints(file: Iterable[bytes]) -> Iterator[bytes]:
    reached = False
    for line in file:
        if reached and not line.startswith(b'{"end":'):
            yield line
        elif line.startswith(b'{"checkpoints":'):
            reached = True


class _Sections:
    """The chains of an export, one after the other, in the order in which its header names them."""

    def __init__(self, file: Iterator[bytes]) -> None:
        self._file = file
        self._next = next(file, b"")

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of the chain `name`; none where it is not what comes next."""
        if self._next.rstrip(b"\n") != orjson.dumps({"chain": name}):
            return
        for line in self._file:
            if line.startswith((b'{"chain":', b'{"checkpoints":')):
                self._next = line
                return
            yield line
        self._next = b""
