"""Which axes of which tensors may be reordered together without changing what a network computes.

Derived from names and shapes alone, and only where they leave no doubt:

* a plain feed-forward network (linear or convolution layers, one behind the other, with biases and
norms);
* transformer blocks: the hidden units of each feed-forward part, and, when the number of heads is
given, the attention heads.

Names and shapes cannot show every connection. A skip connection around layers that look like a
plain chain, or heads that are told apart by position (ALiBi), would be overlooked; names that hint
at the former are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from git_theta.errors import MergeError


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One axis of one tensor."""

    tensor: str
    axis: int


@dataclass(frozen=True, slots=True)
class AxisGroup:
    """``size`` units that can be reordered; along each place's axis, equal runs of consecutive
    elements belong to them.
    """

    name: str
    size: int
    places: tuple[TensorAxis, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    module: str
    weight: str
    outputs: int
    inputs: int
    out_axis: int
    in_axis: int
    convolution: bool


Shapes = Mapping[str, tuple[int, ...]]

# Modules that lead into the hidden units, and the one that leads out of them.
_FEED_FORWARD = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("intermediate.dense",), "output.dense"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
    (("w1", "w3"), "w2"),
    (("fc1",), "fc2"),
    (("linear1",), "linear2"),
    (("lin1",), "lin2"),
    (("c_fc",), "c_proj"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
)
# Query, key, value, output.
_ATTENTION = (
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("wq", "wk", "wv", "wo"),
    ("q", "k", "v", "o"),
)
_NOT_PLAIN = re.compile(
    r"att(?:e)?n|query|\bkey\b|\bvalue\b|qkv|q_proj|resid|resnet|shortcut|skip|downsample|embed|lstm|gru\b|rnn|weight_[ih]h|expert|router"
)
_HEAD_NORM = re.compile(r"(?:^|[._])(?:q|k|query|key)_?(?:layer)?_?norm")
_PARAMETER = (
    "weight",
    "kernel",
    "bias",
    "scale",
    "gamma",
    "beta",
    "running_mean",
    "running_var",
    "mean",
    "var",
)
_NUMBER = re.compile(r"\d+")


def derive(shapes: Shapes, heads: int = 0, kv_heads: int = 0) -> tuple[AxisGroup, ...]:
    """The groups of a model with float tensors of these ``shapes``; :class:`MergeError` when none
    can be told.

    ``heads``: attention heads in every layer (0: leave heads in place), ``kv_heads``: key and value
    heads (0: as many).
    """
    if heads and (heads < 0 or (kv_heads and heads % kv_heads)):
        raise MergeError(
            f"{heads} heads cannot share {kv_heads} key-value heads evenly; check heads and"
            " kv_heads"
        )
    blocks = _feed_forward_groups(shapes)
    if heads:
        blocks += _head_groups(shapes, heads, kv_heads or heads)
    groups = _chain_groups(shapes) or tuple(blocks)
    if not groups:
        raise MergeError(
            "no hidden units to reorder were recognised: permute knows plain feed-forward networks"
            " and transformer blocks by the usual names; use another strategy"
        )
    return groups


def _module(name: str) -> tuple[str, str]:
    module, _, leaf = name.rpartition(".")
    return (module, leaf) if leaf in _PARAMETER else (name, "")


def _layers(shapes: Shapes) -> dict[str, _Layer]:
    """Modules with a weight of at least two axes, by their path."""
    layers = {}
    for name, shape in shapes.items():
        module, leaf = _module(name)
        if leaf not in ("weight", "kernel") or len(shape) < 2:
            continue
        out_axis, in_axis = (len(shape) - 1, len(shape) - 2) if leaf == "kernel" else (0, 1)
        layers[module] = _Layer(
            module, name, shape[out_axis], shape[in_axis], out_axis, in_axis, len(shape) > 2
        )
    return layers


# Transformer blocks


def _feed_forward_groups(shapes: Shapes) -> list[AxisGroup]:
    layers, groups, used = _layers(shapes), [], set[str]()
    for ups, down in _FEED_FORWARD:
        for module in layers:
            prefix = _prefix(module, down)
            if prefix is None or module in used:
                continue
            parts = [layers.get(prefix + up) for up in ups]
            found = [part for part in parts if part is not None]
            if len(found) != len(ups) or any(part.module in used for part in found):
                continue
            group = _hidden_group(shapes, prefix, found, layers[module])
            if group is not None:
                groups.append(group)
                used.update((module, *(part.module for part in found)))
    return groups


def _prefix(module: str, suffix: str) -> str | None:
    if module == suffix:
        return ""
    return module[: -len(suffix)] if module.endswith("." + suffix) else None


def _hidden_group(shapes: Shapes, prefix: str, ups: list[_Layer], down: _Layer) -> AxisGroup | None:
    turned = _turned(ups[0], down)
    if turned is None or any(layer.convolution for layer in (*ups, down)):
        return None
    out_axis, in_axis = (
        (ups[0].in_axis, ups[0].out_axis) if turned else (ups[0].out_axis, ups[0].in_axis)
    )
    size, outer = shapes[ups[0].weight][out_axis], shapes[ups[0].weight][in_axis]
    if size == outer or any(shapes[up.weight] != shapes[ups[0].weight] for up in ups):
        return None  # square matrices could follow one another in any order
    places = [TensorAxis(up.weight, out_axis) for up in ups]
    places += [
        TensorAxis(f"{up.module}.bias", 0)
        for up in ups
        if shapes.get(f"{up.module}.bias") == (size,)
    ]
    places.append(TensorAxis(down.weight, in_axis))
    # Anything else of that size inside the block (a norm between the two, a third matrix) would
    # have to move too.
    known = {place.tensor for place in places}
    if any(
        size in shape
        for name, shape in shapes.items()
        if name.startswith(prefix) and name not in known
    ):
        return None
    return AxisGroup(ups[0].module, size, tuple(places))


def _turned(up: _Layer, down: _Layer) -> bool | None:
    """Whether weights named as if (outputs, inputs) are (inputs, outputs), as GPT-2 has them; None
    where neither fits.
    """
    if up.outputs != down.inputs or up.inputs != down.outputs:
        return None
    return "c_fc" in up.module


def _head_groups(shapes: Shapes, heads: int, kv_heads: int) -> list[AxisGroup]:
    if any("relative_attention_bias" in name for name in shapes):
        raise MergeError(
            "attention heads here have a position bias of their own, which permute cannot move;"
            " leave heads out"
        )
    layers, groups = _layers(shapes), []
    for names in _ATTENTION:
        for module in layers:
            prefix = _prefix(module, names[0])
            found = [layers.get(prefix + name) for name in names] if prefix is not None else [None]
            parts = [part for part in found if part is not None]
            if len(parts) != len(names):
                continue
            query, key, value, output = parts
            assert prefix is not None
            norms = [name for name in shapes if name.startswith(prefix) and _HEAD_NORM.search(name)]
            odd = [name for name in norms if shapes[name] != (query.outputs // heads,)]
            if odd:
                raise MergeError(
                    f"the norm {odd[0]} spans several heads, which permute cannot move; leave"
                    " heads out"
                )
            if (
                query.outputs % heads
                or key.outputs % kv_heads
                or value.outputs % kv_heads
                or output.inputs % heads
            ):
                raise MergeError(
                    f"the attention of {module} does not divide into {heads} heads ({kv_heads} for"
                    " keys and values)"
                )
            places = [TensorAxis(part.weight, part.out_axis) for part in (query, key, value)]
            biases = (f"{part.module}.bias" for part in (query, key, value))
            places += [TensorAxis(bias, 0) for bias in biases if bias in shapes]
            groups.append(
                AxisGroup(
                    f"{module} heads",
                    kv_heads,
                    (*places, TensorAxis(output.weight, output.in_axis)),
                )
            )
    if not groups:
        raise MergeError(
            "no separate query, key and value matrices were recognised, so heads cannot be"
            " reordered; leave heads out"
        )
    return groups


# Plain feed-forward networks


def _chain_groups(shapes: Shapes) -> tuple[AxisGroup, ...]:
    if any(_NOT_PLAIN.search(name.lower()) for name in shapes):
        return ()
    layers = list(_layers(shapes).values())
    order = _order(layers)
    if len(order) < 2:
        return ()
    places: list[list[TensorAxis]] = [[TensorAxis(layer.weight, layer.out_axis)] for layer in order]
    for position, layer in enumerate(order[1:]):
        places[position].append(TensorAxis(layer.weight, layer.in_axis))
    weights = {layer.weight for layer in order}
    for name, shape in shapes.items():
        if name in weights or not shape:
            continue
        home = _home(name, shape, order)
        if home is None:
            return ()
        if home >= 0:
            places[home].append(TensorAxis(name, 0))
    return tuple(
        AxisGroup(layer.module, layer.outputs, tuple(found))
        for layer, found in zip(order[:-1], places[:-1], strict=True)
    )


def _order(layers: list[_Layer]) -> list[_Layer]:
    """The layers as they follow one another; empty where that is in doubt."""
    if len({_template(layer.module) for layer in layers}) == 1:
        order = sorted(layers, key=lambda layer: _numbers(layer.module))
        return order if all(map(_follows, order, order[1:])) else []
    outputs = {layer.outputs for layer in layers}
    starts = [layer for layer in layers if layer.inputs not in outputs]
    if len(starts) != 1:
        return []
    order, rest = starts, [layer for layer in layers if layer is not starts[0]]
    while rest:
        candidates = [layer for layer in rest if _follows(order[-1], layer)]
        onward = [layer for layer in candidates if layer.outputs == order[-1].outputs] or candidates
        if (
            not onward
            or len({_template(layer.module) for layer in onward}) > 1
            or (len(rest) > 1 and len({x.outputs for x in onward}) > 1)
        ):
            return []
        order.append(min(onward, key=lambda layer: _numbers(layer.module)))
        rest.remove(order[-1])
    return order


def _follows(first: _Layer, second: _Layer) -> bool:
    if first.convolution and not second.convolution:
        return second.inputs % first.outputs == 0 and second.inputs > 0
    return second.inputs == first.outputs


def _home(name: str, shape: tuple[int, ...], order: list[_Layer]) -> int | None:
    """The layer whose outputs a vector belongs to; -1 for the last one's and for others that never
    move, None in doubt.
    """
    module, _ = _module(name)
    if len(shape) != 1:
        return None
    last = len(order) - 1
    for position, layer in enumerate(order):
        if layer.module == module:
            return None if shape[0] != layer.outputs else position if position < last else -1
    if shape[0] == 1:
        return -1
    # Numbered among the layers, as in a torch Sequential
    if _template(module) == _template(order[0].module):
        before = [i for i, layer in enumerate(order) if _numbers(layer.module) < _numbers(module)]
        if not before:
            return -1 if shape[0] == order[0].inputs else None
        home = before[-1]
    else:
        fitting = [i for i, layer in enumerate(order) if layer.outputs == shape[0]]
        alike = [
            i
            for i in fitting
            if _numbers(order[i].module) == _numbers(module) and order[i].inputs != shape[0]
        ]
        homes = (
            fitting
            if len(fitting) == 1 and shape[0] != order[0].inputs
            else alike
            if _numbers(module)
            else []
        )
        if len(homes) != 1:
            return None
        home = homes[0]
    if order[home].outputs != shape[0]:
        return None
    return home if home < last else -1


def _template(module: str) -> str:
    return _NUMBER.sub("#", module)


def _numbers(module: str) -> tuple[int, ...]:
    return tuple(int(digits[:18]) for digits in _NUMBER.findall(module))
