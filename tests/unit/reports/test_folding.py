"""Many tensors on few lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import entry, manifest, modified, report, statistics, transformer

from git_theta.reports.folding import Folded, flat, fold, ranges, types, updates, whole
from git_theta.workflows.comparing.compare import TensorChange, compare


def lines(folded: Folded) -> int:
    return sum(block.lines for block in folded.blocks)


def shown(folded: Folded) -> list[str]:
    return [f"{heading}.{row.name}" if heading else row.name for heading, row in folded.rows]


def counted(folded: Folded) -> int:
    return sum(len(row.changes) for _, row in folded.rows) + folded.left_out


def test_nothing_is_folded_without_need() -> None:
    found = modified(transformer(2))
    folded = fold(found.changes, [None] * len(found.changes))
    assert shown(folded) == [change.name for change in found.changes]
    assert all(len(row.changes) == 1 for _, row in folded.rows)


def test_a_large_model_fits() -> None:
    found = modified(transformer(32))
    assert len(found.changes) > 290
    folded = fold(found.changes, [None] * len(found.changes), 30)
    assert lines(folded) <= 30
    assert folded.left_out == 0
    assert "model.layers.{0…31}.self_attn.q_proj.weight" in shown(folded)
    assert counted(folded) == len(found.changes)


def test_layers_that_differ_are_folded_too() -> None:
    names = [name for number, name in enumerate(transformer(32)) if number % 7]
    found = modified(names)
    folded = fold(found.changes, [None] * len(found.changes), 30)
    assert lines(folded) <= 30
    assert counted(folded) == len(found.changes)


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    names = [
        f"part{chr(97 + i)}{chr(97 + j)}.w{chr(97 + k)}"
        for i in range(5)
        for j in range(5)
        for k in range(4)
    ]
    found = modified(names)
    results = [statistics(relative=1e-6 * (1 + n)) for n in range(100)]
    folded = fold(found.changes, results, 20)
    assert lines(folded) <= 20
    assert counted(folded) == 100
    assert names[-1] in shown(folded), "what moved farthest stays"
    assert names[0] not in shown(folded)


def test_only_what_is_of_one_sort_is_folded() -> None:
    names = [f"h.{n}.w" for n in range(40)]
    old = manifest(entry(name) for name in names)
    new = manifest(
        entry(
            name,
            1 if n % 2 else 0,
            shape=(64, 64) if n < 30 else (65, 64),
            update="delta" if n < 20 else "sparse",
        )
        for n, name in enumerate(names)
    )
    found = compare(old, new)
    folded = fold(found.changes, [None] * len(found.changes), 8)
    for _, row in folded.rows:
        assert (
            len(
                {
                    (c.kind, c.new and c.new.spec, c.new and c.new.chain[0].update)
                    for c in row.changes
                }
            )
            == 1
        )


@given(
    st.lists(
        st.from_regex(r"\A[ab]{0,2}(\.[0-9]{1,2}){0,3}(\.(w|b|1x|x_2)){0,2}\Z"),
        unique=True,
        max_size=60,
    ),
    st.integers(1, 40),
)
def test_every_tensor_is_shown_or_counted(names: list[str], limit: int) -> None:
    found = modified(names)
    results = [statistics(relative=1e-3 * (n + 1)) for n in range(len(found.changes))]
    for bound in (None, limit):
        folded = fold(found.changes, results, bound)
        assert counted(folded) == len(names)
        every = [change.name for _, row in folded.rows for change in row.changes]
        assert len(every) == len(set(every))
        assert set(every) <= set(names)
        if bound is None:
            assert folded.left_out == 0


def test_flat_keeps_the_order() -> None:
    found = modified(transformer(4))
    folded = flat(found.changes, [None] * len(found.changes), 5)
    assert shown(folded) == transformer(4)[:5]
    assert folded.left_out == len(transformer(4)) - 5
    assert flat([], []).blocks == ()


@pytest.mark.parametrize(("values", "text"), [
    ([0], "0"), ([0, 1], "0,1"), ([0, 1, 2], "0…2"), ([0, 2, 3, 4, 9], "0,2…4,9"),
    ([1, 3, 5, 7, 9, 11], "1,3,5,7,…,11"),
])  # fmt: skip
def test_ranges(values: list[int], text: str) -> None:
    assert ranges(values) == text


def test_types_and_updates() -> None:
    one = entry("w")
    assert types(TensorChange("added", None, one)) == "f32[64,64]"
    assert types(TensorChange("retyped", one, entry("w", dtype="bf16"))) == "f32 -> bf16[64,64]"
    assert (
        types(TensorChange("reshaped", one, entry("w", shape=(65, 64)))) == "f32[64,64] -> [65,64]"
    )
    assert (
        types(TensorChange("reshaped", one, entry("w", shape=(), dtype="f16")), "→")
        == "f32[64,64] → f16[]"
    )
    row = next(iter(fold(modified(["w"], "low-rank", "rank=8,changed=12").changes, [None]).rows))[1]
    assert updates(row) == "low-rank(rank=8)"
    row = next(iter(fold(modified(["w"]).changes, [None]).rows))[1]
    assert updates(row) == "delta"


def test_renamed_tensors_say_what_they_were() -> None:
    old = manifest(entry(f"h.{n}.w", n) for n in range(20))
    new = manifest(
        type(item)(f"model.{item.name}", item.dtype, item.shape, item.digest, item.chain)
        for item in old.entries
    )
    found = compare(old, new)
    assert found.counts["renamed"] == 20
    (row,) = [row for _, row in fold(found.changes, [None] * 20, 5).rows]
    assert (row.name, row.former) == ("model.h.{0…19}.w", "h.{0…19}.w")
    assert report(found).change_bytes == 0


def test_aliases_are_named() -> None:
    found = compare(None, manifest([entry("wte", aliases=["lm_head", "a", "b", "c"])]))
    assert shown(fold(found.changes, [None])) == ["wte = lm_head = a = b"]


@pytest.mark.parametrize("separator", [".", "/", ":"])
@pytest.mark.parametrize("limit", [None, 8])
def test_the_whole_name_has_the_tensors_own_separators(separator: str, limit: int | None) -> None:
    found = modified(
        f"model/layers{separator}{number}{separator}{part}"
        for number in range(6)
        for part in ("attn", "mlp")
    )
    folded = fold(found.changes, [None] * len(found.changes), limit)
    names = [whole(heading, row) for heading, row in folded.rows]
    if limit is None:
        assert names == [change.name for change in found.changes]
    else:
        assert names == [
            f"model/layers{separator}{{0…5}}{separator}{part}" for part in ("attn", "mlp")
        ]
    assert whole("", folded.blocks[0].rows[0]) == folded.blocks[0].rows[0].name
