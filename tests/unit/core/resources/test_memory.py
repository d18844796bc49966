from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.resources import memory
from git_theta.core.resources.memory import Scratch


def test_what_was_given_back_is_used_again() -> None:
    scratch = Scratch()
    with scratch.lease() as take:
        take(6 << 20)[:4] = b"mark"
    with scratch.lease() as take:
        assert bytes(take(5 << 20)[:4]) == b"mark"
        assert bytes(take(5 << 20)[:4]) == bytes(4), "the other is in use"


@given(st.lists(st.integers(0, 9 << 20), max_size=6))
def test_sizes_are_exact_and_buffers_apart(sizes: list[int]) -> None:
    scratch = Scratch()
    for _ in range(2):
        with scratch.lease() as take:
            held = [take(size) for size in sizes]
            assert [len(part) for part in held] == sizes
            for number, part in enumerate(held):
                part[:1] = part[-1:] = bytes([number + 1])[: len(part)]
            assert all(
                part[:1] == part[-1:] == bytes([number + 1])[: len(part)]
                for number, part in enumerate(held)
            )


def test_a_large_buffer_waits_for_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def huge(size: int) -> bytearray:
        made.append(size)
        return bytearray(size)

    monkeypatch.setattr(memory, "_huge", huge)
    monkeypatch.setattr("sys.platform", "linux")
    scratch = Scratch()
    for sizes in ([128 << 20], [4 << 20], [4 << 20, 8 << 20], [7 << 20], [100 << 20]):
        with scratch.lease() as take:
            for size in sizes:
                take(size)
    assert made == [128 << 20, 4 << 20, 8 << 20]


def test_threads_do_not_share() -> None:
    scratch = Scratch()

    def work(number: int) -> bool:
        with scratch.lease() as take:
            part = take(1 << 16)
            part[:] = bytes([number % 256]) * len(part)
            return bytes(part) == bytes([number % 256]) * len(part)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
