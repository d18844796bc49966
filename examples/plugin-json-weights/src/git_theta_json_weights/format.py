"""The checkpoint format: a line of JSON that names the tensors, then their values, little-endian,
one behind the other.

::

    {"format": "json-weights", "info": {…}, "tensors": [{"name": "bias", "dtype": "f32", "shape":
    [3]}, …]} <12 bytes><…>

``info`` is whatever the writer likes. To Git-Theta each tensor is an extent: where its bytes lie,
with type and shape. All the rest of the file, the line here, is the skeleton, which is kept as it
is: so a file comes back to the last bit however its JSON was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from git_theta.plugin import Extent, FormatError, Layout, Source, Tensor, dtypes

START = b'{"format": "json-weights"'
LIMIT = 16 << 20  # bytes of the line; nothing larger is read, whatever a file claims


class JsonWeights:
    """Files with the suffix ``.jw``."""

    name = "json-weights"
    suffixes: tuple[str, ...] = (".jw",)
    inside = ".jw"  # also the files of archives

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts as every file of this format does."""
        return head.startswith(START)

    def scan(self, source: Source) -> Layout:
        """One extent for each tensor; :class:`FormatError` for anything that is not exactly as
        described above.
        """
        line, rows = _header(source)
        extents, position = [], len(line)
        for number, row in enumerate(rows):
            name, dtype, shape = _described(row, number)
            # Checks them, and that the product does not overflow
            length = dtypes.nbytes(dtype, shape)
            extents.append(Extent(name, dtype, shape, position, length))
            position += length
        if position != source.size:
            raise FormatError(
                f"the json-weights file should have {position} bytes, but has {source.size}"
            )
        # Which checks names, bounds and sizes once more
        return Layout(self.name, source.size, tuple(extents))

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> bytes:
        """A file with ``tensors`` and the ``info`` of ``like``: for merges that change names or
        shapes, and ``git_theta.save``.
        """
        content: dict[str, Any] = {"format": "json-weights"}
        if like is not None:
            content |= {
                key: value
                for key, value in _json(_line(like)).items()
                if key not in ("format", "tensors")
            }
        content["tensors"] = [
            {"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        ]
        return b"".join(
            [
                json.dumps(content).encode("ascii"),
                b"\n",
                *(tensor.data for tensor in tensors.values()),
            ]
        )


def _line(source: Source) -> bytes:
    head = source.read(0, min(LIMIT, source.size))
    line, newline, _ = head.partition(b"\n")
    if not head.startswith(START) or not newline:
        raise FormatError("the json-weights file does not begin with a line that names its tensors")
    return line + newline


def _json(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise FormatError("the first line of the json-weights file is no JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("tensors"), list):
        raise FormatError("the first line of the json-weights file does not list its tensors")
    return content


def _header(source: Source) -> tuple[bytes, list[object]]:
    line = _line(source)
    return line, _json(line)["tensors"]


def _described(row: object, number: int) -> tuple[str, str, tuple[int, ...]]:
    """A tensor's name, type and shape.

    The values of a file are nobody's friends: every one is checked before it is used.
    """
    if isinstance(row, dict):
        name, dtype, shape = row.get("name"), row.get("dtype"), row.get("shape")
        if (
            isinstance(name, str)
            and name.isprintable()
            and isinstance(dtype, str)
            and isinstance(shape, list)
            and len(shape) <= 64
        ):
            return name, dtype, tuple(shape)
    raise FormatError(
        f"tensor {number} of the json-weights file is not described by name, dtype and shape"
    )
