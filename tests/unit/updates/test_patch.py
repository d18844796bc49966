"""patch: bytes by reference to earlier ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import payload, random_tensor, round_trip

from git_theta.core.contracts import Level
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.updates.patch import Patch


def text(data: bytes) -> Tensor:
    return Tensor("u8", (len(data),), data)


@settings(deadline=None)
@given(
    st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(["fast", "default", "best"])
)
def test_any_bytes_come_back(data: bytes, old: bytes, level: Level) -> None:
    round_trip(Patch(), text(data), text(old), level)
    round_trip(Patch(), text(old + data + old), text(old), level)


def test_what_moved_costs_little() -> None:
    old = bytes(random_tensor("u8", (300_000,), 1).data)
    new = old[1000:200_000] + b"something new" + old[250_000:] + old[:1000]
    assert round_trip(Patch(), text(new), text(old)).size < 200


def test_only_bytes_with_a_base() -> None:
    assert Patch().encode(text(b"abc"), None, "default") is None
    assert Patch().encode(text(b"abc"), random_tensor("i8", (3,), 1), "default") is None
    with pytest.raises(PayloadError):
        Patch().decode(memoryview(b""), Spec("u8", (1,)), None)


def test_the_size_is_checked_before_anything_is_expanded() -> None:
    bomb = zstandard.compress(bytes(1 << 24))
    with pytest.raises(PayloadError, match="another size"):
        Patch().decode(memoryview(bomb), Spec("u8", (100,)), text(b"base"))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))
    with pytest.raises(PayloadError, match="another size"):
        Patch().decode(memoryview(unsized), Spec("u8", (100,)), text(b"base"))


def test_a_wrong_base_is_no_crash() -> None:
    old, new = text(b"0123456789" * 50), text(b"0123456789" * 49 + b"end")
    good = payload(Patch().encode(new, old, "default"))
    for base in (text(b""), text(b"x" * 600), text(b"short")):
        with contextlib.suppress(PayloadError):
            assert len(Patch().decode(good, new.spec, base)) == new.spec.nbytes


def test_text_is_patched_without_numpy() -> None:
    """Adding a checkpoint whose header alone changed must not wait for numpy to load."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from git_theta.core.tensors import Tensor
from git_theta.updates.choose import choose, is_text
from git_theta.updates.dense import Dense
from git_theta.updates.patch import Patch
texts = [(b'{"step": %d, "lr": 0.1}' % step * 400)[:4000] for step in (1, 2)]
old, new = (Tensor("u8", (4000,), text) for text in texts)
assert is_text(new.spec)
update, encoded = choose(new, old, (Dense(), Patch()), "default")
assert bytes(update.decode(memoryview(b"".join(encoded.chunks)), new.spec, old)) == new.data
assert "numpy" not in sys.modules, "numpy"
print(update.name)
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parents[3])]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "patch\n"


def test_very_large_bytes_are_declined() -> None:
    big = Tensor("u8", (200 << 20,), bytes(200 << 20))
    assert Patch().encode(big, big, "default") is None
    with pytest.raises(PayloadError, match="as large"):
        Patch().decode(memoryview(b""), big.spec, big)
