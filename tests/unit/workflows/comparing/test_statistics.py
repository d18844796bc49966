"""Measuring many tensors: in order, within bounds, and through shared chains."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link
from git_theta.core.tensors import Tensor
from git_theta.errors import ObjectDamaged, ObjectMissing
from git_theta.plugins import registry
from git_theta.settings import Settings
from git_theta.store.local import LocalStore
from git_theta.workflows import chains
from git_theta.workflows.comparing import statistics
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Options, Unknown, measure_all, read_size
from git_theta.workflows.comparing.values import Absent, Pair, StoredValues


def entry(
    name: str, content: int, shape: tuple[int, ...] = (16, 16), chain: tuple[Link, ...] = ()
) -> Entry:
    return Entry(name, "f32", shape, f"{content:064x}", chain)


class Numbers:
    """Tensors whose values are the number in their digest; some cannot be had."""

    def __init__(self) -> None:
        self.reading = self.most = 0
        self.lock = threading.Lock()

    def pair(self, old: Entry, new: Entry, take: object = None) -> tuple[Tensor, Tensor]:
        with self.lock:
            self.reading += old.nbytes + new.nbytes
            self.most = max(self.most, self.reading)
        time.sleep(0.001)
        try:
            if new.name.startswith("missing"):
                raise ObjectMissing("object 1 is not here")
            if new.name.startswith("damaged"):
                raise ObjectDamaged("object 2 is damaged")
            return self.single(old), self.single(new)
        finally:
            with self.lock:
                self.reading -= old.nbytes + new.nbytes

    def single(self, new: Entry) -> Tensor:
        value = float(int(new.digest, 16))
        return Tensor.from_array(np.full(new.shape, value, np.float32))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as found:
        yield found


def changes(count: int) -> list[TensorChange]:
    return [
        TensorChange("modified", entry(f"t{number}", 1), entry(f"t{number}", 2 + number))
        for number in range(count)
    ]


def test_results_come_in_order(pool: ThreadPoolExecutor) -> None:
    every: list[TensorChange] = [
        *changes(20),
        TensorChange("added", None, entry("new", 1)),
        TensorChange("removed", entry("gone", 1), None),
        TensorChange("renamed", entry("a", 1), entry("b", 1)),
        TensorChange("reshaped", entry("flat", 5, (256,)), entry("flat", 5, (16, 16))),
        TensorChange("modified", entry("missing", 1), entry("missing", 2)),
        TensorChange("modified", entry("damaged", 1), entry("damaged", 2)),
        TensorChange("reshaped", entry("other", 5, (3, 5)), entry("other", 6, (4, 4))),
    ]
    read: list[int] = []
    found = list(measure_all(every, Numbers(), pool, advance=read.append))
    for number in range(20):
        result = found[number]
        assert isinstance(result, Statistics)
        assert result.largest == 1 + number
    assert found[20:23] == [None, None, None]
    assert isinstance(found[23], Statistics)
    assert (found[23].changed, found[23].relative) == (0, 0.0)
    assert found[24] == Unknown("object 1 is not here", True)
    assert found[25] == Unknown("object 2 is damaged", False)
    assert isinstance(found[26], Unknown)
    assert "cannot be compared" in found[26].reason
    assert sum(read) == sum(map(read_size, every))


def test_memory_is_bounded(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_IN_FLIGHT", 5000)
    reader = Numbers()
    large = TensorChange("modified", entry("large", 1, (64, 64)), entry("large", 2, (64, 64)))
    found = list(measure_all([*changes(10), large, *changes(10)], reader, pool))
    assert len(found) == 21
    assert reader.most == read_size(large), "one pair that is larger than the bound goes alone"


def test_a_limit_is_kept(pool: ThreadPoolExecutor) -> None:
    every = changes(6)
    each = read_size(every[0])
    found = list(measure_all(every, Numbers(), pool, Options(limit=3 * each)))
    assert [isinstance(result, Statistics) for result in found] == [True] * 3 + [False] * 3
    assert found[3] == Unknown("not read")
    assert not any(
        isinstance(result, Statistics)
        for result in measure_all(every, Numbers(), pool, Options(limit=0))
    )


def test_giving_up_early(pool: ThreadPoolExecutor) -> None:
    results = measure_all(changes(500), Numbers(), pool)
    assert next(results) is not None
    results.close()  # type: ignore[attr-defined]  # it is a generator


def stored(
    store: LocalStore, name: str, values: np.ndarray, base: tuple[Entry, np.ndarray] | None = None
) -> Entry:
    tensor = Tensor.from_array(values)
    update = registry.update("delta" if base else "dense")
    encoded = update.encode(tensor, Tensor.from_array(base[1]) if base else None, "default")
    assert encoded is not None
    chain = base[0].chain if base else ()
    identity = digest(memoryview(tensor.data).cast("B"))
    payload = chains.Payload(update.name, encoded.chunks, encoded.note, chain)
    target = chains.PayloadTarget(store, Settings())
    staged = chains.stage(target, tensor.spec, identity, payload)
    store.flush()
    return Entry(name, tensor.dtype, tensor.shape, identity, staged.seal())


def test_chains_that_meet_are_followed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    values = [random.standard_normal((64, 64)).astype(np.float32)]
    values += [
        values[0] + random.standard_normal((64, 64)).astype(np.float32) * np.float32(1e-3)
        for _ in range(2)
    ]
    values.append(values[1] * np.float32(1.5))
    store = LocalStore(tmp_path / "objects")
    root = stored(store, "w", values[0])
    left, right = (stored(store, "w", value, (root, values[0])) for value in values[1:3])
    top = stored(store, "w", values[3], (left, values[1]))
    every = list(zip((root, left, right, top), values, strict=True))
    reads: list[str] = []
    plain = LocalStore.view

    def counted(self: LocalStore, ref: object, *more: object) -> object:
        reads.append(str(ref))
        return plain(self, ref, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStore, "view", counted)
    reader = Pair(StoredValues(store), StoredValues(store))
    for old, first in every:
        for new, second in every:
            reads.clear()
            a, b = reader.pair(old, new)
            assert (bytes(a.data), bytes(b.data)) == (first.tobytes(), second.tobytes())
            assert len(reads) == len({ref.oid for e in (old, new) for ref in e.objects})
    assert left.chain[1:] == root.chain
    store.close()


def test_errors_name_the_tensor(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    value = np.ones((64, 64), np.float32)
    root = stored(store, "layer.w", value)
    child = stored(store, "layer.w", value * np.float32(1.001), (root, value))
    reader = Pair(StoredValues(store), StoredValues(store))
    lying = Entry("layer.w", "f32", (64, 64), "0" * 64, child.chain)
    with pytest.raises(ObjectDamaged, match=r"layer\.w"):
        reader.pair(root, lying)
    store.remove(child.chain[0].objects[0].oid)
    with pytest.raises(ObjectMissing, match=r"layer\.w"):
        reader.pair(root, child)
    with pytest.raises(Exception, match=r"layer\.w"):
        Pair(Absent(), StoredValues(store)).pair(root, root)
    store.close()
