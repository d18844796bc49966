"""Array exports at servers that send without end, trickle, redirect or lie, and exports whose
metadata does.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from test_hostile_servers import (
    KINDS,
    MEASURED,
    ON_ITS_WAY,
    PATIENT,
    REDIRECTED,
    State,
    endless,
    redirecting,
    server,  # noqa: F401 - a fixture
)

from git_theta.core.tensors import Spec
from git_theta.errors import TransferError, UsageError
from git_theta.store import zarr
from git_theta.store.web import Limits
from git_theta.store.zarr import ArrayFolder

SHAPE = (1200, 1000)
VALUES = np.arange(1200 * 1000, dtype="f4").reshape(SHAPE)
Behave = Callable[[BaseHTTPRequestHandler, State], None]


@pytest.fixture
def exported(server: State, tmp_path: Path) -> Path:  # noqa: F811 - the fixture
    """A folder with one array, ``w``, that the server serves in all its protocols."""
    folder = tmp_path / "export"
    place = ArrayFolder(str(folder), {})
    described = zarr.metadata(Spec("f32", SHAPE), {})
    place.fill(place.array("w", described), VALUES)
    place.write("w/zarr.json", json.dumps(described).encode())
    server.behave = lambda handler, state: serve(handler, folder)
    return folder


def serve(handler: BaseHTTPRequestHandler, folder: Path) -> None:
    """As a web server, S3 and Google Cloud Storage do."""
    name = unquote(urlsplit(handler.path).path).rpartition("some/place/")[2]
    if not (folder / name).is_file():
        handler.send_error(404)
        return
    data = (folder / name).read_bytes()
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", handler.headers["Range"] or "")
    first, stop = 0, len(data)
    if found:
        start, end = found.groups()
        first = int(start) if start else len(data) - int(end)
        stop = min(len(data), int(end) + 1) if start and end else len(data)
    handler.send_response(206 if found else 200)
    if found:
        handler.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(data)}")
    handler.send_header("ETag", '"x"')
    handler.send_header("x-goog-generation", "1")
    handler.send_header("Content-Length", str(stop - first))
    handler.end_headers()
    handler.wfile.write(data[first:stop])


def place(state: State, kind: str, limits: Limits = PATIENT) -> ArrayFolder:
    address = f"http://127.0.0.1:{state.port}"
    environment = {
        "TENSORSTORE_GCS_HTTP_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    return ArrayFolder(state.url(kind), environment, limits)


def read(folder: ArrayFolder) -> np.ndarray:
    return np.concatenate(list(folder.slabs(folder.array("w"))))


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_server(server: State, exported: Path, kind: str) -> None:  # noqa: F811
    assert np.array_equal(read(place(server, kind)), VALUES)


def memory() -> int:
    """The most memory that this process has ever had, in bytes: TensorStore's as well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["zarr.json", "/c/"])
@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(endless(("ETag", '"x"')), id="neither range nor length"),
        pytest.param(
            endless(("ETag", '"x"'), ("Transfer-Encoding", "chunked")),
            id="chunks",
        ),
        pytest.param(endless(("Content-Length", str(1 << 40))), id="a terabyte"),
    ],
)
def test_a_server_that_sends_without_end_gets_no_memory(
    server: State,  # noqa: F811
    exported: Path,
    kind: str,
    where: str,
    behave: Behave,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zarr, "_METADATA", 1 << 20)
    server.behave = lambda handler, state: (
        behave(handler, state) if where in unquote(handler.path) else serve(handler, exported)
    )
    before = memory()
    with pytest.raises(TransferError, match=r"sends more than it was asked for|ignores ranges"):
        read(place(server, kind))
    assert server.sent < (16 << 20) + ON_ITS_WAY * len(server.asked)
    assert memory() - before < 64 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_trickles_is_given_up_on(
    server: State,  # noqa: F811
    exported: Path,
    kind: str,
) -> None:
    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "41000")
        handler.end_headers()
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.03)

    server.behave = behave
    with pytest.raises(TransferError, match=r"too slow: .* less than 1,024 bytes a second"):
        read(place(server, kind, MEASURED))
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_redirect_is_named(server: State, exported: Path, kind: str) -> None:  # noqa: F811
    server.behave = redirecting
    with pytest.raises(TransferError, match=REDIRECTED):
        read(place(server, kind))
    assert len(server.asked) == 1


def test_a_bucket_that_lists_without_end(
    server: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zarr, "_LISTED", 1 << 20)

    def behave(handler: BaseHTTPRequestHandler, state: State) -> None:
        assert "prefix" in parse_qs(urlsplit(handler.path).query)
        keys = "".join(
            f"<Contents><Key>some/place/{len(state.asked)}/{number}</Key><Size>1</Size></Contents>"
            for number in range(1000)
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            "<IsTruncated>true</IsTruncated><KeyCount>1000</KeyCount>"
            f"<NextContinuationToken>x{len(state.asked)}</NextContinuationToken>{keys}"
            "</ListBucketResult>"
        ).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    server.behave = behave
    with pytest.raises(TransferError, match="sends more than it was asked for"):
        next(place(server, "s3").keys())
    assert len(server.asked) < 30


def _sharded(inner: list[int]) -> list[dict[str, Any]]:
    configuration = {
        "chunk_shape": inner,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


_GRID = {"name": "regular", "configuration": {"chunk_shape": [1 << 20, 1 << 20]}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"codecs": [{"name": "bytes"}, {"name": "gzip"}]}, "the codec gzip"),
        ({"codecs": _sharded([10, 10])[0]["configuration"]["codecs"] + _sharded([1, 1])}, "codec"),
        ({"chunk_grid": _GRID}, "its chunks have 1,099,511,627,776 elements"),
        ({"codecs": _sharded([1, 1])}, "its shards have more than 65,536 chunks"),
        ({"codecs": _sharded([0, 1])}, "its chunks have no size"),
        ({"codecs": 7}, "none of ours"),
        ({"chunk_grid": {}}, "none of ours"),
    ],
)
def test_metadata_that_asks_for_memory_is_refused(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    """On disk as well."""
    folder = ArrayFolder(str(tmp_path), {})
    described = {**zarr.metadata(Spec("f32", SHAPE), {}), **change}
    folder.write("w/zarr.json", json.dumps(described).encode())
    with pytest.raises(TransferError, match=why) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"[", b"[" * 100_000, b"7", b"{}", b'{"codecs": 1}', b"\xff"]
)
def test_metadata_that_is_none_is_one_line(tmp_path: Path, text: bytes) -> None:
    folder = ArrayFolder(str(tmp_path), {})
    folder.write("w/zarr.json", text)
    with pytest.raises((TransferError, UsageError), match="none of ours") as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(TransferError, match="missing"):
        folder.array("nothing")


@pytest.mark.parametrize("shape", [(), (0, 4), (3,), (1, 1, 5), (300, 5000), (3000, 1300)])
def test_an_array_takes_no_more_than_its_encoded_size(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    folder = ArrayFolder(str(tmp_path), {})
    described = zarr.metadata(Spec("f32", shape), {})
    array = folder.array("w", described)
    folder.fill(array, np.ones(shape, "f4"))
    folder.write("w/zarr.json", json.dumps(described).encode())
    size = sum(path.stat().st_size for path in (tmp_path / "w").glob("c*/**/*") if path.is_file())
    size += sum(path.stat().st_size for path in (tmp_path / "w").glob("c") if path.is_file())
    assert size <= zarr.encoded_size(folder.array("w")) <= 2 * size + 4096
