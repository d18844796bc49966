"""What names say of layers and kinds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.reports.naming import KINDS, layer_order, natural, place

KNOWN = [
    ("model.layers.12.self_attn.q_proj.weight", "attention q", (12,), "model.layers"),
    ("model.layers.12.self_attn.o_proj.weight", "attention out", (12,), "model.layers"),
    ("model.layers.3.mlp.gate_proj.weight", "MLP gate", (3,), "model.layers"),
    ("model.layers.3.block_sparse_moe.experts.5.w1.weight", "MLP gate", (3,), "model.layers"),
    ("model.layers.3.block_sparse_moe.gate.weight", "MLP router", (3,), "model.layers"),
    ("model.layers.3.self_attn.q_norm.weight", "norm", (3,), "model.layers"),
    ("model.embed_tokens.weight", "embedding", (), "model.embed_tokens"),
    ("lm_head.weight", "head", (), "lm_head"),
    ("h.0.attn.c_attn.weight", "attention qkv", (0,), "h"),
    ("h.0.mlp.c_proj.bias", "MLP down", (0,), "h"),
    ("wte.weight", "embedding", (), "wte"),
    ("encoder.layer.0.attention.self.query.weight", "attention q", (0,), "encoder.layer"),
    ("encoder.layer.0.attention.output.dense.weight", "attention out", (0,), "encoder.layer"),
    ("encoder.layer.0.intermediate.dense.weight", "MLP up", (0,), "encoder.layer"),
    ("encoder.layer.0.output.dense.weight", "MLP down", (0,), "encoder.layer"),
    ("blk.7.ffn_gate.weight", "MLP gate", (7,), "blk"),
    ("blk.7.attn_output.weight", "attention out", (7,), "blk"),
    ("output.weight", "head", (), "output"),
    ("layers.0.attention.wq.weight", "attention q", (0,), "layers"),
    ("layer1.0.conv1.weight", "convolution", (1, 0), "layer"),
    ("layer1.0.bn1.running_mean", "norm", (1, 0), "layer"),
    ("layers.0.blocks.1.attn.qkv.weight", "attention qkv", (0, 1), "layers.blocks"),
    ("decoder.block.3.layer.1.EncDecAttention.k.weight", "attention k", (3,), "decoder.block"),
    ("params/encoder/layers_3/mlp/wi/kernel", "MLP up", (3,), "params.encoder.layers"),
    ("optimizer.state.12.exp_avg_sq", "optimizer", (), "optimizer.state"),
    ("weight", "other", (), ""),
    ("", "other", (), ""),
]


@pytest.mark.parametrize(("name", "kind", "layer", "stack"), KNOWN)
def test_names_in_use(name: str, kind: str, layer: tuple[int, ...], stack: str) -> None:
    found = place(name)
    assert (found.kind, found.layer, found.stack) == (kind, layer, stack)


@given(st.text(st.sampled_from("abhlker.0123456789_/:norm attn\x00\u202e"), max_size=60))
def test_any_name_is_taken_apart_and_can_be_put_together(name: str) -> None:
    found = place(name)
    assert found.kind in KINDS
    assert found.group == found.kind.split(" ")[0]
    assert name == (
        found.module + name[len(found.module) : len(found.module) + 1] + found.rest
        if found.module
        else found.rest
    )


def test_long_and_odd_names_take_no_time() -> None:
    for name in (
        "a" * 1_000_000,
        "." * 100_000,
        "0." * 50_000,
        "layer" * 100_000,
        "1" * 100_000 + ".w",
        "h.99999999999999999999.w",
    ):
        assert place(name).kind in KINDS


def shown(names: list[str]) -> list[str]:
    return [names[index] for index in layer_order(names)]


def test_layers_come_in_order_of_their_numbers() -> None:
    names = ["lm_head.weight"]
    names += [f"model.layers.{layer}.{part}" for layer in (0, 1, 10, 11, 2) for part in "qk"]
    names += ["model.norm.weight", *(f"model.layers.{layer}.norm" for layer in (0, 1, 10, 11, 2))]
    ordered = shown(names)
    assert ordered[0] == "lm_head.weight"
    assert ordered[-1] == "model.norm.weight"
    assert ordered[1:-1] == [
        f"model.layers.{layer}.{part}" for layer in (0, 1, 2, 10, 11) for part in ("q", "k", "norm")
    ]


def test_what_has_no_layers_stays() -> None:
    names = ["wte.weight", "b", "a", "conv2.weight", "x.weight", "", "conv1.bias"]
    assert shown(names) == [
        "wte.weight", "b", "a", "conv1.bias", "x.weight", "", "conv2.weight"
    ]  # fmt: skip


def test_layers_that_do_not_have_the_same_tensors() -> None:
    names = ["h.1.q", "h.10.q", "h.10.k", "h.2.k"]
    assert shown(names) == ["h.1.q", "h.2.k", "h.10.q", "h.10.k"]
    experts = [f"h.{layer}.experts.{expert}.w" for layer in (1, 10, 2) for expert in (0, 10, 9)]
    assert shown(experts) == [
        f"h.{layer}.experts.{expert}.w" for layer in (1, 2, 10) for expert in (0, 9, 10)
    ]


@given(st.lists(st.from_regex(r"[ab.]{0,3}\d{0,11}[ab./:]{0,3}\d?", fullmatch=True), max_size=12))
def test_the_order_is_one_of_all(names: list[str]) -> None:
    order = layer_order(names)
    assert sorted(order) == list(range(len(names)))
    again = [names[index] for index in order]
    assert shown(again) == again


@given(st.lists(st.text(max_size=6), max_size=8))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    keys = list(map(natural, names))
    keys.sort()
    assert natural("h.2.w") < natural("h.10.w") < natural("h.10.x")
