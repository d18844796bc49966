"""What a tensor's name says of its place in a model: which layer it belongs to, and of what kind it
is.

Names are a habit, not a rule. Those of PyTorch, Hugging Face, the first LLaMA release, GGUF, Flax
and timm are understood; any other name ends up as ``other`` in no layer. Only the drawing depends
on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

KINDS = (
    "embedding",
    "attention q",
    "attention k",
    "attention v",
    "attention qkv",
    "attention out",
    "attention",
    "MLP gate",
    "MLP up",
    "MLP down",
    "MLP router",
    "MLP",
    "convolution",
    "norm",
    "head",
    "optimizer",
    "other",
)
_NAME_LIMIT = 512  # characters that are looked at

_SPLIT = re.compile(r"[./:]")
_DIGITS = re.compile(r"(\d{1,9})")
_FIRST_NUMBER = re.compile(r"(.*?(?:\A|[./:])[A-Za-z_]*\d+)[./:](.*)", re.DOTALL)
_NUMBERED = re.compile(
    r"([a-z_]*(?:layer|block|stage|h|level|resblock)s?_?)(\d{1,5})\Z", re.IGNORECASE
)
_NESTED = re.compile(
    r"(?:block|layer|resnet|attention|transformer_block|stage|h)s?\Z", re.IGNORECASE
)

_OPTIMIZER = re.compile(
    r"\b(?:optim\w*|opt_state|exp_avg\w*|max_exp_avg\w*|momentum_buffer|master_(?:param|weight)s?|adam\w*)\b"
)
_NORM = re.compile(
    r"(?:norm|\bln_?\w{0,2}\b|\bbn\d*\b|running_mean|running_var|num_batches_tracked)"
)
_EMBEDDING = re.compile(
    r"(?:embed|token_embd|position_embd|\bwte\b|\bwpe\b|\bshared\b|cls_token|pos_emb|relative_attention_bias)"
)
_HEAD = re.compile(
    r"(?:\blm_head\b|classifier|\bscore\b|\bhead\b|pooler|\bcls\b|qa_outputs|vocab_projection)"
)
_ATTENTION = re.compile(
    r"(?:attn|attention|\bmha\b|\bto_(?:q|k|v|out)\b|\b[qkvo]_proj\b|\bw[qkvo]\b)"
)
_MLP = re.compile(
    r"(?:mlp|ffn|feed_?forward|intermediate|densereludense|\bfc_?\d\b|\bc_fc\b|\blin[12]\b|\blinear[12]\b|\bw[123]\b|\bwi(?:_\d)?\b"
    r"|\b(?:gate|up|down|gate_up)_proj\b|experts?|moe\b|output\.dense)"
)
_CONVOLUTION = re.compile(r"(?:conv|downsample)")

_ATTENTION_PARTS = (
    ("attention qkv", re.compile(r"(?:qkv|c_attn|query_key_value|in_proj|wqkv)")),
    (
        "attention out",
        re.compile(
            r"(?:\bo_proj\b|out_proj|c_proj|\bwo\b|to_out|attn_out|\bout\b|output|\bproj\b|\bdense\b|\bo\b)"
        ),
    ),
    ("attention q", re.compile(r"(?:\bq\b|query|\bq_|_q\b|\bwq\b)")),
    ("attention k", re.compile(r"(?:\bk\b|\bkey|\bk_|_k\b|\bwk\b)")),
    ("attention v", re.compile(r"(?:\bv\b|value|\bv_|_v\b|\bwv\b)")),
)
_MLP_PARTS = (
    ("MLP router", re.compile(r"(?:router|\bgate\.(?:weight|bias|kernel)|gate_inp|\bgate\Z)")),
    ("MLP gate", re.compile(r"(?:gate|\bw1\b|\bwi_0\b)")),
    (
        "MLP down",
        re.compile(
            r"(?:down|\bfc_?2\b|c_proj|output\.dense|4h_to_h|\bw2\b|\bwo\b|\blin(?:ear)?_?2\b)"
        ),
    ),
    (
        "MLP up",
        re.compile(
            r"(?:up|\bfc_?1\b|c_fc|intermediate|h_to_4h|\bw3\b|\bwi(?:_1)?\b|\blin(?:ear)?_?1\b)"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a tensor belongs.

    ``module`` is the part of its name up to and including the layer's number (without a layer: up
    to the last component but one) and ``rest`` what follows. ``stack`` is the module without its
    numbers, ``layer`` these numbers; ``kind`` is one of :data:`KINDS`.
    """

    module: str
    rest: str
    stack: str
    layer: tuple[int, ...]
    kind: str

    @property
    def group(self) -> str:
        """The kind without its part, for example ``attention`` or ``MLP``."""
        return self.kind.partition(" ")[0]


