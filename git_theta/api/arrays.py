"""Tensors from and to the arrays of numpy, torch and jax.

A framework is imported when it is asked for, or already there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from git_theta.checkpoints.torch.saved_objects import is_torch as is_torch
from git_theta.core import dtypes
from git_theta.core.names import did_you_mean, display
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError, UsageError

if TYPE_CHECKING:
    import numpy as np

Framework = Literal["numpy", "torch", "jax"]
FRAMEWORKS: tuple[Framework, ...] = ("numpy", "torch", "jax")

# What torch calls them; packed types have no element that torch could hold, so they come as bytes.
_TORCH = {
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "bool": "bool",
    "bf16": "bfloat16",
    "c32": "complex32",
    "c64": "complex64",
    "c128": "complex128",
    **{
        name: f"float8_{name.removeprefix('f8_')}"
        for name in ("f8_e4m3fn", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz", "f8_e8m0fnu")
    },
}


def check(framework: str) -> Framework:
    """``framework``, if it is one; :class:`UsageError` otherwise."""
    for known in FRAMEWORKS:
        if framework == known:
            return known
    hint = did_you_mean(framework, FRAMEWORKS) or f"; there are: {', '.join(FRAMEWORKS)}"
    raise UsageError(f"there is no framework '{display(framework, 40)}'{hint}")


def to_framework(tensor: Tensor, framework: Framework) -> Any:
    """The array that shares ``tensor``'s memory (jax: a copy).

    Of packed types (GGUF's, fp4) it is a ``uint8`` array of their bytes; so are half-precision
    complex numbers for numpy and jax.
    """
    if framework == "torch":
        return _to_torch(tensor)
    array = to_numpy(tensor)
    if framework == "numpy":
        return array
    import jax.numpy

    return jax.numpy.asarray(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """As :func:`to_framework` for numpy; bfloat16 and fp8 are the types of ``ml_dtypes``."""
    return tensor.array() if dtypes.get(tensor.dtype).numpy else as_bytes(tensor).array()


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: rows stay rows where each is a whole number of bytes."""
    nbytes = tensor.spec.nbytes
    rows = dtypes.count(tensor.shape[:-1])
    shape = (*tensor.shape[:-1], nbytes // rows) if rows and nbytes % rows == 0 else (nbytes,)
    return Tensor("u8", shape, tensor.data)


def _to_torch(tensor: Tensor) -> Any:
    import torch

    if tensor.dtype not in _TORCH:
        tensor = as_bytes(tensor)
    dtype = getattr(torch, _TORCH[tensor.dtype])
    if not tensor.spec.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)


def to_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, sharing its memory where that is possible.

    :class:`UsageError` names what is no dense array of a type that can be stored.
    """
    found = {}
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise UsageError(
                f"the key {display(repr(name), 60)} is no name; a state dict maps names to arrays"
            )
        try:
            found[name] = _tensor(value)
        except (FormatError, TypeError, ValueError, RuntimeError) as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise UsageError(
                f"'{display(name, 80)}' ({kind}) cannot be stored as a tensor:"
                f" {display(str(error), 200)}"
            ) from None
    return found


def _tensor(value: Any) -> Tensor:
    if is_torch(value):
        return _from_torch(value)
    import numpy as np

    if not isinstance(value, np.ndarray | np.generic) and not hasattr(value, "__array__"):
        raise TypeError("it is no array")
    return Tensor.from_array(np.asarray(value))


def _from_torch(value: Any) -> Tensor:
    import torch

    name = next(
        (own for own, theirs in _TORCH.items() if getattr(torch, theirs, None) is value.dtype), None
    )
    if name is None or value.layout is not torch.strided:
        raise TypeError(
            f"{value.dtype} in layout {value.layout} is not stored; make it a dense tensor of a"
            " plain type"
        )
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b""
    return Tensor(name, tuple(plain.shape), data)
