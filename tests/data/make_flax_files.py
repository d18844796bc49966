"""Writes ``formats/flax*.msgpack`` with Flax itself: ``python tests/data/make_flax_files.py``.

Written with flax 0.12.8, which no test needs.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import serialization

HERE = Path(__file__).parent / "formats"

if __name__ == "__main__":
    dense = {
        "kernel": jnp.arange(12, dtype=jnp.float32).reshape(4, 3),
        "bias": jnp.arange(3, dtype=jnp.bfloat16),
    }
    tree = {
        "params": {"dense": dense, "norm": {"scale": jnp.ones(3, jnp.float16)}},
        "step": jnp.int32(7),
        "rate": 0.5,
        "list": [np.arange(2.0), np.int64(1)],
        "note": "x",
        "c": 1 + 2j,
    }
    (HERE / "flax.msgpack").write_bytes(serialization.to_bytes(tree))
    # Arrays above 1 GiB are in chunks; here they need not be so large
    serialization.MAX_CHUNK_SIZE = 64
    chunked = {
        "params": {"w": np.arange(40, dtype=np.float32).reshape(5, 8)},
        "b": np.ones(2, np.float32),
    }
    (HERE / "flax-chunks.msgpack").write_bytes(serialization.to_bytes(chunked))
