"""Servers on loopback for the tests, each a process of its own, and a proxy that makes trouble."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from xml.etree import ElementTree

from gitrepo import PATIENCE
from served import ManyConnections, served

_S3 = """
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
"""
_LFS = """
from giftless.app import init_app
JWT = "giftless.auth.jwt:factory"

def signed(key):
    return {"factory": JWT, "options": {"algorithm": "HS256", "private_key": key}}

app = init_app(additional_config={
    "AUTH_PROVIDERS": [signed(sys.argv[2])],
    "PRE_AUTHORIZED_ACTION_PROVIDER": signed(sys.argv[2][::-1]),
    "LEGACY_ENDPOINTS": False,
    "TRANSFER_ADAPTERS": {"basic": {
        "factory": "giftless.transfer.basic_streaming:factory",
        "options": {
            "storage_class": "giftless.storage.local_storage:LocalStorage",
            "storage_options": {"path": sys.argv[1]},
        },
    }},
})
"""
_FILES = """
import functools, http.server
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer.request_queue_size = 128
handler = functools.partial(Quiet, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
"""
_SERVE = """
import logging
logging.getLogger("werkzeug").setLevel("ERROR")
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
"""
_START = """
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def _process(code: str, *arguments: str) -> Iterator[int]:
    """The port of a server that runs until the end of the block."""
    words = [sys.executable, "-c", f"import sys\n{code}{_START}", *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


_HEADERS = {
    "Authorization": (
        "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host,"
        " Signature=unchecked"
    ),
    "Content-Type": "application/octet-stream",
}


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server that wants requests to be signed, but does not check by whom."""

    port: int
    name: str

    def url(self, prefix: str, port: int = 0) -> str:
        """How Git-Theta is told of it; ``port`` is a proxy's."""
        return f"s3://{self.name}/{prefix}?endpoint=http://127.0.0.1:{port or self.port}"

    def request(self, method: str, key: str = "", data: bytes | None = None) -> bytes:
        address = f"http://127.0.0.1:{self.port}/{self.name}/{key}"
        with urllib.request.urlopen(
            urllib.request.Request(address, data, _HEADERS, method=method)
        ) as answer:
            return bytes(answer.read())

    def keys(self) -> dict[str, str]:
        """Every key by its last part, an object's id."""
        listed = ElementTree.fromstring(self.request("GET", "?list-type=2"))
        keys = [found.text or "" for found in listed.iter() if found.tag.endswith("}Key")]
        return {key.rpartition("/")[2]: key for key in keys}


@contextmanager
def s3() -> Iterator[int]:
    """A server of S3's protocol; its port."""
    with _process(_S3 + _SERVE) as port:
        yield port


@contextmanager
def lfs(folder: Path, secret: str) -> Iterator[int]:
    """A Git LFS server that keeps its files in ``folder`` and lets in who has a token signed with
    ``secret``; its port.
    """
    with _process(_LFS + _SERVE, str(folder), secret) as port:
        yield port


@contextmanager
def files(folder: Path) -> Iterator[int]:
    """Python's own web server of a folder; its port."""
    with _process(_FILES, str(folder)) as port:
        yield port


Fault = Callable[[str, str, int], str]


@dataclass
class Proxy:
    """Stands before a server.

    ``fault(method, path, number of requests so far)`` says what to do wrong; "" for nothing.

    Faults: a status such as ``503``; ``cut`` (the connection closed in the middle of an answer);
    ``wrong`` (a bit of the answer's body turned); ``slow`` (half a second late).
    """

    port: int
    upstream: int
    fault: Fault = lambda method, path, number: ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, method: str, containing: str = "") -> int:
        return sum(1 for one, path in self.seen if one == method and containing in path)


@contextmanager
def proxy(upstream: int) -> Iterator[Proxy]:
    """A proxy, without faults at first."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the other side has gone
                self.close_connection = True

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with state.lock:
                state.seen.append((self.command, self.path))
                fault = state.fault(self.command, self.path, len(state.seen))
            if fault == "slow":
                time.sleep(0.5)
            if fault.isdigit():
                self.answer(int(fault), {}, b"")
                return
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=PATIENCE)
            connection.request(self.command, self.path, body or None, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "wrong" and data:
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.answer(answer.status, dict(answer.headers), data, cut=fault == "cut")

        def answer(
            self, status: int, headers: Mapping[str, str], data: bytes, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if cut:
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    with served(ManyConnections(("127.0.0.1", 0), Handler)) as server:
        state = Proxy(server.server_port, upstream)
        yield state
