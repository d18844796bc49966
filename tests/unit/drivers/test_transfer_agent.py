"""What git-lfs's transfer agent answers, to sense and to nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.manifest import ObjectRef
from git_theta.drivers.transfer_agent import Agent, converse
from git_theta.errors import TransferError, UsageError

OID = "ab" * 32
INIT = {
    "event": "init",
    "operation": "upload",
    "remote": "origin",
    "concurrent": True,
    "concurrenttransfers": 3,
}


class FakePlace:
    def __init__(self) -> None:
        self.sent: list[tuple[Path, ObjectRef]] = []

    def upload(self, path: Path, ref: ObjectRef) -> None:
        self.sent.append((path, ref))

    def download(self, ref: ObjectRef, path: Path) -> None:
        path.write_bytes(b"begun")
        if ref.size == 13:
            raise TransferError(f"object {ref.oid}:\nmissing")


def talk(place: FakePlace, folder: Path, *requests: object) -> list[dict[str, Any]]:
    """The answers to requests: bytes as they are, the rest as JSON."""

    def place_of(name: str) -> FakePlace:
        if name != "origin":
            raise TransferError(f"{name} has no object storage")
        return place

    said: list[bytes] = []
    lines = [
        request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        for request in requests
    ]
    assert converse(lines, said.append, Agent(place_of, folder)) == 0
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in said)
    return [json.loads(line) for line in said]


def test_upload_and_download(tmp_path: Path) -> None:
    place = FakePlace()
    answers = talk(
        place,
        tmp_path / "tmp",
        INIT,
        b"\n",
        {"event": "upload", "oid": OID, "size": 5, "path": "/some/file", "action": None},
        {"event": "download", "oid": OID, "size": 5, "action": None},
        {"event": "terminate"},
        b"this is not read any more",
    )
    assert answers[0] == {}
    assert answers[1] == {"event": "progress", "oid": OID, "bytesSoFar": 5, "bytesSinceLast": 5}
    assert answers[2] == {"event": "complete", "oid": OID}
    assert place.sent == [(Path("/some/file"), ObjectRef(OID, 5))]
    path = Path(answers[4]["path"])
    assert path.parent == tmp_path / "tmp"
    assert path.read_bytes() == b"begun"


def test_what_fails_is_an_answer_of_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    answers = talk(FakePlace(), tmp_path, INIT, {"event": "download", "oid": OID, "size": 13})
    assert answers[1]["error"]["message"] == f"object {OID}: missing"
    assert "path" not in answers[1]
    assert list(tmp_path.iterdir()) == []


def test_a_remote_without_storage_is_told_at_once(tmp_path: Path) -> None:
    answers = talk(
        FakePlace(),
        tmp_path,
        {**INIT, "remote": "other"},
        {"event": "upload", "oid": OID, "size": 1, "path": "x"},
    )
    assert "no object storage" in answers[0]["error"]["message"]
    assert "error" in answers[1]


@pytest.mark.parametrize(
    "request_",
    [
        {"event": "download", "oid": "../../../etc/passwd", "size": 1},
        {"event": "download", "oid": OID + "\n", "size": 1},
        {"event": "download", "oid": OID.upper(), "size": 1},
        {"event": "download", "oid": OID[:-1], "size": 1},
        {"event": "download", "oid": 5, "size": 1},
        {"event": "download", "size": 1},
        {"event": "download", "oid": OID, "size": -1},
        {"event": "download", "oid": OID, "size": "1"},
        {"event": "download", "oid": OID, "size": True},
        {"event": "download", "oid": OID, "size": 1.5},
        {"event": "upload", "oid": OID, "size": 1},
        {"event": "upload", "oid": OID, "size": 1, "path": ""},
        {"event": "upload", "oid": OID, "size": 1, "path": "a\0b"},
        {"event": "upload", "oid": OID, "size": 1, "path": ["x"]},
        {"event": "verify", "oid": OID},
        {"event": ["upload"]},
        {},
    ],
)
def test_nonsense_touches_nothing(tmp_path: Path, request_: dict[str, Any]) -> None:
    place = FakePlace()
    answers = talk(place, tmp_path, INIT, request_)
    assert len(answers) == 2
    assert answers[1]["error"]["message"]
    assert place.sent == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [b"{", b"[]", b"5", b"\xff\xfe", b'"init"', b"[" * 100_000])
def test_what_is_no_request_ends_it(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(UsageError, match="for git-lfs to run"):
        talk(FakePlace(), tmp_path, line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["event", "oid", "size", "path", "remote"]),
        JSON | st.sampled_from(["init", "upload"]),
    )
)
def test_any_request_is_answered(request_: dict[str, Any]) -> None:
    answers = talk(FakePlace(), Path("/nonexistent/folder"), INIT, request_)
    assert len(answers) == 2
