"""Storing one tensor: which bases and updates are considered, and what comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from git_theta.core.contracts import Encoded, Level
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import PluginError
from git_theta.plugins import registry
from git_theta.store.local import LocalStore
from git_theta.workflows import chains


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


def offer(monkeypatch: pytest.MonkeyPatch, plugin: Constant) -> None:
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


ONES = Tensor("u16", (3000,), b"\1" * 6000)
NOISE = Tensor("f32", (50, 30), np.random.default_rng(1).bytes(6000))


def test_a_plugin_may_store_a_new_tensor(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Constant())
    chain = chains.encode(store, ONES, [], "default", 8)
    assert [link.update for link in chain] == ["constant"]
    assert bytes(chains.load(store, saved(store, ONES, chain))) == bytes(ONES.data)


def test_a_plugin_that_declines_leaves_dense(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Constant()
    plain = chains.encode(store, NOISE, [], "default", 8)
    offer(monkeypatch, plugin)
    assert chains.encode(store, NOISE, [], "default", 8) == plain
    assert plugin.asked == 1


def test_a_plugin_counts_where_no_chain_has_room(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Constant())
    base = chains.bases(store, saved(store, NOISE, chains.encode(store, NOISE, [], "default", 8)))
    assert [link.update for link in chains.encode(store, ONES, base, "default", 1)] == ["constant"]


def test_a_plugin_that_is_not_exact_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Forgetful())
    with pytest.raises(PluginError, match="forgetful"):
        chains.encode(store, NOISE, [], "default", 8)


def test_a_plugin_that_needs_a_base_is_not_asked_without_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Constant()
    plugin.needs_base = True
    offer(monkeypatch, plugin)
    assert [link.update for link in chains.encode(store, ONES, [], "default", 8)] == ["dense"]
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
    chain = chains.encode(store, Tensor.from_array(first), [], "default", 8)
    bases = chains.bases(store, saved(store, Tensor.from_array(first), chain))
    chain = chains.encode(store, Tensor.from_array(second), bases, "default", 8)
    assert [link.update for link in chain] == ["delta", "dense"]
    bases = chains.bases(store, saved(store, Tensor.from_array(second), chain))
    chain = chains.encode(store, Tensor.from_array(second[:-100]), bases, "default", 8)
    assert [link.update for link in chain] == ["delta", "delta", "dense"]
    assert chain[0].size < 1000
