"""``git theta add MODEL --update-data FILE``: an update that is given is computed alike everywhere,
staged, written, and stored as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gitrepo import Repo
from small_models import safetensors_file, torch_file

from git_theta.workflows.exchange.supplied import read_tensors

RANDOM = np.random.default_rng(11)
NAMES = ("layer.0.weight", "layer.1.weight")
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "modules_to_save": None,
    "bias": "none",
}


def normal(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * 0.05).astype(np.float32)


def model() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    tensors = {name: weight(96, 128) for name in NAMES}
    tensors |= {
        "layer.0.bias": weight(96),
        "word.weight": weight(300, 64),
        "half.weight": weight(64, 64).astype(ml_dtypes.bfloat16),
    }
    tensors |= {"norm.weight": weight(8), "steps": np.array([3, 4], np.int64)}
    return tensors


BASE = model()
LEFT, RIGHT = normal(96, 4), normal(4, 128)


@pytest.fixture
def based(repo: Repo) -> Repo:
    """A repository with a model."""
    repo.commit("base", m__safetensors=safetensors_file(BASE))
    return repo


def tensors(repo: Repo, name: str = "m.safetensors") -> dict[str, np.ndarray]:
    return read_tensors(repo.path / name)


def sparse_parts(
    name: str, shape: tuple[int, int], count: int = 40
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A sparse update in compressed rows, and the same as a whole array."""
    places = np.sort(RANDOM.choice(shape[0] * shape[1], count, replace=False))
    values = normal(count)
    ends = np.searchsorted(places, np.arange(shape[0] + 1) * shape[1])
    whole = np.zeros(shape, np.float32)
    whole.reshape(-1)[places] = values
    parts = {
        "data": values,
        "indices": (places % shape[1]).astype(np.int32),
        "indptr": ends.astype(np.int32),
        "shape": np.array(shape),
    }
    return {f"{name}/{part}": value for part, value in parts.items()}, whole


