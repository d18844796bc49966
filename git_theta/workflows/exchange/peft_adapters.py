"""PEFT adapters (LoRA, IA3) as side-loaded updates: which tensor of the model each pair of factors
changes, and how.

An adapter is a folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``),
as ``peft`` writes it. The formulas are those of its ``merge``: W + (alpha / r) B A for LoRA (arXiv
2106.09685; alpha / sqrt(r) for rsLoRA, 2312.03732), W * l for IA3 (2205.05638).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.workflows.exchange.supplied import (
    SuppliedChange,
    ia3,
    low_rank,
    on_top,
    read_tensors,
    value,
)

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(?:\.(?:weight|default(?:\.weight)?))?\Z"
)
_IA3 = re.compile(r"(?P<module>.+)\.ia3_l(?:\.default)?\Z")
_INSTEAD = "merge it with peft and 'git add' the merged checkpoint"
# What makes the merged weights other than W + scale B A. An adapter that uses it is refused rather
# than merged wrongly.
_OTHER_FORMULAS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Ways to begin the training that leave the model's own weights as they are
_PLAIN_STARTS = ("gaussian", "orthogonal", "eva", "mica")
_DEFAULT_ALPHA = 8  # peft's, where the configuration does not say


def is_adapter(path: Path) -> bool:
    """Whether ``path`` is an adapter's folder, or a file in one."""
    return _folder(path).joinpath(CONFIG).is_file()


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def read(path: Path, shapes: Mapping[str, Shape]) -> list[SuppliedChange]:
    """The changes that the adapter at ``path`` makes to a model whose tensors have these
    ``shapes``, by name.

    :class:`UsageError` for an adapter of a kind that cannot be merged (DoRA, prompt tuning, …) or
    one made for another model.
    """
    config = _config(_folder(path) / CONFIG)
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind not in ("LORA", "IA3"):
        raise UsageError(
            f"adapters of type {display(kind, 40)} are not supported, LoRA and IA3 are; {_INSTEAD}"
            " if it can be merged"
        )
    arrays = read_tensors(
        path if path.is_file() and path.name != CONFIG else _weights(_folder(path))
    )
    if kind == "IA3":
        return _ia3(config, arrays, shapes)
    _refuse_other_formulas(config, arrays)
    return _lora(config, arrays, shapes)


def _config(file: Path) -> dict[str, object]:
    try:
        if file.stat().st_size > 1 << 20:
            raise ValueError
        config = json.loads(file.read_text("utf-8"))
        if not isinstance(config, dict):
            raise TypeError
    except OSError as error:
        raise UsageError(
            f"{display(str(file))} cannot be read: {error.strerror or error}"
        ) from None
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f"{display(str(file))} is not an adapter's configuration") from None
    return config


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{display(str(folder))} has no {' or '.join(_WEIGHTS)}")


def _refuse_other_formulas(config: Mapping[str, object], arrays: Mapping[str, object]) -> None:
    used = [key for key in _OTHER_FORMULAS if config.get(key)]
    if any("lora_magnitude_vector" in name for name in arrays):
        used.insert(0, "use_dora")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        used.append(f"init_lora_weights {display(start, 40)}")
    if used:
        kind = "DoRA adapters (use_dora)" if used[0] == "use_dora" else f"adapters with {used[0]}"
        raise UsageError(f"{kind} are not supported; {_INSTEAD}")


def _finder(shapes: Mapping[str, Shape]) -> Callable[[str], str]:
    """Maps an adapter's name of a tensor to the model's: the same, or the only one that ends, or
    begins, alike.
    """

    def find(name: str) -> str:
        if name in shapes:
            return name
        close = [
            other for other in shapes if other.endswith("." + name) or name.endswith("." + other)
        ]
        if len(close) != 1:
            what = "several tensors" if close else "no tensor"
            raise UsageError(
                f"the adapter changes '{display(name, 100)}', and the model has {what} of that"
                " name; is it for another model?"
            )
        return close[0]

    return find


