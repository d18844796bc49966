"""The contract suite, and what the suite cannot know: when this update is chosen, and how small it
is.
"""

from __future__ import annotations

import git_theta_trim_rows
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.plugin import PayloadError, Tensor
from git_theta.testing import check_update

UPDATE = git_theta_trim_rows.TrimRows()
WORDS = np.random.default_rng(3).standard_normal((3000, 24)).astype(np.float32)


def tensor(array: np.ndarray) -> Tensor:
    return Tensor.from_array(array)


def test_contract() -> None:
    """Exact, deterministic, thread-safe, honest about sizes, and safe against damaged payloads."""
    base = tensor(WORDS)
    left = np.delete(WORDS, [0, 7, 8, 9, 2999], axis=0)
    check_update(
        UPDATE, [(tensor(WORDS[:-100]), base), (tensor(left), base), (tensor(WORDS[5:6]), base)]
    )


@given(st.data())
def test_any_rows_can_go(data: st.DataObject) -> None:
    """Also where rows are equal to one another."""
    letters = data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=40))
    removed = data.draw(
        st.sets(st.integers(0, len(letters) - 1), min_size=1, max_size=len(letters) - 1)
    )
    base = np.array(letters, np.int16)[:, None].repeat(3, axis=1)
    new = np.delete(base, sorted(removed), axis=0)
    encoded = UPDATE.encode(tensor(new), tensor(base), "default")
    assert encoded is not None
    assert encoded.note == f"removed={len(removed)}"
    assert (
        bytes(UPDATE.decode(memoryview(b"".join(encoded.chunks)), tensor(new).spec, tensor(base)))
        == new.tobytes()
    )


def test_size_does_not_depend_on_the_width() -> None:
    encoded = UPDATE.encode(
        tensor(np.delete(WORDS, slice(1500, 1600), axis=0)), tensor(WORDS), "default"
    )
    assert encoded is not None
    assert encoded.size == 16


@pytest.mark.parametrize(
    "change",
    [
        WORDS,
        WORDS[:-1] + 1,
        WORDS[::-1][1:],
        WORDS[:-1, :-1],
        WORDS[:-1].astype(np.float64),
        WORDS[:0],
    ],
)
def test_declines_anything_else(change: np.ndarray) -> None:
    assert UPDATE.encode(tensor(np.ascontiguousarray(change)), tensor(WORDS), "default") is None


@pytest.mark.parametrize(
    "payload", [b"", b"\0" * 8, b"\0" * 7, b"\1\0\0\0\xff\xff\xff\xff", b"\xff\xff\xff\xff\1\0\0\0"]
)
def test_a_bad_payload_is_an_error(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        UPDATE.decode(memoryview(payload), tensor(WORDS[:-1]).spec, tensor(WORDS))
