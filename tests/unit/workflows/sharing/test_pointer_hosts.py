"""Which hosts need pointers, and where."""

from __future__ import annotations

import pytest

from git_theta.git.config.remotes import Remote
from git_theta.workflows.sharing import pointers
from git_theta.workflows.sharing.pointers import Host


@pytest.mark.parametrize(
    ("url", "collects", "mode"),
    [
        ("https://huggingface.co/somebody/model", True, "branch"),
        ("git@hf.co:somebody/model", True, "branch"),
        ("git@gitlab.com:team/models.git", True, "branch"),
        ("https://user:secret@gitlab.example.org:8443/team/models.git", True, "branch"),
        ("ssh://git@codeberg.org/team/models.git", True, "ref"),
        ("https://github.com/team/gitlab.git", False, "ref"),
        ("https://notgitlab.com/team/models.git", False, "ref"),
        ("/mnt/gitlab.com/models.git", False, "ref"),
        ("file:///mnt/gitlab/models.git", False, "ref"),
    ],
)
def test_a_host_is_known_by_its_name(url: str, collects: bool, mode: str) -> None:
    assert Host.of(url) == Host(collects, mode)
    assert pointers.matter(Remote("origin", "https://github.com/x", url)) is collects
