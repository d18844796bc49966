"""A gateway on loopback, through which TensorStore reaches a server that is not trusted.

TensorStore finds the user's credentials, signs requests and decodes arrays, but takes whatever a
server sends, however much and however slowly. So its requests go to this gateway, which
:mod:`.web` passes on within its limits: TensorStore signs for the server's host (``host_header``),
and no credentials are kept here. Requests to the services that give out credentials do not come
this way.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import quote

from git_theta.store.storage_url import REGION
from git_theta.store.web import (
    IGNORES_RANGES,
    OTHER_BYTES,
    TOO_MUCH,
    Limits,
    PassingFault,
    ServerFault,
    ServerLink,
    refuse_redirect,
    take,
)

_CHUNK = 1 << 16
_REFUSAL = 1 << 16  # bytes that are passed on of an answer that is not a success
_RECEIPT = 1 << 20  # bytes that the answer to an upload may have
_UNASKED = 64 << 20  # bytes of an answer to a request that names no range
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_PASSED_ON = frozenset({"content-range", "content-type", "etag", "last-modified"})
_NOT_SENT = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "user-agent",
    }
)
_GCS = "TENSORSTORE_GCS_HTTP_URL"


class Gateway:
    """Passes the requests of one TensorStore store on to one server."""

    def __init__(self, server: str, limits: Limits | None = None) -> None:
        """``server`` is ``http(s)://HOST[:PORT]``. It is not contacted yet.

        :class:`RuntimeError` if no thread can be started, as when Python ends.
        """
        self.link = ServerLink(server, limits)
        self._state = _State(self.link)
        listener = _Listener(("127.0.0.1", 0), partial(_Handler, self._state))
        thread = threading.Thread(
            target=listener.serve_forever, name="git-theta-gateway", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            listener.server_close()
            raise
        self.address = f"http://127.0.0.1:{listener.server_port}"
        weakref.finalize(self, _close, listener).atexit = False

    def allow(self, size: int) -> None:
        """Let the contents of all answers from now on have ``size`` bytes together.

        Before the first call an answer may have the size of the range that was asked for.
        """
        self._state.left = size

    def reason(self) -> str:
        """Why the server is not asked any more; empty while it is."""
        return str(self.link.fault or "")

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """While a store is opened: have it come here. Each store but Google's learns it from its
        specification (:meth:`.StorageUrl.spec`).
        """
        before = os.environ.get(_GCS)
        os.environ[_GCS] = self.address
        try:
            yield
        finally:
            if before is None:
                del os.environ[_GCS]
            else:
                os.environ[_GCS] = before


def exempt_from_proxies() -> None:
    """Have this process's requests to loopback go to no proxy of the environment: they carry
    credentials, and are not encrypted.
    """
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name)
        if hosts is not None or name == "NO_PROXY":
            if "127.0.0.1" not in re.split(r"[,\s]+", hosts or "") and hosts != "*":
                os.environ[name] = f"{hosts},127.0.0.1" if hosts else "127.0.0.1"
            return


def region_of(bucket: str, link: ServerLink) -> str:
    """The region in which Amazon has a bucket; empty if it does not say.

    :class:`OSError` if it cannot be asked.
    """
    found = link.exchange(
        "HEAD", f"/{quote(bucket)}", {}, 0, lambda answer: answer.getheader("x-amz-bucket-region")
    )
    return found if found and REGION.match(found) else ""


@dataclass
class _State:
    link: ServerLink
    left: int | None = None
    alone: bool = False  # whether one thread serves all connections
    lock: threading.Lock = field(default_factory=threading.Lock)

    def limit(self, size: int | None) -> int:
        """How many bytes the answer to a request for ``size`` bytes may have (None: not said)."""
        if self.left is None:
            return _UNASKED if size is None else size
        return self.left if size is None else min(size, self.left)

    def count(self, size: int) -> None:
        """Take note of content that has arrived, or (negative) was not used."""
        if self.left is not None:
            with self.lock:
                self.left -= size
            if self.left < 0:
                raise ServerFault(TOO_MUCH)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # HTTPServer's own asks the domain name system for this machine's name
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # Python ends and starts no more threads
            self.RequestHandlerClass.args[0].alone = True  # type: ignore[attr-defined]  # a partial of ours
            self.process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: TensorStore has hung up."""


