"""docs/sharing.md names settings and URLs that there are."""

from __future__ import annotations

import re
from pathlib import Path

from git_theta.settings import keys
from git_theta.store.storage_url import parse_url

TEXT = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text(encoding="utf-8")


def test_every_url_is_taken() -> None:
    urls = re.findall(r"(?:remote set \S+|Use) ((?:s3|gs|https?|file)://\S+)", TEXT)
    assert len(urls) > 3
    for url in urls:
        parse_url(url)


def test_every_setting_exists() -> None:
    named = set(re.findall(r"theta\.(?!(?:confirmedUrl|git)\b)[a-z][A-Za-z.]*[a-zA-Z]", TEXT))
    assert named <= {key.name for key in keys().values()}
    assert named
