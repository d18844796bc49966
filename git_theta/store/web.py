"""Read objects from a plain web server that is not trusted: in bounded memory, bounded time and
with few repetitions.

A server can ignore ``Range``, send without end, send a byte a second, or redirect to another
address. Each of these ends in one error that names the fault; after it the server is not asked
again. See :class:`Limits` for the bounds.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from git_theta.core.resources.threads import Threads

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_THREADS = 16
_CHUNK = 1 << 16
_CHUNKED = 8  # bytes on the wire for each byte of content, if each comes in a chunk of its own
# Statuses that a later request may not get
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


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


def reach(scheme: str, host: str, limits: Limits | None = None) -> None:
    """Connect to ``host`` (or the proxy to it) and hang up; :class:`ServerFault` if that cannot be
    done.
    """
    address = urlsplit(f"//{_proxy(scheme, host) or host}")
    try:
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


class _Passing(OSError):  # noqa: N818 - as above
    """A fault that may have passed by the next request."""


class Web:
    """The files below one URL, by key. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        limits: Limits | None = None,
        sign: Callable[[str, str], dict[str, str]] | None = None,
    ) -> None:
        """``url`` is ``http(s)://HOST[:PORT]`` and a decoded path that ends in a slash.

        Nothing is contacted yet.

        ``sign`` gives the further headers of a request for a host and an encoded path.
        """
        scheme, _, rest = url.partition("://")
        self._secure = scheme == "https"
        self._host, _, path = rest.partition("/")
        self._path = quote(f"/{path}")
        self._proxy = _proxy(scheme, self._host)
        self._limits = limits or Limits()
        self._sign = sign
        self._threads = Threads(_THREADS, "git-theta-web")
        self._own = threading.local()
        self._fault: ServerFault | None = None

    def read(self, key: str, *, byte_range: slice) -> Future[Answer]:
        """The bytes of ``key`` from ``byte_range.start`` up to ``byte_range.stop`` (both given), no
        more, whatever the server sends.

        The future raises :class:`OSError`, with a text that begins with ``OUT_OF_RANGE`` if the
        file ends before that.
        """
        return self._threads.submit(self._read, key, int(byte_range.start), int(byte_range.stop))

    def _read(self, key: str, start: int, stop: int) -> Answer:
        for pause in (*self._limits.pauses, None):
            if self._fault is not None:
                raise self._fault
            try:
                return self._attempt(key, start, stop)
            except ServerFault as fault:
                self._fault = fault
                raise
            except _Passing as error:
                if pause is None:
                    raise OSError(str(error)) from None
            time.sleep(pause)
        raise AssertionError  # pragma: no cover - the last pause is None

    def _attempt(self, key: str, start: int, stop: int) -> Answer:
        used: _Connection | None = getattr(self._own, "connection", None)
        connection = used or self._connect()
        self._own.connection = response = None
        keep = False
        try:
            path = self._path + quote(key)
            headers = {
                "Host": self._host,
                "Range": f"bytes={start}-{stop - 1}",
                **(self._sign(self._host, path) if self._sign else {}),
            }
            through = f"http://{self._host}" if self._proxy and not self._secure else ""
            response = connection.ask(through + path, headers, stop)
            answer = _judge(response, start, stop)
            if (
                response.length is not None
                and response.length <= _CHUNK
                and not response.will_close
            ):
                response.read()
                keep = True
        except TimeoutError:
            raise ServerFault(
                f"the server was silent for {self._limits.window:g} seconds"
            ) from None
        except (http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
            # The server closed a connection that was kept
            if used is not None and response is None:
                return self._attempt(key, start, stop)
            raise _Passing(f"the answer was cut short ({_text(error)})") from None
        else:
            return answer
        finally:
            if response is not None:
                response.close()
            if keep:
                self._own.connection = connection
            else:
                connection.close()

    def _connect(self) -> _Connection:
        connection = _Connection(
            self._proxy or self._host, self._secure, self._host if self._proxy else "", self._limits
        )
        try:
            connection.open()
        except OSError as error:  # no repetition: nobody is there
            connection.close()
            raise ServerFault(
                f"{self._proxy or self._host} cannot be reached: {_text(error)}"
            ) from None
        return connection


class _Connection:
    """One connection, whose every received byte counts against the limits."""

    def __init__(self, address: str, secure: bool, beyond: str, limits: Limits) -> None:
        host = urlsplit(f"//{address}")
        name, port = host.hostname or "", host.port
        self._limits = limits
        self._beyond = beyond if secure else ""
        if secure:
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                name, port, timeout=limits.connect, context=ssl.create_default_context()
            )
        else:
            self._http = http.client.HTTPConnection(name, port, timeout=limits.connect)
        self._http.response_class = self._response  # type: ignore[assignment]  # it is only called
        self._pace = _Pace(limits)

    def open(self) -> None:
        """Connect, through a tunnel if there is a proxy."""
        if self._beyond:
            beyond = urlsplit(f"//{self._beyond}")
            self._http.set_tunnel(beyond.hostname or "", beyond.port or 443)
        self._http.connect()
        if self._http.sock is not None:
            self._http.sock.settimeout(self._limits.window)

    def ask(self, target: str, headers: dict[str, str], length: int) -> http.client.HTTPResponse:
        """The answer to a GET, of which at most ``length`` bytes of content will be read."""
        self._http.request(
            "GET",
            target,
            headers={"User-Agent": "git-theta", "Accept-Encoding": "identity", **headers},
        )
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
            raise ServerFault("the server sends more than it was asked for")
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


