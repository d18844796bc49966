"""Storing one tensor: which bases and updates are considered, and what comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from git_theta.core.contracts import Encoded, Level, Update
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import ObjectDamaged, ObjectMissing, PluginError
from git_theta.plugins import registry
from git_theta.settings import Settings
from git_theta.store.local import LocalStore
from git_theta.workflows import chains
from git_theta.workflows.chains import PayloadTarget


class Constant:
    """Stores a tensor whose bytes are all the same as that byte."""

    name = "constant"
    needs_base = False

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        self.asked += 1
        assert base is None
        data = bytes(tensor.data)
        return Encoded([data[:1]]) if data == data[:1] * len(data) else None

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        return bytes(payload[:1]) * spec.nbytes


class Forgetful(Constant):
    """Loses what it is given."""

    name = "forgetful"

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return Encoded([b"x"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "objects", [], 0)
    yield store
    store.close()


def offer(monkeypatch: pytest.MonkeyPatch, plugin: Update) -> None:
    builtin = registry.update
    monkeypatch.setattr(registry, "added_updates", lambda: (plugin,))
    monkeypatch.setattr(
        registry, "update", lambda name: plugin if name == plugin.name else builtin(name)
    )
    monkeypatch.setattr(
        registry,
        "updates",
        lambda: (*map(builtin, ("dense", "delta", "sparse", "low-rank", "ia3", "patch")), plugin),
    )


def saved(store: LocalStore, tensor: Tensor, chain: tuple[Link, ...]) -> Entry:
    store.flush()
    return Entry("w", tensor.dtype, tensor.shape, digest(memoryview(tensor.data).cast("B")), chain)


def encoded(
    store: LocalStore, tensor: Tensor, bases: Sequence[chains.Base], max_chain: int = 8
) -> tuple[Link, ...]:
    return staged(store, chains.InMemory(tensor), bases, max_chain).seal()


def staged(
    store: LocalStore, value: chains.Storable, bases: Sequence[chains.Base], max_chain: int = 8
) -> chains.StagedLink:
    payload = chains.encode(value, bases, "default", max_chain)
    return chains.stage(PayloadTarget(store, Settings()), value.spec, value.digest(), payload)


ONES = Tensor("u16", (3000,), b"\1" * 6000)
NOISE = Tensor("f32", (50, 30), np.random.default_rng(1).bytes(6000))


def test_a_plugin_may_store_a_new_tensor(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Constant())
    chain = encoded(store, ONES, [], 8)
    assert [link.update for link in chain] == ["constant"]
    assert bytes(chains.load(store, saved(store, ONES, chain)).data) == bytes(ONES.data)


def test_a_plugin_that_declines_leaves_dense(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Constant()
    plain = encoded(store, NOISE, [], 8)
    offer(monkeypatch, plugin)
    assert encoded(store, NOISE, [], 8) == plain
    assert plugin.asked == 1


def test_a_plugin_counts_where_no_chain_has_room(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Constant())
    base = chains.bases(store, saved(store, NOISE, encoded(store, NOISE, [], 8)))
    assert [link.update for link in encoded(store, ONES, base, 1)] == ["constant"]


def test_a_plugin_that_is_not_exact_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Forgetful())
    with pytest.raises(PluginError, match="forgetful"):
        encoded(store, NOISE, [], 8)


def test_a_plugin_that_needs_a_base_is_not_asked_without_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Constant()
    plugin.needs_base = True
    offer(monkeypatch, plugin)
    assert [link.update for link in encoded(store, ONES, [], 8)] == ["dense"]
    assert plugin.asked == 0


def test_looking_for_plugins_imports_nothing_where_there_is_none() -> None:
    code = (
        "import sys; from git_theta.plugins import registry, discovery; discovery._any_offered ="
        " lambda path: False; assert registry.added_updates() == (); heavy = {'numpy', 'pluggy',"
        " 'importlib.metadata', 'zstandard'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_rows_removed_after_a_training_build_on_the_trained_value(store: LocalStore) -> None:
    """Where samples cannot tell which base is closer, the newest is: its root would cost the
    training once more.
    """
    random = np.random.default_rng(2)
    first = (random.standard_normal((2000, 64)) * 0.05).astype(np.float32)
    second = first + (random.standard_normal(first.shape) * 1e-4).astype(np.float32)
    chain = encoded(store, Tensor.from_array(first), [], 8)
    bases = chains.bases(store, saved(store, Tensor.from_array(first), chain))
    chain = encoded(store, Tensor.from_array(second), bases, 8)
    assert [link.update for link in chain] == ["delta", "dense"]
    bases = chains.bases(store, saved(store, Tensor.from_array(second), chain))
    chain = encoded(store, Tensor.from_array(second[:-100]), bases, 8)
    assert [link.update for link in chain] == ["delta", "delta", "dense"]
    assert chain[0].size < 1000


class Reversed:
    """Stores a tensor that is its base backwards; ``decoded`` counts the verifications."""

    name = "reversed"
    needs_base = True
    answer = staticmethod(lambda base: bytes(base.data)[::-1])

    def __init__(self) -> None:
        self.decoded = 0

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return Encoded([b"!"])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        self.decoded += 1
        assert base is not None
        return self.answer(base)


BACKWARDS = Tensor("f32", (50, 30), bytes(NOISE.data)[::-1])


def test_what_a_plugin_makes_of_a_base_is_verified_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Reversed()
    bases = chains.bases(store, saved(store, NOISE, encoded(store, NOISE, [])))
    offer(monkeypatch, plugin)
    chain = encoded(store, BACKWARDS, bases)
    assert [link.update for link in chain] == ["reversed", "dense"]
    assert plugin.decoded == 1
    assert chains.load(store, saved(store, BACKWARDS, chain)) == BACKWARDS


def test_a_plugin_that_loses_its_base_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Reversed()
    monkeypatch.setattr(Reversed, "answer", staticmethod(lambda base: bytes(base.spec.nbytes)))
    bases = chains.bases(store, saved(store, NOISE, encoded(store, NOISE, [])))
    offer(monkeypatch, plugin)
    with pytest.raises(PluginError, match="'reversed' does not give back"):
        encoded(store, BACKWARDS, bases)


def kept(
    store: LocalStore, tensor: Tensor, earlier: Sequence[Entry] = (), warn: list[str] | None = None
) -> Entry:
    """The line of ``tensor`` beside ``earlier`` ones, the store flushed."""
    told: list[str] = [] if warn is None else warn
    line = chains.keep(
        PayloadTarget(store, Settings()),
        ("w", ("tied",)),
        chains.InMemory(tensor),
        chains.equal_among(earlier, tensor.spec),
        list,
        told.append,
    )
    store.flush()
    return line.seal()


@pytest.mark.parametrize("size", [0, 1, 64])
def test_a_small_tensor_stands_in_its_line(store: LocalStore, size: int) -> None:
    tensor = Tensor("u8", (size,), b"\7" * size)
    entry = kept(store, tensor, [kept(store, tensor)])
    assert (entry.name, entry.aliases, entry.chain) == ("w", ("tied",), ())
    assert entry.inline == tensor.data
    assert entry.digest == digest(tensor.data)
    assert chains.load(store, entry) == tensor
    assert list(store) == []


def test_equal_bytes_are_stored_as_they_are_already(store: LocalStore) -> None:
    bases = chains.bases(store, kept(store, NOISE))
    before = saved(store, BACKWARDS, encoded(store, BACKWARDS, bases))
    held = list(store)
    after = kept(store, BACKWARDS, [before])
    assert after.chain == before.chain
    assert list(store) == held


def test_equal_bytes_of_another_shape_are_another_tensor(store: LocalStore) -> None:
    before = kept(store, NOISE)
    flat = Tensor("f32", (1500,), NOISE.data)
    assert kept(store, flat, [before]).chain != before.chain


def test_a_lost_object_is_written_again_from_its_value(store: LocalStore) -> None:
    before, told = kept(store, NOISE), list[str]()
    (ref,) = before.objects
    store.remove(ref.oid)
    assert kept(store, NOISE, [before], told) == before
    assert store.missing([ref]) == []
    assert told == []


def test_of_a_chain_only_fsck_can_mend_the_loss(store: LocalStore) -> None:
    trained = Tensor("f32", (50, 30), bytes(NOISE.data)[:-1] + b"\0")
    before = saved(store, trained, encoded(store, trained, chains.bases(store, kept(store, NOISE))))
    assert len(before.chain) == 2
    store.remove(before.objects[0].oid)
    told: list[str] = []
    assert kept(store, trained, [before], told).chain == before.chain
    assert told == ["objects of w are not here; 'git theta fsck --repair' makes or fetches them"]


def test_a_value_in_blocks_is_stored_as_a_value_in_memory(store: LocalStore) -> None:
    class InBlocks(chains.InMemory):
        def tensor(self) -> Tensor:
            raise AssertionError("nobody needs all of it")

        def blocks(self, step: int) -> Iterator[memoryview]:
            data = memoryview(self.held.data).cast("B")
            yield from (data[start : start + step] for start in range(0, len(data), step))

    large = Tensor("f32", (700, 1000), np.random.default_rng(3).bytes(2_800_000))
    chain = staged(store, InBlocks(large), []).seal()
    assert chain == encoded(store, large, [])


def test_an_error_names_the_object_and_what_is_wrong_with_it(store: LocalStore) -> None:
    entry = kept(store, NOISE)
    (ref,) = entry.objects
    path = store.find(ref.oid)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ObjectDamaged) as damaged:
        chains.load(store, entry)
    assert (damaged.value.oid, damaged.value.reason) == (ref.oid, "its bytes have another SHA-256")
    assert str(damaged.value).startswith("tensor w: object ")
    path.unlink()
    with pytest.raises(ObjectMissing) as missing:
        chains.load(store, entry)
    assert (missing.value.oid, missing.value.reason) == (ref.oid, "")
