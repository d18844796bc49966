"""How much is decoded for 1 % of the rows of a tensor of 1 GiB: ``slices.py``.

Needs 8 GiB of memory and 3 of disk, below the folder of temporary files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link
from git_theta.core.tensors import Tensor
from git_theta.settings import Settings
from git_theta.store.local import LocalStore
from git_theta.updates import planes
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.workflows import chains, slices

ROWS, COLUMNS, CHAIN = 262_144, 1024, 4
STARTS = (0, 1000, 100_001, 259_000)


class Counter:
    """Stands in for :func:`planes.decode_block` and adds up the bytes that it decodes."""

    def __init__(self) -> None:
        self.total = 0
        self._whole = planes.decode_block

    def __call__(self, payload: memoryview, position: int, out: np.ndarray) -> int:
        self.total += out.nbytes
        return self._whole(payload, position, out)


def main() -> None:
    random = np.random.default_rng(0)
    array = random.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.02)
    count, count_rows = Counter(), ROWS // 100
    planes.decode_block = count
    with tempfile.TemporaryDirectory() as folder:
        store, value = LocalStore(Path(folder) / "objects"), Tensor.from_array(array)
        target = chains.PayloadTarget(store, Settings())
        chain: tuple[Link, ...] = ()
        for length in range(1, CHAIN + 1):
            if length == 1:
                name, encoded = "dense", Dense().encode(value, None, "default")
            else:
                moved = random.standard_normal((1, COLUMNS), dtype=np.float32) * np.float32(1e-5)
                new = Tensor.from_array(value.array() + moved)
                found = Delta().encode(new, value, "default")
                assert found is not None
                name, value, encoded = "delta", new, found
            payload = chains.Payload(name, encoded.chunks)
            (link,) = chains.stage(target, value.spec, digest(value.data), payload).seal()
            chain = (link, *chain)
            store.flush()
            entry = Entry("t", value.dtype, value.shape, digest(value.data), chain)
            worst = 0.0
            for start in STARTS:
                count.total = 0
                part = slices.rows(store, entry, start, start + count_rows)
                worst = max(worst, count.total / part.spec.nbytes)
            print(f"chain of {length}: {worst:.3f} of the rows' bytes decoded")


if __name__ == "__main__":
    main()
