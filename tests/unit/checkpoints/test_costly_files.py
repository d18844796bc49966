"""Small files made to take much time or memory: each is refused, or cut, in seconds and without
much more memory than it has bytes.
"""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutting import rebuilt

from git_theta.checkpoints.containers.stored_zip import StoredZipFormat
from git_theta.checkpoints.containers.tar_container import TarFormat
from git_theta.checkpoints.containers.zip_writer import write_archive
from git_theta.checkpoints.flax_msgpack import FlaxMsgpackFormat
from git_theta.checkpoints.hdf5 import Hdf5Format
from git_theta.checkpoints.onnx import OnnxFormat
from git_theta.checkpoints.opaque import OpaqueFormat
from git_theta.checkpoints.tf_checkpoint import MAGIC, TfCheckpointFormat
from git_theta.checkpoints.torch import distributed_slices, loaded
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Contents
from git_theta.errors import FormatError

WORK = 1000  # of what counting to a million takes
MEMORY = 192 << 20


@contextmanager
def traced() -> Iterator[None]:
    """Fails if more than :data:`MEMORY` is allocated inside; makes it some four times as slow."""
    tracemalloc.start()
    try:
        yield
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken < MEMORY, f"{taken >> 20} MiB"


@contextmanager
def limited() -> Iterator[None]:
    """Fails if more than :data:`MEMORY` is allocated inside: Linux refuses it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    except MemoryError:
        pytest.fail(f"more than {MEMORY >> 20} MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if what is done inside takes more work than :data:`WORK` or more memory than
    :data:`MEMORY`.
    """
    start = time.process_time()
    for _ in range(1_000_000):
        pass
    unit = time.process_time() - start
    start = time.process_time()
    with limited() if sys.platform == "linux" else traced():
        yield
    assert time.process_time() - start < WORK * unit


