"""The suite for plugin authors passes for what is built in, and finds what is wrong with others."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from update_examples import random_tensor, tensor, weights

from git_theta.core.contracts import Encoded, Level, Update
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.testing import check_update
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.updates.ia3 import IA3
from git_theta.updates.low_rank import LowRank
from git_theta.updates.patch import Patch
from git_theta.updates.sparse import Sparse


@pytest.mark.parametrize(
    "update",
    [Dense(), Delta(), Sparse(), LowRank(), IA3(), Patch()],
    ids=lambda update: update.name,
)
def test_built_in(update: Update) -> None:
    check_update(update)


class Plain:
    """A correct plugin: the bytes as they are."""

    name = "plain"
    needs_base = False

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return Encoded([bytes(tensor.data)])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        if len(payload) != spec.nbytes:
            raise PayloadError("another size")
        return bytes(payload)


def test_plain_plugin() -> None:
    check_update(Plain())


class BadName(Plain):
    name = "Bad Name"


class Inexact(Plain):
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        return bytes(len(super().decode(payload, spec, base)))


class Changing(Plain):
    count = 0

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        self.count += 1
        return Encoded([bytes(tensor.data), bytes([self.count % 256])])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        return super().decode(payload[:-1], spec, base)


class Liar(Encoded):
    @property
    def size(self) -> int:
        return 1


class Dishonest(Plain):
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return Liar([bytes(tensor.data)])


class Shouting(Plain):
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        return Encoded([bytes(tensor.data)], "so many!")


class Careless(Plain):
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        return bytes(payload)


class Crashing(Plain):
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        assert len(payload) == spec.nbytes
        return bytes(payload)


class Greedy(Plain):
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        if len(payload) == 2 * spec.nbytes and tracemalloc.is_tracing():
            bytearray(80 << 20)
        return super().decode(payload, spec, base)


class Declining(Plain):
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> None:
        return None


class Baseless(Plain):
    needs_base = True


class Meddling(Plain):
    needs_base = True

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        if base is not None and isinstance(base.data, bytearray):
            base.data[0] ^= 1
        return None if base is None else super().encode(tensor, base, level)

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        if base is None:
            raise PayloadError("no base")
        return super().decode(payload, spec, base)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (BadName(), "must consist of"),
        (Inexact(), "does not decode to what was encoded"),
        (Changing(), "other bytes the second time"),
        (Dishonest(), "size says 1"),
        (Shouting(), "the note"),
        (Careless(), "instead of"),
        (Crashing(), "raised AssertionError instead of PayloadError"),
        (Greedy(), "bytes of memory"),
        (Declining(), "declined every pair"),
        (Baseless(), "must decline"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Plain) else "",
)
def test_wrong_plugins_are_found(update: Update, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_update(update, mutations=10)


def test_changed_arguments_are_found() -> None:
    one, other = random_tensor("u8", (9,), 1), random_tensor("u8", (9,), 2)
    changeable = type(other)(other.dtype, other.shape, bytearray(other.data))
    with pytest.raises(AssertionError, match="arguments were changed"):
        check_update(Meddling(), [(one, changeable)])


def test_given_cases_count() -> None:
    low = weights((64, 3)) @ weights((3, 64))
    base = weights((64, 64), 3)
    check_update(LowRank(), [(tensor(base + low), tensor(base))], mutations=5)