def natural(name: str) -> list[str | int]:
    """What sorts names with their numbers as numbers: ``h.2`` before ``h.10``."""
    parts: list[str | int] = [*_DIGITS.split(name)]
    parts[1::2] = map(int, parts[1::2])
    return parts


def layer_order(names: Sequence[str]) -> list[int]:
    """The order in which tensors called ``names`` are shown, as indices: by layer, and as they
    stand besides.

    Files are often sorted by text, layer 10 before layer 2. Layers whose names differ by numbers
    only exchange places, so embeddings and heads stay at theirs. The tensors of one layer come
    together, in the order in which they stand.
    """
    layers: dict[tuple[str, bool], list[int]] = {}
    rests = []
    for index, name in enumerate(names):
        match = _FIRST_NUMBER.match(name)
        rests.append(match[2] if match else name)
        layers.setdefault((match[1], True) if match else (name, False), []).append(index)
    members = list(layers.values())
    return [
        members[layer][number]
        for layer in _exchanged([name for name, _ in layers])
        for number in _exchanged([rests[index] for index in members[layer]])
    ]


def _exchanged(names: Sequence[str]) -> list[int]:
    """Indices of ``names``: those that differ by numbers only, in order at the places they have."""
    order = list(range(len(names)))
    alike: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        alike.setdefault(_DIGITS.sub("0", name), []).append(index)
    for places in alike.values():
        chosen = sorted(places, key=lambda index: natural(names[index]))
        for index, found in zip(places, chosen, strict=True):
            order[index] = found
    return order


@lru_cache(maxsize=65536)
def place(name: str) -> ModelPlace:
    """What ``name`` says."""
    parts = _SPLIT.split(name[:_NAME_LIMIT])
    kind = _kind(".".join(parts).lower())
    end, numbers = _layer(parts)
    if kind == "optimizer":
        end, numbers = max(end - 1, 0), ()
    elif not numbers:
        end = max(len(parts) - 1, 0)
    length = len(".".join(parts[:end]))
    stack = (
        ".".join(part for part in (_without_number(part) for part in parts[:end]) if part)
        if numbers
        else ".".join(parts[:end])
    )
    return ModelPlace(name[:length], name[length + 1 :] if length else name, stack, numbers, kind)


def _layer(parts: list[str]) -> tuple[int, tuple[int, ...]]:
    """How many components name the layer, and its numbers."""
    for start, part in enumerate(parts[:-1]):
        number = _number(part)
        if number is None:
            continue
        numbers, end = [number], start + 1
        while end < len(parts) - 1:
            following = (
                _number(parts[end])
                if parts[end].isdecimal() or _NUMBERED.match(parts[end])
                else None
            )
            if following is not None:
                numbers.append(following)
                end += 1
            elif (
                _NESTED.match(parts[end])
                and parts[start - 1 : start] != ["block"]
                and end + 1 < len(parts) - 1
                and _number(parts[end + 1]) is not None
            ):
                numbers.append(_number(parts[end + 1]) or 0)
                end += 2
            else:
                break
        return end, tuple(numbers)
    return 0, ()


def _number(part: str) -> int | None:
    if part.isascii() and part.isdecimal() and len(part) < 6:
        return int(part)
    match = _NUMBERED.match(part)
    return int(match[2]) if match else None


def _without_number(part: str) -> str:
    match = _NUMBERED.match(part)
    return "" if part.isdecimal() else match[1].rstrip("_") if match else part


def _kind(name: str) -> str:
    if _OPTIMIZER.search(name):
        return "optimizer"
    if _NORM.search(name):
        return "norm"
    attention = _ATTENTION.search(name)
    if attention and "relative_attention_bias" not in name:
        tail = name[attention.start() :]
        return next(
            (kind for kind, pattern in _ATTENTION_PARTS if pattern.search(tail)), "attention"
        )
    if _EMBEDDING.search(name):
        return "embedding"
    if _MLP.search(name):
        return next((kind for kind, pattern in _MLP_PARTS if pattern.search(name)), "MLP")
    if _HEAD.search(name) or name in ("output.weight", "output.bias", "fc.weight", "fc.bias"):
        return "head"
    return "convolution" if _CONVOLUTION.search(name) else "other"
