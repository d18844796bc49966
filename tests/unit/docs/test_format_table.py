"""The table of docs/formats.md is that of the formats there are, in the order in which they are
tried.
"""

from __future__ import annotations

import re
from pathlib import Path

from git_theta.core.contracts import BuildsFiles, ReadsContents
from git_theta.plugins import registry, tables

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if re.match(r"\| `[a-z0-9-]+` \|", line)
]


def test_every_format_in_order() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(tables.FORMATS)
    built_in = [
        found.name for found in registry.checkpoint_formats() if found.name in tables.FORMATS
    ]
    assert built_in == list(tables.FORMATS)
    assert {len(row) for row in ROWS} == {6}


def test_what_can_be_written_and_converted() -> None:
    for name, _, _, build, convert, limits in ROWS:
        found = registry.checkpoint_format(name.strip("`"))
        assert build.startswith("yes") == isinstance(found, BuildsFiles), name
        assert (convert == "yes") == isinstance(found, ReadsContents), name
        assert limits


def test_suffixes_that_decide() -> None:
    for name, recognised, *_ in ROWS:
        row = tables.FORMATS[name.strip("`")]
        told = set(re.findall(r"`(\.[a-z0-9]+)`", recognised.partition("suffix")[2]))
        if "suffix" in recognised:
            assert told == set(row.suffixes), name
