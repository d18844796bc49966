"""What a server sees of TensorStore's requests through the gateway: credentials, hosts, paths; and
which requests never get there.
"""

from __future__ import annotations

import gc
import hashlib
import hmac
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from served import served

from git_theta.core.manifest import ObjectRef
from git_theta.errors import TransferError
from git_theta.store import aws_credentials, gateway, kvstore, web
from git_theta.store.local import LocalStore
from git_theta.store.web import Limits

LIMITS = Limits(connect=60, window=60, pauses=(0.001, 0.001))
DATA = b"some bytes"
REF = ObjectRef(hashlib.sha256(DATA).hexdigest(), len(DATA))
KEY = f"{REF.oid[:2]}/{REF.oid[2:4]}/{REF.oid}"


class Server(ThreadingHTTPServer):
    """Has one object at every path, takes every upload, and notes what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.headers: dict[str, str] = {}
        self.status = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        given = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, given, body))
        data = b"" if self.command in ("PUT", "HEAD") else DATA
        self.send_response(
            self.server.status or (206 if "range" in given and self.command == "GET" else 200)
        )
        if self.command == "GET":
            self.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
        for name, value in {"ETag": '"x"', **self.server.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_HEAD = do_GET


@pytest.fixture
def server() -> Iterator[Server]:
    with served(Server()) as made:
        yield made


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, str]:
    """A user without any credentials; TensorStore reads the process's own environment."""
    for name in [name for name in os.environ if name.startswith("AWS_") or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "")
    return os.environ


def bucket(server: Server, name: str = "models") -> kvstore.BucketPlace:
    made = kvstore.place(f"s3://{name}/a b?endpoint={server.address}&region=eu-1", limits=LIMITS)
    assert isinstance(made, kvstore.BucketPlace)
    return made


