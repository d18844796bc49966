"""The header that every stored payload starts with, so that it can be understood and checked alone.

``GTO1`` | update name | element type | shape | part number | digest of the value | length, then the
payload. Strings are one length byte and ASCII; the shape is one byte for the number of dimensions
and a varint for each; part number and length are varints, the digest has 32 bytes. A payload of
more than :data:`PART_SIZE` bytes goes on in further objects that differ in the part number only.
Payloads of small tensors lie one behind the other in an object; only these state their length.
Specified in ``docs/object-format.md``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from git_theta.core import dtypes, varint
from git_theta.core.tensors import Spec
from git_theta.errors import FormatError, PayloadError

MAGIC = b"GTO1"
PART_SIZE = 1 << 30
BUNDLED = 1 << 20
"""Bytes below which a tensor's payload states its length, as it may share an object."""
_WORD = re.compile(rb"[a-z][a-z0-9_-]*\Z")
_DIGEST = 32


class Header(NamedTuple):
    """What a payload says of itself: its update, the type, shape and digest of the value that it
    gives, its part number, and its length in bytes (0: to the end of the object).
    """

    update: str
    spec: Spec
    digest: str
    part: int = 0
    length: int = 0


def dump(header: Header) -> bytes:
    """The bytes of ``header``."""
    update, spec, digest, part, length = header
    return b"".join((_start(update, spec, part), bytes.fromhex(digest), varint.dump(length)))


@lru_cache(maxsize=1024)
def _start(update: str, spec: Spec, part: int) -> bytes:
    """What comes before the digest: the same for many tensors."""
    dtype, shape = spec
    words = (len(update), update.encode("ascii"), len(dtype), dtype.encode("ascii"), len(shape))
    return b"".join((MAGIC, b"%c%s%c%s%c" % words, *map(varint.dump, (*shape, part))))


def parse(data: memoryview) -> tuple[Header, int]:
    """The header at the start of ``data`` and its length; :class:`PayloadError` without one, or
    where the payload is not as long as it says.
    """
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
        digest = bytes(data[position : position + _DIGEST])
        length, position = varint.parse(data, position + _DIGEST)
        spec = Spec(words[1], tuple(shape))
        small = dtypes.nbytes(words[1], shape) < BUNDLED
    except (IndexError, FormatError) as error:
        raise PayloadError(f"an object's header is damaged ({error})") from None
    if length != (len(data) - position if small else 0):
        raise PayloadError("a payload is not as long as its header says")
    return Header(words[0], spec, digest.hex(), part, length), position
