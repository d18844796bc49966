"""Merges that change which tensors there are, in every format that is written anew: the frameworks
load the result.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import READERS, same
from merging import Branches, Tensors, programs
from small_models import safetensors_file, torch_file

from git_theta.checkpoints.flax_msgpack import FlaxMsgpackFormat
from git_theta.core.tensors import Tensor

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
RANDOM = np.random.default_rng(0)
BASE: Tensors = {
    f"w{number}": RANDOM.standard_normal((24, 32)).astype(np.float32) for number in range(4)
}


def npz_file(tensors: Mapping[str, Any]) -> bytes:
    target = io.BytesIO()
    np.savez(target, **tensors)
    return target.getvalue()


def gguf_file(tensors: Tensors) -> bytes:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter("model.gguf.part", "llama")
    writer.add_context_length(128)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = Path("model.gguf.part")
    data = path.read_bytes()
    path.unlink()
    return data


def msgpack_file(tensors: Tensors) -> bytes:
    return bytes(
        FlaxMsgpackFormat().build(
            {name: Tensor.from_array(array) for name, array in tensors.items()}, None
        )
    )


WRITERS: dict[str, Callable[[Tensors], bytes]] = {
    "safetensors": safetensors_file,
    "pt": torch_file,
    "npz": npz_file,
    "gguf": gguf_file,
    "msgpack": msgpack_file,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_tensors_edited_added_and_removed_on_two_sides(
    tmp_path: Path, environment: Mapping[str, str], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repo = Branches.make(tmp_path / "repo", environment, programs(tmp_path / "programs"))
    repo.write(".gitattributes", f"*.{ending} filter=theta merge=theta -text\n".encode())
    name, write = f"model.{ending}", WRITERS[ending]

    def commit(message: str, tensors: Tensors) -> None:
        repo.write(name, write(tensors))
        repo.git("add", ".")
        repo.git("commit", "-qm", message)

    edited, one, two = BASE["w0"] * 2, np.ones((3, 5), np.float32), np.zeros(7, np.float32)
    commit("base", BASE)
    repo.git("checkout", "-qb", "theirs")
    commit("theirs", {**BASE, "w0": edited, "new.theirs": one})
    repo.git("checkout", "-q", "main")
    commit("ours", {**{key: value for key, value in BASE.items() if key != "w2"}, "new.ours": two})
    repo.git("merge", "-q", "-m", "merged", "theirs")
    wanted = {"w0": edited, "w1": BASE["w1"], "w3": BASE["w3"], "new.theirs": one, "new.ours": two}
    same(READERS[ending](repo.path / name), wanted)
    repo.settled()
