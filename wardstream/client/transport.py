"""One HTTP client for the SDK and between our processes: TLS checked always, our errors out of theirs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from wardstream.client.proof import DoorProof
from wardstream.errors import Invalid, Unavailable, error_from

# Below the 5 s after which our processes close an idle connection: a request on one that is being closed gets no answer.
IDLE_SECONDS = 2.0


class Transport:
    """Requests to one address of the platform; thread-safe, keeps connections.

    Every answer of 400 and above is raised as the error it stands for (`wardstream.errors`);
    no answer at all, or one that breaks off, is `Unavailable`; a file or an address that cannot be used is `Invalid`.
    Nothing is repeated here: the caller knows what is safe to repeat.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path,
        certificate: tuple[Path, Path] | None = None,
        bearer: str | None = None,
        door: bool = False,
        timeout_seconds: float = 60.0,
    ) -> None:
        """`door` says that `url` is a door of the gateway's, where the certificate's key is proved (`wardstream.client.proof`)."""
        try:
            context = ssl.create_default_context(cafile=str(ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise Invalid(f"{ca_file} cannot be used as root certificate, which is a PEM file ({error.strerror})") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if certificate is not None:
            try:
                context.load_cert_chain(*certificate)
            except OSError as error:
                raise Invalid(
                    f"{certificate[0]} and {certificate[1]} cannot be used: right are a certificate and its key as PEM files ({error.strerror})"
                ) from error
        self.url = url.rstrip("/")
        self.tls = context
        self.ca_file = ca_file
        self.certificate = certificate
        self._bearer = bearer
        self._proof = DoorProof(ca_file=ca_file, key_file=certificate[1]) if certificate is not None and door else None
        # trust_env off: a proxy from the environment must not see patients' data.
        self._client = httpx.Client(
            verify=context,
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
            trust_env=False,
            auth=self._proof,
            limits=httpx.Limits(max_connections=64, keepalive_expiry=IDLE_SECONDS),
        )

    def acting(self, bearer: str) -> Transport:
        """Return the same connections with another bearer token, such as the grant of whom a request is made for."""
        other = copy(self)
        other._bearer = bearer
        return other

    def door_token(self) -> str:
        """Return what a client that cannot sign shows at the door, beside the certificate: good for another minute at least.

        As `Authorization: Bearer <token>` or as the password of basic authentication. Raises `Invalid` without a certificate.
        """
        if self._proof is None:
            raise Invalid("a token is for the doors that ask for a client certificate: log in with one")
        with self._reaching():
            return self._proof.token(self._client, self.url)

    def close(self) -> None:
        """Close the connections; also those of every `acting` transport made from this one."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        params: Mapping[str, str | int | bool | None] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        """Return the answer, read whole."""
        with self._reaching():
            response = self._client.send(
                self._build(method, path, json=json, content=content, params=params, headers=headers, timeout_seconds=timeout_seconds)
            )
        _raise_for(response)
        return response

    def json(self, method: str, path: str, **arguments: Any) -> Any:
        """Return the answer's JSON value, or None for an empty answer."""
        content = self.request(method, path, **arguments).content
        return orjson.loads(content) if content else None

    @contextmanager
    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """Yield the answer with its body still to be read, for large results."""
        with self._reaching():
            response = self._client.send(self._build(method, path, **arguments), stream=True)
            try:
                if response.status_code >= 400:
                    response.read()
                    _raise_for(response)
                yield response
            finally:
                response.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Invalid(
                f"{self.url!a} cannot be used as the platform's address, such as https://platform.example:8443: {error}"
            ) from error
        except httpx.TransportError as error:
            raise Unavailable(f"no answer from {self.url}: {_reason(error)}") from error

    def _build(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        params: Mapping[str, str | int | bool | None] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Request:
        sent = {**({"Authorization": f"Bearer {self._bearer}"} if self._bearer else {}), **(headers or {})}
        if json is not None:
            content = orjson.dumps(json)
            sent.setdefault("Content-Type", "application/json")
        given = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in (params or {}).items() if value is not None
        }
        timeout = httpx.Timeout(timeout_seconds, connect=5.0) if timeout_seconds is not None else httpx.USE_CLIENT_DEFAULT
        return self._client.build_request(method, self.url + path, content=content, params=given or None, headers=sent, timeout=timeout)


def path_part(name: str) -> str:
    """Return a name as one part of an address' path, whatever is in it; raises `Invalid` for one that would change the path."""
    if name in ("", ".", ".."):
        raise Invalid(f"{name!r} is not a name")
    return quote(name, safe="")


def _raise_for(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    code, message = None, response.text[:500]
    try:
        body = orjson.loads(response.content)
        code, message = body.get("code"), body.get("message", message)
    except (orjson.JSONDecodeError, AttributeError):
        pass
    raise error_from(response.status_code, code if isinstance(code, str) else None, message)


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.LocalProtocolError):  # its text repeats the header, which may be the caller's key
        return "the request could not be written as HTTP"
    text = str(error) or type(error).__name__
    if "certificate" in text.lower() or "ssl" in text.lower():
        return f"the TLS connection was refused ({text}); is the certificate valid and issued for this platform?"
    return text
