"""The tensors of a torch file as arrays of their own shape: also transposed ones and slices, whose
storages layouts hold as they lie.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from git_theta.core import dtypes
from git_theta.errors import FormatError

if TYPE_CHECKING:
    import numpy as np

    from git_theta.checkpoints.torch.pickle_tree import View

# Elements that a tensor may have beyond those of its storage (it repeats some, then)
_EXPANDED = 1 << 20
_DIMENSIONS = 32  # numpy's limit before 2.0


def array(view: View, data: bytes | memoryview) -> np.ndarray:
    """A tensor over its storage's bytes; :class:`FormatError` if it reaches beyond them."""
    import numpy as np

    dtype = dtypes.numpy_dtype(view.storage.dtype)
    last = view.offset + sum(
        (size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)
    )
    if (
        len(data) != view.storage.numel * dtype.itemsize
        or view.numel > view.storage.numel + _EXPANDED
    ):
        raise FormatError(f"tensor {view.name!a} does not fit its storage")
    if len(view.shape) > _DIMENSIONS or (
        not view.numel and math.prod(filter(None, view.shape)) > _EXPANDED
    ):
        raise FormatError(f"tensor {view.name!a} has an impossible shape")
    if not view.numel:
        return np.empty(view.shape, dtype)
    if last >= view.storage.numel:
        raise FormatError(f"tensor {view.name!a} reaches beyond its storage")
    strides = tuple(
        stride * dtype.itemsize if size > 1 else 0
        for size, stride in zip(view.shape, view.strides, strict=True)
    )
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(data, dtype)[view.offset :], view.shape, strides, writeable=False
    )
