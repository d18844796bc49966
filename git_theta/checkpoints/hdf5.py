"""HDF5, as h5py and Keras write it (``.h5``, ``.weights.h5``): datasets that lie in the file as
they are.

An own reader of what leads to them, after the HDF5 File Format Specification 3.0: superblocks 0 to
3, object headers 1 and 2, groups as symbol tables, as short or long lists of links, contiguous and
compact datasets, unfiltered chunks listed in a version 1 B-tree, alone, or in a row. Everything
else (filtered chunks, other chunk indexes) stays in the skeleton. Links to other files and values
stored in other files are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from git_theta.checkpoints.assemble import NAME_LIMIT, NAMES_LIMIT, assemble, bounded, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Contents, Spec, Tensor
from git_theta.errors import FormatError

MAGIC = b"\x89HDF\r\n\x1a\n"
LINKS_LIMIT = 1_000_000
STEPS_LIMIT = 4_000_000  # messages, entries of B-trees, rows of tables
MESSAGES_LIMIT = 65_536  # of one object
LINK_LIMIT = 1 << 17  # bytes of a link in a heap
RANK_LIMIT = 32

_DATASPACE, _LINKS, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS, _CONTINUED, _TABLE = (
    1,
    2,
    3,
    6,
    7,
    8,
    11,
    16,
    17,
)
_USED = frozenset((_DATASPACE, _LINKS, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS, _TABLE))
_COMPACT, _CONTIGUOUS, _CHUNKED = range(3)
_SINGLE, _IMPLICIT = 1, 2
_SHARED = 2
_INTEGERS = {
    (1, 0): "u8",
    (1, 8): "i8",
    (2, 0): "u16",
    (2, 8): "i16",
    (4, 0): "u32",
    (4, 8): "i32",
    (8, 0): "u64",
    (8, 8): "i64",
}
# Bytes, bits of exponent and mantissa
_FLOATS = {(2, 5, 10): "f16", (2, 8, 7): "bf16", (4, 8, 23): "f32", (8, 11, 52): "f64"}


@dataclass(frozen=True, slots=True)
class _Message:
    """One message of an object's header: ``data``, which lies at ``offset``."""

    kind: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Type:
    """An element's own type (``""``: there is none) and size in bytes."""

    dtype: str
    size: int


@dataclass(slots=True)
class _Object:
    """What a header says: a group's links or table, or a dataset's extents; and the names it was
    met under.

    ``spec`` is a dataset's own type (``""``: there is none here) and shape.
    """

    names: list[str] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    spec: Spec | None = None


