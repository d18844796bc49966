"""Metadata of Git-Theta 0.2 is told from everything else by its beginning."""

from __future__ import annotations

import json

import pytest

from git_theta.core import earlier_release

PARAMETER = {
    "tensor_metadata": {"shape": "(4,)", "dtype": "float32", "hash": [1] * 16},
    "lfs_metadata": {"oid": "0" * 64},
}


@pytest.mark.parametrize(
    "tree", [{"w": PARAMETER}, {"model": {"layers": {"0": {"weight": PARAMETER}}}}]
)
def test_it_is_recognised(tree: object) -> None:
    assert earlier_release.is_metadata(json.dumps(tree, indent=4).encode()[:1024])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b'{"w": 1}',
        b'"tensor_metadata": {',
        b"git-theta manifest 1\n",
        b'\x10\0\0\0\0\0\0\0{"tensor_metadata": {}}',
    ],
)
def test_nothing_else_is(head: bytes) -> None:
    assert not earlier_release.is_metadata(head)
