"""What a repository may name, and what waits for the user's word; remotes' URLs as git and people
see them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import TransferError, UsageError
from git_theta.git.config.consent import OfferedUrls
from git_theta.git.config.remotes import (
    BY_URL,
    Remote,
    Remotes,
    git_dir_of,
    local_path,
    without_secret,
)

ORIGIN = Remote(
    "origin",
    "https://forge.example.com/team/models.git",
    "https://forge.example.com/team/models.git",
)


def test_storage_is_used_only_when_that_very_url_was_agreed_to() -> None:
    assert OfferedUrls().agreed("", "object storage") == ""
    offer = OfferedUrls(storage="s3://models/p", confirmed=frozenset({"s3://models/p"}))
    assert offer.agreed("s3://models/p", "object storage") == "s3://models/p"
    for url in ("s3://models/p/", "s3://models/other", "S3://models/p"):
        with pytest.raises(TransferError, match="git theta remote confirm"):
            offer.agreed(url, "object storage")


def test_a_question_shows_no_secret_and_moves_no_cursor() -> None:
    with pytest.raises(TransferError) as caught:
        OfferedUrls().agreed("https://user:word@host/\x1b[2J", "mirror")
    assert "word" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("url", "free"),
    [
        ("https://forge.example.com/other/lfs", True),
        ("https://forge.example.com:8443/lfs", True),
        ("https://FORGE.example.com/lfs", True),
        ("http://forge.example.com/lfs", False),  # not as safe as the remote
        ("https://evil.example.com/lfs", False),
        ("https://forge.example.com.evil.com/lfs", False),
        ("https://forge.example.com@evil.com/lfs", False),
        ("https://evil.com/forge.example.com", False),
        ("file:///etc", False),
        ("../elsewhere", False),
        ("https://[broken", False),
    ],
)
def test_a_server_of_another_host_waits(url: str, free: bool) -> None:
    offer = OfferedUrls(lfs=(("lfs.url", url),))
    assert (offer.unconfirmed([ORIGIN]) == []) == free
    if free:
        offer.agreed_lfs(ORIGIN, push=True)
        return
    with pytest.raises(TransferError, match=r"\.lfsconfig"):
        offer.agreed_lfs(ORIGIN, push=False)
    OfferedUrls(lfs=offer.lfs, confirmed=frozenset({url})).agreed_lfs(ORIGIN, push=False)
    OfferedUrls(lfs=offer.lfs, overridden=frozenset({"lfs.url"})).agreed_lfs(ORIGIN, push=False)


def test_a_server_for_another_remote_does_not_matter() -> None:
    offer = OfferedUrls(lfs=(("remote.other.lfsurl", "https://evil.com"),))
    assert offer.lfs_servers(ORIGIN) == []
    assert not offer.server_named(ORIGIN)


def test_a_server_for_pushes_by_url_waits_like_any_other() -> None:
    """Git LFS is given a name for what is only a URL, and a repository can know that name."""
    offer = OfferedUrls(lfs=((f"remote.{BY_URL}.lfsurl", "https://evil.com"),))
    assert offer.lfs_servers(ORIGIN) == []
    with pytest.raises(TransferError, match=r"\.lfsconfig"):
        offer.agreed_lfs(Remote("", "https://host/p", "https://host/p"), push=True)


def test_everything_that_waits_is_listed_once() -> None:
    offer = OfferedUrls(
        "s3://models/p",
        ("https://mirror/p", "s3://models/p"),
        (("lfs.url", "https://lfs/p"),),
        frozenset({"https://mirror/p"}),
    )
    assert offer.unconfirmed([ORIGIN, ORIGIN]) == ["s3://models/p", "https://lfs/p"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:word@host/p", "https://host/p"),
        ("https://token@host:8443/p", "https://host:8443/p"),
        ("https://user:word@[::1]:80/p", "https://[::1]:80/p"),
        ("https://user:word@host:99999999/p", "https://host:99999999/p"),
        ("https://a@b:c@host/p@q", "https://host/p@q"),
        ("ssh://git:word@host/p", "ssh://git@host/p"),
        ("ssh://git@host/p", "ssh://git@host/p"),
        ("git@host:p", "git@host:p"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://host?a@b", "https://host?a@b"),
        ("/a/b", "/a/b"),
        ("", ""),
    ],
)
def test_a_url_for_a_person_has_no_secret(url: str, shown: str) -> None:
    assert without_secret(url) == shown


@given(st.text(max_size=40))
def test_any_text_can_be_shown(text: str) -> None:
    without_secret(text)
    without_secret(f"https://{text}")


def test_a_remote_is_found_by_name_or_url() -> None:
    other = Remote("other", "git@host:p", "git@host:q")
    known = Remotes((ORIGIN, other))
    assert known.default is ORIGIN
    assert known.named("other") is other
    assert known.named("git@host:q") is other
    assert known.named("https://new/p") == Remote("", "https://new/p", "https://new/p")
    with pytest.raises(UsageError, match="configured: origin, other"):
        known.named("nobody")
    assert Remotes(()).default is None


def test_a_push_goes_where_git_says() -> None:
    settings = (("url", "u"), ("pushurl", "p"), ("promisor", "true"), ("thetaurl", "s3://models/p"))
    remote = Remote("r", "u", "p", ("refs/remotes/r/*",), settings)
    known = Remotes((remote,))
    assert known.named("r", "p") is remote
    elsewhere = known.named("r", "second")
    assert (
        elsewhere
        == known.named("r", "second").at("second")
        == Remote("", "second", "second", remote.tracked, settings[3:])
    )
    assert known.named("u", "u") == Remote("", "u", "u", remote.tracked, settings[3:])
    served = Remote("r", "u", "p", (), (("lfspushurl", "https://lfs/p"),))
    assert Remotes((served,)).named("r", "second") == Remote(
        "r", "u", "second", (), served.settings
    )


def test_settings_keep_gits_order() -> None:
    remote = Remote(
        "r", "u", "u", settings=(("thetamirror", "one"), ("url", "u"), ("thetamirror", "two"))
    )
    assert remote.values("thetaMirror") == ["one", "two"]
    assert remote.values("thetaUrl") == []


def test_folders_and_servers_are_told_apart(tmp_path: Path) -> None:
    assert local_path("file:///a%20b", tmp_path) == Path("/a b")
    assert local_path("../x", tmp_path) == tmp_path / "../x"
    assert local_path("/x", tmp_path) == Path("/x")
    for url in ("git@host:p", "host:p", "https://host/p", "ssh://host/p", "ext::sh -c x", ""):
        assert local_path(url, tmp_path) is None
    assert git_dir_of(tmp_path) is None
    (tmp_path / "a.bundle").write_bytes(b"# v2 git bundle\n" + b"\xff\0" * 5000)
    assert git_dir_of(tmp_path / "a.bundle") is None
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".git").write_text("gitdir: ../bare.git\n")
    (tmp_path / "bare.git" / "objects").mkdir(parents=True)
    (tmp_path / "bare.git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert (
        git_dir_of(tmp_path / "bare") == git_dir_of(tmp_path / "bare.git") == tmp_path / "bare.git"
    )
    assert git_dir_of(tmp_path / "tree") == tmp_path / "tree" / "../bare.git"