def _judge(response: http.client.HTTPResponse, start: int, stop: int) -> Answer:
    """What an answer to the request for the bytes from ``start`` to ``stop`` says."""
    status = response.status
    if status in (404, 410):
        return Answer("missing")
    if status not in (200, 206):
        raise _refusal(response)
    length = response.length  # None if the server does not say
    if status == 206:
        if not (response.getheader("Content-Range") or "").strip().startswith(f"bytes {start}-"):
            raise ServerFault("the server sends other bytes than it was asked for")
    elif length is not None and length < stop:
        raise OSError("OUT_OF_RANGE: the file is shorter")
    elif start and stop - start > 1:
        raise ServerFault("the server ignores ranges of bytes, which a file of this size needs")
    elif start and length is not None:
        return Answer("value", b"\0")  # somebody asks whether the byte is there
    elif start:
        _skip(response, start)
    value = _take(response, stop - start)
    if len(value) < stop - start:
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        raise OSError("OUT_OF_RANGE: the file is shorter")
    if response.length != 0:
        more = _take(response, _CHUNK)
        if len(more) == _CHUNK:
            raise ServerFault("the server sends more than it was asked for")
        if more:
            raise OSError("OUT_OF_RANGE: the file is longer")
    return Answer("value", value)


def _refusal(response: http.client.HTTPResponse) -> Exception:
    """What the status says if the server does not send the bytes."""
    status = response.status
    if 300 <= status < 400:
        where = (response.getheader("Location") or "nowhere")[:200]
        return ServerFault(
            f"the server redirects to {where}, which is not followed; 'git theta remote set' can"
            " name that address"
        )
    if status == 416:
        return OSError("OUT_OF_RANGE: the file is shorter")
    code = "PERMISSION_DENIED: " if status in (401, 403) else ""
    message = f"{code}the server answers {status} {(response.reason or '')[:80]}".rstrip()
    return _Passing(message) if status in _PASSING else OSError(message)


def _skip(response: http.client.HTTPResponse, size: int) -> None:
    while size and (piece := response.read1(min(_CHUNK, size))):
        size -= len(piece)


def _take(response: http.client.HTTPResponse, size: int) -> bytearray:
    """At most ``size`` bytes, which take memory as they arrive and not before."""
    data = bytearray()
    while len(data) < size and (piece := response.read1(min(_CHUNK, size - len(data)))):
        data += piece
    return data


def _proxy(scheme: str, host: str) -> str:
    """The proxy that the environment names for a host, as HOST:PORT; empty for none."""
    from urllib.request import getproxies, proxy_bypass

    address = "" if proxy_bypass(host) else getproxies().get(scheme, "")
    return urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]


def _text(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason or type(error).__name__)[:120]
