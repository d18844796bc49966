"""The contract of checkpoint formats: exact layouts, errors of the right kind for every broken
file, and files built as asked.
"""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping

from git_theta.checkpoints.containers.nested import Members
from git_theta.core import skeleton
from git_theta.core.contracts import (
    BuildsFiles,
    BuildsPieces,
    CheckpointFormat,
    CutsBytes,
    FoundInside,
    ReadsContents,
    ScansInside,
    ShowsViews,
)
from git_theta.core.layout import Layout
from git_theta.core.source import HEAD, BytesSource
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import FormatError
from git_theta.testing.plugin_names import check_name

_SLACK = 64 << 20  # bytes that a scan may take whatever it reads
_FACTOR = 16  # and how many times the file's size
_SECONDS = 20.0


def check_checkpoint_format(
    checkpoint_format: CheckpointFormat,
    files: Mapping[str, bytes],
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    mutations: int = 300,
) -> None:
    """Prove as far as trying can that a format keeps the
    :class:`~git_theta.core.contracts.CheckpointFormat` contract.

    ``files`` are sound files of this format by some name for messages; ``tensors`` tells of any of
    them what it holds. Checked are: each is recognised by its first 4096 bytes; its layout is the
    same every time and exact, so that cutting and splicing gives the file back; the tensors are
    those expected; and each of ``mutations`` damaged versions of every file (truncated, extended,
    bytes altered) is either refused with :class:`~git_theta.errors.FormatError` or cut exactly, in
    bounded time and memory. A format that can ``build`` is asked to: what it built must be sound
    and hold just the tensors given, and pieces must make the same file. What a format satisfies
    besides (views, containers, contents) is tried on the sound files.

    :class:`AssertionError` names the first thing that is wrong.
    """
    check_name(checkpoint_format.name)
    suffixes = checkpoint_format.suffixes
    assert isinstance(suffixes, tuple), "suffixes must be a tuple"
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes), (
        f"{suffixes}: lower-case, with their dot"
    )
    inside = checkpoint_format.inside if isinstance(checkpoint_format, FoundInside) else ""
    assert isinstance(inside, str), "inside must be the end of a name"
    assert inside == inside.lower(), "inside must be lower-case"
    if isinstance(checkpoint_format, CutsBytes):
        assert isinstance(checkpoint_format.cuts_bytes, bool), "cuts_bytes must be True or False"
    assert files, "give at least one sound file"
    for head in (b"", b"\0", b"\xff" * HEAD, b"{" * HEAD, b"PK\3\4"):
        assert isinstance(checkpoint_format.sniff(head), bool), (
            "sniff must return True or False, whatever it is given"
        )
    for what, data in files.items():
        assert checkpoint_format.sniff(data[:HEAD]), f"{what}: sniff does not recognise it"
        layout = _scan(checkpoint_format, data, what)
        assert layout is not None, f"{what}: scan refuses it"
        assert layout.format == checkpoint_format.name, (
            f"{what}: the layout's format is {layout.format!r}, not {checkpoint_format.name!r}"
        )
        assert _scan(checkpoint_format, data, what) == layout, (
            f"{what}: another layout the second time"
        )
        found = {
            extent.name: Tensor(extent.dtype, extent.shape, data[extent.offset : extent.end])
            for extent in layout.extents
        }
        if tensors is not None and what in tensors:
            _check_same(found, tensors[what], what)
        _check_more(checkpoint_format, layout, data, what)
        for number, altered in enumerate(_altered(data, seed, mutations)):
            _scan(checkpoint_format, altered, f"{what}, altered ({number}, {altered[:40].hex()}…)")
        if isinstance(checkpoint_format, BuildsFiles):
            _check_build(checkpoint_format, found, data, what)


