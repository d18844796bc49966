"""Talk to a server that is not trusted: in bounded memory, bounded time and with few repetitions.

A server can ignore ``Range``, send without end, send a byte a second, or redirect to another
address. Each of these ends in one error that names the fault; after it the server is not asked
again. See :class:`Limits` for the bounds.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from git_theta.core.resources.threads import Threads

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Result = TypeVar("Result")

_THREADS = 16
_CHUNK = 1 << 16
_CHUNKED = 8  # bytes on the wire for each byte of content, if each comes in a chunk of its own
# Statuses that a later request may not get
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

TOO_MUCH = "the server sends more than it was asked for"
OTHER_BYTES = "the server sends other bytes than it was asked for"
IGNORES_RANGES = "the server ignores ranges of bytes, which a file of this size needs"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a server is given up on.

    ``connect``: seconds for a connection. ``window`` and ``rate``: in each ``window`` seconds at
    least ``rate`` bytes a second must arrive, headers included. ``overhead``: bytes that an answer
    may have besides the object (headers, chunk sizes). ``pauses``: seconds to wait before each
    repetition of a request that failed in passing.
    """

    connect: float = 5.0
    window: float = 60.0
    rate: int = 1024
    overhead: int = 1 << 20
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)


def reach(server: str, limits: Limits | None = None) -> None:
    """Connect to ``http(s)://HOST`` (or the proxy to it) and hang up; :class:`ServerFault` if that
    cannot be done.
    """
    scheme, _, host = server.partition("://")
    proxy = _proxy(scheme, host)
    address = urlsplit(f"//{proxy.host or host}")
    try:
        proxy.check()
        port = address.port or (443 if scheme == "https" else 80)
        socket.create_connection(
            (address.hostname or "", port), timeout=(limits or Limits()).connect
        ).close()
    except OSError as error:
        raise ServerFault(f"{address.netloc} cannot be reached: {_text(error)}") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a key holds: ``state`` is ``value`` or ``missing``."""

    state: str
    value: bytes | bytearray = b""


class ServerFault(OSError):  # noqa: N818 - a fact about the server
    """The server did what no later request would mend: it is not asked again.

    Its text holds words of the server's, not escaped.
    """


class PassingFault(OSError):  # noqa: N818 - as above
    """A fault that may have passed by the next request."""


class ServerLink:
    """Connections to one server, one kept for each thread. Safe to use from several threads."""

    def __init__(self, server: str, limits: Limits | None = None) -> None:
        """``server`` is ``http(s)://HOST[:PORT]``. Nothing is contacted yet."""
        scheme, _, self.host = server.partition("://")
        self.limits = limits or Limits()
        self.fault: ServerFault | None = None
        self._secure = scheme == "https"
        self._proxy = _proxy(scheme, self.host)
        self._own = threading.local()

    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        allowed: int,
        use: Callable[[http.client.HTTPResponse], Result],
        body: io.RawIOBase | None = None,
    ) -> Result:
        """Send one request, and return what ``use`` makes of the answer, of which at most
        ``allowed`` bytes of content are let in.

        :class:`ServerFault`, now and at every later request, if the server breaks the protocol or
        the limits; :class:`PassingFault` if the request may be repeated.
        """
        if self.fault is not None:
            raise self.fault
        try:
            return self._exchange(method, target, headers, allowed, use, body)
        except ServerFault as fault:
            self.fault = fault
            raise

    def _exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        allowed: int,
        use: Callable[[http.client.HTTPResponse], Result],
        body: io.RawIOBase | None,
    ) -> Result:
        used: _Connection | None = getattr(self._own, "connection", None)
        connection = used or self._connect()
        self._own.connection = response = None
        keep = False
        try:
            headers = {"Host": self.host, **headers}
            if self._proxy.host and not self._secure:
                target, headers = f"http://{self.host}{target}", {**headers, **self._proxy.headers}
            response = connection.ask(method, target, headers, allowed, body)
            result = use(response)
            if (
                response.length is not None
                and response.length <= _CHUNK
                and not response.will_close
            ):
                response.read()
                keep = True
        except TimeoutError:
            raise ServerFault(f"the server was silent for {self.limits.window:g} seconds") from None
        except (http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
            # The server closed a connection that was kept
            if used is not None and response is None and body is None:
                return self._exchange(method, target, headers, allowed, use, body)
            raise PassingFault(f"the answer was cut short ({_text(error)})") from None
        else:
            return result
        finally:
            if response is not None:
                response.close()
            if keep:
                self._own.connection = connection
            else:
                connection.close()

    def _connect(self) -> _Connection:
        connection = _Connection(self._proxy.host or self.host, self._secure, self.limits)
        try:
            self._proxy.check()
            connection.open(self.host if self._proxy.host else "", self._proxy.headers)
        except OSError as error:  # no repetition: nobody is there
            connection.close()
            raise ServerFault(
                f"{self._proxy.host or self.host} cannot be reached: {_text(error)}"
            ) from None
        return connection


class Web:
    """The files below one URL, by key. Safe to use from several threads."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        """``url`` is ``http(s)://HOST[:PORT]`` and a decoded path that ends in a slash.

        Nothing is contacted yet.
        """
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        self._link = ServerLink(f"{scheme}://{host}", limits)
        self._path = quote(f"/{path}")
        self._threads = Threads(_THREADS, "git-theta-web")

    def read(self, key: str, *, byte_range: slice) -> Future[Answer]:
        """The bytes of ``key`` from ``byte_range.start`` up to ``byte_range.stop`` (both given), no
        more, whatever the server sends.

        The future raises :class:`OSError`, with a text that begins with ``OUT_OF_RANGE`` if the
        file ends before that.
        """
        return self._threads.submit(self._read, key, int(byte_range.start), int(byte_range.stop))

    def _read(self, key: str, start: int, stop: int) -> Answer:
        for pause in (*self._link.limits.pauses, None):
            try:
                return self._link.exchange(
                    "GET",
                    self._path + quote(key),
                    {"Range": f"bytes={start}-{stop - 1}"},
                    stop,
                    partial(_judge, start=start, stop=stop),
                )
            except PassingFault as error:
                if pause is None:
                    raise OSError(str(error)) from None
            time.sleep(pause)
        raise AssertionError  # pragma: no cover - the last pause is None


class _Connection:
    """One connection, whose every received byte counts against the limits."""

    def __init__(self, address: str, secure: bool, limits: Limits) -> None:
        host = urlsplit(f"//{address}")
        name, port = host.hostname or "", host.port
        self._limits = limits
        self._secure = secure
        if secure:
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                name,
                port,
                timeout=limits.connect,
                context=_certificates(),
                blocksize=_CHUNK,
            )
        else:
            self._http = http.client.HTTPConnection(
                name, port, timeout=limits.connect, blocksize=_CHUNK
            )
        self._http.response_class = self._response  # type: ignore[assignment]  # it is only called
        self._pace = _Pace(limits)

    def open(self, beyond: str, headers: Mapping[str, str]) -> None:
        """Connect; with a proxy, through a tunnel to the host ``beyond`` if that is secure."""
        if beyond and self._secure:
            host = urlsplit(f"//{beyond}")
            self._http.set_tunnel(host.hostname or "", host.port or 443, dict(headers))
        self._http.connect()
        if self._http.sock is not None:
            self._http.sock.settimeout(self._limits.window)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        length: int,
        body: io.RawIOBase | None = None,
    ) -> http.client.HTTPResponse:
        """The answer to a request, of which at most ``length`` bytes of content will be read."""
        try:
            self._http.request(
                method,
                target,
                body,
                {"User-Agent": "git-theta", "Accept-Encoding": "identity", **headers},
            )
        except (BrokenPipeError, ConnectionResetError):
            if body is None:
                raise
            # A server that refuses a large body answers before it has all of it
        response = self._http.getresponse()
        self._pace.allow(_CHUNKED * length)
        return response

    def close(self) -> None:
        """Close it, whatever is still on its way."""
        with contextlib.suppress(OSError):
            self._http.close()

    __del__ = close  # one that was kept for a request that never came

    def _response(
        self, sock: socket.socket, *arguments: Any, **options: Any
    ) -> http.client.HTTPResponse:
        self._pace = _Pace(self._limits)
        paced = _Paced(sock, self._pace)
        return http.client.HTTPResponse(paced, *arguments, **options)  # type: ignore[arg-type]  # asks for makefile()


class _Pace:
    """Counts what arrives; :class:`ServerFault` if too little in a window or too much in all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.overhead
        self._begun = time.monotonic()
        self._arrived = 0

    def allow(self, size: int) -> None:
        """Let ``size`` more bytes come."""
        self._left += size

    def count(self, size: int) -> None:
        """Take note of ``size`` bytes."""
        self._arrived += size
        self._left -= size
        if self._left < 0:
            raise ServerFault(TOO_MUCH)
        now = time.monotonic()
        if now - self._begun < self._limits.window:
            return
        if self._arrived < self._limits.rate * self._limits.window:
            raise ServerFault(
                f"the server is too slow: {self._arrived:,} bytes in {now - self._begun:.3g}"
                f" seconds, less than {self._limits.rate:,} bytes a second"
            )
        self._begun, self._arrived = now, 0


class _Paced:
    """A socket for :class:`http.client.HTTPResponse`, which asks it for a file."""

    def __init__(self, sock: socket.socket, pace: _Pace) -> None:
        self._sock = sock
        self._pace = pace

    def makefile(self, mode: str) -> io.BufferedReader:
        """What arrives, as a file."""
        return io.BufferedReader(
            _Arriving(self._sock.makefile("rb", buffering=0), self._pace.count), _CHUNK
        )


class _Arriving(io.RawIOBase):
    def __init__(self, raw: Any, count: Callable[[int], None]) -> None:
        self._raw = raw
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        size: int = self._raw.readinto(buffer)
        self._count(size)
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def refuse_redirect(response: http.client.HTTPResponse) -> None:
    """:class:`ServerFault` if the answer sends elsewhere."""
    if 300 <= response.status < 400:
        if region := response.getheader("x-amz-bucket-region"):
            raise ServerFault(
                f"the bucket is in the region {region[:40]}; put ?region={region[:40]} behind its"
                " URL"
            )
        where = (response.getheader("Location") or "nowhere")[:200]
        raise ServerFault(
            f"the server redirects to {where}, which is not followed; 'git theta remote set' can"
            " name that address"
        )


def _judge(response: http.client.HTTPResponse, start: int, stop: int) -> Answer:
    """What an answer to the request for the bytes from ``start`` to ``stop`` says."""
    status = response.status
    refuse_redirect(response)
    if status in (404, 410):
        return Answer("missing")
    if status not in (200, 206):
        raise _refusal(response)
    length = response.length  # None if the server does not say
    if status == 206:
        if not (response.getheader("Content-Range") or "").strip().startswith(f"bytes {start}-"):
            raise ServerFault(OTHER_BYTES)
    elif length is not None and length < stop:
        raise OSError("OUT_OF_RANGE: the file is shorter")
    elif start and stop - start > 1:
        raise ServerFault(IGNORES_RANGES)
    elif start and length is not None:
        return Answer("value", b"\0")  # somebody asks whether the byte is there
    elif start:
        _skip(response, start)
    value = take(response, stop - start)
    if len(value) < stop - start:
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        raise OSError("OUT_OF_RANGE: the file is shorter")
    if response.length != 0:
        more = take(response, _CHUNK)
        if len(more) == _CHUNK:
            raise ServerFault(TOO_MUCH)
        if more:
            raise OSError("OUT_OF_RANGE: the file is longer")
    return Answer("value", value)


def _refusal(response: http.client.HTTPResponse) -> Exception:
    """What the status says if the server does not send the bytes."""
    status = response.status
    if status == 416:
        return OSError("OUT_OF_RANGE: the file is shorter")
    code = "PERMISSION_DENIED: " if status in (401, 403) else ""
    message = f"{code}the server answers {status} {(response.reason or '')[:80]}".rstrip()
    return PassingFault(message) if status in PASSING else OSError(message)


def _skip(response: http.client.HTTPResponse, size: int) -> None:
    while size and (piece := response.read1(min(_CHUNK, size))):
        size -= len(piece)


def take(response: http.client.HTTPResponse, size: int) -> bytearray:
    """At most ``size`` bytes, which take memory as they arrive and not before."""
    data = bytearray()
    while len(data) < size and (piece := response.read1(min(_CHUNK, size - len(data)))):
        data += piece
    return data


@dataclass(frozen=True, slots=True)
class _Proxy:
    """A proxy: its protocol, HOST:PORT (empty for none), and the headers that authorise its use."""

    protocol: str = "http"
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """:class:`OSError` if it is not spoken to by HTTP."""
        if self.protocol != "http":
            raise OSError(f"a proxy must be http://, not {self.protocol}://")


def _proxy(scheme: str, host: str) -> _Proxy:
    """The proxy that the environment names for a host."""
    from urllib.request import getproxies, proxy_bypass

    address = "" if proxy_bypass(host) else getproxies().get(scheme, "")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    user, _, proxy = parts.netloc.rpartition("@")
    code = base64.b64encode(unquote(user).encode()).decode("ascii")
    headers = {"Proxy-Authorization": f"Basic {code}"} if user else {}
    return _Proxy(parts.scheme, proxy, headers) if proxy else _Proxy()


def _certificates() -> ssl.SSLContext:
    """The certificates that are trusted: the system's, or those of a file that the user names for
    TensorStore.
    """
    return ssl.create_default_context(cafile=os.environ.get("TENSORSTORE_CA_BUNDLE") or None)


def _text(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason or type(error).__name__)[:120]
