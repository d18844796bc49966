"""Random numbers that depend on a seed and names only: the same on every machine, in any order,
from any block on.

Generator: Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
published function of a 128-bit key and a 256-bit counter. Its key is the first 16 bytes, as two
little-endian 64-bit words, of the BLAKE3-256 of ::

    "git-theta random 1" | length and bytes of the seed in decimal ASCII | length and bytes of each
    label in UTF-8

with lengths as 8 little-endian bytes. Counter value c (from 1; the other three counter words are 0)
gives four 64-bit words, each cut into a low and a high 32-bit number; so number i comes from
counter value i // 8 + 1. A uniform number is one of these times 2^-32.
"""

from __future__ import annotations

from dataclasses import dataclass

import blake3
import numpy as np


@dataclass(frozen=True, slots=True)
class RandomStream:
    """An endless sequence of 32-bit numbers; ``key`` is a Philox key."""

    key: tuple[int, int]

    def numbers(self, start: int, count: int) -> np.ndarray:
        """Numbers ``start`` to ``start + count`` as uint32."""
        skipped = start % 8
        # Numpy counts up before the first block
        counter = np.array([start // 8, 0, 0, 0], np.uint64)
        words = np.random.Philox(key=np.array(self.key, np.uint64), counter=counter).random_raw(
            (skipped + count + 1) // 2
        )
        return np.asarray(words, "<u8").view("<u4")[skipped : skipped + count]

    def keep(self, start: int, probability: np.ndarray | float, count: int) -> np.ndarray:
        """Whether each of ``count`` elements from ``start`` on is kept, with the given probability
        (scalar or one an element).
        """
        kept: np.ndarray = self.numbers(start, count) < np.multiply(probability, 2.0**32)
        return kept


def stream(seed: int, *labels: str) -> RandomStream:
    """The stream of ``seed`` and ``labels`` (such as a tensor's name and a side's digest)."""
    hasher = blake3.blake3(b"git-theta random 1")
    for part in (str(seed), *labels):
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    digest = hasher.digest()
    return RandomStream(
        (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    )