def _scan(checkpoint_format: CheckpointFormat, data: bytes, what: str) -> Layout | None:
    """The layout, checked to be exact; None for a file that is refused."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        layout = checkpoint_format.scan(BytesSource(data))
    except FormatError:
        return None
    except Exception as error:
        raise AssertionError(
            f"{what}: raised {type(error).__name__} instead of FormatError: {error}"
        ) from error
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken <= _SLACK + _FACTOR * len(data), (
            f"{what}: reading {len(data)} bytes took {taken} bytes of memory"
        )
        assert time.monotonic() - start < _SECONDS, (
            f"{what}: reading {len(data)} bytes took more than {_SECONDS:.0f} s"
        )
    assert layout.size == len(data), (
        f"{what}: the layout is of {layout.size} bytes, the file has {len(data)}"
    )
    _check_exact(layout, data, what)
    return layout


def _check_exact(layout: Layout, data: bytes, what: str) -> None:
    """Cut and splice, as it is done when the file is added and checked out."""
    parts = [data[extent.offset : extent.end] for extent in layout.extents]
    cut = skeleton.cut(layout, BytesSource(data), [zlib.crc32(part) for part in parts])
    parsed = skeleton.parse(cut, layout.size, [len(part) for part in parts])
    splicer = skeleton.Splicer(parsed, len(parts))
    splicer.sums[:] = [zlib.crc32(part) for part in parts]
    again = bytearray()
    for piece in parsed.pieces:
        if piece.tensor >= 0:
            again += parts[piece.tensor]
        else:
            again += splicer.checksum(piece.checksum) if piece.data is None else piece.data
    assert bytes(again) == data, f"{what}: cutting and splicing does not give the file back"


def _check_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    assert sorted(found) == sorted(wanted), (
        f"{what}: holds {sorted(found)}, expected {sorted(wanted)}"
    )
    for name, tensor in wanted.items():
        other = found[name]
        assert other.spec == tensor.spec, f"{what}, {name}: {other.spec}, expected {tensor.spec}"
        assert bytes(other.data) == bytes(tensor.data), f"{what}, {name}: other values"


def _check_more(
    checkpoint_format: CheckpointFormat, layout: Layout, data: bytes, what: str
) -> None:
    """What a format satisfies besides, for a sound file."""
    source = BytesSource(data)
    if isinstance(checkpoint_format, ScansInside):
        assert checkpoint_format.scan_inside(source, Members()) == layout, (
            f"{what}: scan_inside finds another layout than scan"
        )
    if isinstance(checkpoint_format, ReadsContents):
        for name, tensor in checkpoint_format.contents(source).tensors.items():
            assert isinstance(tensor, Tensor), f"{what}, {name}: contents must hold tensors"
    if isinstance(checkpoint_format, ShowsViews):
        known = {extent.name: Spec(extent.dtype, extent.shape) for extent in layout.extents}
        for name, view in checkpoint_format.views(source, known).items():
            held = view.offset >= 0 and view.length >= 0 and view.offset + view.length <= len(data)
            assert held, f"{what}: view {name} lies outside the file"
            part = memoryview(data)[view.offset : view.offset + view.length]
            found = Tensor.from_array(view.read(part)).spec
            assert found == view.spec, f"{what}: view {name} is {found}, expected {view.spec}"


def _check_build(builder: BuildsFiles, found: Mapping[str, Tensor], data: bytes, what: str) -> None:
    scan = builder.scan  # type: ignore[attr-defined]  # it is a CheckpointFormat too
    fewer = dict(list(found.items())[:-1])
    for like in (None, BytesSource(data)):
        for tensors in (found, fewer):
            how = (
                f"{what}, built {'anew' if like is None else 'like it'} with {len(tensors)} tensors"
            )
            try:
                built = bytes(builder.build(tensors, like))
            except FormatError:
                assert tensors is not found or like is None, (
                    f"{how}: refused, though they are its own tensors"
                )
                continue
            if isinstance(builder, BuildsPieces):
                joined = b"".join(builder.pieces(tensors, like))
                assert joined == built, f"{how}: its pieces make another file"
            layout = scan(BytesSource(built))
            again = {
                extent.name: Tensor(extent.dtype, extent.shape, built[extent.offset : extent.end])
                for extent in layout.extents
            }
            _check_same(again, tensors, how)


def _altered(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Truncations, extensions, and ``count`` random changes, half of them near the start."""
    import numpy as np

    for length in sorted({0, 1, 7, 8, 9, len(data) // 2, len(data) - 1} & set(range(len(data)))):
        yield data[:length]
    yield data + b"\0"
    yield data + data
    draws = np.random.default_rng([seed, len(data)]).integers(0, 1 << 31, (count, 4, 2)).tolist()
    for number, draw in enumerate(draws):
        altered = bytearray(data)
        reach = len(data) if number % 2 else min(len(data), 512)
        for place, value in draw[: 1 + number % 4]:
            altered[place % reach] = (0, 0x30, 0x39, 0x7F, 0xFF, value & 0xFF)[value % 6]
        if number % 5 == 4:
            start = draw[0][0] % reach
            del altered[start : start + 1 + draw[0][1] % 8]
        yield bytes(altered)
