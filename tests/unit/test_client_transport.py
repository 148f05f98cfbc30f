"""What a client is given wrongly, or answered by half, is one of our errors, and no error shows a key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardstream.client.features import FeatureStore
from wardstream.client.session import connect
from wardstream.client.transport import Transport
from wardstream.errors import Invalid, Unavailable

_KEY = "wsk_secret"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("pki") / "root.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize("content", [f"{_KEY}\n{_KEY}\n", f"{_KEY} x", f"{_KEY}\u00fc", "", f"\x00{_KEY}\x07"])
def test_a_key_file_that_holds_no_key_is_named_and_not_shown(content: str, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "anna.key"
    file.write_bytes(content.encode("latin-1"))

    with pytest.raises(Invalid, match=r"anna\.key") as error:
        connect("https://platform", api_key_file=file, ca=root)

    assert _KEY not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("key", [f"{_KEY}\n", f"{_KEY}\u00fc"])
def test_a_key_given_as_argument_that_is_none_is_not_shown(key: str, root: Path) -> None:
    with pytest.raises(Invalid) as error:
        connect("https://platform", api_key=key, ca=root)

    assert _KEY not in str(error.value)


def test_a_header_that_cannot_be_sent_is_not_shown(root: Path) -> None:
    with pytest.raises(Unavailable) as error:
        _answered(root, httpx.LocalProtocolError(f"Illegal header value b'Bearer {_KEY}'")).json("GET", "/")

    assert _KEY not in str(error.value)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_root_certificate_that_cannot_be_used_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(Invalid, match=r"ca\.pem"):
        Transport("https://platform", ca_file=file)


def test_a_client_certificate_that_cannot_be_used_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"root\.pem and .*key\.pem"):
        Transport("https://platform", ca_file=root, certificate=(root, tmp_path / "key.pem"))


@pytest.mark.parametrize("url", ["platform", "ftp://platform", "https://platform:port", "https://[::", "https://"])
def test_an_address_that_is_none_is_invalid(url: str, root: Path) -> None:
    with pytest.raises(Invalid, match="platform's address"):
        Transport(url, ca_file=root).json("GET", "/api/v1/whoami")


def test_an_answer_that_breaks_off_is_unavailable(root: Path) -> None:
    store = FeatureStore(_answered(root, httpx.Response(200, stream=_BreaksOff(_arrow_stream()))), "icu")

    with pytest.raises(Unavailable, match="peer closed"):
        store.sql("SELECT 1")


def test_training_data_that_break_off_are_unavailable(root: Path) -> None:
    store = FeatureStore(_answered(root, httpx.Response(200, stream=_BreaksOff(_arrow_stream()))), "icu")

    with (
        pytest.raises(Unavailable, match="peer closed"),
        store.training_data([{"patient": 1}], label_time="at", features=[]) as batches,
    ):
        batches.read_all()


def test_an_error_that_breaks_off_is_unavailable(root: Path) -> None:
    with (
        pytest.raises(Unavailable, match="peer closed"),
        _answered(root, httpx.Response(500, stream=_BreaksOff(b"{"))).stream("GET", "/"),
    ):
        pass


class _BreaksOff(httpx.SyncByteStream):
    """A body whose sender dies after its first part."""

    def __init__(self, first: bytes) -> None:
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


def _arrow_stream() -> bytes:
    """One batch of a stream that has no end mark yet."""
    table = pa.table({"a": [1, 2]})
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, table.schema)
    writer.write_table(table)
    return bytes(sink.getvalue())


def _answered(root: Path, answer: httpx.Response | httpx.TransportError) -> Transport:
    """Return a transport whose every request is answered so, without a socket."""

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    transport = Transport("https://platform", ca_file=root)
    transport._client = httpx.Client(transport=httpx.MockTransport(handle))
    return transport
