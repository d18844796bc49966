"""Choosing among updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import pairs, payload, random_tensor, tensor, weights

from git_theta.core.contracts import Encoded, Level, Update
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.updates.choose import choose
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.updates.ia3 import IA3
from git_theta.updates.low_rank import LowRank
from git_theta.updates.patch import Patch
from git_theta.updates.sparse import Sparse

UPDATES = (Dense(), Delta(), Sparse(), LowRank(), IA3(), Patch())
LEVELS: tuple[Level, ...] = ("fast", "default", "best")


def chosen(
    new: Tensor, base: Tensor | None, level: Level = "default", updates: Sequence[Update] = UPDATES
) -> tuple[str, Encoded]:
    update, encoded = choose(new, base, updates, level)
    assert bytes(memoryview(update.decode(payload(encoded), new.spec, base)).cast("B")) == bytes(
        new.data
    )
    assert encoded.size <= Dense().encode(new, None, level).size
    again, same = choose(new, base, updates, level)
    assert (again.name, bytes(payload(same))) == (update.name, bytes(payload(encoded)))
    return update.name, encoded


@settings(deadline=None, max_examples=150)
@given(pairs(), st.sampled_from(LEVELS))
def test_never_inexact_and_never_larger_than_dense(
    pair: tuple[Tensor, Tensor], level: Level
) -> None:
    chosen(*pair, level)


@pytest.mark.parametrize("level", LEVELS)
def test_without_a_base_dense(level: Level) -> None:
    assert chosen(tensor(weights((300, 300))), None, level)[0] == "dense"
    assert choose(tensor(weights((30, 30))), None, (), level)[0].name == "dense"


@pytest.mark.parametrize("level", LEVELS)
def test_a_fine_tune_is_a_delta(level: Level) -> None:
    base = weights((300, 400))
    assert chosen(tensor(base + weights((300, 400), 1, 1e-4)), tensor(base), level)[0] == "delta"


@pytest.mark.parametrize("level", LEVELS)
def test_few_changes_are_sparse(level: Level) -> None:
    base = weights((300, 400))
    new = base.copy()
    new.reshape(-1)[::211] += 0.5
    name, encoded = chosen(tensor(new), tensor(base), level)
    assert (name, encoded.note) == ("sparse", f"changed={len(new.reshape(-1)[::211])}")


@pytest.mark.parametrize("level", ["default", "best"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_merged_adapter_is_low_rank(level: Level, dtype: str) -> None:
    base = tensor(weights((300, 400)), dtype)
    added = weights((300, 5), 1, 0.1) @ weights((5, 400), 2, 0.1)
    new = Tensor.from_array((base.array().astype(np.float32) + added).astype(base.array().dtype))
    assert chosen(new, base, level)[0] == "low-rank"


@pytest.mark.parametrize("level", ["default", "best"])
def test_scaled_channels_are_ia3(level: Level) -> None:
    base = weights((300, 400))
    assert chosen(tensor(base * (1 + weights((300, 1), 1, 0.1))), tensor(base), level)[0] == "ia3"


@pytest.mark.parametrize("level", LEVELS)
def test_a_trimmed_vocabulary_is_a_delta(level: Level) -> None:
    base = weights((3000, 40))
    name, encoded = chosen(tensor(np.delete(base, [77, 78, 1500], axis=0)), tensor(base), level)
    assert name == "delta"
    assert encoded.size < 200


def test_edited_text_is_a_patch() -> None:
    old = bytes(random_tensor("u8", (3000,), 1).data)
    new = old[:1000] + b"new" + old[1200:]
    assert chosen(Tensor("u8", (len(new),), new), Tensor("u8", (3000,), old))[0] == "patch"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(30, 30), (300, 400)])
def test_an_unrelated_base_gives_dense(level: Level, shape: tuple[int, ...]) -> None:
    assert (
        chosen(tensor(weights(shape, 1, 3.0)), random_tensor("f32", shape, 5), level)[0] == "dense"
    )
    assert chosen(tensor(weights(shape)), random_tensor("f64", (7,), 5), level)[0] == "dense"


def test_a_copy_in_another_precision_is_a_delta() -> None:
    base = weights((300, 400))
    name, encoded = chosen(tensor(base, "bf16"), tensor(base))
    assert name == "delta"
    assert encoded.size < 500


def test_only_what_is_offered_is_used() -> None:
    base = weights((300, 400))
    new = base + weights((300, 400), 1, 1e-4)
    assert chosen(tensor(new), tensor(base), updates=(Dense(), Sparse(), Patch()))[0] == "dense"
    few = base.copy()
    few[::30, ::7] += 1
    assert chosen(tensor(few), tensor(base), updates=(Dense(), Sparse(), Patch()))[0] == "sparse"


def test_a_tensor_of_unlike_parts() -> None:
    """Samples mix what the coder's blocks keep apart; still nothing larger than dense may be
    chosen.
    """
    random = np.random.default_rng(3)
    parts = [
        np.full(300_000, 7),
        random.integers(0, 2, 300_000),
        random.integers(1000, 1016, 300_000),
        random.integers(0, 65536, 300_000),
    ]
    new, other = (np.concatenate(order).astype(np.uint16) for order in (parts, parts[::-1]))
    chosen(Tensor.from_array(new), Tensor.from_array(other))
    chosen(
        Tensor.from_array(new),
        Tensor.from_array(new + random.integers(0, 3000, len(new)).astype(np.uint16)),
    )


def test_memory_may_be_anywhere() -> None:
    """The choice does not depend on where a tensor lies or whether it can be written to."""
    base, new = weights((300, 400)), weights((300, 400)) + weights((300, 400), 1, 1e-4)
    odd = Tensor("f32", (300, 400), memoryview(b"x" + bytes(tensor(new).data))[1:])
    assert bytes(payload(chosen(odd, tensor(base))[1])) == bytes(
        payload(chosen(tensor(new), tensor(base))[1])
    )


class Reversed:
    """A plugin that knows what nobody else does: the same bytes backwards."""

    name = "reversed"
    needs_base = True

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return (
            Encoded([b"!"])
            if base is not None and bytes(base.data)[::-1] == bytes(tensor.data)
            else None
        )

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        if base is None or bytes(payload) != b"!" or base.spec.nbytes != spec.nbytes:
            raise PayloadError("not reversed")
        return bytes(base.data)[::-1]


@pytest.mark.parametrize("count", [100, 100_000])
def test_plugins_take_part(count: int) -> None:
    base = random_tensor("u16", (count,), 1)
    new = Tensor("u16", (count,), bytes(base.data)[::-1])
    assert chosen(new, base, updates=(*UPDATES, Reversed()))[0] == "reversed"
    assert chosen(new, None, updates=(*UPDATES, Reversed()))[0] == "dense"


class Counting:
    """Counts how often it is asked, and declines."""

    name = "counting"
    needs_base = True
    asked = 0

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        self.asked += 1
        return None

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("meant_for", "asked"), [("few", 1), ("text", 0), ("rule", 0), ("small", 0), (None, 1)]
)
def test_an_update_is_asked_about_the_change_it_is_meant_for(
    meant_for: str | None, asked: int
) -> None:
    """Of a plugin as of a built-in; one that does not say is asked every time."""
    base = weights((300, 400))
    new = base.copy()
    new.reshape(-1)[::211] += 0.5
    update = Counting()
    if meant_for is not None:
        update.meant_for = meant_for  # type: ignore[attr-defined]  # what makes it a MeantFor
    assert choose(tensor(new), tensor(base), (*UPDATES, update), "default")[0].name == "sparse"
    assert update.asked == asked
