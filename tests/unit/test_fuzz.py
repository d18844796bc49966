"""``tests/helpers/fuzz.py`` at a small count: it knows every parser, and none falls over."""

from __future__ import annotations

import fuzz
import pytest

from git_theta.plugins import tables


def test_every_parser_is_fuzzed() -> None:
    assert set(fuzz.SEEDS) >= set(tables.FORMATS) - {"opaque"}


@pytest.mark.parametrize("name", fuzz.SEEDS)
def test_a_few_mutants(name: str) -> None:
    refused, accepted, bad, _ = fuzz.fuzz(name, 150, seed=1)
    assert refused
    assert accepted
    assert not bad
