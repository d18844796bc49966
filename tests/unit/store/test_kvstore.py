"""Places of object storage without a network: folders, TensorStore's outcomes, and Google Cloud's
protocol from a small fake.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from served import ManyConnections, served

from git_theta.core.manifest import ObjectRef
from git_theta.errors import ObjectDamaged, TransferError
from git_theta.store import kvstore, zarr
from git_theta.store.local import LocalStore
from git_theta.store.web import Limits


def object_of(data: bytes) -> ObjectRef:
    return ObjectRef(hashlib.sha256(data).hexdigest(), len(data))


def nothing(count: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    made = LocalStore(tmp_path / "here" / "objects")
    yield made
    made.close()


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="mount it"):
        kvstore.place((tmp_path / "nowhere").as_uri())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TransferError, match="not there"):
        kvstore.place((tmp_path / "file").as_uri())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o755, 0o444), (0o775, 0o444), (0o770, 0o440), (0o777, 0o444)]
)
def test_a_folder_keeps_to_itself_and_lets_in_whom_its_mode_lets_in(
    tmp_path: Path, store: LocalStore, mode: int, expected: int
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    ref = store.put([b"some bytes"])
    store.flush()
    kvstore.place(folder.as_uri()).send(store, [ref], nothing)
    assert {path.name for path in tmp_path.iterdir()} == {"shared", "here"}
    target = folder / ref.oid[:2] / ref.oid[2:4] / ref.oid
    assert target.read_bytes() == b"some bytes"
    assert stat.S_IMODE(target.stat().st_mode) & expected == expected
    assert stat.S_IMODE(target.parent.stat().st_mode) & 0o020 == mode & 0o020


def test_single_files_go_to_a_folder_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    place = kvstore.place(folder.as_uri())
    file = tmp_path / "file"
    file.write_bytes(b"ordinary")
    ref = object_of(b"ordinary")
    with pytest.raises(ObjectDamaged):
        place.upload(file, object_of(b"something else"))
    assert not [path for path in folder.rglob("*") if path.is_file()]
    place.upload(file, ref)
    place.upload(tmp_path / "not needed, it is there", ref)
    assert file.stat().st_nlink == 1
    place.download(ref, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"ordinary"
    with pytest.raises(TransferError, match="missing"):
        place.download(object_of(b"something else"), tmp_path / "none")
    target = folder / ref.oid[:2] / ref.oid[2:4] / ref.oid
    target.chmod(0o644)
    target.write_bytes(b"ORDINARY")
    with pytest.raises(TransferError, match=ref.oid):
        place.download(ref, tmp_path / "damaged")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (SimpleNamespace(state="value", value=b"right"), ""),
        (SimpleNamespace(state="value", value=b"wrong"), "damaged"),
        (SimpleNamespace(state="value", value=b"rig"), "damaged"),
        (SimpleNamespace(state="missing", value=b""), "missing"),
        (
            ValueError(
                "OUT_OF_RANGE: Requested byte range [0, 5) is not valid for value of size 3"
            ),
            "damaged",
        ),
        (
            ValueError("FAILED_PRECONDITION: Requested byte range [0, 5) was ignored by server"),
            "damaged",
        ),
        (
            ValueError(
                "PERMISSION_DENIED: AccessDenied: no [http_response_body='<x>']"
                " [http_response_code='403']"
            ),
            "PERMISSION_DENIED",
        ),
    ],
)
def test_what_became_of_a_request(outcome: object, reason: str) -> None:
    said = kvstore._fault(object_of(b"right"), outcome)
    assert said.startswith(reason)
    assert bool(said) == bool(reason)
    assert "http_response" not in said


class FakeCloud(BaseHTTPRequestHandler):
    """As much of Google Cloud Storage's JSON API as reading and writing take."""

    objects: dict[str, bytes]
    refused: ClassVar[list[str]] = []

    def log_message(self, *words: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "refused" in self.path:
            self.refused.append(self.path)
            return self.answer(403, b"{}")
        data = self.objects.get(unquote(urlsplit(self.path).path.rpartition("/o/")[2]))
        if data is None:
            return self.answer(404, b"{}")
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, data, x_goog_generation="1")
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last), len(data) - 1)
        if start >= len(data):
            return self.answer(416, b"")
        return self.answer(
            206,
            data[start : end + 1],
            x_goog_generation="1",
            Content_Range=f"bytes {start}-{end}/{len(data)}",
        )

    def do_POST(self) -> None:
        name = parse_qs(urlsplit(self.path).query)["name"][0]
        self.objects[name] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, json.dumps({"name": name, "generation": "1"}).encode())


