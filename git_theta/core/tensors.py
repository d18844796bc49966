"""A tensor in memory, as bytes with a type and a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from git_theta.core import dtypes
from git_theta.errors import FormatError

if TYPE_CHECKING:
    import numpy as np

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes in memory."""


class Spec(NamedTuple):
    """What a tensor is, without its bytes."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return _nbytes(self)

    def __str__(self) -> str:
        return dtypes.describe(self.dtype, self.shape)


@lru_cache(maxsize=1024)
def _nbytes(spec: Spec) -> int:
    """A model has few different shapes, and many tensors."""
    return dtypes.nbytes(*spec)


@dataclass(frozen=True, slots=True)
class Tensor:
    """``data`` (little-endian, C order, as in the file) of type ``dtype`` and ``shape``."""

    dtype: str
    shape: tuple[int, ...]
    data: Buffer

    def __post_init__(self) -> None:
        size = memoryview(self.data).nbytes
        if size != self.spec.nbytes:
            raise FormatError(f"{self.spec} needs {self.spec.nbytes} bytes, not {size}")

    @property
    def spec(self) -> Spec:
        """Type and shape."""
        return Spec(self.dtype, self.shape)

    def bits(self) -> np.ndarray:
        """The bytes as a flat array of unsigned integers of the element's width (complex: of each
        half; packed: bytes).
        """
        import numpy as np

        return np.frombuffer(self.data, dtype=np.dtype(f"<u{dtypes.get(self.dtype).width}"))

    def array(self) -> np.ndarray:
        """The values as an array of ``shape`` (a view); :class:`FormatError` for packed types."""
        import numpy as np

        return np.frombuffer(self.data, dtype=dtypes.numpy_dtype(self.dtype)).reshape(self.shape)

    @classmethod
    def from_array(cls, array: np.ndarray) -> Tensor:
        """The tensor that holds ``array``'s values in C order, little-endian; :class:`FormatError`
        for other types.
        """
        import numpy as np

        name = dtypes.from_numpy(array.dtype)
        plain = np.ascontiguousarray(array, dtype=dtypes.numpy_dtype(name))
        return cls(name, tuple(int(n) for n in array.shape), plain.reshape(-1).view(np.uint8).data)


class Contents(NamedTuple):
    """What a file holds, as its framework sees it: ``tensors`` by name, and ``others``,
    descriptions of its other content for a person.

    Names that are tied have one and the same :class:`Tensor`. ``framework`` is the framework's
    short name (``pt`` for torch), if only that one writes such files.
    """

    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    framework: str = ""


class Encoded(NamedTuple):
    """A payload as chunks (to be written one behind the other) and a ``note`` for the manifest's
    reader.

    The note matches ``[A-Za-z0-9=.,%_-]*``, for example ``changed=1204`` or ``rank=16``.
    """

    chunks: Sequence[Buffer]
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(memoryview(chunk).nbytes for chunk in self.chunks)
