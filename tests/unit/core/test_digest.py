"""Hashing a range of a source block by block gives what hashing it whole gives."""

from __future__ import annotations

import random
import zlib

import pytest

from git_theta.core import digest
from git_theta.core.source import BytesSource

DATA = random.Random(1).randbytes(2500)


@pytest.mark.parametrize("length", [0, 1, 699, 700, 701, 1400, 2400])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("hold", [False, True])
def test_a_range_in_blocks(
    length: int, summed: bool, hold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "BLOCK", 700)
    held = memoryview(bytearray(length)) if hold else None
    steps: list[int] = []
    part = DATA[100 : 100 + length]
    found = digest.digest_of_range(BytesSource(DATA), 100, length, summed, held, steps.append)
    assert found == (digest.digest(part), zlib.crc32(part) if summed else None)
    assert sum(steps) == length
    assert held is None or bytes(held) == part
