"""export and import: a model as zarr3 arrays that others read, and back to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import serving
import tensorstore
from dying import killed
from gitrepo import PATIENCE, ROOT, Repo
from small_models import torch_file

from git_theta.core import dtypes
from git_theta.core.tensors import Spec
from git_theta.store import zarr

HOSTILE = [
    "../../etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    "zarr.json",
    "c",
    "x\0y",
    "CON",
    "é\n\x1b[2J",
    "A",
    "a",
    "n" * 400,
    "n" * 401,
    "/abs",
    "=41",
    "-x",
    "a.",
]


def safetensors_of(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A .safetensors file with any types and names."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def every_type() -> bytes:
    random = np.random.default_rng(3)
    names = [
        "BOOL",
        "U8",
        "I8",
        "U16",
        "I16",
        "U32",
        "I32",
        "U64",
        "I64",
        "F16",
        "BF16",
        "F32",
        "F64",
        "C64",
    ]
    names += ["F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3"]
    sizes = {"BOOL": 1, "F4": 0.5, "F6_E2M3": 0.75, "C64": 8, "BF16": 2}
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name in names:
        size = sizes.get(name) or (1 if name.startswith("F8") else int(name[1:]) // 8)
        data = random.bytes(int(size * 240))  # every bit pattern: payloads of NaN, minus zero
        found[name] = (name, (12, 20), bytes(byte & 1 for byte in data) if name == "BOOL" else data)
    found["odd booleans"] = ("BOOL", (4,), b"\0\1\2\xff")
    found["scalar"] = ("F32", (), b"\0\0\x80\x7f")
    found["nothing"] = ("F32", (0, 3), b"")
    found["zeros"] = ("F32", (30, 40), bytes(4800))
    return safetensors_of(found, {"who": "me"})


@pytest.fixture
def made(repo: Repo) -> Repo:
    repo.write("types.safetensors", every_type())
    repo.write(
        "hostile.safetensors",
        safetensors_of(
            {name: ("F32", (5,), np.full(5, i, "<f4").tobytes()) for i, name in enumerate(HOSTILE)}
        ),
    )
    w = np.arange(600, dtype=np.float32).reshape(20, 30)
    repo.write("tied.pt", torch_file({"embed.weight": w, "epoch": 3, "opt": {"m": w + 1}}))
    repo.git("add", ".")
    repo.git("commit", "-qm", "models")
    return repo


@pytest.mark.parametrize("name", ["types.safetensors", "hostile.safetensors", "tied.pt"])
def test_there_and_back_to_the_byte(made: Repo, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if "/repo/" not in f"{path}/"}
    done = made.theta_run("export", f"HEAD:{name}", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    made.theta("import", str(tmp_path / "out"), "back.tmp")
    assert made.read("back.tmp") == made.read(name)
    outside = {
        path
        for path in tmp_path.rglob("*")
        if "/repo/" not in f"{path}/" and tmp_path / "out" not in (path, *path.parents)
    }
    assert outside == before
    if name.startswith("types"):
        assert b"as bytes" in done.stderr
        assert all(word in done.stderr for word in (b"F4", b"F6_E2M3", b"odd"))
    else:
        assert b"as bytes" not in done.stderr


def test_any_reader_of_zarr_sees_the_values(made: Repo, tmp_path: Path) -> None:
    made.theta("export", "HEAD:types.safetensors", str(tmp_path / "out"))
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": f"file://{tmp_path}/out/tensors/BF16/"}
    ).result()
    raw = every_type()
    start = raw.index(b"}}") + 2
    where = json.loads(raw[8:start])["BF16"]["data_offsets"]
    wanted = np.frombuffer(raw, ml_dtypes.bfloat16, 240, start + where[0]).reshape(12, 20)
    assert array.dtype.name == "bfloat16"
    assert array[3:5, 7].read().result().tobytes() == wanted[3:5, 7].tobytes()
    listed = json.loads((tmp_path / "out" / "zarr.json").read_text())
    rows = {row["name"]: row for row in listed["attributes"]["git_theta"]["tensors"]}
    assert rows["BF16"]["path"] == "tensors/BF16"
    assert rows["odd\\x20booleans"]["raw"] is True
    for row in rows.values():
        there = json.loads((tmp_path / "out" / row["path"] / "zarr.json").read_text())
        assert there["attributes"]["git_theta"]["name"] == row["name"]


def test_names_become_paths_that_stay_inside_and_apart() -> None:
    found = zarr.paths(HOSTILE)
    assert len({text.lower() for text in found}) == len(HOSTILE)
    for text in found:
        assert text.isascii()
        assert 0 < len(text) < 200
        assert not set(text) & set('/\\\0:*?"<>|% ')
        assert text[0] not in "._-"
        assert text[-1] != "."
    assert zarr.paths(["model.layers.0.q_proj.weight", "x y"]) == [
        "model.layers.0.q_proj.weight",
        "x=20y",
    ]
    forged = zarr.paths(["A", "a"])[1]
    assert len(set(zarr.paths(["A", forged, "a"]))) == 3


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (5,),
        (3_000_000,),
        (4096, 4096),
        (1, 7_000_000),
        (7, 11, 13, 1024),
        (0, 9),
        (2_000_000, 2, 2),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 8])
def test_chunks_and_shards_are_small_and_fit_each_other(shape: tuple[int, ...], size: int) -> None:
    chunk, shard = zarr.chunks(shape, size)
    assert all(part % inner == 0 for part, inner in zip(shard, chunk, strict=True))
    assert size * dtypes.count(chunk) <= 1 << 20
    assert size * dtypes.count(shard) <= 64 << 20
    if size * dtypes.count(shape) > 2 << 20:
        assert size * dtypes.count(chunk) > 256 << 10
    whole = size * dtypes.count(shape)
    if whole <= 32 << 20:
        assert all(part >= length for part, length in zip(shard, shape, strict=True))


def test_a_large_tensor_is_sharded_and_comes_back(repo: Repo, tmp_path: Path) -> None:
    big = np.random.default_rng(1).standard_normal((6000, 3500)).astype(np.float32)
    data = safetensors_of({"big": ("F32", big.shape, big.tobytes())})
    repo.commit("big", model__safetensors=data)
    repo.theta("export", "HEAD:model.safetensors", str(tmp_path / "out"))
    files = [
        path.stat().st_size
        for path in (tmp_path / "out" / "tensors" / "big" / "c").rglob("*")
        if path.is_file()
    ]
    assert 1 < len(files) < 10
    assert max(files) < 70 << 20
    there = json.loads((tmp_path / "out" / "tensors" / "big" / "zarr.json").read_text())
    assert there["codecs"][0]["name"] == "sharding_indexed"
    repo.theta("import", str(tmp_path / "out"), "back.tmp")
    assert repo.read("back.tmp") == data


def test_changed_values_are_refused_or_taken(made: Repo, tmp_path: Path) -> None:
    made.theta("export", "HEAD:tied.pt", str(tmp_path / "out"))
    rows = json.loads((tmp_path / "out" / "zarr.json").read_text())["attributes"]["git_theta"][
        "tensors"
    ]
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": f"file://{tmp_path}/out/{rows[0]['path']}/"}
    ).result()
    array[0].write(7).result()
    done = made.theta_run("import", str(tmp_path / "out"), "back.tmp")
    assert done.returncode == 1
    assert b"--changed" in done.stderr
    assert not (made.path / "back.tmp").exists()
    assert list(made.path.glob(".back*")) == []
    assert b"1 tensor changed" in made.theta(
        "import", str(tmp_path / "out"), "back.pt", "--changed"
    )
    made.git("add", "back.pt")  # its checksums are right again, or it would be refused
    import torch

    assert torch.load(made.path / "back.pt")["embed.weight"][0].eq(7).all()


@pytest.mark.parametrize(
    "damage", ["chunk", "array", "skeleton", "root", "digest", "shape", "version", "huge"]
)
def test_a_damaged_export_is_told(made: Repo, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    made.theta("export", "HEAD:types.safetensors", str(out))
    root = out / "zarr.json"
    text = root.read_text()
    if damage == "chunk":
        file = next(path for path in (out / "tensors" / "F32" / "c").rglob("*") if path.is_file())
        file.write_bytes(file.read_bytes()[:-5] + b"12345")
    elif damage == "array":
        (out / "tensors" / "F32" / "zarr.json").unlink()
    elif damage == "skeleton":
        file = next(path for path in (out / "skeleton" / "c").rglob("*") if path.is_file())
        file.unlink()
    elif damage == "root":
        root.write_text(text[:-10])
    elif damage == "digest":
        root.write_text(text.replace('"digest":"', '"digest":"x', 1))
    elif damage == "shape":
        root.write_text(text.replace('"shape":[12,20]', '"shape":[20,12]', 1))
    elif damage == "version":
        root.write_text(text.replace('"version":1', '"version":2', 1))
    elif damage == "huge":
        root.write_text(text.replace('"shape":[12,20]', '"shape":[9000000000,9000000000]', 1))
    done = made.theta_run("import", str(out), "back.tmp", "--changed")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("git-theta: ")
    assert len(done.stderr.decode().splitlines()) == 1
    assert "internal" not in done.stderr.decode()
    assert not (made.path / "back.tmp").exists()


def test_what_is_there_already_stays(made: Repo, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    done = made.theta_run("export", "HEAD:tied.pt", str(tmp_path / "full"))
    assert done.returncode == 1
    assert b"is not empty" in done.stderr
    (tmp_path / "empty").mkdir()
    made.theta("export", "HEAD:tied.pt", (tmp_path / "empty").as_uri())
    done = made.theta_run("import", str(tmp_path / "empty"), "tied.pt")
    assert done.returncode == 1
    assert b"exists already; --force replaces it" in done.stderr
    made.write("tied.pt", b"")
    made.theta("import", str(tmp_path / "empty"), "tied.pt", "--force")
    assert made.status() == ""
    for words in (
        ["import", str(tmp_path / "full"), "new"],
        ["export", "HEAD:nothing", "x"],
        ["export", "HEAD:tied.pt", "https://localhost/x"],
    ):
        assert made.theta_run(*words).returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="kill")
@pytest.mark.parametrize(
    ("function", "calls"), [("fill", 1), ("fill", 15), ("write", 1), ("write", 10), ("write", 21)]
)
def test_an_interrupted_export_is_none(
    repo: Repo, tmp_path: Path, function: str, calls: int
) -> None:
    """Killed when some arrays have values, and some or all of these their metadata: none can be
    taken for complete that is not.
    """
    tensors = {
        f"t{i}": (
            "F32",
            (100, 30),
            np.random.default_rng(i).standard_normal(3000).astype("<f4").tobytes(),
        )
        for i in range(20)
    }
    repo.commit("big", model__safetensors=safetensors_of(tensors))
    out = tmp_path / "out"
    killed(
        repo,
        "git_theta.store.zarr",
        f"ArrayFolder.{function}",
        calls,
        "export",
        "HEAD:model.safetensors",
        str(out),
    )
    assert list(out.rglob("c"))  # of a tensor or of the file's other bytes, whichever came first
    assert not (out / "zarr.json").exists()
    done = repo.theta_run("import", str(out), "back.tmp")
    assert done.returncode == 1
    assert b"interrupted" in done.stderr
    # Whose values are all there, if it can be opened at all
    for array in out.glob("tensors/*/zarr.json"):
        name = array.parent.name
        value = (
            tensorstore.open({"driver": "zarr3", "kvstore": f"file://{array.parent}/"})
            .result()
            .read()
            .result()
        )
        assert value.tobytes() == tensors[name][2]
    assert repo.theta_run("export", "HEAD:model.safetensors", str(out)).returncode == 1


def test_to_a_bucket_and_back(made: Repo) -> None:
    for module in ("moto", "werkzeug"):
        pytest.importorskip(module)
    with serving.s3() as port:
        bucket = serving.Bucket(port, "exports")
        bucket.request("PUT")
        credentials = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        made.theta("export", "HEAD:types.safetensors", bucket.url("runs/1"), **credentials)
        made.theta("export", "HEAD:hostile.safetensors", bucket.url("runs/10"), **credentials)
        done = made.theta_run("export", "HEAD:tied.pt", bucket.url("runs/1"), **credentials)
        assert b"is not empty" in done.stderr
        for prefix, name in (("runs/1", "types.safetensors"), ("runs/10", "hostile.safetensors")):
            made.theta("import", bucket.url(prefix), f"{name}.back", **credentials)
            assert made.read(f"{name}.back") == made.read(name)


def test_every_type_is_an_array_or_bytes() -> None:
    for name in dtypes.names():
        known = dtypes.get(name)
        spec = Spec(name, (known.block_elements,))
        assert (zarr.as_array(spec, bytes(spec.nbytes)) is None) == (not known.numpy)


def test_many_processes_read_one_slice_each() -> None:
    """The example of the documentation."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "cluster" / "cluster.py"), "--processes", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "process 2" in done.stdout
    assert "the same" in done.stdout
