"""Git re-basin: what is reordered computes the same, and units are found again."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_references import BF16

from git_theta.core.contracts import MergeCase, WholeModel
from git_theta.errors import MergeError
from git_theta.merges.builtin_strategies import strategies
from git_theta.merges.strategies.permutation import match, reorder
from git_theta.merges.strategies.permutation_spec import AxisGroup, TensorAxis, derive

Tensors = dict[str, np.ndarray]
PERMUTE = next(strategy for strategy in strategies() if isinstance(strategy, WholeModel))
assert PERMUTE.name == "permute"


def mlp(widths: list[int], names: str = "layers.{}", seed: int = 0, norms: bool = False) -> Tensors:
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        place = names.format(i * (3 if norms else 1))
        tensors[f"{place}.weight"] = random.standard_normal((outputs, inputs)).astype(np.float32)
        tensors[f"{place}.bias"] = random.standard_normal(outputs).astype(np.float32)
        if norms and i < len(widths) - 2:
            norm = names.format(i * 3 + 1)
            for leaf in ("weight", "bias", "running_mean"):
                tensors[f"{norm}.{leaf}"] = random.standard_normal(outputs).astype(np.float32)
            tensors[f"{norm}.running_var"] = (random.random(outputs) + 0.5).astype(np.float32)
            tensors[f"{norm}.num_batches_tracked"] = np.array(i, np.int64)
    return tensors


def run_mlp(
    tensors: Mapping[str, np.ndarray], x: np.ndarray, names: str = "layers.{}", norms: bool = False
) -> np.ndarray:
    number, step = 0, 3 if norms else 1
    while f"{names.format(number)}.weight" in tensors:
        place = names.format(number)
        x = x @ tensors[f"{place}.weight"].astype(np.float64).T + tensors[f"{place}.bias"]
        if f"{names.format(number + step)}.weight" in tensors:
            if norms:
                n = names.format(number + 1)
                x = (x - tensors[f"{n}.running_mean"]) / np.sqrt(tensors[f"{n}.running_var"])
                x = x * tensors[f"{n}.weight"] + tensors[f"{n}.bias"]
            x = np.maximum(x, 0)
        number += step
    return x


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in tensors.items() if array.dtype.kind != "i"}


def shuffled(groups: tuple[AxisGroup, ...], tensors: Tensors, seed: int = 1) -> Tensors:
    random = np.random.default_rng(seed)
    return reorder(groups, [random.permutation(group.size) for group in groups], tensors)


@pytest.mark.parametrize(
    ("names", "norms", "widths"),
    [
        ("layers.{}", False, [6, 20, 15, 4]),
        ("net.{}", True, [6, 20, 20, 20, 4]),
        ("fc{}", False, [5, 9, 9, 9, 5]),
        ("{}", False, [3] + [16] * 12 + [2]),  # natural order: 10 comes after 9
    ],
)
def test_a_shuffled_network_computes_the_same_and_is_found_again(
    names: str, norms: bool, widths: list[int]
) -> None:
    ours = mlp(widths, names, norms=norms)
    groups = derive(shapes(dict(sorted(ours.items()))))
    assert len(groups) == len(widths) - 2
    theirs = shuffled(groups, ours)
    x = np.random.default_rng(2).standard_normal((7, widths[0]))
    np.testing.assert_allclose(
        run_mlp(theirs, x, names, norms), run_mlp(ours, x, names, norms), rtol=1e-9
    )
    assert any(not np.array_equal(theirs[name], ours[name]) for name in ours)
    kept, found = PERMUTE.prepare([ours, theirs], {})
    assert kept is ours
    assert all(
        found[name].tobytes() == ours[name].tobytes() and found[name].dtype == ours[name].dtype
        for name in ours
    )


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 0.2))
def test_matching_helps_the_average(seed: int, noise: float) -> None:
    """Also if theirs has moved: the matched average is no further from ours than the plain one."""
    ours = mlp([8, 30, 4], seed=seed)
    groups = derive(shapes(ours))
    random = np.random.default_rng(seed)
    moved = {
        name: (array + noise * random.standard_normal(array.shape)).astype(np.float32)
        for name, array in ours.items()
    }
    theirs = shuffled(groups, moved, seed + 1)
    _, matched = PERMUTE.prepare([ours, theirs], {})
    assert all(matched[name].tobytes() == moved[name].tobytes() for name in ours)
    x = random.standard_normal((5, 8))
    np.testing.assert_allclose(run_mlp(matched, x), run_mlp(theirs, x), rtol=1e-9, atol=1e-9)


def transformer(
    style: str, d: int = 12, hidden: int = 20, layers: int = 2, kv: int = 12, seed: int = 0
) -> Tensors:
    random = np.random.default_rng(seed)
    shape: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (50, d)}
    for i in range(layers):
        if style == "bert":
            p = f"encoder.layer.{i}."
            linear = {f"{p}attention.self.{n}": (d, d) for n in ("query", "key", "value")}
            linear |= {
                f"{p}attention.output.dense": (d, d),
                f"{p}intermediate.dense": (hidden, d),
                f"{p}output.dense": (d, hidden),
            }
            shape |= {f"{n}.weight": s for n, s in linear.items()} | {
                f"{n}.bias": (s[0],) for n, s in linear.items()
            }
            shape |= {
                f"{p}{n}.LayerNorm.{leaf}": (d,)
                for n in ("attention.output", "output")
                for leaf in ("weight", "bias")
            }
        else:
            p = f"model.layers.{i}."
            shape |= {f"{p}self_attn.q_proj.weight": (d, d), f"{p}self_attn.o_proj.weight": (d, d)}
            shape |= {f"{p}self_attn.{n}_proj.weight": (kv, d) for n in "kv"}
            shape |= {f"{p}mlp.{n}_proj.weight": (hidden, d) for n in ("gate", "up")} | {
                f"{p}mlp.down_proj.weight": (d, hidden)
            }
            shape |= {f"{p}input_layernorm.weight": (d,)}
    return {name: (0.3 * random.standard_normal(s)).astype(np.float32) for name, s in shape.items()}


def run_block(t: Tensors, style: str, x: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """One attention and feed-forward block a layer on x (tokens, d), in plain numpy."""

    def linear(name: str, v: np.ndarray) -> np.ndarray:
        return v @ t[f"{name}.weight"].astype(np.float64).T + t.get(f"{name}.bias", np.float64(0))

    for i in range(2):
        if style == "bert":
            p = f"encoder.layer.{i}."
            q, k, v, o = (
                f"{p}attention.self.query",
                f"{p}attention.self.key",
                f"{p}attention.self.value",
                f"{p}attention.output.dense",
            )
        else:
            p = f"model.layers.{i}."
            q, k, v, o = (f"{p}self_attn.{n}_proj" for n in "qkvo")
        queries = linear(q, x).reshape(len(x), heads, -1)
        keys, values = (
            np.repeat(linear(n, x).reshape(len(x), kv_heads, -1), heads // kv_heads, axis=1)
            for n in (k, v)
        )
        scores = np.exp(np.einsum("ihd,jhd->hij", queries, keys) * 0.1)
        mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), values).reshape(
            len(x), -1
        )
        x = x + linear(o, mixed)
        if style == "bert":
            x = x + linear(f"{p}output.dense", np.tanh(linear(f"{p}intermediate.dense", x)))
        else:
            x = x + linear(
                f"{p}mlp.down_proj",
                np.tanh(linear(f"{p}mlp.gate_proj", x)) * linear(f"{p}mlp.up_proj", x),
            )
    return x


@pytest.mark.parametrize(
    ("style", "heads", "kv_heads"),
    [("bert", 0, 0), ("bert", 3, 0), ("llama", 4, 0), ("llama", 6, 2)],
)
def test_transformer_blocks(style: str, heads: int, kv_heads: int) -> None:
    ours = transformer(style, kv=12 * (kv_heads or heads or 1) // (heads or 1))
    groups = derive(shapes(ours), heads, kv_heads)
    assert len(groups) == (4 if heads else 2)
    theirs = shuffled(groups, ours)
    x = np.random.default_rng(2).standard_normal((5, 12))
    h = heads or 3
    np.testing.assert_allclose(
        run_block(theirs, style, x, h, kv_heads or h),
        run_block(ours, style, x, h, kv_heads or h),
        rtol=1e-9,
    )
    _, found = PERMUTE.prepare([ours, theirs], {"heads": heads, "kv_heads": kv_heads})
    assert all(found[name].tobytes() == ours[name].tobytes() for name in ours)


@pytest.mark.parametrize(
    ("ups", "down", "turned"),
    [
        (["mlp.fc1"], "mlp.fc2", False),
        (["feed_forward.w1", "feed_forward.w3"], "feed_forward.w2", False),
        (["linear1"], "linear2", False),
        (["ffn.lin1"], "ffn.lin2", False),
        (["DenseReluDense.wi_0", "DenseReluDense.wi_1"], "DenseReluDense.wo", False),
        (["DenseReluDense.wi"], "DenseReluDense.wo", False),
        (["mlp.c_fc"], "mlp.c_proj", True),
        (["mlp.dense_h_to_4h"], "mlp.dense_4h_to_h", False),
        (["mlp.up_proj"], "mlp.down_proj", False),
    ],
)
def test_feed_forward_parts_by_their_usual_names(ups: list[str], down: str, turned: bool) -> None:
    table: dict[str, tuple[int, ...]] = {"h.0.attn.qkv.weight": (24, 8)}
    for up in ups:
        table |= {f"h.0.{up}.weight": (8, 32) if turned else (32, 8), f"h.0.{up}.bias": (32,)}
    table |= {f"h.0.{down}.weight": (32, 8) if turned else (8, 32), f"h.0.{down}.bias": (8,)}
    (group,) = derive(table)
    assert group.size == 32
    assert {(place.tensor, place.axis) for place in group.places} == {
        *((f"h.0.{up}.weight", int(turned)) for up in ups),
        *((f"h.0.{up}.bias", 0) for up in ups),
        (f"h.0.{down}.weight", 1 - int(turned)),
    }


def test_convolutions_and_what_they_are_flattened_into() -> None:
    table = {
        "0.weight": (8, 3, 3, 3),
        "0.bias": (8,),
        "3.weight": (6, 8, 3, 3),
        "7.weight": (10, 6 * 4 * 4),
        "7.bias": (10,),
    }
    first, second = derive(table)
    assert first.places == (
        TensorAxis("0.weight", 0),
        TensorAxis("3.weight", 1),
        TensorAxis("0.bias", 0),
    )
    assert (second.size, second.places) == (
        6,
        (TensorAxis("3.weight", 0), TensorAxis("7.weight", 1)),
    )
    units = np.arange(10 * 96.0).reshape(10, 96)
    turned = reorder(
        [AxisGroup("x", 6, (TensorAxis("7.weight", 1),))],
        [np.array([1, 0, 2, 3, 4, 5])],
        {"7.weight": units},
    )["7.weight"]
    assert np.array_equal(turned[:, :16], units[:, 16:32])
    assert np.array_equal(turned[:, 32:], units[:, 32:])


def test_flax_kernels_and_layers_with_names_of_their_own() -> None:
    chain = {
        "input.kernel": (4, 10),
        "input.bias": (10,),
        "hidden_0.kernel": (10, 10),
        "hidden_1.kernel": (10, 10),
    }
    chain |= {"output.kernel": (10, 3)}
    assert [group.name for group in derive(chain)] == ["input", "hidden_0", "hidden_1"]
    assert derive(chain)[0].places == (
        TensorAxis("input.kernel", 1),
        TensorAxis("hidden_0.kernel", 0),
        TensorAxis("input.bias", 0),
    )
    numbered = {
        "fc1.weight": (9, 4),
        "bn1.weight": (9,),
        "fc2.weight": (7, 9),
        "bn2.weight": (7,),
        "fc3.weight": (2, 7),
    }
    numbered |= {"alpha.weight": (1,)}
    assert [group.places for group in derive(numbered)] == [
        (TensorAxis("fc1.weight", 0), TensorAxis("fc2.weight", 1), TensorAxis("bn1.weight", 0)),
        (TensorAxis("fc2.weight", 0), TensorAxis("fc3.weight", 1), TensorAxis("bn2.weight", 0)),
    ]


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"w.weight": (4, 4)},
        {"a.weight": (8, 4), "b.weight": (3, 9)},
        {"encoder.weight": (8, 8), "decoder.weight": (8, 8)},  # which comes first?
        {"blocks.0.resid.weight": (8, 8), "blocks.1.resid.weight": (8, 8)},
        {"q_proj.weight": (8, 8), "k_proj.weight": (8, 8)},
        {"0.weight": (8, 4), "1.weight": (9,), "2.weight": (3, 8)},  # a vector that belongs nowhere
        # Before or behind b?
        {"a.weight": (8, 4), "ln.weight": (8,), "b.weight": (8, 8), "c.weight": (2, 8)},
        {"0.weight": (8, 4), "1.running": (8, 2), "2.weight": (3, 8)},
        {"0.weight": (8, 1, 3, 3), "1.weight": (8, 1, 3, 3)},  # depthwise
        {"lstm.weight_ih_l0": (8, 4), "fc.weight": (2, 8)},
        {"mlp.fc1.weight": (8, 8), "mlp.fc2.weight": (8, 8), "attn.weight": (8, 8)},
        {
            "mlp.up_proj.weight": (32, 8),
            "mlp.gate_proj.weight": (32, 4),
            "mlp.down_proj.weight": (8, 32),
            "attn.weight": (8, 8),
        },
        {
            "mlp.fc1.weight": (32, 8),
            "mlp.norm.weight": (32,),
            "mlp.fc2.weight": (8, 32),
            "attn.weight": (8, 8),
        },
        {"mlp.fc1.weight": (32, 8), "mlp.fc2.weight": (9, 32), "attn.weight": (8, 8)},
    ],
)
def test_what_is_in_doubt_is_not_reordered(table: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(MergeError, match="no hidden units"):
        derive(table)


@pytest.mark.parametrize(
    ("extra", "heads", "kv_heads", "words"),
    [
        ({}, 5, 0, "does not divide into 5 heads"),
        ({}, 4, 3, "4 heads cannot share 3"),
        ({"decoder.relative_attention_bias.weight": (32, 4)}, 4, 0, "position bias"),
        ({"model.layers.0.self_attn.q_norm.weight": (12,)}, 4, 0, "spans several heads"),
    ],
)
def test_heads_that_cannot_be_moved(
    extra: dict[str, tuple[int, ...]], heads: int, kv_heads: int, words: str
) -> None:
    with pytest.raises(MergeError, match=words):
        derive(shapes(transformer("llama")) | extra, heads, kv_heads)
    with pytest.raises(MergeError, match="no separate query"):
        derive({"mlp.fc1.weight": (32, 8), "mlp.fc2.weight": (8, 32)}, 4)


def test_norms_within_a_head_do_not_matter() -> None:
    assert (
        len(
            derive(
                shapes(transformer("llama")) | {"model.layers.0.self_attn.q_norm.weight": (3,)}, 4
            )
        )
        == 4
    )


def test_sides_must_be_alike() -> None:
    ours = mlp([4, 8, 3])
    for theirs, words in [
        ({**ours, "extra": np.zeros(1)}, "'extra' is on one only"),
        ({**ours, "layers.0.weight": np.zeros((9, 4), np.float32)}, "'layers.0.weight' differ"),
        (
            {**ours, "layers.0.weight": ours["layers.0.weight"].astype(BF16)},
            "'layers.0.weight' differ",
        ),
        ({**ours, "layers.0.weight": np.full((8, 4), np.nan, np.float32)}, "NaN"),
    ]:
        with pytest.raises(MergeError, match=words):
            PERMUTE.prepare([ours, theirs], {})
    with pytest.raises(MergeError, match="2 sides, not 3"):
        PERMUTE.prepare([ours] * 3, {})


def test_sixteen_bits_are_matched_too() -> None:
    ours = {name: array.astype(BF16) for name, array in mlp([6, 20, 4]).items()}
    theirs = shuffled(derive(shapes(ours)), ours)
    _, found = PERMUTE.prepare([ours, theirs], {})
    assert all(found[name].tobytes() == ours[name].tobytes() for name in ours)


def test_the_matched_sides_are_averaged_or_interpolated() -> None:
    random = np.random.default_rng(0)
    ours, theirs = (random.standard_normal((5, 6)).astype(np.float32) for _ in range(2))
    by_name = {strategy.name: strategy for strategy in strategies()}
    case = MergeCase("w", None, (ours, theirs))
    assert np.array_equal(PERMUTE.merge(case, {}), by_name["average"].merge(case, {}))
    assert np.array_equal(
        PERMUTE.merge(case, {"t": 0.25}), by_name["average"].merge(case, {"weights": (0.75, 0.25)})
    )
    assert np.array_equal(
        PERMUTE.merge(case, {"t": 0.25, "then": "slerp"}), by_name["slerp"].merge(case, {"t": 0.25})
    )


def test_without_scipy_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_scipy(name: str, *rest: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    ours = mlp([4, 8, 3])
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", no_scipy)
        with pytest.raises(MergeError, match="pip install scipy"):
            PERMUTE.prepare([ours, ours], {})


def test_rounds_are_bounded() -> None:
    ours, theirs = mlp([6, 30, 30, 4]), mlp([6, 30, 30, 4], seed=9)
    groups = derive(shapes(ours))
    for rounds in (1, 100):
        for order, group in zip(match(groups, ours, theirs, rounds), groups, strict=True):
            assert sorted(order) == list(range(group.size))
