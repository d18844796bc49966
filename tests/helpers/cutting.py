"""What every checkpoint format must do: cut files so that they come back byte for byte, and survive
bad ones.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from git_theta.core import skeleton
from git_theta.core.layout import Layout, PartlyBrokenError
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError


def rebuilt(layout: Layout, data: bytes) -> bytes:
    """``data`` cut by ``layout`` and put together again."""
    contents = [data[extent.offset : extent.end] for extent in layout.extents]
    sums = [
        zlib.crc32(content) if wanted else None
        for content, wanted in zip(contents, skeleton.covered(layout), strict=True)
    ]
    text = skeleton.cut(layout, BytesSource(data), sums)
    parsed = skeleton.parse(text, layout.size, [len(content) for content in contents])
    splicer = skeleton.Splicer(parsed, len(contents))
    needed = skeleton.needed(parsed, len(contents))
    out = bytearray()
    for piece in parsed.pieces:
        if piece.tensor >= 0:
            out += contents[piece.tensor]
            splicer.sums[piece.tensor] = (
                zlib.crc32(contents[piece.tensor]) if needed[piece.tensor] else None
            )
        else:
            out += splicer.checksum(piece.checksum) if piece.checksum >= 0 else piece.data or b""
    return bytes(out)


def cut(fmt: Any, data: bytes) -> Layout:
    """The layout of ``data``, once it was seen to give the file back."""
    assert fmt.sniff(data[:4096])
    layout: Layout = fmt.scan(BytesSource(data))
    assert layout.format == fmt.name
    assert rebuilt(layout, data) == data
    return layout


def told(layout: Layout) -> dict[str, str]:
    """Types and shapes by name."""
    return {extent.name: f"{extent.dtype}{list(extent.shape)}" for extent in layout.extents}


def contents(layout: Layout, data: bytes) -> dict[str, bytes]:
    """The tensors' bytes by name."""
    return {extent.name: data[extent.offset : extent.end] for extent in layout.extents}


def mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` damaged files: bytes and numbers changed (mostly near the front), parts cut out,
    repeated, swapped between files.
    """
    draw = random.Random(seed)
    for number in range(count):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            reach = max(1, len(data) if draw.random() < 0.6 else min(len(data), 200))
            at = draw.randrange(reach)
            kind = draw.randrange(8)
            if kind < 3:
                data[at : at + 1] = bytes(
                    [draw.choice((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)))]
                )
            elif kind == 3:
                width = draw.choice((2, 4, 8))
                value = draw.choice(
                    (
                        0,
                        1,
                        2**31 - 1,
                        2**31,
                        2**32 - 1,
                        2**63 - 1,
                        2**63,
                        2**64 - 1,
                        len(data),
                        draw.randrange(1 << 20),
                    )
                )
                order: Literal["little", "big"] = draw.choice(("little", "big"))
                data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
            elif kind == 4:
                del data[at : at + draw.randrange(1, 40)]
            elif kind == 5:
                part = data[at : at + draw.randrange(1, 40)]
                place = draw.randrange(reach)
                data[place:place] = part * draw.choice((1, 1, 2, 50))
            elif kind == 6:
                other = seeds[draw.randrange(len(seeds))]
                start = draw.randrange(max(1, len(other)))
                data[at : at + 30] = other[start : start + 30]
            else:
                del data[at:]
        yield bytes(data)


def survives(fmt: Any, damaged: Iterable[bytes]) -> tuple[int, int]:
    """Scan damaged files: each is refused with a FormatError or gives itself back.

    How many were refused, and accepted.
    """
    refused = accepted = 0
    for data in damaged:
        fmt.sniff(data[:4096])
        message, partly = "", None
        try:
            layout = fmt.scan(BytesSource(data))
        except FormatError as error:
            message = str(error)
            refused += 1
            partly = error.layout if isinstance(error, PartlyBrokenError) else None
        else:
            assert rebuilt(layout, data) == data
            accepted += 1
        assert partly is None or rebuilt(partly, data) == data
        assert "\n" not in message
        assert len(message) < 400
    return refused, accepted