class Hdf5Format:
    """Checkpoints in HDF5."""

    name = "hdf5"
    suffixes: tuple[str, ...] = (".h5", ".hdf5")

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with HDF5's mark (not behind a block of the user's own)."""
        return head.startswith(MAGIC)

    def scan(self, source: Source) -> Layout:
        """One extent per dataset that lies in one piece, or per unfiltered chunk;
        :class:`FormatError` for a broken file.

        A dataset with several names (hard links) is one tensor.
        """
        found = _File(source).objects()
        return assemble(
            self.name, source.size, [extent for each in found for extent in _named(each)]
        )

    def contents(self, source: Source) -> Contents:
        """The datasets that lie in one piece and have a type here; the names of all others."""
        tensors: dict[str, Tensor] = {}
        others: list[str] = []
        for each in _File(source).objects():
            spec, lying = each.spec, each.extents
            if spec is None:
                continue
            names = [name or "dataset" for name in each.names]
            if (
                len(lying) == 1
                and lying[0].name == names[0]
                and (lying[0].dtype, lying[0].shape) == tuple(spec)
            ):
                data = source.read(lying[0].offset, lying[0].length)
                tensors.update(dict.fromkeys(names, Tensor(spec.dtype, spec.shape, data)))
            elif spec.dtype and not prod(spec.shape):
                tensors.update(dict.fromkeys(names, Tensor(spec.dtype, spec.shape, b"")))
            else:
                others += [
                    f"{name}"
                    f" ({'in chunks, or elsewhere' if spec.dtype else 'no numbers, or big-endian'})"
                    for name in names
                ]
        return Contents(tensors, tuple(others))


def _named(each: _Object) -> list[Extent]:
    if len(each.extents) != 1 or len(each.names) == 1:
        return each.extents
    (extent,) = each.extents
    aliases = tuple(dict.fromkeys(name for name in each.names[1:] if name != extent.name))
    return [Extent(extent.name, extent.dtype, extent.shape, extent.offset, extent.length, aliases)]


class _File:
    """A file's structure.

    Addresses count from ``base``; ``wide`` and ``long`` are the bytes of an address and of a
    length.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        cursor = Cursor(source, "HDF5 file")
        if cursor.take(8) != MAGIC:
            raise cursor.broken("it does not start with HDF5's mark")
        version = cursor.uint(1)
        if version > 3:
            raise FormatError(
                f"the HDF5 file has a superblock of version {version}; versions 0 to 3 are known"
            )
        cursor.skip(4 if version < 2 else 0)
        self.wide, self.long = cursor.uint(1), cursor.uint(1)
        if self.wide not in (2, 4, 8) or self.long not in (2, 4, 8):
            raise cursor.broken(f"its addresses have {self.wide} bytes, its lengths {self.long}")
        cursor.skip({0: 9, 1: 13}.get(version, 1))
        self.undefined = (1 << 8 * self.wide) - 1
        self.base = cursor.uint(self.wide)
        cursor.skip(self.wide)
        end = cursor.uint(self.wide)
        if self.base or end > source.size:
            raise cursor.broken(
                f"it should have {end} bytes from byte {self.base} on, but has {source.size}; it"
                " may be truncated"
            )
        if version < 2:
            cursor.skip(2 * self.wide)
        self.root = cursor.uint(self.wide)
        self._steps = self._seen = 0

    def spend(self, steps: int, size: int) -> None:
        """Count what is looked at, and its bytes: in a sound file no byte is a part of two
        structures.
        """
        self._steps += steps
        self._seen += size
        if self._steps > STEPS_LIMIT or self._seen > self.source.size:
            raise FormatError(
                "the HDF5 file is broken: its structures lie in each other, or have more than"
                f" {STEPS_LIMIT} parts"
            )

    def at(self, address: int, length: int | None = None) -> Cursor:
        """A cursor at ``address``, over ``length`` bytes (to the end of the file)."""
        if address > self.source.size or (
            length is not None and length > self.source.size - address
        ):
            raise FormatError(
                f"the HDF5 file is broken: byte {address} is spoken of, but it has only"
                f" {self.source.size}"
            )
        return Cursor(
            self.source, "HDF5 file", address, None if length is None else address + length
        )

    def block(self, address: int, length: int) -> Cursor:
        """As :meth:`at`, over a copy of ``length`` bytes; positions count from ``address``."""
        self.at(address, length)
        return Cursor(BytesSource(self.source.read(address, length)), "HDF5 file")

    def objects(self) -> list[_Object]:
        """All datasets, from the root down. Every header is read once."""
        known: dict[int, _Object] = {}
        todo, links, letters = [("", self.root)], 0, 0
        while todo:
            path, address = todo.pop()
            if address in known:
                known[address].names.append(path)
                continue
            each = known[address] = _Object([path])
            messages = self.messages(address)
            each.extents = self.extents(path or "dataset", messages)
            each.spec = self.spec(messages)
            letters += sum(len(extent.name) for extent in each.extents)
            children: list[tuple[str, int]] = []
            for name, child in self.links(messages):
                children.append(((f"{path}/{name}" if path else name)[:NAME_LIMIT], child))
                links, letters = links + 1, letters + len(children[-1][0])
                if links > LINKS_LIMIT or letters > NAMES_LIMIT:
                    raise FormatError(
                        f"the HDF5 file is broken: it has more than {LINKS_LIMIT} links, or very"
                        " long names"
                    )
            todo += reversed(children)
        return list(known.values())

    # -- object headers

    def messages(self, address: int) -> list[_Message]:
        """The messages of the object whose header is at ``address`` that matter here."""
        cursor = self.at(address)
        found: list[_Message] = []
        if cursor.take(4) != b"OHDR":
            cursor = self.at(address)
            if cursor.uint(1) != 1:
                raise cursor.broken(f"there is no object's header at byte {address}")
            cursor.skip(7)
            length = cursor.uint(4)
            cursor.skip(4)
            blocks, order, modern = [(cursor.position, length)], 0, False
        else:
            if cursor.uint(1) != 2:
                raise cursor.broken(f"the object's header at byte {address} has an unknown version")
            flags = cursor.uint(1)
            cursor.skip((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
            length = cursor.uint(1 << (flags & 3))
            blocks, order, modern = [(cursor.position, length)], 2 if flags & 4 else 0, True
        seen, count = {blocks[0][0]}, 0
        for start, length in blocks:  # it grows on the way
            cursor = self.at(start, length)
            while cursor.end - cursor.position >= (4 + order if modern else 8):
                kind, size, flags = cursor.uint(1 if modern else 2), cursor.uint(2), cursor.uint(1)
                cursor.skip(order if modern else 3)
                offset, data = cursor.position, cursor.take(size)
                count += 1
                self.spend(1, 4 + size)
                if kind == _CONTINUED:
                    further = Cursor(BytesSource(data), "HDF5 file")
                    where, long = further.uint(self.wide), further.uint(self.long)
                    if modern:  # a signature in front, a checksum behind
                        where, long = where + 4, max(0, long - 8)
                    if where not in seen:
                        seen.add(where)
                        blocks.append((where, long))
                elif kind in _USED and not flags & _SHARED:
                    found.append(_Message(kind, offset, data))
                if count > MESSAGES_LIMIT:
                    raise cursor.broken(
                        f"the object at byte {address} has more than {MESSAGES_LIMIT} messages"
                    )
        return found

    # -- groups

    def links(self, messages: list[_Message]) -> Iterator[tuple[str, int]]:
        """A group's hard links: names and addresses.

        Soft and external ones lead elsewhere and are left alone.
        """
        for message in messages:
            cursor = Cursor(BytesSource(message.data), "HDF5 file")
            if message.kind == _TABLE:
                yield from self._table(cursor.uint(self.wide), cursor.uint(self.wide))
            elif message.kind == _LINK:
                yield from self._link(cursor)
            elif message.kind == _LINKS:
                cursor.skip(1)
                cursor.skip(8 if cursor.uint(1) & 1 else 0)
                heap, tree = cursor.uint(self.wide), cursor.uint(self.wide)
                if self.undefined not in (heap, tree):
                    found = _Heap(self, heap)
                    for record in self._records(tree):
                        yield from self._link(found.object(record[4:]))

    def _link(self, cursor: Cursor) -> Iterator[tuple[str, int]]:
        version, flags = cursor.uint(1), cursor.uint(1)
        kind = cursor.uint(1) if flags & 8 else 0
        cursor.skip((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
        name = cursor.take(cursor.uint(1 << (flags & 3))).decode("utf-8", "replace")
        if version == 1 and kind == 0:
            yield name, cursor.uint(self.wide)

    def _records(self, tree: int) -> Iterator[bytes]:
        """The records of a version 2 B-tree of links by name (type 5): four bytes of a hash, then a
        place in the heap.
        """
        cursor = self.at(tree)
        if cursor.take(4) != b"BTHD" or cursor.uint(1) or cursor.uint(1) != 5:
            raise cursor.broken(f"there is no B-tree of names at byte {tree}")
        node, record, depth = cursor.uint(4), cursor.uint(2), cursor.uint(2)
        cursor.skip(2)
        root, count = cursor.uint(self.wide), cursor.uint(2)
        if record < 5 or node < 16 + record or depth > 16:
            raise cursor.broken(f"the B-tree at byte {tree} says impossible things of itself")
        most = [(node - 10) // record]  # records that a node may have, from the leaves up
        total, pointers = [most[0]], [0]
        for level in range(1, depth + 1):
            pointers.append(self.wide + _width(most[-1]) + (_width(total[-1]) if level > 1 else 0))
            most.append(max(0, node - 10 - pointers[-1]) // (record + pointers[-1]))
            total.append((most[-1] + 1) * total[-1] + most[-1])
        todo = [] if root == self.undefined else [(root, count, depth)]
        seen = set[int]()
        while todo:
            address, count, level = todo.pop()
            self.spend(count, 6 + count * record)
            if address in seen:
                raise FormatError("the HDF5 file is broken: a B-tree is circular")
            seen.add(address)
            cursor = self.at(address)
            if cursor.take(4) != (b"BTIN" if level else b"BTLF") or count > most[level]:
                raise cursor.broken(f"there is no B-tree's node at byte {address}")
            cursor.skip(2)
            for _ in range(count):
                yield cursor.take(record)
            for _ in range(count + 1 if level else 0):
                child, inner = cursor.uint(self.wide), cursor.uint(_width(most[level - 1]))
                cursor.skip(pointers[level] - self.wide - _width(most[level - 1]))
                todo.append((child, inner, level - 1))

    def _table(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        if self.undefined in (tree, heap):
            return
        cursor = self.at(heap)
        if cursor.take(4) != b"HEAP":
            raise cursor.broken(f"there is no heap of names at byte {heap}")
        cursor.skip(4)
        size = cursor.uint(self.long)
        cursor.skip(self.long)
        start = cursor.uint(self.wide)
        self.at(start, size)
        for leaf in self._leaves(tree, 0, self.long):
            cursor = self.at(leaf[1])
            if cursor.take(4) != b"SNOD":
                raise cursor.broken(f"there is no table of names at byte {leaf[1]}")
            cursor.skip(2)
            count = cursor.uint(2)
            self.spend(count, 8 + count * (24 + 2 * self.wide))
            for _ in range(count):
                name, address, kind = cursor.uint(self.wide), cursor.uint(self.wide), cursor.uint(4)
                cursor.skip(20)
                if kind != 2 and address != self.undefined:
                    if name >= size:
                        raise cursor.broken(f"a name lies outside of the heap at byte {heap}")
                    text = self.source.read(start + name, min(size - name, NAME_LIMIT + 1))
                    yield text.partition(b"\0")[0].decode("utf-8", "replace"), address

    def _leaves(self, root: int, kind: int, key: int) -> Iterator[tuple[bytes, int]]:
        """The keys (of ``key`` bytes) and addresses at the bottom of a version 1 B-tree."""
        todo, seen = [(root, -1)], set[int]()
        while todo:
            address, expected = todo.pop()
            if address in seen:
                raise FormatError("the HDF5 file is broken: a B-tree is circular")
            seen.add(address)
            cursor = self.at(address)
            if cursor.take(4) != b"TREE" or cursor.uint(1) != kind:
                raise cursor.broken(f"there is no B-tree's node at byte {address}")
            level, count = cursor.uint(1), cursor.uint(2)
            if expected not in (-1, level):
                raise cursor.broken(f"the B-tree's node at byte {address} is of the wrong level")
            cursor.skip(2 * self.wide)
            self.spend(count, 8 + count * (key + self.wide))
            entries = [(cursor.take(key), cursor.uint(self.wide)) for _ in range(count)]
            if level:
                todo += [(child, level - 1) for _, child in reversed(entries)]
            else:
                yield from entries

    # -- datasets

    def extents(self, name: str, messages: list[_Message]) -> list[Extent]:
        """Where a dataset's bytes lie; nothing for what is no dataset, or one whose bytes are not
        here as they are.
        """
        last = {message.kind: message for message in messages}
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= last.keys() or _EXTERNAL in last:
            return []
        shape, kind, layout = (
            self._shape(last[_DATASPACE].data),
            _type(last[_DATATYPE].data),
            last[_LAYOUT],
        )
        if shape is None or kind.size == 0:
            return []
        cursor = Cursor(BytesSource(layout.data), "HDF5 file")
        version = cursor.uint(1)
        if version in (1, 2):
            rank, how = cursor.uint(1), cursor.uint(1)
            cursor.skip(5)
            address = self.undefined if how == _COMPACT else cursor.uint(self.wide)
            dims = [cursor.uint(4) for _ in range(rank)]
            if how == _CONTIGUOUS:
                return self._one(name, kind, shape, address, prod(shape) * kind.size)
            if how == _CHUNKED and _FILTERS not in last:
                return list(bounded(self._chunks(name, kind, shape, address, dims[:-1])))
            return []
        if version not in (3, 4):
            return []
        how = cursor.uint(1)
        if how == _COMPACT:
            length = cursor.uint(2)
            return self._one(name, kind, shape, layout.offset + cursor.skip(length), length)
        if how == _CONTIGUOUS:
            address = cursor.uint(self.wide)
            return self._one(name, kind, shape, address, cursor.uint(self.long))
        if how != _CHUNKED or _FILTERS in last:
            return []
        if version == 3:
            rank, address = cursor.uint(1), cursor.uint(self.wide)
            return list(
                bounded(
                    self._chunks(
                        name, kind, shape, address, [cursor.uint(4) for _ in range(rank)][:-1]
                    )
                )
            )
        flags, rank, width = cursor.uint(1), cursor.uint(1), cursor.uint(1)
        dims = [cursor.uint(width) for _ in range(rank)][:-1]
        index = cursor.uint(1)
        if (
            index not in (_SINGLE, _IMPLICIT)
            or flags & 2
            or len(dims) != len(shape)
            or not all(dims)
        ):
            return []
        length = prod(dims) * kind.size
        if index == _IMPLICIT:
            length *= prod(-(-size // chunk) for size, chunk in zip(shape, dims, strict=True))
            return self._one(
                name, _Type("", kind.size), (length // kind.size,), cursor.uint(self.wide), length
            )
        return self._one(name, kind, tuple(dims), cursor.uint(self.wide), length)

    def spec(self, messages: list[_Message]) -> Spec | None:
        """A dataset's type and shape; None for what is no dataset, or one without a value."""
        last = {message.kind: message for message in messages}
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= last.keys():
            return None
        shape = self._shape(last[_DATASPACE].data)
        return None if shape is None else Spec(_type(last[_DATATYPE].data).dtype, shape)

    def _shape(self, data: bytes) -> tuple[int, ...] | None:
        cursor = Cursor(BytesSource(data), "HDF5 file")
        version, rank, _ = cursor.uint(1), cursor.uint(1), cursor.skip(1)
        if version not in (1, 2) or rank > RANK_LIMIT:
            return None
        if version == 2 and cursor.uint(1) == 2:
            return None  # a dataset without a value
        if version == 1:
            cursor.skip(5)
        shape, total = tuple(cursor.uint(self.long) for _ in range(rank)), 1
        for size in shape:
            total *= size
            if max(total, size) > dtypes.MAX_BYTES:
                raise cursor.broken("a dataset's shape overflows")
        return shape

    def _one(
        self, name: str, kind: _Type, shape: tuple[int, ...], address: int, length: int
    ) -> list[Extent]:
        if address == self.undefined or not length:
            return []
        self.at(address, length)
        if kind.dtype:
            return [shaped(name, kind.dtype, shape, address, length)]
        return [
            shaped(name, "u8", (*shape, kind.size) if kind.size > 1 else shape, address, length)
        ]

    def _chunks(
        self, name: str, kind: _Type, shape: tuple[int, ...], tree: int, dims: list[int]
    ) -> Iterator[Extent]:
        """One extent per chunk, called after its place: ``name/c/0/1``."""
        if tree == self.undefined or len(dims) != len(shape) or not all(dims):
            return
        for key, address in self._leaves(tree, 1, 8 + 8 * (len(dims) + 1)):
            length = int.from_bytes(key[:4], "little")
            place = (
                int.from_bytes(key[8 + 8 * n : 16 + 8 * n], "little") // size
                for n, size in enumerate(dims)
            )
            yield from self._one(
                "/".join((name, "c", *map(str, place))), kind, tuple(dims), address, length
            )


class _Heap:
    """A fractal heap, in which long lists of links lie: blocks in rows of ``width``, whose sizes
    double from row to row.
    """

    def __init__(self, file: _File, address: int) -> None:
        self.file = file
        cursor = file.at(address)
        if cursor.take(4) != b"FRHP" or cursor.uint(1):
            raise cursor.broken(f"there is no heap of links at byte {address}")
        cursor.skip(2)
        self.filtered = cursor.uint(2)
        cursor.skip(1)
        largest = cursor.uint(4)
        cursor.skip(10 * file.long + 2 * file.wide)
        self.width, self.start, self.most, bits = (
            cursor.uint(2),
            cursor.uint(file.long),
            cursor.uint(file.long),
            cursor.uint(2),
        )
        cursor.skip(2)
        self.root, self.rows = cursor.uint(file.wide), cursor.uint(2)
        sound = (
            self.width
            and self.start
            and self.most >= self.start
            and not (self.start & self.start - 1 or self.most & self.most - 1)
        )
        if not sound or bits > 64:
            raise cursor.broken(f"the heap at byte {address} says impossible things of itself")
        self.offset_bytes = (bits + 7) // 8
        self.length_bytes = min(_width(self.most), _width(largest))

    def object(self, place: bytes) -> Cursor:
        """What lies at ``place``: flags, then where in the heap and how long; only objects within
        blocks are read.
        """
        cursor = Cursor(BytesSource(place), "HDF5 file")
        flags, offset, length = (
            cursor.uint(1),
            cursor.uint(self.offset_bytes),
            cursor.uint(self.length_bytes),
        )
        if flags & 0xF0 or self.filtered:
            raise cursor.broken("a link is kept in a way that is not known here")
        if length > LINK_LIMIT:
            raise cursor.broken(f"a link of {length} bytes is announced")
        return self.file.block(self._find(offset, length), length)

    def _find(self, offset: int, length: int) -> int:
        """The address of ``length`` bytes at ``offset`` in the heap, found from row to row, from
        block to block.
        """
        address, rows, direct = self.root, self.rows, self.rows == 0
        size = self.start
        for _ in range(64):
            if address == self.file.undefined:
                break
            if direct:
                if offset + length > size:
                    break
                return address + offset
            row, begin = 0, 0
            while row < rows and offset >= begin + self._size(row) * self.width:
                begin += self._size(row) * self.width
                row += 1
            if row == rows:
                break
            size = self._size(row)
            column, offset = divmod(offset - begin, size)
            cursor = self.file.at(address)
            if cursor.take(4) != b"FHIB":
                break
            cursor.skip(
                1
                + self.file.wide
                + self.offset_bytes
                + self.file.wide * (row * self.width + column)
            )
            address, direct = cursor.uint(self.file.wide), size <= self.most
            rows = max(1, (size // (self.start * self.width)).bit_length())
        raise FormatError("the HDF5 file is broken: a link lies outside of its heap")

    def _size(self, row: int) -> int:
        return self.start << max(0, row - 1)


def _width(most: int) -> int:
    """Bytes that hold numbers up to ``most``."""
    return max(1, (most.bit_length() + 7) // 8)


def _type(data: bytes) -> _Type:
    cursor = Cursor(BytesSource(data), "HDF5 file")
    kind, bits = cursor.uint(1) & 15, cursor.take(3)
    size = cursor.uint(4)
    if kind == 0 and (not bits[0] & 1 or size == 1):
        return _Type(_INTEGERS.get((size, bits[0] & 8), ""), size)
    if kind == 1 and not bits[0] & 0x41 and len(data) >= 16:
        return _Type(_FLOATS.get((size, data[13], data[15]), ""), size)
    if kind == 8 and size == 1 and b"FALSE\0" in data and b"TRUE\0" in data:
        return _Type("bool", 1)
    return _Type("", size)