@pytest.mark.parametrize(
    "allocate",
    [
        lambda count: b"x" * count,
        bytearray,
        lambda count: np.empty(count, np.uint8),
        lambda count: [bytes(100) for _ in range(count // 100)],
    ],
    ids=["bytes", "zeros", "array", "small objects"],
)
def test_what_is_too_much_is_noticed(allocate: Callable[[int], object]) -> None:
    with bounded():
        allocate(MEMORY // 2)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=" MiB"), bounded():
        allocate(2 * MEMORY)


def scanned(fmt: Any, data: bytes) -> None:
    """``data`` is refused or cut exactly, within the bounds."""
    layout = None
    with bounded(), suppress(FormatError):
        layout = fmt.scan(BytesSource(data))
        assert layout.size == len(data)
    if layout is not None:
        assert rebuilt(layout, data) == data


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


# Names that a file says once and that many tensors share


def many_empty(count: int) -> bytes:
    """A safetensors file of ``count`` empty tensors."""
    entries = ",".join(
        f'"{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(count)
    )
    return struct.pack("<Q", len(entries) + 2) + b"{" + entries.encode() + b"}"


def test_zip_with_long_names_of_members() -> None:
    members = [(f"{number}{'x' * 5000}.safetensors", [many_empty(20_000)]) for number in range(4)]
    scanned(StoredZipFormat(), write_archive(members))


def test_tar_with_long_names_of_members() -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as file:
        for number in range(6):
            data = many_empty(20_000)
            info = tarfile.TarInfo(f"{number}/{'x' * 5000}.safetensors")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    scanned(TarFormat(), target.getvalue())


def flax(count: int) -> bytes:
    """Many small arrays below one long key."""
    key = b"k" * 60_000
    entries = b"".join(
        b"\xa4" + f"{number:04x}".encode() + b"\xd4\x01\x00" for number in range(count)
    )
    return (
        b"\x81\xda"
        + struct.pack(">H", len(key))
        + key
        + b"\xdf"
        + struct.pack(">I", count)
        + entries
    )


def test_flax_with_a_long_key_above_many() -> None:
    scanned(FlaxMsgpackFormat(), flax(120_000))


def test_flax_contents_with_a_long_key_above_many() -> None:
    with bounded(), suppress(FormatError):
        FlaxMsgpackFormat().contents(BytesSource(flax(20_000)))


def test_onnx_with_a_long_label_above_many() -> None:
    attribute = field(1, b"a" * 50_000) + field(10, field(9, b"x")) * 20_000
    node = field(2, b"n" * 60_000) + field(5, attribute)
    scanned(OnnxFormat(), b"\x08\x08" + field(7, field(1, node)))


def tf_block(entries: bytes) -> bytes:
    return entries + struct.pack("<II", 0, 1)


def tf_index(blocks: bytes, handles: list[tuple[int, int]]) -> bytes:
    """An index whose data blocks are those of ``handles``: offsets and lengths in ``blocks``."""
    body = bytearray(blocks)
    listing = b"".join(
        b"\0\x01" + varint(len(handle)) + b"k" + handle
        for handle in (varint(offset) + varint(length) for offset, length in handles)
    )
    at = len(body)
    body += tf_block(listing) + bytes(5)
    footer = varint(0) + varint(0) + varint(at) + varint(len(listing) + 8)
    return bytes(body) + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def beside(index: bytes) -> None:
    with bounded(), suppress(FormatError):
        TfCheckpointFormat().scan_beside(
            BytesSource(b"x"), "m.data-00000-of-00001", BytesSource(index)
        )


def test_tensorflow_with_a_long_prefix_of_many_keys() -> None:
    key = b"k" * 60_000
    entries = varint(0) + varint(len(key)) + varint(2) + key + b"\x28\1"
    entries += b"".join(
        varint(60_000) + b"\x04\x02" + f"{number:04x}".encode() + b"\x28\1"
        for number in range(0x20000 - 1)
    )
    block = tf_block(entries)
    beside(tf_index(block + bytes(5), [(0, len(block))]))


def test_tensorflow_with_blocks_in_each_other() -> None:
    # Blocks of no entries: their last four bytes say that all before is restart points
    length = 4 + (1 << 24)
    number = (length - 4) // 4
    region = struct.pack("<I", number) * ((length + 80_000) // 4)
    beside(tf_index(region, [(4 * step, length) for step in range(20_000)]))


# HDF5


class Hdf5:
    """A file put together by hand: a superblock, the root's header, and what it leads to."""

    def __init__(self) -> None:
        self.data = bytearray(96)

    def put(self, content: bytes) -> int:
        """The address of ``content``."""
        self.data += bytes(-len(self.data) % 8)
        at = len(self.data)
        self.data += content
        return at

    def header(self, messages: bytes) -> int:
        return self.put(b"\1\0" + struct.pack("<HIII", 1, 1, len(messages), 0) + messages)

    def file(self, root: int) -> bytes:
        start = b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08" + bytes(9)
        start += struct.pack("<6Q", 0, 0, len(self.data), 0, 0, root)
        self.data[: len(start)] = start
        return bytes(self.data)


def message(kind: int, content: bytes) -> bytes:
    return struct.pack("<HHBxxx", kind, len(content), 0) + content


def node(children: list[int], level: int = 0) -> bytes:
    head = b"TREE" + bytes([0, level]) + struct.pack("<HQQ", len(children), 0, 0)
    return head + b"".join(struct.pack("<QQ", 0, child) for child in children)


def test_hdf5_with_one_table_in_many_places() -> None:
    made = Hdf5()
    names = made.put(b"name\0".ljust(16, b"\0"))
    heap = made.put(b"HEAP" + bytes(4) + struct.pack("<QQQ", 16, 0, names))
    leaf = made.header(b"")
    table = made.put(
        b"SNOD\1\0" + struct.pack("<H", 4000) + struct.pack("<QQIIQQ", 0, leaf, 0, 0, 0, 0) * 4000
    )
    tree = made.put(node([table] * 4000))
    scanned(Hdf5Format(), made.file(made.header(message(17, struct.pack("<QQ", tree, heap)))))


def test_hdf5_with_nodes_in_each_other() -> None:
    """The keys of one B-tree's node, which nobody compares, are the heads of others."""
    made = Hdf5()
    names = made.put(b"\0" * 16)
    heap = made.put(b"HEAP" + bytes(4) + struct.pack("<QQQ", 16, 0, names))
    table = made.put(b"SNOD\1\0" + struct.pack("<H", 0))
    start = made.put(b"")
    heads = 400
    region = bytearray(struct.pack("<QQ", table, table) * 62_000)
    for number in range(heads):
        region[number * 32 : number * 32 + 24] = b"TREE\0\0" + struct.pack(
            "<HQQ", 60_000, table, table
        )
    made.put(bytes(region))
    tree = made.put(node([start + number * 32 for number in range(heads)], 1))
    scanned(Hdf5Format(), made.file(made.header(message(17, struct.pack("<QQ", tree, heap)))))


def test_hdf5_with_messages_in_each_other() -> None:
    made = Hdf5()
    start = made.put(struct.pack("<HHBxxx", 8, 65_000, 0) * 8000 + bytes(66_000))
    further = b"".join(
        message(16, struct.pack("<QQ", start + 8 * number, 65_535)) for number in range(8000)
    )
    scanned(Hdf5Format(), made.file(made.header(further)))


def test_hdf5_with_many_headers_in_each_other() -> None:
    """Many objects, whose headers are the same messages from another one on."""
    made = Hdf5()
    count = 1500
    start = made.put((b"\1\0" + struct.pack("<HIII", 1, 1, 60_000, 0)) * count + bytes(70_000))
    names = made.put(b"".join(f"{number:05x}\0\0\0".encode() for number in range(count)))
    heap = made.put(b"HEAP" + bytes(4) + struct.pack("<QQQ", 8 * count, 0, names))
    rows = b"".join(
        struct.pack("<QQIIQQ", 8 * number, start + 16 * number, 0, 0, 0, 0)
        for number in range(count)
    )
    table = made.put(b"SNOD\1\0" + struct.pack("<H", count) + rows)
    tree = made.put(node([table]))
    scanned(Hdf5Format(), made.file(made.header(message(17, struct.pack("<QQ", tree, heap)))))


def test_hdf5_with_long_links() -> None:
    made = Hdf5()
    block = made.put(bytes(8 << 20))
    head = (
        b"FRHP\0"
        + struct.pack("<HHBI", 7, 0, 0, 0xFFFFFFFF)
        + bytes(96)
        + struct.pack("<HQQHHQH", 1, 1 << 40, 1 << 40, 32, 0, block, 0)
    )
    heap = made.put(head)
    record = bytes(4) + b"\0" + struct.pack("<II", 0, 8 << 20)
    count = 60_000
    leaf = made.put(b"BTLF\0\5" + record * count)
    tree = made.put(
        b"BTHD\0\5" + struct.pack("<IHHBBQH", 1 << 30, len(record), 0, 0, 0, leaf, count)
    )
    scanned(
        Hdf5Format(), made.file(made.header(message(2, b"\0\0" + struct.pack("<QQ", heap, tree))))
    )


# Pickles, whose values may be shared


def torch_file(text: bytes, *storages: bytes) -> bytes:
    entries = [
        ("m/data.pkl", [text]),
        *((f"m/data/{number}", [storage]) for number, storage in enumerate(storages)),
    ]
    return write_archive(entries)


SHARED = (
    b"\x80\2cbuiltins\nobject\nq\0"
    + b"0("
    + b"N" * 20_000
    + b"tq\x010]("
    + b"h\0h\1R" * 20_000
    + b"e."
)


def test_torch_with_shared_arguments() -> None:
    scanned(TorchZipFormat(), torch_file(SHARED))


def told(text: bytes, *storages: bytes) -> Contents | None:
    """What a torch file holds, within the bounds."""
    with bounded(), suppress(FormatError):
        return TorchZipFormat().contents(BytesSource(torch_file(text, *storages)))
    return None


def test_torch_contents_with_shared_values() -> None:
    told(SHARED)
    told(b"\x80\2(" + b"K\1" * 30_000 + b"tq\x000](" + b"h\0" * 30_000 + b"e.")


def test_torch_contents_of_long_lists() -> None:
    key = b"X" + struct.pack("<I", 2000) + b"k" * 2000
    found = told(b"\x80\2}(" + key + b"](" + b"K\1" * 600_000 + b"eu.")
    assert found is None or len(found.others) <= loaded.VALUES_LIMIT


def test_torch_contents_that_show_one_storage_many_times() -> None:
    storage = (
        b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ"
        + struct.pack("<i", 1 << 20)
        + b"tQq\0"
    )
    text = b"\x80\2" + storage + b"0]("
    for number in range(600):
        text += b"ctorch._utils\n_rebuild_tensor_v2\n(h\0" + b"M" + struct.pack("<H", number)
        text += b"M\0\x02M\0\x04\x86K\1M\0\x02\x86\x89NtR"
    told(text + b"e.", bytes(1 << 20))


def metadata(keys: bytes, prefix: bytes = b"") -> bytes:
    """The pickle of a distributed checkpoint's metadata with what ``keys`` push as its
    ``storage_data``.
    """
    return b"\x80\4" + prefix + b"cm\nMetadata\n)\x81}(X\x0c\0\0\0storage_data}(" + keys + b"uub."


def named(text: bytes) -> None:
    data = bytes(100)
    with bounded(), suppress(FormatError):
        distributed_slices.named(
            OpaqueFormat().scan(BytesSource(data)), "a.distcp", BytesSource(text)
        )


def test_distributed_metadata_with_shared_attributes() -> None:
    state = b"}(" + b"K\1K\1" * 20_000 + b"uq\x010"
    named(metadata(b"cm\nIndex\n)\x81h\1bcm\nInfo\n)\x81h\1b" * 20_000, state))


@pytest.mark.parametrize(
    "sizes",
    [
        b"(" + b"K\1" * 200_000 + b"t",
        b"(\x8b" + struct.pack("<i", 20_000) + b"\x7f" * 20_000 + b"t",
    ],
)
def test_distributed_metadata_with_large_places(sizes: bytes) -> None:
    prefix = sizes + b"q\0" + b"0"
    key = b"cm\nIndex\n)\x81}(X\x03\0\0\0fqnX\1\0\0\0wX\x06\0\0\0offseth\0ub"
    value = b"cm\nInfo\n)\x81}(X\x0d\0\0\0relative_pathX\x08\0\0\0a.distcp"
    value += b"X\x06\0\0\0offsetK\0X\x06\0\0\0lengthKdub"
    named(metadata((key + value) * 2000, prefix))
