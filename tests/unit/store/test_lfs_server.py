"""Asking a Git LFS server which objects it has, and what becomes of nonsense answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from served import ManyConnections, served

from git_theta.core.manifest import ObjectRef
from git_theta.errors import TransferError, UsageError
from git_theta.store.lfs_server import LfsServer
from git_theta.store.web import Limits

LIMITS = Limits(connect=60, window=60, pauses=(0.001, 0.001))
REFS = [ObjectRef(f"{number:064x}", number + 1) for number in range(250)]
Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Server(ManyConnections):
    """Answers each question as ``answer`` says, and notes what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = offering(REFS)
        self.asked: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/team/models.git/info/lfs"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        question = json.loads(body)
        self.server.asked.append((self.path, dict(self.headers), question))
        status, answer = self.server.answer(question)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def offering(refs: list[ObjectRef]) -> Answer:
    def answer(question: dict[str, Any]) -> tuple[int, bytes]:
        found = [
            {**item, "actions": {"download": {"href": "https://example.com"}}}
            if (item["oid"], item["size"]) in refs
            else {**item, "error": {"code": 404, "message": "not here"}}
            for item in question["objects"]
        ]
        return 200, json.dumps({"transfer": "basic", "objects": found}).encode()

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with served(Server()) as made:
        yield made


def nobody(url: str, ask: bool) -> Mapping[str, str]:
    return {}


def lacking(server: Server, refs: list[ObjectRef] = REFS) -> list[ObjectRef]:
    return LfsServer(server.url, nobody, LIMITS).lacking(refs)


def test_what_is_not_offered_is_lacking(server: Server) -> None:
    assert lacking(server) == []
    server.answer = offering(REFS[1:-1])
    assert lacking(server) == [REFS[0], REFS[-1]]
    path, headers, question = server.asked[0]
    assert path == "/team/models.git/info/lfs/objects/batch"
    assert headers["Content-Type"] == "application/vnd.git-lfs+json"
    assert question["operation"] == "download"
    assert max(len(question["objects"]) for _, _, question in server.asked) <= 100
    assert lacking(server, []) == []


def test_another_size_and_objects_that_nobody_asked_for_do_not_count(server: Server) -> None:
    found = [{"oid": REFS[0].oid, "size": 9, "actions": {"download": {}}}]
    server.answer = lambda question: (200, json.dumps({"objects": found}).encode())
    assert lacking(server, REFS[:2]) == REFS[:2]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"objects": 5}',
        b'{"objects": [5]}',
        b'{"objects": [{"oid": 5, "size": "x", "actions": {"download": 1}}]}',
        b'{"objects": [{"oid": "a", "size": 1, "actions": 7}]}',
        b"[" * 100_000,
        b"\xff" * 100,
    ],
)
def test_nonsense_is_one_line(server: Server, answer: bytes) -> None:
    server.answer = lambda question: (200, answer)
    with pytest.raises(TransferError, match="does not answer as a Git LFS server does") as caught:
        lacking(server)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "does not let us in"),
        (302, "redirects elsewhere"),
        (418, "answers 418; check the URL"),
        (503, "the server answers 503"),
    ],
)
def test_refusals(server: Server, status: int, said: str) -> None:
    server.answer = lambda question: (status, b"{}")
    with pytest.raises(TransferError, match=said):
        lacking(server)


def test_a_password_is_asked_for_once_and_only_when_it_is_needed(server: Server) -> None:
    asked: list[tuple[str, bool]] = []

    def authorise(url: str, ask: bool) -> Mapping[str, str]:
        asked.append((url, ask))
        return {"Authorization": "Basic secret"} if ask else {}

    def guarded(question: dict[str, Any]) -> tuple[int, bytes]:
        allowed = server.asked[-1][1].get("Authorization") == "Basic secret"
        return offering(REFS)(question) if allowed else (401, b"")

    assert LfsServer(server.url, authorise, LIMITS).lacking(REFS) == []
    assert asked == [(server.url, False)]
    asked.clear()
    server.answer = guarded
    assert LfsServer(server.url, authorise, LIMITS).lacking(REFS) == []
    assert asked == [(server.url, False), (server.url, True)]
    with pytest.raises(TransferError, match="does not let us in"):
        lacking(server)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nothing",
        "ssh://host/path",
        "https://",
        "https://user:secret@host/path",
        "https://host/path?token=1",
        "https://host/path#a",
        "https://host:port/",
        "https://[host",
        "https://host/\u00fc",
        "https://host/ ",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        LfsServer(url, nobody)
    assert "secret" not in str(caught.value)
