"""Writes ``dcp-sharded/`` with two processes of torch.distributed: ``python
tests/data/make_sharded_files.py``.

Written with torch 2.13.0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "dcp-sharded"
WORLD = 2


def write(rank: int, store: str) -> None:
    """One process's part: half of a tensor, and its share of a replicated one."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    w = distribute_tensor(torch.arange(2400.0).reshape(40, 60), mesh, [Shard(0)])
    b = distribute_tensor(torch.ones(50), mesh, [Replicate()])
    dcp.save({"model": {"w": w, "b": b}, "step": 3}, checkpoint_id=str(HERE))
    dist.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write(int(sys.argv[1]), sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as folder:
            processes = [
                subprocess.Popen([sys.executable, __file__, str(rank), f"{folder}/store"])
                for rank in range(WORLD)
            ]
            sys.exit(max(process.wait() for process in processes))