@pytest.fixture(scope="module")
def cloud() -> Iterator[dict[str, bytes]]:
    """The objects of a bucket.

    TensorStore reads the variable once, so this is for the whole module.
    """
    FakeCloud.objects = {}
    with (
        served(ManyConnections(("127.0.0.1", 0), FakeCloud)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("NO_GCE_CHECK", "true")
        yield FakeCloud.objects


def test_google_cloud_storage(cloud: dict[str, bytes], store: LocalStore, tmp_path: Path) -> None:
    refs = [store.put([bytes([number]) * (number + 1)]) for number in range(100)]
    store.flush()
    place = kvstore.place("gs://models/some/project")
    assert place.lacking(refs) == refs
    place.send(store, refs[:60], nothing)
    assert set(cloud) == {
        f"some/project/{ref.oid[:2]}/{ref.oid[2:4]}/{ref.oid}" for ref in refs[:60]
    }
    assert place.lacking(refs) == refs[60:]
    cut = f"some/project/{refs[5].oid[:2]}/{refs[5].oid[2:4]}/{refs[5].oid}"
    cloud[cut] = cloud[cut][:-1]
    assert place.lacking(refs) == [refs[5], *refs[60:]]
    assert {ref.oid: why.split(":")[0] for ref, why in place.audit(refs[:61])} == {
        refs[5].oid: "damaged there",
        refs[60].oid: "missing",
    }
    other = LocalStore(tmp_path / "other" / "objects")
    counted: list[int] = []
    with pytest.raises(TransferError, match=f"{refs[5].oid}.*and 40 more"):
        place.bring(other, refs, counted.append)
    assert other.missing(refs) == [refs[5], *refs[60:]]
    assert sum(counted) == sum(ref.size for ref in refs[:60]) - refs[5].size
    with pytest.raises(TransferError, match="damaged there"):
        place.download(refs[5], tmp_path / "damaged")
    place.download(refs[6], tmp_path / "file")
    place.upload(tmp_path / "file", refs[6])
    assert (tmp_path / "file").read_bytes() == bytes([6]) * 7
    other.close()


def test_a_place_that_refuses_everything_is_not_asked_for_everything(
    cloud: dict[str, bytes], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvstore, "_IN_FLIGHT", 4)
    refs = [object_of(b"%d" % number) for number in range(100)]
    place = kvstore.place("gs://models/refused")
    with pytest.raises(TransferError, match="PERMISSION_DENIED"):
        place.bring(store, refs, nothing)
    assert len(FakeCloud.refused) < 20
    with pytest.raises(TransferError, match="PERMISSION_DENIED"):
        list(place.audit(refs))
    # Who may write but not read sends, and learns whether that works.
    assert place.lacking(refs[:3]) == refs[:3]


def test_a_damaged_object_is_not_sent(cloud: dict[str, bytes], store: LocalStore) -> None:
    ref = store.put([b"good"])
    store.flush()
    path = store.find(ref.oid)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"bad!")
    with pytest.raises(ObjectDamaged, match=ref.oid):
        kvstore.place("gs://models/damaged").send(store, [ref], nothing)
    assert not [name for name in cloud if name.startswith("damaged/")]


def test_a_large_file_is_read_in_pieces(
    cloud: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvstore, "_PIECE", 1000)
    monkeypatch.setattr(kvstore, "_IN_FLIGHT_BYTES", 3000)
    data = bytes(range(251)) * 40
    ref = object_of(data)
    (tmp_path / "file").write_bytes(data)
    place = kvstore.place("gs://models/pieces")
    place.upload(tmp_path / "file", ref)
    place.download(ref, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_what_cannot_be_written_says_so(store: LocalStore, tmp_path: Path) -> None:
    ref = store.put([b"x"])
    store.flush()
    web = kvstore.place("https://models.example.com/p")
    with pytest.raises(TransferError, match="read-only"):
        web.send(store, [ref], nothing)
    web.send(store, [], nothing)
    with pytest.raises(TransferError, match="read-only"):
        web.upload(tmp_path / "x", ref)
    with pytest.raises(TransferError, match="at most 5 GiB"):
        kvstore.place("s3://models/p").upload(tmp_path / "x", ObjectRef("0" * 64, 6 << 30))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/nobody", "s3://nobody/p?endpoint=http://127.0.0.1:1"]
)
def test_a_place_where_nobody_answers_is_one_line_and_no_waiting(
    url: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kvstore, "context", lambda: pytest.fail("TensorStore was asked"))
    monkeypatch.setattr(zarr, "context", kvstore.context)
    place, exports = kvstore.place(url, {}), zarr.ArrayFolder(url, {})
    ref = object_of(b"x")
    attempts: list[Callable[[], object]] = [
        lambda: place.lacking([ref]),
        lambda: place.bring(store, [ref], nothing),
        lambda: list(place.audit([ref])),
    ]
    attempts += [lambda: exports.read("zarr.json"), lambda: exports.array("tensors/w")]
    for attempt in attempts:
        with pytest.raises(
            TransferError, match=r"nobody.*: 127\.0\.0\.1:1 cannot be reached: Connection refused"
        ) as caught:
            attempt()
        assert str(caught.value).count("nobody") == 1
    assert capfd.readouterr() == ("", "")


def test_exports_do_not_wait_for_long_either() -> None:
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *words: object) -> None:
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Busy)) as server:
        place = zarr.ArrayFolder(
            f"http://127.0.0.1:{server.server_port}/nobody", {}, Limits(pauses=(0.001,))
        )
        for attempt in (lambda: place.read("zarr.json"), lambda: place.array("tensors/w")):
            asked.clear()
            with pytest.raises(TransferError, match="nobody"):
                attempt()
            assert 0 < len(asked) <= 2 * len(set(asked)), "once, and once more"
