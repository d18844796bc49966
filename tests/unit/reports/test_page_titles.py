"""What a page says of the versions that it compares."""

from __future__ import annotations

import re

import pytest

from git_theta.reports import page
from git_theta.reports.report import Report

ID = "b85846ec0e56db7053f8198c472294ed387f60e2"


@pytest.mark.parametrize(
    ("name", "oid", "told"),
    [
        ("HEAD~1", ID, "HEAD~1 (b85846ec0e56)"),
        (ID[:8], ID, ID[:8]),
        (ID, ID, ID),
        ("index", "", "index"),
        ("<b>", ID, "&lt;b&gt; (b85846ec0e56)"),
    ],
)
def test_commits_are_named_by_their_ids(name: str, oid: str, told: str) -> None:
    made = page.diff(Report(name, "working tree", (), (oid, "")))
    found = re.search(r'<div class="sub">(.*?)</div>', made)
    assert found is not None
    assert found[1] == f"{told} → working tree"
