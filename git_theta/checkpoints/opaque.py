"""Files of no known format: their bytes, in pieces that can be stored and compared one by one."""

from __future__ import annotations

from git_theta.core.layout import Extent, Layout
from git_theta.core.source import Source

PIECE = 64 << 20


class OpaqueFormat:
    """Any bytes at all. It is the last resort, so it claims every file."""

    name = "opaque"
    suffixes: tuple[str, ...] = ()
    cuts_bytes = True

    def sniff(self, head: bytes) -> bool:
        """True."""
        return True

    def scan(self, source: Source) -> Layout:
        """One ``u8`` extent called ``bytes``, or ``bytes.0``, ``bytes.1``, … of 64 MiB each; none
        for an empty file. Never fails.
        """
        starts = range(0, source.size, PIECE)
        extents = []
        for number, start in enumerate(starts):
            length = min(PIECE, source.size - start)
            extents.append(
                Extent(
                    f"bytes.{number}" if len(starts) > 1 else "bytes",
                    "u8",
                    (length,),
                    start,
                    length,
                )
            )
        return Layout(self.name, source.size, tuple(extents))