def test_a_signed_request_arrives_as_it_was_signed(
    server: Server, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/+")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a/long+token==")
    server.headers = {"Content-Encoding": "gzip"}  # a lie: nothing may be decoded
    place = bucket(server)
    place.download(REF, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    for _, outcome in place._each(
        [REF], lambda there, ref: there.write(KEY, DATA), lambda _: 1, write=True
    ):
        assert not isinstance(outcome, Exception)
    assert [method for method, *_ in server.asked] == ["GET", "PUT"]
    for method, path, headers, body in server.asked:
        assert path == f"/models/a%20b/{KEY}"
        assert headers["host"] == f"127.0.0.1:{server.server_port}"
        assert headers["x-amz-security-token"] == "a/long+token=="
        assert headers["accept-encoding"] == "identity"
        assert headers["authorization"] == signed("secret/+", method, path, headers)
        assert body == (DATA if method == "PUT" else b"")


def test_amazons_own_addresses(
    server: Server, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region is asked for; requests are signed for the region's host, and name the bucket in
    their path, dots and all.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    hosts: list[str] = []

    class Here(web.ServerLink):
        def __init__(self, address: str, limits: Limits | None = None) -> None:
            super().__init__(server.address, limits)
            hosts.append(address)
            self.named = address.partition("://")[2]

        def exchange(self, method: str, target: str, headers: Any, *rest: Any) -> Any:
            return super().exchange(method, target, {**headers, "Host": self.named}, *rest)

    monkeypatch.setattr(web, "ServerLink", Here)
    monkeypatch.setattr(gateway, "ServerLink", Here)
    monkeypatch.setattr(web, "reach", lambda *_: None)
    server.headers = {"x-amz-bucket-region": "eu-1"}
    place = kvstore.place("s3://my.models/p", limits=LIMITS)
    assert isinstance(place, kvstore.BucketPlace)
    assert list(place.audit([REF])) == []
    assert hosts == ["https://s3.amazonaws.com", "https://s3.eu-1.amazonaws.com"]
    asked, read = server.asked
    assert asked[:2] == ("HEAD", "/my.models")
    assert read[:2] == ("GET", f"/my.models/p/{KEY}")
    assert read[2]["host"] == "s3.eu-1.amazonaws.com"
    assert read[2]["authorization"] == signed("secret", *read[:3])
    server.headers = {}
    with pytest.raises(TransferError, match=r"\As3://my\.models/p: there is no such bucket"):
        kvstore.place("s3://my.models/p", limits=LIMITS).lacking([REF])


def test_a_bucket_of_another_region_is_named(
    server: Server, environment: Mapping[str, str]
) -> None:
    server.status, server.headers = 301, {"x-amz-bucket-region": "eu-2"}
    with pytest.raises(TransferError, match=r"in the region eu-2; put \?region=eu-2 behind"):
        bucket(server).lacking([REF])
    assert len(server.asked) == 1


@pytest.mark.parametrize("named", ["", "other"])
def test_a_profile_is_used_for_reading_and_writing(
    server: Server,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = %x\n"
        "[other]\naws_access_key_id = o\naws_secret_access_key = y\naws_session_token = t\n"
    )
    if named:
        monkeypatch.setenv("AWS_PROFILE", named)
    store = LocalStore(tmp_path / "objects")
    place = bucket(server)
    assert list(place.audit([REF])) == []
    place.send(store, [store.put([DATA])], lambda _: None)
    store.close()
    for method, path, headers, _ in server.asked:
        assert headers.get("x-amz-security-token") == ("t" if named else None)
        assert headers["authorization"] == signed("y" if named else "%x", method, path, headers)
    assert [method for method, *_ in server.asked] == ["GET", "PUT"]
    assert capfd.readouterr() == ("", "")


def test_without_credentials_nothing_is_signed(
    server: Server, environment: Mapping[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert list(bucket(server).audit([REF])) == []
    assert "authorization" not in server.asked[0][2]
    assert capfd.readouterr() == ("", "")


def test_requests_to_the_gateway_go_to_no_proxy(
    server: Server, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(Server()) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://user:word@127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("NO_PROXY", "elsewhere")
        assert list(bucket(server).audit([REF])) == []
        assert len(server.asked) == 1
        assert os.environ["NO_PROXY"] == "elsewhere,127.0.0.1"
        # What is meant for the proxy gets there, with the user's name
        link = web.ServerLink("http://storage.example.com", LIMITS)
        assert link.exchange("GET", "/x", {}, 100, lambda answer: answer.read()) == DATA
        (_, path, headers, _) = proxy.asked[0]
        assert path == "http://storage.example.com/x"
        assert headers["host"] == "storage.example.com"
        assert headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"
        assert len(proxy.asked) == 1


def test_a_proxy_of_another_kind_is_named(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(TransferError, match="a proxy must be http://, not socks5://"):
        kvstore.place("s3://models/p?region=eu-1").lacking([REF])
    with pytest.raises(TransferError, match="a proxy must be http://, not socks5://"):
        kvstore.place("https://models.example.com/p").lacking([REF])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"NO_PROXY": "127.0.0.1"}),
        ({"NO_PROXY": "a, b"}, {"NO_PROXY": "a, b,127.0.0.1"}),
        ({"no_proxy": "a", "NO_PROXY": "b"}, {"no_proxy": "a,127.0.0.1", "NO_PROXY": "b"}),
        ({"no_proxy": ""}, {"no_proxy": "127.0.0.1"}),
        ({"no_proxy": "*"}, {"no_proxy": "*"}),
        ({"no_proxy": "a 127.0.0.1"}, {"no_proxy": "a 127.0.0.1"}),
    ],
)
def test_which_variable_exempts_loopback(
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, str],
    after: dict[str, str],
) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    for name in {"no_proxy", "NO_PROXY"} - set(before):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    gateway.exempt_from_proxies()
    assert {name: os.environ[name] for name in ("no_proxy", "NO_PROXY") if name in os.environ} == (
        after
    )


def test_a_gateway_ends_with_its_store(server: Server) -> None:
    made = gateway.Gateway(server.address)
    port = int(made.address.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    del made
    gc.collect()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            break
        time.sleep(0.05)


def test_google_is_asked_through_a_gateway_only_while_a_store_is_opened(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
    made = gateway.Gateway(server.address)
    for before in (None, "http://mine"):
        if before:
            monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", before)
        with made.in_force():
            assert os.environ["TENSORSTORE_GCS_HTTP_URL"] == made.address
        assert os.environ.get("TENSORSTORE_GCS_HTTP_URL") == before


def test_while_python_ends_one_thread_serves(
    server: Server, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or none, and then TensorStore asks the server itself."""

    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if isinstance(getattr(self._target, "__self__", None), gateway._Listener):  # type: ignore[attr-defined]
            raise RuntimeError("can't start new thread at interpreter shutdown")  # noqa: TRY004 - Python's
        start(self)

    early, late = bucket(server), bucket(server)
    early._store()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for place in (early, late):
        for _, outcome in place._each(
            [REF] * 70,
            lambda there, ref: there.read(KEY, byte_range=slice(0, ref.size)),
            lambda _: 1,
        ):
            assert outcome.value == DATA
    assert early._opened is not None
    assert early._opened.gateway is not None
    assert late._opened is not None
    assert late._opened.gateway is None


# Where credentials come from


def test_which_credentials_are_named(tmp_path: Path) -> None:
    off = {"AWS_EC2_METADATA_DISABLED": "true"}
    find = aws_credentials.find
    assert find({"AWS_ACCESS_KEY_ID": "k"}) == {"type": "environment"}
    assert find(off) == {"type": "anonymous"}
    assert find({}) == {"type": "default", "profile": "default"}  # a machine's role, perhaps
    for name in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        assert find({**off, name: "x"})["type"] == "default"
    assert find({**off, "AWS_PROFILE": "nobody"}) == {"type": "default", "profile": "nobody"}
    folder = tmp_path / ".aws"
    folder.mkdir()
    home = {**off, "HOME": str(tmp_path)}
    credentials, config = folder / "credentials", folder / "config"
    config.write_text(
        "[default]\nregion = x\n[profile role]\nrole_arn = r\nsource_profile = s\n"
        "[profile here]\naws_access_key_id = h\n"
    )
    assert find(home) == {"type": "default", "profile": "default"}
    assert find({**home, "AWS_PROFILE": "role"}) == {"type": "default", "profile": "role"}
    assert find({**home, "AWS_PROFILE": "here"}) == {
        "type": "profile",
        "profile": "here",
        "credentials_file": os.devnull,
        "config_file": str(config),
    }
    credentials.write_text("[default]\naws_access_key_id = d\naws_secret_access_key = %x\n")
    found = find(home)
    assert found["credentials_file"] == str(credentials)
    assert "%x" not in str(found)
    moved = credentials.rename(tmp_path / "moved")
    assert find({**off, "AWS_SHARED_CREDENTIALS_FILE": str(moved)})["credentials_file"] == str(
        moved
    )
    moved.write_bytes(b"\xff[[")
    assert find({**off, "AWS_SHARED_CREDENTIALS_FILE": str(moved)}) == {"type": "anonymous"}


def signed(secret: str, method: str, path: str, headers: Mapping[str, str]) -> str:
    """The ``Authorization`` that S3 expects, as "Authenticating Requests: Using the Authorization
    Header" of the Amazon S3 API Reference computes it.
    """
    credential, names, _ = (
        part.strip().partition("=")[2] for part in headers["authorization"].split(",")
    )
    _, day, region, service, end = credential.split("/")
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            headers["x-amz-date"],
            f"{day}/{region}/{service}/{end}",
            hashlib.sha256(request.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for word in (day, region, service, end):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"


def test_signatures_are_computed_as_amazons_example_is() -> None:
    """ "Example: GET Object" of that page."""
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-amz-date": "20130524T000000Z",
        "authorization": (
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
            " SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature="
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        ),
    }
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert signed(secret, "GET", "/test.txt", headers) == headers["authorization"]
