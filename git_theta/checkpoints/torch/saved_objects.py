"""State dicts as ``torch.save`` writes them, straight from the memory of their tensors."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from git_theta.core.tensors import Buffer

if TYPE_CHECKING:
    import numpy as np


def is_torch(value: object) -> bool:
    """Whether ``value`` is a tensor of torch; if torch was never imported, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def are_in(state_dict: Mapping[str, object]) -> bool:
    """Whether ``state_dict`` holds tensors of torch, or mappings such as an optimizer's."""
    return any(is_torch(value) or isinstance(value, Mapping) for value in state_dict.values())


def pieces(state_dict: Mapping[str, object]) -> list[Buffer]:
    """What ``torch.save`` writes, in the pieces in which it comes."""
    import torch

    file = _Pieces(state_dict)
    torch.save(state_dict, file)  # type: ignore[arg-type]  # torch asks only for write()
    return file.written


class _Pieces:
    """A file in memory, piece by piece.

    What torch writes from the memory of a tensor in ``state_dict`` is kept as a view of it.
    """

    def __init__(self, state_dict: object) -> None:
        self.written: list[Buffer] = []
        found = {view.ctypes.data: view for view in _storages(state_dict)}
        self._starts = sorted(found)
        self._views = [found[start] for start in self._starts]

    def write(self, data: Buffer) -> int:
        """Keep ``data``, which is torch's own and soon something else."""
        import numpy as np

        size = len(data)
        start = np.frombuffer(data, np.uint8).ctypes.data if size else 0
        number = bisect.bisect_right(self._starts, start) - 1
        offset = start - self._starts[number] if number >= 0 else -1
        inside = offset >= 0 and offset + size <= len(self._views[number])
        self.written.append(
            self._views[number][offset : offset + size].data if inside else bytes(data)
        )
        return size

    def flush(self) -> None:
        """Nothing is waiting."""


def _storages(value: object) -> Iterator[np.ndarray]:
    """The memory of every tensor in a nested state dict, as bytes."""
    import torch

    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            if (
                value.layout is torch.strided
                and value.device.type == "cpu"
                and value.untyped_storage().nbytes()
            ):
                yield torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()
        elif isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value
