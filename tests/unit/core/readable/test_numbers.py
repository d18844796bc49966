from __future__ import annotations

import pytest

from git_theta.core.readable import numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_100_000_000, "2.1 GB"),
        (5 * 10**15, "5000000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert numbers.size(count) == text
