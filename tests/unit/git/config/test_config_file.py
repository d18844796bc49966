"""Settings from git's config, and values with their origins."""

from __future__ import annotations

import contextlib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import UsageError
from git_theta.git.config.config_file import Value, parse_values
from git_theta.settings import Settings, keys, parse


def config(**values: str | None) -> bytes:
    return b"".join(
        (f"theta.{key}" if value is None else f"theta.{key}\n{value}").encode(
            "utf-8", "surrogateescape"
        )
        + b"\0"
        for key, value in values.items()
    )


def test_nothing_configured_means_the_defaults() -> None:
    assert parse(b"") == Settings()
    found = Settings()
    assert (found.compression, found.max_chain, found.on_invalid, found.on_missing) == (
        "default",
        8,
        "refuse",
        "error",
    )
    assert (found.threads, found.merge_strategy, found.shared_bits) == (0, "", 0)


def test_every_setting_is_read() -> None:
    raw = config(
        compression="Best", maxchain="12", oninvalid="store", onmissing="manifest", threads="3"
    )
    raw += b"theta.merge.strategy\nties\0core.sharedrepository\ngroup\0"
    chosen = {
        "compression": "best",
        "max_chain": 12,
        "on_invalid": "store",
        "on_missing": "manifest",
        "threads": 3,
    }
    assert parse(raw) == Settings(**chosen, merge_strategy="ties", shared_bits=0o660)  # type: ignore[arg-type]


def test_the_last_value_counts_and_unknown_keys_are_left_alone() -> None:
    raw = (
        config(threads="x")
        + config(frobnicate="1")
        + config(threads="2")
        + b"theta.remote.origin.url\nx\0"
    )
    assert parse(raw).threads == 2


@pytest.mark.parametrize(("text", "value"), [("1k", 1024), ("0", 0), (" 7 ", 7), ("1024", 1024)])
def test_numbers_are_read_as_git_reads_them(text: str, value: int) -> None:
    assert parse(config(threads=text)).threads == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threads", "-1", "theta.threads must be a whole number from 0 to 1024, not '-1'"),
        ("threads", "1m", "not '1m'"),
        ("threads", None, "theta.threads must be a whole number from 0 to 1024, without a value"),
        ("maxchain", "0", "theta.maxChain must be a whole number from 1 to 64, not '0'"),
        ("maxchain", "eight", "not 'eight'"),
        ("compression", "zip", "theta.compression must be fast, default or best, not 'zip'"),
        ("oninvalid", "", "theta.onInvalid must be refuse or store, not"),
        ("onmissing", "\x1b[2J", r"not '\x1b[2J'"),
        ("threads", "9" * 5000, "theta.threads must be"),
    ],
)
def test_a_bad_value_names_key_and_what_is_allowed(
    key: str, value: str | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(config(**{key: value}))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("umask", 0),
        ("false", 0),
        ("group", 0o660),
        ("TRUE", 0o660),
        ("1", 0o660),
        ("all", 0o664),
        ("2", 0o664),
        ("0640", -0o640),
        ("0777", -0o666),
    ],
)
def test_shared_repositories(text: str, bits: int) -> None:
    assert parse(f"core.sharedrepository\n{text}\0".encode()).shared_bits == bits


def test_a_shared_repository_without_a_value_is_shared() -> None:
    assert parse(b"core.sharedrepository\0").shared_bits == 0o660


@given(st.binary(max_size=200))
def test_no_output_of_git_breaks_the_reader(raw: bytes) -> None:
    with contextlib.suppress(UsageError):
        parse(b"theta.threads\n" + raw)
    with contextlib.suppress(UsageError):
        parse(raw)


def test_every_setting_has_a_line_of_documentation() -> None:
    assert set(keys()) == {field.name for field in fields(Settings)}
    for key in keys().values():
        assert key.name
        assert key.summary
        assert key.allowed
        assert "\n" not in key.summary


def test_values_with_their_origins() -> None:
    raw = b"global\0file:/home/u/.gitconfig\0theta.threads\n2\0"
    raw += b"local\0file:.git/config\0filter.theta.required\0"
    raw += b"command\0command line:\0a.b\nx\ny\0"
    assert parse_values(raw) == [
        Value("theta.threads", "2", "global", "file:/home/u/.gitconfig"),
        Value("filter.theta.required", None, "local", "file:.git/config"),
        Value("a.b", "x\ny", "command", "command line:"),
    ]
    assert [value.place for value in parse_values(raw)] == [
        "/home/u/.gitconfig",
        ".git/config",
        "command line",
    ]
    assert parse_values(b"") == []
