"""The header that every stored object starts with, so that it can be understood and checked alone.

``GTO1`` | update name | element type | shape | part number, then the payload. Strings are one
length byte and ASCII; the shape is one byte for the number of dimensions and a varint for each; the
part number is a varint. A payload of more than :data:`PART_SIZE` bytes goes on in further objects
that differ in the part number only. Specified in ``docs/object-format.md``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from git_theta.core import dtypes, varint
from git_theta.core.tensors import Spec
from git_theta.errors import FormatError, PayloadError

MAGIC = b"GTO1"
PART_SIZE = 1 << 30
_WORD = re.compile(rb"[a-z][a-z0-9_-]*\Z")


class Header(NamedTuple):
    """What an object says of itself."""

    update: str
    spec: Spec
    part: int = 0


def dump(header: Header) -> bytes:
    """The bytes of ``header``."""
    fields = [MAGIC]
    for word in (header.update, header.spec.dtype):
        fields += [bytes([len(word)]), word.encode("ascii")]
    fields.append(bytes([len(header.spec.shape)]))
    fields += map(varint.dump, header.spec.shape)
    fields.append(varint.dump(header.part))
    return b"".join(fields)


def parse(data: memoryview) -> tuple[Header, int]:
    """The header at the start of ``data`` and its length; :class:`PayloadError` without one."""
    try:
        if bytes(data[:4]) != MAGIC:
            raise PayloadError("this is not a Git-Theta object")
        position, words = 4, []
        for _ in range(2):
            end = position + 1 + data[position]
            word = bytes(data[position + 1 : end])
            if not _WORD.match(word):
                raise PayloadError("an object's header names no update or element type")
            words.append(word.decode("ascii"))
            position = end
        dimensions, position, shape = data[position], position + 1, []
        for _ in range(dimensions):
            size, position = varint.parse(data, position)
            shape.append(size)
        part, position = varint.parse(data, position)
        spec = Spec(words[1], tuple(shape))
        dtypes.nbytes(words[1], shape)
    except (IndexError, FormatError) as error:
        raise PayloadError(f"an object's header is damaged ({error})") from None
    return Header(words[0], spec, part), position
