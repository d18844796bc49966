"""URLs of object storage: what is taken, what it becomes for TensorStore, and what is refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import UsageError
from git_theta.store.storage_url import StorageUrl, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://models", StorageUrl("s3", "models", "", {})),
        ("s3://my.models_1/a/b/", StorageUrl("s3", "my.models_1", "a/b", {})),
        ("s3://models/p?region=eu-1", StorageUrl("s3", "models", "p", {"region": "eu-1"})),
        ("gs://models/a%20b", StorageUrl("gs", "models", "a b", {})),
        ("https://Example.COM/p", StorageUrl("https", "example.com", "p", {})),
        ("http://example.com:8080", StorageUrl("http", "example.com:8080", "", {})),
        ("http://[::1]:9000/p", StorageUrl("http", "[::1]:9000", "p", {})),
        ("https://[2001:db8::1]/", StorageUrl("https", "[2001:db8::1]", "", {})),
        ("file:///mnt/a%20b", StorageUrl("file", "", "/mnt/a b", {})),
    ],
)
def test_what_is_taken(url: str, expected: StorageUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no object storage"),
        ("/mnt/models", "no object storage"),
        ("ftp://host/p", "must start with"),
        ("s3:/models", "names no bucket"),
        ("s3:///models", "names no bucket"),
        ("s3://models:80/p", "names no bucket"),
        ("s3://a/p", "names no bucket.*of 2 or more letters"),
        ("s3://mod els/p", "names no bucket"),
        ("s3://models/../other", "leads out"),
        ("s3://models/a/%2e%2e/b", "leads out"),
        ("https://host/./p", "leads out"),
        ("https://user@host/p", "no user name"),
        ("https://user:word@host/p", "no user name"),
        ("s3://key:word@models/p", "no user name"),
        ("https:///p", "names no host"),
        ("http://host:99999999/p", "not a URL"),
        ("http://[::1/p", "not a URL"),
        ("https://host/p#part", "not a plain URL"),
        ("https://host/p\n", "not a plain URL"),
        ("https://host/p%0a", "not a plain URL"),
        ("https://host/p?token=1", "options"),
        ("gs://models/p?region=x", "options"),
        ("s3://models/p?secret=1", "options"),
        ("s3://models/p?region=../x", "region"),
        ("s3://models/p?endpoint=ftp://x", "endpoint"),
        ("s3://models/p?endpoint=http://u:p@x", "endpoint"),
        ("s3://models/p?endpoint=http://x:99999999", "endpoint"),
        ("s3://models/%ff", "UTF-8"),
        ("file://host/p", "absolute path"),
        ("file:relative", "absolute path"),
    ],
)
def test_what_is_refused(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_url(url)
    assert "user:" not in str(caught.value)
    assert ":word" not in str(caught.value)
    assert str(caught.value).isprintable()


@given(
    st.text(max_size=60)
    | st.builds(
        "{}://{}".format,
        st.sampled_from(["s3", "gs", "http", "https", "file"]),
        st.text(max_size=60),
    )
)
def test_any_text_is_a_url_or_refused_in_one_printable_line(text: str) -> None:
    try:
        storage = parse_url(text)
    except UsageError as error:
        said = str(error)
    else:
        said = ""
    assert said.isascii()
    assert said.isprintable()
    if said:
        return
    assert storage.scheme == "file" or not {".", ".."} & set(storage.path.split("/"))
    if storage.scheme != "file":
        assert "@" not in storage.host
        assert storage.host
        storage.path.encode()
        storage.spec({})


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), max_size=4))
def test_a_quoted_path_comes_back(parts: list[str]) -> None:
    path = "/".join(quote(part, safe="") for part in parts)
    if {".", ".."} & {piece for part in parts for piece in part.split("/")}:
        return
    assert parse_url(f"s3://models/{path}").path == "/".join(parts).strip("/")


def test_what_tensorstore_is_told() -> None:
    nothing = {"AWS_EC2_METADATA_DISABLED": "true"}
    assert parse_url("s3://models/p").spec(nothing) == {
        "driver": "s3",
        "bucket": "models",
        "path": "p/",
        "aws_credentials": {"type": "anonymous"},
    }
    assert parse_url("gs://models").spec({}) == {"driver": "gcs", "bucket": "models", "path": ""}
    assert parse_url("http://[::1]:80/a%20b/").spec({}) == {
        "driver": "http",
        "base_url": "http://[::1]",
        "path": "/a b/",
    }
    assert parse_url("https://host").spec({}) == {
        "driver": "http",
        "base_url": "https://host",
        "path": "/",
    }


def test_the_service_comes_from_the_url_then_from_the_environment() -> None:
    environment = {"AWS_ENDPOINT_URL": "https://one/", "AWS_REGION": "eu-1"}
    service = {"endpoint": "https://one", "aws_region": "eu-1"}
    assert parse_url("s3://models").spec(environment) == {
        "driver": "s3",
        "bucket": "models",
        "path": "",
        **service,
        "aws_credentials": {"type": "default", "profile": "default"},
    }
    environment["AWS_ENDPOINT_URL_S3"] = "https://two"
    assert parse_url("s3://models").spec(environment)["endpoint"] == "https://two"
    spec = parse_url("s3://models?endpoint=http://three:9000&region=r-2").spec(environment)
    assert (spec["endpoint"], spec["aws_region"]) == ("http://three:9000", "r-2")
    assert parse_url("s3://models?endpoint=http://three").spec({})["aws_region"] == "us-east-1"
    assert parse_url("s3://models").spec({"AWS_DEFAULT_REGION": "r-3"})["aws_region"] == "r-3"


def test_no_secret_gets_into_what_tensorstore_is_told() -> None:
    spec = parse_url("s3://models").spec(
        {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word"}
    )
    assert spec["aws_credentials"] == {"type": "environment"}
    assert "key" not in str(spec).replace("'type'", "")
    assert "word" not in str(spec)


def test_only_web_servers_are_read_only() -> None:
    assert [
        parse_url(f"{scheme}://models/p").read_only for scheme in ("s3", "gs", "http", "https")
    ] == [False, False, True, True]


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://host:8443/p", {}, "https://host:8443"),
        ("https://host:443/p", {}, "https://host"),
        ("http://host:80", {}, "http://host"),
        ("s3://models/p", {}, "https://s3.amazonaws.com"),
        ("s3://my.models/p?region=eu-1", {}, "https://s3.eu-1.amazonaws.com"),
        ("s3://models/p", {"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn"),
        ("s3://models/p?endpoint=http://x:9000/y", {}, "http://x:9000"),
        ("s3://models/p?endpoint=https://x:443", {}, "https://x"),
        ("gs://models/p", {}, "https://storage.googleapis.com"),
        ("gs://models/p", {"TENSORSTORE_GCS_HTTP_URL": "http://x/"}, "http://x"),
    ],
)
def test_what_answers_for_it(url: str, environment: dict[str, str], expected: str) -> None:
    assert parse_url(url).server(environment) == expected


def test_requests_through_a_gateway_are_for_the_server() -> None:
    gateway = "http://127.0.0.1:9"
    spec = parse_url("s3://models/p?region=eu-1").spec({}, gateway)
    assert spec["endpoint"] == gateway
    assert spec["host_header"] == "s3.eu-1.amazonaws.com"
    assert spec["aws_region"] == "eu-1"
    spec = parse_url("s3://models/p?endpoint=https://x:443/y/").spec({}, gateway)
    assert (spec["endpoint"], spec["host_header"]) == (f"{gateway}/y", "x")
    assert parse_url("https://host/a%20b").spec({}, gateway) == {
        "driver": "http",
        "base_url": gateway,
        "path": "/a b/",
    }
    assert parse_url("gs://models").spec({}, gateway) == parse_url("gs://models").spec({})