def _lora(
    config: Mapping[str, object], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> list[SuppliedChange]:
    find = _finder(shapes)
    pairs: dict[tuple[str, bool], dict[str, np.ndarray]] = {}
    whole: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        match = _LORA.match(key)
        if not match:
            # What peft keeps beside a module that was trained whole
            if ".original_module." not in key:
                whole[find(_saved(key))] = array
            continue
        pair = pairs.setdefault(
            (match["module"].removeprefix(_PREFIX), bool(match["embedding"])), {}
        )
        if match["part"] in pair:
            raise UsageError(
                f"the adapter has two factors {match['part']} for '{display(match['module'], 100)}'"
            )
        pair[match["part"]] = array
    changes: list[SuppliedChange] = []
    for (module, embedding), pair in pairs.items():
        target = find(f"{module}.weight")
        left, right = _factors(module, pair)
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        if (
            not embedding
            and _fits(shapes[target], (right.shape[1], left.shape[0])) != transposed
            and left.shape[0] != right.shape[1]
        ):
            # Peft goes by the layer, and its configuration only says what held for the last one
            transposed = not transposed
        if transposed:
            left, right = right.T, left.T
        change = low_rank(target, left, right, _scale(config, module, left.shape[1]))
        # An embedding comes with its own weights beside its factors, unchanged as a rule.
        changes.append(on_top(whole.pop(target), change) if target in whole else change)
    return [*changes, *(value(name, array) for name, array in whole.items())]


def _factors(module: str, pair: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """B and A as matrices: (rows x rank) and (rank x columns).

    A convolution's kernel counts as columns.
    """
    if set(pair) != {"A", "B"}:
        raise UsageError(
            f"the adapter has only one factor for '{display(module, 100)}'; it is incomplete"
        )
    a, b = pair["A"], pair["B"]
    if (
        a.ndim < 2
        or b.ndim < 2
        or 0 in (*a.shape, *b.shape)
        or a.shape[0] != b.shape[1]
        or math.prod(b.shape[2:]) != 1
    ):
        raise UsageError(
            f"the adapter's factors for '{display(module, 100)}' do not fit each other ({a.shape},"
            f" {b.shape})"
        )
    return b.reshape(b.shape[:2]), a.reshape(a.shape[0], -1)


def _fits(shape: Shape, matrix: tuple[int, int]) -> bool:
    return len(shape) >= 2 and (shape[0], math.prod(shape[1:])) == matrix


def _scale(config: Mapping[str, object], module: str, rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; alpha may be set by pattern."""
    alpha = config.get("lora_alpha", _DEFAULT_ALPHA)
    patterns = config.get("alpha_pattern")
    if isinstance(patterns, dict):
        alpha = next(
            (own for pattern, own in patterns.items() if _matches(str(pattern), module)), alpha
        )
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= 1e30:
        raise UsageError("the adapter's lora_alpha is not a number that could be one")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    """Whether a key of a configuration means ``module``: its name, or the end of its name, perhaps
    as a regular expression.

    Only regular expressions that cannot run away are followed; :class:`UsageError` for others,
    since guessing would scale wrongly.
    """
    if re.fullmatch(r"[\w.-]*", pattern):
        return module == pattern or module.endswith(f".{pattern}")
    plain = re.fullmatch(r"[\w.*+?|()\[\]\\^$-]{1,200}", pattern) and not re.search(
        r"\)[*+?]|\\[1-9]", pattern
    )
    try:
        if not plain or pattern.count("*") + pattern.count("+") > 3:
            raise ValueError
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, ValueError):
        raise UsageError(
            f"the pattern '{display(pattern, 60)}' in the adapter's configuration is not supported;"
            f" {_INSTEAD}"
        ) from None


def _ia3(
    config: Mapping[str, object], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> list[SuppliedChange]:
    find = _finder(shapes)
    changes: list[SuppliedChange] = []
    for key, array in arrays.items():
        match = _IA3.match(key)
        if not match:
            changes.append(value(find(_saved(key)), array))
            continue
        module = match["module"].removeprefix(_PREFIX)
        target = find(f"{module}.weight")
        feedforward = _is_feedforward(config, module, array)
        if array.ndim > 2:  # of a convolution: always (1, channels, 1, …)
            factors = array if feedforward else array.swapaxes(0, 1)
        else:
            factors = array.T if config.get("fan_in_fan_out") else array
            if not _broadcasts(factors.shape, shapes[target]) and _broadcasts(
                factors.T.shape, shapes[target]
            ):
                factors = factors.T
        changes.append(ia3(target, factors))
        bias = f"{target.removesuffix('.weight')}.bias"
        if not feedforward and bias in shapes:
            changes.append(ia3(bias, array.reshape(-1)))
    return changes


def _is_feedforward(config: Mapping[str, object], module: str, array: np.ndarray) -> bool:
    """Whether the factors scale what goes into a layer, rather than what comes out of it (and so
    its bias).
    """
    if array.ndim == 2 and (array.shape[0] == 1) != (array.shape[1] == 1):
        return bool(array.shape[0] == 1)
    listed = config.get("feedforward_modules")
    if isinstance(listed, str):
        return _matches(listed, module)
    return isinstance(listed, Sequence) and any(module.endswith(str(name)) for name in listed)


def _broadcasts(shape: Shape, onto: Shape) -> bool:
    return len(shape) == len(onto) and all(
        mine in (1, size) for mine, size in zip(shape, onto, strict=True)
    )


def _saved(key: str) -> str:
    """The model's name of a tensor that the adapter brings whole (``modules_to_save``, biases)."""
    return (
        key.removeprefix(_PREFIX)
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
        .replace(".base_layer.", ".")
    )