def save(path: Path, arrays: Mapping[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".pt":
        path.write_bytes(
            torch_file(
                {
                    name: value.astype(np.int64) if value.dtype.kind == "i" else value
                    for name, value in arrays.items()
                }
            )
        )
    else:
        path.write_bytes(safetensors_file(arrays))
    return path


def adapter(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config))
    save(path / "adapter_model.safetensors", arrays)
    return path


def pair(module: str, left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"base_model.model.{module}.lora_A.weight": right,
        f"base_model.model.{module}.lora_B.weight": left,
    }


def side_load(
    repo: Repo, update: str, data: Path, option: str = "--update-data", **environment: str
) -> str:
    words = ["--update-type", update] if update else []
    return repo.theta("add", "m.safetensors", *words, option, str(data), **environment).decode()


def assert_only(
    repo: Repo, update: str, changed: Mapping[str, np.ndarray], exact: bool = False
) -> None:
    """Just these tensors changed, to these values but for a rounding; each is stored as ``update``;
    file, index and checkout agree.
    """
    assert repo.git("status", "--porcelain") == b"M  m.safetensors\n"
    manifest = repo.manifest(":m.safetensors")
    found = tensors(repo)
    for name, before in BASE.items():
        entry = manifest.by_name[name]
        if name in changed:
            tolerance = (
                0
                if exact
                else np.abs(before.astype(np.float64)).max()
                * (2e-2 if before.dtype.itemsize == 2 else 4e-7)
            )
            np.testing.assert_allclose(
                found[name].astype(np.float64),
                changed[name].astype(np.float64),
                rtol=0,
                atol=tolerance,
            )
            if entry.chain:
                assert [link.update for link in entry.chain] == [update, "dense"]
        else:
            assert found[name].tobytes() == before.tobytes(), name
            assert all(link.update == "dense" for link in entry.chain)
    held = repo.read("m.safetensors")
    repo.git("commit", "-qm", "updated")
    repo.assert_clean()
    (repo.path / "m.safetensors").unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert repo.read("m.safetensors") == held
    text = repo.blob("HEAD:m.safetensors")
    repo.write("m.safetensors", held)  # cleaned anew, it has the very same manifest
    repo.git("add", "--renormalize", "m.safetensors")
    assert repo.blob(":m.safetensors") == text
    assert repo.status() == ""


def stored(repo: Repo, action: Callable[[], object]) -> int:
    """Bytes of the objects that ``action`` adds."""
    before = repo.object_ids()
    action()
    return sum(path.stat().st_size for oid, path in repo.objects().items() if oid not in before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_low_rank(based: Repo, tmp_path: Path, suffix: str) -> None:
    arrays = {
        f"{NAMES[0]}/R": LEFT,
        f"{NAMES[0]}/C": RIGHT,
        "half.weight/R": normal(64, 2),
        "half.weight/C": normal(2, 64),
    }
    size = stored(
        based, lambda: side_load(based, "low-rank", save(tmp_path / f"x{suffix}", arrays))
    )
    assert size < 1.1 * sum(array.nbytes for array in arrays.values()) + 1000, (
        "what is stored are the factors"
    )
    half = (
        BASE["half.weight"].astype(np.float32) + arrays["half.weight/R"] @ arrays["half.weight/C"]
    )
    assert_only(
        based,
        "low-rank",
        {NAMES[0]: BASE[NAMES[0]] + LEFT @ RIGHT, "half.weight": half.astype(ml_dtypes.bfloat16)},
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_sparse(based: Repo, tmp_path: Path, suffix: str) -> None:
    arrays, whole = sparse_parts(NAMES[1], (96, 128))
    size = stored(
        based,
        lambda: side_load(based, "sparse", save(tmp_path / f"x{suffix}", arrays), "--update-path"),
    )
    assert size < 600
    assert_only(based, "sparse", {NAMES[1]: BASE[NAMES[1]] + whole}, exact=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_ia3(based: Repo, tmp_path: Path, suffix: str) -> None:
    arrays = {
        f"{NAMES[0]}/ia3": normal(96, 1),
        "word.weight/ia3": normal(64),
        "layer.0.bias/ia3": normal(96),
        "norm.weight/ia3": normal(8),
    }
    size = stored(based, lambda: side_load(based, "ia3", save(tmp_path / f"x{suffix}", arrays)))
    assert size < 1.1 * sum(array.nbytes for array in arrays.values()) + 1000
    assert_only(
        based,
        "ia3",
        {
            name.removesuffix("/ia3"): BASE[name.removesuffix("/ia3")] * value
            for name, value in arrays.items()
        },
    )


def test_from_a_folder_below(based: Repo, tmp_path: Path) -> None:
    (based.path / "deep").mkdir()
    file = save(tmp_path / "x.npz", {"norm.weight/ia3": normal(8)})
    based.at(based.path / "deep").theta(
        "add", "../m.safetensors", "--update-type", "ia3", "--update-data", str(file)
    )
    assert based.git("status", "--porcelain") == b"M  m.safetensors\n"


def test_names_as_the_first_git_theta_wrote_them(based: Repo, tmp_path: Path) -> None:
    side_load(
        based, "ia3", save(tmp_path / "x.npz", {"norm/weight/ia3": np.full(8, 2, np.float32)})
    )
    assert_only(based, "ia3", {"norm.weight": BASE["norm.weight"] * 2}, exact=True)


def test_an_adapter(based: Repo, tmp_path: Path) -> None:
    whole = normal(96)
    arrays = {
        **pair("layer.0", LEFT, RIGHT),
        "base_model.model.word.lora_embedding_A": normal(3, 300),
        "base_model.model.word.lora_embedding_B": normal(64, 3),
        "base_model.model.word.base_layer.weight": BASE["word.weight"],
        "base_model.model.layer.0.base_layer.bias": whole,
    }
    folder = adapter(tmp_path / "a", {**LORA, "bias": "lora_only"}, arrays)
    said = side_load(based, "", folder)
    assert "3 tensors changed" in said
    manifest = based.manifest(":m.safetensors")
    assert manifest.by_name["layer.0.weight"].chain[0].update == "low-rank"
    assert manifest.by_name["word.weight"].chain[0].update == "low-rank"
    found = tensors(based)
    product = (
        arrays["base_model.model.word.lora_embedding_B"]
        @ arrays["base_model.model.word.lora_embedding_A"]
    ).T
    np.testing.assert_allclose(
        found["layer.0.weight"], BASE["layer.0.weight"] + 2 * (LEFT @ RIGHT), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(
        found["word.weight"], BASE["word.weight"] + 8 / 3 * product, rtol=0, atol=1e-7
    )
    assert found["layer.0.bias"].tobytes() == whole.tobytes()
    assert found[NAMES[1]].tobytes() == BASE[NAMES[1]].tobytes()
    based.git("commit", "-qm", "adapter")
    based.assert_clean()


def test_an_adapter_twice_and_back(based: Repo, tmp_path: Path) -> None:
    """Each time another link; what was before is checked out as it was."""
    folder = adapter(tmp_path / "a", LORA, pair("layer.0", LEFT, RIGHT))
    held = [based.read("m.safetensors")]
    for number in range(3):
        if number == 2:  # as older releases of peft wrote it
            (folder / "adapter_model.safetensors").unlink()
            (folder / "adapter_model.bin").write_bytes(torch_file(pair("layer.0", LEFT, RIGHT)))
        side_load(based, "", folder)
        held.append(based.read("m.safetensors"))
        based.git("commit", "-qm", str(number))
    assert len(set(held)) == 4
    assert [
        link.update for link in based.manifest("HEAD:m.safetensors").by_name[NAMES[0]].chain
    ] == ["low-rank"] * 3 + ["dense"]
    for back, content in enumerate(reversed(held)):
        based.git("checkout", "-q", f"HEAD~{back}", "--", "m.safetensors")
        assert based.read("m.safetensors") == content


def test_chains_end(based: Repo, tmp_path: Path) -> None:
    """Neither more links than theta.maxChain nor more bytes than a dense copy."""
    based.git("config", "theta.maxChain", "2")
    for number, rank in enumerate((4, 4, 4)):
        arrays = {f"{NAMES[0]}/R": normal(96, rank), f"{NAMES[0]}/C": normal(rank, 128)}
        side_load(based, "low-rank", save(tmp_path / "x.npz", arrays))
        based.git("commit", "-qm", str(number))
        assert len(based.manifest("HEAD:m.safetensors").by_name[NAMES[0]].chain) <= 2
    based.git("config", "theta.maxChain", "8")
    for number in range(4):
        arrays = {f"{NAMES[1]}/R": normal(96, 24), f"{NAMES[1]}/C": normal(24, 128)}
        side_load(based, "low-rank", save(tmp_path / "x.npz", arrays))
        based.git("commit", "-qm", str(number))
        chain = based.manifest("HEAD:m.safetensors").by_name[NAMES[1]].chain
        assert sum(link.size for link in chain[:-1]) <= max(chain[-1].size, 96 * 128 * 4)
    based.assert_clean()


def test_a_model_of_torch(repo: Repo, tmp_path: Path) -> None:
    tree = {
        "model": {name: value for name, value in BASE.items() if name != "half.weight"},
        "epoch": 3,
    }
    repo.commit("base", m__pt=torch_file(tree))
    file = save(tmp_path / "x.npz", {f"model.{NAMES[0]}/R": LEFT, f"model.{NAMES[0]}/C": RIGHT})
    repo.theta("add", "m.pt", "--update-type", "low-rank", "--update-data", str(file))
    entry = next(entry for entry in repo.manifest(":m.pt").entries if entry.name.endswith(NAMES[0]))
    assert [link.update for link in entry.chain] == ["low-rank", "dense"]
    held = repo.read("m.pt")
    repo.git("commit", "-qm", "updated")
    repo.assert_clean()
    (repo.path / "m.pt").unlink()
    repo.git("checkout", "--", "m.pt")
    assert repo.read("m.pt") == held
    assert len(held) == len(torch_file(tree))


def test_the_same_objects_whatever_the_threads(repo: Repo, tmp_path: Path) -> None:
    """Manifest and objects name bytes, so equal manifests are equal objects."""
    arrays = {
        f"{name}/{part}": value
        for name in NAMES
        for part, value in (("R", normal(96, 16)), ("C", normal(16, 128)))
    }
    file = save(tmp_path / "x.safetensors", arrays)
    seen = set()
    for number, (blas, threads) in enumerate((("1", "1"), ("4", "4"), ("1", "4"), ("4", "1"))):
        other = Repo.create(tmp_path / f"r{number}", repo.environment)
        other.git("config", "theta.threads", threads)
        environment = {
            "OPENBLAS_NUM_THREADS": blas,
            "OMP_NUM_THREADS": blas,
            "MKL_NUM_THREADS": blas,
        }
        other.write("m.safetensors", safetensors_file(BASE))
        other.under(environment).git("add", ".")
        other.git("commit", "-qm", "base")
        side_load(other, "low-rank", file, **environment)
        seen.add(
            (other.blob(":m.safetensors"), other.read("m.safetensors"), frozenset(other.objects()))
        )
    assert len(seen) == 1


def bad(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[3] = value
    return array


def sparse_with(**parts: np.ndarray) -> dict[str, np.ndarray]:
    arrays, _ = sparse_parts(NAMES[0], (96, 128))
    return arrays | {f"{NAMES[0]}/{part}": value for part, value in parts.items()}


REFUSED: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "shapes": ("low-rank", {f"{NAMES[0]}/R": LEFT, f"{NAMES[0]}/C": normal(4, 127)}, "do not fit"),
    "ranks": ("low-rank", {f"{NAMES[0]}/R": LEFT, f"{NAMES[0]}/C": normal(5, 128)}, "do not fit"),
    "one of two": (
        "low-rank",
        {
            f"{NAMES[0]}/R": LEFT,
            f"{NAMES[0]}/C": RIGHT,
            f"{NAMES[1]}/R": LEFT,
            f"{NAMES[1]}/C": LEFT,
        },
        "do not fit",
    ),
    "full rank": (
        "low-rank",
        {f"{NAMES[0]}/R": normal(96, 100), f"{NAMES[0]}/C": normal(100, 128)},
        "not low",
    ),
    "unknown tensor": ("low-rank", {"other/R": LEFT, "other/C": RIGHT}, "no tensor 'other'"),
    "no factor": ("low-rank", {f"{NAMES[0]}/R": LEFT}, "has no C"),
    "nan": ("low-rank", {f"{NAMES[0]}/R": bad(LEFT, np.nan), f"{NAMES[0]}/C": RIGHT}, "NaN"),
    "infinity": (
        "low-rank",
        {f"{NAMES[0]}/R": LEFT, f"{NAMES[0]}/C": bad(RIGHT, -np.inf)},
        "infinity",
    ),
    "too large": (
        "low-rank",
        {f"{NAMES[0]}/R": LEFT * np.float32(1e30), f"{NAMES[0]}/C": RIGHT * np.float32(1e30)},
        "would be infinite",
    ),
    "ia3 too large": ("ia3", {f"{NAMES[0]}/ia3": np.full((96, 1), 1e200)}, "would be infinite"),
    "sparse too large": ("sparse", sparse_with(data=np.full(40, 1e200)), "infinit"),
    "a counter": ("low-rank", {"steps/R": LEFT, "steps/C": RIGHT}, "float matrix"),
    "a vector": (
        "low-rank",
        {"layer.0.bias/R": normal(96, 1), "layer.0.bias/C": normal(1, 1)},
        "float matrix",
    ),
    "other parts": ("low-rank", {f"{NAMES[0]}/ia3": LEFT}, "no part of a low-rank update"),
    "twice": ("ia3", {"norm.weight/ia3": normal(8), "norm/weight/ia3": normal(8)}, "changed twice"),
    "channels": ("ia3", {f"{NAMES[0]}/ia3": normal(97, 1)}, "broadcast"),
    "ia3 nan": ("ia3", {f"{NAMES[0]}/ia3": bad(normal(96, 1), np.nan)}, "NaN"),
    "sparse nan": ("sparse", sparse_with(data=bad(normal(40), np.inf)), "infinity"),
    "sparse shape": ("sparse", sparse_with(shape=np.array([96, 127])), "does not fit"),
    "sparse index": ("sparse", sparse_with(indices=np.full(40, 128, np.int32)), "outside"),
    "sparse negative": ("sparse", sparse_with(indices=np.full(40, -1, np.int32)), "outside"),
    "sparse pointers": ("sparse", sparse_with(indptr=np.zeros(97, np.int32)), "pointers"),
    "sparse twice": ("sparse", sparse_with(indices=np.zeros(40, np.int32)), "twice"),
    "sparse values": ("sparse", sparse_with(data=normal(39)), "39 values"),
}


def assert_refused(repo: Repo, message: str, *words: str) -> None:
    """One line, nothing staged, the file untouched, nothing stored."""
    before = (
        repo.read("m.safetensors"),
        repo.blob(":m.safetensors"),
        repo.object_ids(),
        repo.status(),
    )
    stat = (repo.path / "m.safetensors").stat()
    done = repo.theta_run("add", "m.safetensors", *words)
    said = done.stderr.decode()
    assert done.returncode != 0
    assert done.stdout == b""
    assert message in said, said
    assert said.startswith("git-theta: ")
    assert said.count("\n") == 1, said
    assert (
        repo.read("m.safetensors"),
        repo.blob(":m.safetensors"),
        repo.object_ids(),
        repo.status(),
    ) == before
    assert (repo.path / "m.safetensors").stat().st_mtime_ns == stat.st_mtime_ns
    assert repo.leftovers() == []


def test_refused(based: Repo, tmp_path: Path) -> None:
    for what, (update, arrays, message) in REFUSED.items():
        file = save(tmp_path / f"{what.replace(' ', '-')}.npz", arrays)
        assert_refused(based, message, "--update-type", update, "--update-data", str(file))


def test_adapters_refused(based: Repo, tmp_path: Path) -> None:
    given = {
        "DoRA": ({**LORA, "use_dora": True}, pair("layer.0", LEFT, RIGHT)),
        "another model": (LORA, pair("decoder.3.q_proj", LEFT, RIGHT)),
        "do not fit": (LORA, pair("layer.0", normal(64, 4), normal(4, 64))),
        "NaN": (LORA, pair("layer.0", bad(LEFT, np.nan), RIGHT)),
        "PROMPT_TUNING": ({"peft_type": "PROMPT_TUNING"}, {"prompt_embeddings": LEFT}),
        "only one factor": (LORA, {"base_model.model.layer.0.lora_A.weight": RIGHT}),
    }
    for number, (message, (config, arrays)) in enumerate(given.items()):
        assert_refused(
            based, message, "--update-data", str(adapter(tmp_path / str(number), config, arrays))
        )


def test_files_refused(based: Repo, tmp_path: Path) -> None:
    for name, data, message in (
        ("x.npz", b"no archive", "npz"),
        ("x.safetensors", b"\xff" * 40, "x.safetensors: the safetensors file is broken"),
        ("x.pt", b"PK\3\4 and nothing else", "x.pt: "),
        ("x.txt", b"text", "no named tensors"),
    ):
        (tmp_path / name).write_bytes(data)
        assert_refused(
            based, message, "--update-type", "low-rank", "--update-data", str(tmp_path / name)
        )


def test_the_wrong_moment(based: Repo, tmp_path: Path) -> None:
    """Changes that are not staged, files that are not tracked: refused, since the file would be
    overwritten.
    """
    words = (
        "--update-type",
        "ia3",
        "--update-data",
        str(save(tmp_path / "x.npz", {"norm.weight/ia3": normal(8)})),
    )
    based.write("m.safetensors", safetensors_file({**BASE, "norm.weight": normal(8)}))
    assert_refused(based, "not staged", *words)
    based.git("add", "m.safetensors")
    based.theta("add", "m.safetensors", *words)  # on top of what is staged
    based.git("commit", "-qm", "both")
    (based.path / "m.safetensors").unlink()
    done = based.theta_run("add", "m.safetensors", *words)
    assert b"not staged" in done.stderr
    assert not (based.path / "m.safetensors").exists()
    based.git("checkout", "--", "m.safetensors")
    for name in ("new.safetensors", "plain.txt", "absent.safetensors", "../outside.safetensors"):
        if name != "absent.safetensors" and not name.startswith(".."):
            based.write(name, safetensors_file(BASE))
        if name == "plain.txt":
            based.git("add", name)
        done = based.theta_run("add", name, *words)
        assert done.returncode != 0
        assert done.stderr.count(b"\n") == 1, done.stderr


def test_other_tensors_are_staged_from_the_working_file(based: Repo, tmp_path: Path) -> None:
    """A model saved with its factors merged, and with a head that was trained beside them."""
    data = save(tmp_path / "x.safetensors", {f"{NAMES[0]}/R": LEFT, f"{NAMES[0]}/C": RIGHT})
    merged = BASE[NAMES[0]] + LEFT @ RIGHT  # in float32: rounded otherwise than ours
    other = BASE["word.weight"] * np.float32(1.5)
    for first in (merged, BASE[NAMES[0]]):
        based.write(
            "m.safetensors",
            safetensors_file(
                {**BASE, NAMES[0]: first, "word.weight": other, "new.weight": normal(3, 40)}
            ),
        )
        said = side_load(based, "low-rank", data)
        assert said.startswith("Staged m.safetensors: 3 tensors changed"), said
        manifest, found = based.manifest(":m.safetensors"), tensors(based)
        assert [link.update for link in manifest.by_name[NAMES[0]].chain] == ["low-rank", "dense"]
        np.testing.assert_allclose(found[NAMES[0]], merged, rtol=0, atol=1e-6)
        assert found["word.weight"].tobytes() == other.tobytes()
        assert "new.weight" in found
        assert based.git("status", "--porcelain") == b"M  m.safetensors\n"
        based.git("reset", "-q", "--hard")
    based.write(
        "m.safetensors",
        safetensors_file({**BASE, NAMES[0]: merged + normal(96, 128), "word.weight": other}),
    )
    before = based.read("m.safetensors"), based.blob(":m.safetensors")
    done = based.theta_run(
        "add", "m.safetensors", "--update-type", "low-rank", "--update-data", str(data)
    )
    assert done.returncode == 1
    assert (
        b"'layer.0.weight' has changes that are not staged and not those of the update"
        in done.stderr
    )
    assert (based.read("m.safetensors"), based.blob(":m.safetensors")) == before, "nothing is lost"
    based.write(
        "m.safetensors",
        safetensors_file({name: value for name, value in BASE.items() if name != NAMES[0]}),
    )
    done = based.theta_run(
        "add", "m.safetensors", "--update-type", "low-rank", "--update-data", str(data)
    )
    assert b"the working file has no tensor 'layer.0.weight'" in done.stderr


def test_an_interrupted_index(based: Repo, tmp_path: Path) -> None:
    """While another git command holds the index, nothing is changed."""
    file = save(tmp_path / "x.npz", {"norm.weight/ia3": normal(8)})
    lock = based.common / "index.lock"
    lock.touch()
    before = based.read("m.safetensors"), based.blob(":m.safetensors")
    done = based.theta_run(
        "add", "m.safetensors", "--update-type", "ia3", "--update-data", str(file)
    )
    assert done.returncode != 0
    assert b"index.lock" in done.stderr
    lock.unlink()
    assert (based.read("m.safetensors"), based.blob(":m.safetensors")) == before
    assert based.status() == ""


def test_a_lost_base(based: Repo, tmp_path: Path) -> None:
    entry = based.manifest(":m.safetensors").by_name[NAMES[0]]
    path = based.objects()[entry.chain[0].objects[0].oid]
    path.unlink()
    model = based.path / "m.safetensors"
    # Not as young as the index: or git would clean the file, which gives the object back
    os.utime(model, (1e9, 1e9))
    based.git("update-index", "--refresh")
    path.unlink(missing_ok=True)
    file = save(tmp_path / "x.npz", {f"{NAMES[0]}/R": LEFT, f"{NAMES[0]}/C": RIGHT})
    before = based.read("m.safetensors"), based.blob(":m.safetensors")
    done = based.theta_run(
        "add", "m.safetensors", "--update-type", "low-rank", "--update-data", str(file)
    )
    assert done.returncode != 0
    assert path.name[:8].encode() in done.stderr, done.stderr
    assert (based.read("m.safetensors"), based.blob(":m.safetensors")) == before


def test_options_that_do_not_go_together(based: Repo, tmp_path: Path) -> None:
    file = str(save(tmp_path / "x.npz", {"norm.weight/ia3": normal(8)}))
    folder = str(adapter(tmp_path / "a", LORA, pair("layer.0", LEFT, RIGHT)))
    for words in (
        ("m.safetensors", "--update-type", "ia3"),
        ("m.safetensors", "--update-data", file),
        ("m.safetensors", ".gitattributes", "--update-type", "ia3", "--update-data", file),
        ("m.safetensors", "--update-type", "low-rank", "--update-data", folder),
        ("m.safetensors", "--update-type", "other", "--update-data", file),
        ("m.safetensors", "--update-type", "ia3", "--update-data", str(tmp_path / "absent.npz")),
    ):
        done = based.theta_run("add", *words)
        assert done.returncode == 2, done.stderr
        assert based.status() == ""


def test_plain_add(based: Repo) -> None:
    based.write("m.safetensors", safetensors_file({**BASE, "norm.weight": normal(8)}))
    based.theta("add", "m.safetensors")
    assert based.git("status", "--porcelain") == b"M  m.safetensors\n"


def test_views_of_torch(based: Repo, tmp_path: Path) -> None:
    """Slices and transposed tensors mean what they mean to torch, although their storages lie
    otherwise.
    """
    torch = pytest.importorskip("torch")
    left, right = torch.from_numpy(normal(96, 50))[:, 3:7], torch.from_numpy(normal(128, 4)).t()
    torch.save({f"{NAMES[0]}/R": left, f"{NAMES[0]}/C": right}, tmp_path / "x.pt")
    read = read_tensors(tmp_path / "x.pt")
    assert np.array_equal(read[f"{NAMES[0]}/R"], left.numpy())
    assert np.array_equal(read[f"{NAMES[0]}/C"], right.numpy())
    side_load(based, "low-rank", tmp_path / "x.pt")
    assert_only(based, "low-rank", {NAMES[0]: BASE[NAMES[0]] + left.numpy() @ right.numpy()})


class TestPeft:
    """The same adapters through peft itself: what it merges is what is staged, within the rounding
    of float32.
    """

    # Peft says it of every model not from transformers
    @pytest.mark.filterwarnings("ignore:Could not identify embedding layer")
    def test_merged_alike(self, repo: Repo, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        peft = pytest.importorskip("peft")
        nn = torch.nn

        class Net(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.word = nn.Embedding(50, 24)
                self.query = nn.Linear(24, 32)
                self.up = nn.Linear(32, 48)
                self.conv = nn.Conv2d(6, 6, 3)
                self.point = nn.Conv2d(5, 7, 1)
                self.line = nn.Conv1d(5, 7, 3)
                self.head = nn.Linear(48, 3)

        targets = ["word", "query", "up", "conv", "point", "line"]
        common: dict[str, Any] = {"target_modules": targets, "init_lora_weights": False}
        configurations = [
            peft.LoraConfig(r=4, lora_alpha=7, modules_to_save=["head"], bias="all", **common),
            peft.LoraConfig(
                r=4,
                use_rslora=True,
                alpha_pattern={"query": 3},
                rank_pattern={"up": 2},
                bias="lora_only",
                **common,
            ),
            peft.LoraConfig(r=3, alpha_pattern={"(query|up)": 5, "^conv.*": 1}, **common),
            peft.IA3Config(
                target_modules=["query", "up", "conv"],
                feedforward_modules=["up"],
                init_ia3_weights=False,
            ),
            peft.IA3Config(
                target_modules=["query", "up", "conv"],
                feedforward_modules=["conv"],
                init_ia3_weights=False,
            ),
        ]
        for number, config in enumerate(configurations):
            torch.manual_seed(number)
            net = Net()
            before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
            repo.commit(f"base {number}", m__safetensors=safetensors_file(before))
            adapted = peft.get_peft_model(net, config)
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            adapted.save_pretrained(tmp_path / str(number), save_embedding_layers=bool(number % 2))
            merged = {
                name: value.numpy()
                for name, value in adapted.merge_and_unload().state_dict().items()
            }
            repo.theta("add", "m.safetensors", "--update-data", str(tmp_path / str(number)))
            found = tensors(repo)
            assert set(found) == set(merged)
            assert any(found[name].tobytes() != before[name].tobytes() for name in found)
            for name, value in merged.items():
                rounding = 2e-6 * np.abs(value).max()
                np.testing.assert_allclose(
                    found[name], value, rtol=0, atol=rounding, err_msg=f"{number} {name}"
                )
            repo.git("commit", "-qm", f"adapter {number}")
            repo.assert_clean()
