"""Servers of objects that send without end, trickle, redirect, fail or lie; each is real, on
loopback.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from gitrepo import PATIENCE
from served import ManyConnections, served

from git_theta.core.manifest import ObjectRef
from git_theta.errors import TransferError
from git_theta.store import kvstore
from git_theta.store.kvstore import BucketPlace
from git_theta.store.local import LocalStore
from git_theta.store.web import Limits

# A busy machine keeps everybody waiting: only those tests have a short window that need one to end
PATIENT = Limits(
    connect=PATIENCE, window=PATIENCE, rate=1024, overhead=1 << 16, pauses=(0.01, 0.01)
)
SHORT = replace(PATIENT, window=0.2)
MEASURED = replace(PATIENT, window=2.0)  # much longer than any pause of the server
KINDS = ("http", "s3", "gs")
ON_ITS_WAY = 16 << 20  # bytes of one connection that the system's sockets may hold


@dataclass(repr=False)
class State:
    """What a server does (``behave``), what it was asked for, and how many bytes of content it
    could send.
    """

    behave: Callable[[BaseHTTPRequestHandler, State], None] = lambda handler, state: None
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, kind: str = "http", limits: Limits = PATIENT) -> BucketPlace:
        address = f"http://127.0.0.1:{self.port}"
        made = kvstore.place(
            self.url(kind), {**os.environ, "TENSORSTORE_GCS_HTTP_URL": address}, limits
        )
        assert isinstance(made, BucketPlace)
        return made

    def url(self, kind: str = "http") -> str:
        address = f"http://127.0.0.1:{self.port}"
        return {
            "http": f"{address}/some/place",
            "s3": f"s3://models/some/place?endpoint={address}",
            "gs": "gs://models/some/place",
        }[kind]

    def add(self, *contents: bytes) -> list[ObjectRef]:
        refs = [ObjectRef(hashlib.sha256(data).hexdigest(), len(data)) for data in contents]
        self.objects.update({ref.oid: data for ref, data in zip(refs, contents, strict=True)})
        return refs


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")
    state = State()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            with state.lock:
                state.asked.append(self.path)
            try:
                state.behave(self, state)
            except OSError:  # the other side has gone
                self.close_connection = True

        do_PUT = do_POST = do_GET

    with served(ManyConnections(("127.0.0.1", 0), Handler)) as http:
        state.port = http.server_port
        yield state


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    made = LocalStore(tmp_path / "objects")
    yield made
    made.close()


def flood(handler: BaseHTTPRequestHandler, state: State, chunked: bool = False) -> None:
    block = bytes(1 << 16)
    piece = b"%x\r\n%s\r\n" % (len(block), block) if chunked else block
    while state.sent < 1 << 30:
        handler.wfile.write(piece)
        with state.lock:
            state.sent += len(block)


def endless(
    *headers: tuple[str, str], status: int = 200
) -> Callable[[BaseHTTPRequestHandler, State], None]:
    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        flood(handler, state, chunked=("Transfer-Encoding", "chunked") in headers)

    return behave


def endless_header(handler: BaseHTTPRequestHandler, state: State) -> None:
    handler.send_response(200)
    handler.flush_headers()
    flood(handler, state)


def endless_interim(handler: BaseHTTPRequestHandler, state: State) -> None:
    while state.sent < 1 << 30:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        with state.lock:
            state.sent += 25_000


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(endless(), id="neither range nor length"),
        pytest.param(endless(("Content-Length", str(1 << 40))), id="a terabyte"),
        pytest.param(endless(("Transfer-Encoding", "chunked")), id="chunks"),
        pytest.param(
            endless(("Content-Range", "bytes 0-40999/41000"), status=206),
            id="a range that does not end",
        ),
        pytest.param(
            endless(("Content-Range", "bytes 7-40999/41000"), status=206), id="another range"
        ),
        pytest.param(endless(status=404), id="missing"),
        pytest.param(endless(status=503), id="unavailable"),
        pytest.param(endless_header, id="a header"),
        pytest.param(endless_interim, id="interim answers"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_sends_without_end_gets_no_memory(
    server: State,
    store: LocalStore,
    behave: Callable[[BaseHTTPRequestHandler, State], None],
    kind: str,
) -> None:
    server.behave = behave
    refs = server.add(*(bytes([number]) * 41_000 for number in range(1, 6)))
    place = server.place(kind)
    tracemalloc.start()
    try:
        with pytest.raises(TransferError, match=r"/some/place.*: object "):
            place.bring(store, refs, lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert len(server.asked) <= 3 * len(refs)
    assert server.sent < ON_ITS_WAY * len(server.asked)
    assert store.missing(refs) == refs


@pytest.mark.parametrize("status", [200, 206])
def test_a_server_that_broke_the_protocol_is_not_asked_again(
    server: State, store: LocalStore, status: int
) -> None:
    server.behave = endless(("Content-Range", "bytes 0-9/10"), status=status)
    place = server.place()
    refs = server.add(*(b"%10d" % number for number in range(60)))
    with pytest.raises(TransferError, match="sends more than it was asked for"):
        place.bring(store, refs, lambda _: None)
    asked = len(server.asked)
    assert asked <= 32
    with pytest.raises(TransferError, match="sends more than it was asked for"):
        place.bring(store, refs, lambda _: None)
    assert len(server.asked) == asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["header", "content"])
def test_a_server_that_trickles_is_given_up_on(
    server: State, store: LocalStore, where: str, kind: str
) -> None:
    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.send_response(200)
        if where == "content":
            handler.send_header("Content-Length", "41000")
            handler.end_headers()
        else:
            handler.flush_headers()
            handler.wfile.write(b"X-Header: ")
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.03)

    server.behave = behave
    refs = server.add(bytes(41_000))
    with pytest.raises(TransferError, match=r"too slow: .* less than 1,024 bytes a second"):
        server.place(kind, MEASURED).bring(store, refs, lambda _: None)
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_is_given_up_on(server: State, store: LocalStore, kind: str) -> None:
    server.behave = lambda handler, state: time.sleep(1)
    with pytest.raises(TransferError, match=r"silent for 0\.2 seconds"):
        server.place(kind, SHORT).bring(store, server.add(b"something"), lambda _: None)
    assert len(server.asked) == 1


def test_a_slow_server_that_makes_progress_is_waited_for(server: State, store: LocalStore) -> None:
    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(bytes(500))
            time.sleep(0.15)

    server.behave = behave
    refs = server.add(bytes(10_000))
    server.place(limits=MEASURED).bring(store, refs, lambda _: None)
    assert store.missing(refs) == []


def redirecting(handler: BaseHTTPRequestHandler, state: State) -> None:
    handler.send_response(302)
    handler.send_header("Location", "https://elsewhere.example.com/p\x1b[31m")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


REDIRECTED = r"redirects to https://elsewhere\.example\.com/p\\x1b\[31m"


@pytest.mark.parametrize("kind", KINDS)
def test_a_redirect_is_named_and_not_followed(server: State, store: LocalStore, kind: str) -> None:
    server.behave = redirecting
    with pytest.raises(TransferError, match=REDIRECTED):
        server.place(kind).bring(store, server.add(b"something"), lambda _: None)
    assert len(server.asked) == 1


def serve(handler: BaseHTTPRequestHandler, state: State, ranges: bool, length: bool = True) -> None:
    data = state.objects.get(handler.path.partition("?")[0].replace("%2F", "/").rpartition("/")[2])
    if data is None:
        handler.send_error(404)
        return
    first, _, last = (
        (handler.headers["Range"] if ranges else f"bytes=0-{len(data)}")
        .removeprefix("bytes=")
        .partition("-")
    )
    part = data[int(first) : int(last) + 1]
    handler.send_response((206 if part else 416) if ranges else 200)
    handler.send_header("ETag", '"x"')
    if ranges:
        handler.send_header(
            "Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        )
    handler.send_header(
        *(("Content-Length", str(len(part))) if length else ("Transfer-Encoding", "chunked"))
    )
    handler.end_headers()
    handler.wfile.write(part if length else b"%x\r\n%s\r\n0\r\n\r\n" % (len(part), part))


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_an_honest_bucket(
    server: State, store: LocalStore, tmp_path: Path, length: bool, kind: str
) -> None:
    server.behave = lambda handler, state: serve(handler, state, True, length)
    refs = server.add(*(bytes([number]) * (number * 997 + 1) for number in range(80)))
    absent = ObjectRef("0" * 64, 10)
    place = server.place(kind)
    with pytest.raises(TransferError, match=f"object {absent.oid}: missing"):
        place.bring(store, [*refs[:40], absent, *refs[40:]], lambda _: None)
    assert store.missing(refs) == []
    assert place.lacking([*refs, absent]) == [absent]
    short = ObjectRef(refs[9].oid, refs[9].size + 1)
    assert place.lacking([short]) == [short]
    assert [why.partition(":")[0] for _, why in place.audit([*refs, short])] == ["damaged there"]
    place.download(refs[20], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.objects[refs[20].oid]


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_bucket_that_ignores_ranges_is_no_bucket(
    server: State, store: LocalStore, kind: str
) -> None:
    server.behave = lambda handler, state: serve(handler, state, ranges=False)
    refs = server.add(b"something")
    server.place(kind).bring(store, refs, lambda _: None)  # the range is all there is
    assert store.missing(refs) == []
    with pytest.raises(TransferError, match="ignores ranges of bytes"):
        server.place(kind).lacking(refs)


@pytest.mark.parametrize("kind", ["s3", "gs"])
@pytest.mark.parametrize(
    ("behave", "why"),
    [
        pytest.param(endless(), "sends more than it was asked for", id="success"),
        pytest.param(endless(status=400), "", id="refusal"),
        pytest.param(endless_header, "", id="header"),
    ],
)
def test_a_receipt_without_end_gets_no_memory(
    server: State,
    store: LocalStore,
    kind: str,
    behave: Callable[[BaseHTTPRequestHandler, State], None],
    why: str,
) -> None:
    def take(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        behave(handler, state)

    server.behave = take
    refs = [store.put([bytes([number]) * 41_000]) for number in range(1, 6)]
    store.flush()
    with pytest.raises(TransferError, match=rf"could not be delivered to .*{why}"):
        server.place(kind).send(store, refs, lambda _: None)
    assert len(server.asked) <= 3 * len(refs)
    assert server.sent < ON_ITS_WAY * len(server.asked)


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_refusal_of_a_large_upload_is_read(server: State, store: LocalStore, kind: str) -> None:
    """It comes before the server has read what is sent."""

    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.send_error(403)
        handler.close_connection = True

    server.behave = behave
    ref = store.put([bytes(20 << 20)])
    store.flush()
    with pytest.raises(TransferError, match=r"could not be delivered to .*PERMISSION_DENIED"):
        server.place(kind).send(store, [ref], lambda _: None)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_an_honest_server_of_any_kind(
    server: State,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranges: bool,
    length: bool,
) -> None:
    server.behave = lambda handler, state: serve(handler, state, ranges, length)
    refs = server.add(*(bytes([number]) * (number * 997 + 1) for number in range(80)))
    absent = ObjectRef("0" * 64, 10)
    place = server.place()
    with pytest.raises(TransferError, match=f"object {absent.oid}: missing"):
        place.bring(store, [*refs[:40], absent, *refs[40:]], lambda _: None)
    assert store.missing(refs) == []
    assert place.lacking([*refs, absent]) == [absent]
    short, long = (ObjectRef(refs[9].oid, refs[9].size + more) for more in (1, -1))
    assert place.lacking([short]) == [short]
    assert [why.partition(":")[0] for _, why in place.audit([*refs, short, long])] == [
        "damaged there"
    ] * 2
    if ranges:
        monkeypatch.setattr(kvstore, "_PIECE", 1000)
        place.download(refs[20], tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == server.objects[refs[20].oid]


def test_a_fault_that_passes_is_got_over(server: State, store: LocalStore) -> None:
    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        number = len(state.asked)
        if number == 1:
            handler.send_error(503)
        elif number == 2:
            handler.send_response(200)
            handler.send_header("Content-Length", "9")
            handler.end_headers()
            handler.wfile.write(b"some")
            handler.close_connection = True
        else:
            serve(handler, state, ranges=True)

    server.behave = behave
    refs = server.add(b"something")
    server.place().bring(store, refs, lambda _: None)
    assert store.missing(refs) == []
    assert len(server.asked) == 3


def test_nobody_there_is_one_line_at_once(
    store: LocalStore, server: State, capfd: pytest.CaptureFixture[str]
) -> None:
    place = kvstore.place("http://127.0.0.1:1/nobody", limits=PATIENT)
    with pytest.raises(
        TransferError, match=r"127\.0\.0\.1:1 cannot be reached: Connection refused"
    ):
        place.bring(store, server.add(b"a", b"b"), lambda _: None)
    assert capfd.readouterr() == ("", "")