def _close(listener: _Listener) -> None:
    def stop() -> None:
        listener.shutdown()
        listener.server_close()

    with contextlib.suppress(RuntimeError):
        threading.Thread(target=stop, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    """A connection of TensorStore's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = _CHUNK
    timeout = 120.0  # seconds that an idle connection is kept

    def __init__(self, state: _State, *arguments: Any) -> None:
        self._state = state
        self._begun = False
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name
        """Nothing."""

    def _forward(self) -> None:
        self._begun = False
        if self._state.alone:
            self.close_connection = True
        length = self.headers.get("Content-Length")
        body = _Body(self.rfile, int(length or 0))
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in _NOT_SENT
        }
        wanted = _Wanted.parse(self.headers.get("Range", ""))
        try:
            self._state.link.exchange(
                self.command,
                self.path,
                {**headers, **({"Content-Length": length} if length else {})},
                self._state.limit(wanted.size),
                partial(self._relay, wanted),
                body if length else None,
            )
        except PassingFault as fault:
            self._fail(503, fault)  # which TensorStore repeats
        except OSError as fault:
            self._fail(400, fault)
        body.drain()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - http.server's names

    def _relay(self, wanted: _Wanted, response: http.client.HTTPResponse) -> None:
        """Hand on an answer, unless it is not one to the request."""
        status, length = response.status, response.length
        refuse_redirect(response)
        if status not in (200, 206):
            self._answer(status, response, take(response, _REFUSAL))
            return
        if self.command != "HEAD":
            limit = self._state.limit(wanted.size) if self.command == "GET" else _RECEIPT
            if status == 200 and wanted.header:
                if wanted.start != 0 or wanted.stop is None:
                    raise ServerFault(IGNORES_RANGES)
                if length is not None and length < wanted.stop:
                    self._answer(416, response, b"")
                    return
            elif status == 206 and not wanted.is_met(response.getheader("Content-Range") or ""):
                raise ServerFault(OTHER_BYTES)
            if length is not None and length > limit:
                raise ServerFault(TOO_MUCH)
            self._stream(response, limit)
        else:
            self._answer(status, response, b"")

    def _stream(self, response: http.client.HTTPResponse, limit: int) -> None:
        length, size = response.length, 0
        self._head(response.status, response, length)
        try:
            while piece := response.read1(_CHUNK):
                size += len(piece)
                self._state.count(len(piece))
                if size > limit:
                    raise ServerFault(TOO_MUCH)
                self.wfile.write(
                    piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)
                )
            if length is not None and size < length:
                raise http.client.IncompleteRead(b"", length - size)
        except BaseException:
            self._state.count(-size)
            raise
        if length is None:
            self.wfile.write(b"0\r\n\r\n")

    def _head(
        self, status: int, response: http.client.HTTPResponse | None, length: int | None
    ) -> None:
        self._begun = True
        self.send_response_only(status)
        for name, value in response.getheaders() if response else ():
            if (
                name.lower() in _PASSED_ON or name.lower().startswith("x-goog-")
            ) and value.isprintable():
                self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _answer(
        self, status: int, response: http.client.HTTPResponse | None, content: bytes | bytearray
    ) -> None:
        self._head(status, response, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, fault: OSError) -> None:
        """Say what is wrong; where an answer has begun, by ending it too early."""
        if self._begun:
            self.close_connection = True
        else:
            self._answer(status, None, str(fault).encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The bytes that a request names: ``header`` is its range, empty for all bytes; ``start`` is
    None for a number of bytes from the end.
    """

    header: str = ""
    start: int | None = None
    stop: int | None = None
    size: int | None = None

    @classmethod
    def parse(cls, header: str) -> _Wanted:
        found = _RANGE.match(header)
        if found is None:
            return cls(header)
        first, last = found.groups()
        if not first:
            return cls(header, size=int(last or 0))
        if not last:
            return cls(header, int(first))
        return cls(header, int(first), int(last) + 1, int(last) + 1 - int(first))

    def is_met(self, given: str) -> bool:
        """Whether an answer's ``Content-Range`` is this one's, or a part of it from its start."""
        return given.strip().startswith("bytes " if self.start is None else f"bytes {self.start}-")


class _Body(io.RawIOBase):
    """What TensorStore sends, which ends after ``left`` bytes."""

    def __init__(self, file: io.BufferedIOBase, left: int) -> None:
        self._file = file
        self._left = left

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(size) if size else b""
        self._left -= len(piece)
        return piece

    def drain(self) -> None:
        """Take the rest, so that the answer is not lost."""
        while self._left and self.read(_CHUNK):
            pass
