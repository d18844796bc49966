"""Rows of a tensor, and how much is decoded for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from update_examples import tensor, weights

from git_theta.core.contracts import Update
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link
from git_theta.core.tensors import Encoded, Tensor
from git_theta.errors import ObjectDamaged
from git_theta.settings import Settings
from git_theta.store.local import LocalStore
from git_theta.updates import frames, ia3, low_rank, planes
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.updates.sparse import Sparse
from git_theta.workflows import chains, slices

ROWS, COLUMNS = 2000, 64
LIMIT = 1 << 12


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LIMIT", LIMIT)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each block that is decoded."""
    sizes: list[int] = []
    whole = planes.decode_block

    def decode_block(data: memoryview, position: int, out: np.ndarray) -> int:
        sizes.append(out.nbytes)
        return whole(data, position, out)

    monkeypatch.setattr(planes, "decode_block", decode_block)
    return sizes


def link(store: LocalStore, name: str, value: Tensor, encoded: Encoded | None) -> Link:
    assert encoded is not None
    target, payload = chains.PayloadTarget(store, Settings()), chains.Payload(name, encoded.chunks)
    (made,) = chains.stage(target, value.spec, digest(value.data), payload).seal()
    return made


def entry(value: Tensor, chain: list[Link]) -> Entry:
    return Entry("t", value.dtype, value.shape, digest(value.data), tuple(chain))


def successor(name: str, old: Tensor, new: Tensor) -> tuple[Tensor, Encoded | None]:
    """A version that follows ``old``, and how the update stores it."""
    if name == "low-rank":
        left, right = weights((ROWS, 1), 5), weights((1, COLUMNS), 6)
        return low_rank.encode_given(new, old, left, right)
    if name == "ia3":
        return ia3.encode_given(new, old, 1 + weights((ROWS, 1), 7))
    return new, Delta().encode(new, old, "best" if name == "best" else "default")


def versions(store: LocalStore) -> Iterator[tuple[Tensor, list[Link]]]:
    """A tensor stored dense, then each time as another update of the last one."""
    array = weights((ROWS, COLUMNS))
    value = tensor(array)
    chain = [link(store, "dense", value, Dense().encode(value, None, "default"))]
    yield value, chain
    for number, name in enumerate(("delta", "best", "low-rank", "ia3"), 1):
        array = array + weights((ROWS, COLUMNS), number, 1e-4)
        new, encoded = successor(name, value, tensor(array))

        value, chain = new, [link(store, name.replace("best", "delta"), new, encoded), *chain]
        yield value, chain
    array = array.copy()
    array[::7, 3] += 1
    new = tensor(array)
    chain = [link(store, "sparse", new, Sparse().encode(new, value, "default")), *chain]
    yield new, chain
    half = tensor(array, "bf16")
    yield half, [link(store, "delta", half, Delta().encode(half, new, "default")), *chain]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, ROWS), (5, 5), (701, 1203), (1999, 2000)])
def test_rows_are_those_of_the_whole(store: LocalStore, start: int, stop: int) -> None:
    for value, chain in list(versions(store)):
        store.flush()
        part = slices.rows(store, entry(value, chain), start, stop)
        assert part.shape == (stop - start, COLUMNS)
        assert bytes(part.data) == value.bits().reshape(ROWS, COLUMNS)[start:stop].tobytes()


def test_only_the_frames_that_hold_them_are_decoded(store: LocalStore, decoded: list[int]) -> None:
    """A frame has 16 rows; factors of low-rank and ia3 come on top."""
    for value, chain in list(versions(store))[:3]:
        store.flush()
        decoded.clear()
        slices.rows(store, entry(value, chain), 32, 64)
        assert decoded == [LIMIT] * (2 * len(chain))
        decoded.clear()
        slices.rows(store, entry(value, chain), 40, 72)
        assert decoded == [LIMIT] * (3 * len(chain))


def test_what_moved_is_decoded_whole(store: LocalStore, decoded: list[int]) -> None:
    old = weights((ROWS, COLUMNS))
    base, new = tensor(old), tensor(np.concatenate([old[100:], weights((3, COLUMNS), 9)]))
    chain = [
        link(store, "delta", new, Delta().encode(new, base, "default")),
        link(store, "dense", base, Dense().encode(base, None, "default")),
    ]
    store.flush()
    part = slices.rows(store, entry(new, chain), 10, 20)
    assert bytes(part.data) == new.bits().reshape(-1, COLUMNS)[10:20].tobytes()
    assert sum(decoded) >= new.spec.nbytes + base.spec.nbytes


def test_other_types_than_the_manifest_says_are_refused(store: LocalStore) -> None:
    value, chain = next(versions(store))
    store.flush()
    wrong = entry(value, chain)._replace(shape=(ROWS // 2, 2 * COLUMNS))
    with pytest.raises(ObjectDamaged, match="tensor t cannot be rebuilt"):
        slices.rows(store, wrong, 0, 1)


def test_every_update_but_patch_and_plugins_reads_slices() -> None:
    from git_theta.core.contracts import ReadsSlices
    from git_theta.plugins import registry

    known: list[Update] = [registry.update(name) for name in ("delta", "sparse", "low-rank", "ia3")]
    assert all(isinstance(update, ReadsSlices) for update in known)
    assert not isinstance(registry.update("patch"), ReadsSlices)
