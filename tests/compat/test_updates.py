"""What plain ``git add`` stores of a changed model: against which base, how small, in how long a
chain, and the same every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gitrepo import Repo
from small_models import safetensors_file

Tensors = dict[str, np.ndarray]


def weights(seed: int = 1, layers: int = 3) -> Tensors:
    """Large enough for the log of stored tensors, which leaves small ones out."""
    random = np.random.default_rng(seed)
    names = [f"layer.{number}.weight" for number in range(layers)]
    tensors = {
        name: (random.standard_normal((384, 256)) * 0.05).astype(np.float32) for name in names
    }
    return {
        "word.weight": (random.standard_normal((1200, 96)) * 0.05).astype(np.float32),
        **tensors,
    }


def trained(tensors: Mapping[str, np.ndarray], seed: int, size: float = 1e-5) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        name: value + (random.standard_normal(value.shape) * size).astype(np.float32)
        for name, value in tensors.items()
    }


BASE = weights()
DENSE = trained(BASE, 2)


def updates(repo: Repo, name: str) -> dict[str, list[str]]:
    return {
        entry.name: [link.update for link in entry.chain]
        for entry in repo.manifest(name).entries
        if entry.chain
    }


def added(repo: Repo, **files: Tensors) -> int:
    """Commit models; the bytes of the objects this stores."""
    before = repo.object_ids()
    repo.commit("more", **{name: safetensors_file(tensors) for name, tensors in files.items()})
    return sum(path.stat().st_size for oid, path in repo.objects().items() if oid not in before)


def assert_comes_back(repo: Repo, revision: str = "HEAD") -> None:
    """Every model of a commit is checked out as it was written, by whoever has only the objects."""
    paths = [
        path for path in repo.git("ls-files").decode().split() if path.endswith(".safetensors")
    ]
    held = {path: repo.read(path) for path in paths}
    for path in paths:
        (repo.path / path).unlink()
    repo.git("checkout", "-q", revision, "--", ".")
    assert {path: repo.read(path) for path in paths} == held
    repo.assert_clean()


def low_rank(value: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(8)
    left, right = (
        random.standard_normal((len(value), 4)),
        random.standard_normal((4, value.shape[1])),
    )
    return (value + 0.02 * (left @ right)).astype(np.float32)


def few(value: np.ndarray) -> np.ndarray:
    value = value.copy()
    value.reshape(-1)[np.random.default_rng(9).choice(value.size, 300, replace=False)] += (
        np.float32(0.01)
    )
    return value


def scaled(value: np.ndarray) -> np.ndarray:
    return (value * np.random.default_rng(10).uniform(0.5, 1.5, (len(value), 1))).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "update", "part"),
    [
        (lambda value: trained({"x": value}, 3)["x"], "delta", 0.6),
        (few, "sparse", 0.01),
        (low_rank, "low-rank", 0.3),
        (scaled, "ia3", 0.2),
        (lambda value: value[:-20], "delta", 0.01),
        (lambda value: np.delete(value, [3, 100, 101], axis=0), "delta", 0.01),
        (lambda value: np.concatenate([value, value[:2] + 1]), "delta", 0.02),
        (
            lambda value: np.random.default_rng(4).standard_normal(value.shape).astype(np.float32),
            "dense",
            1.0,
        ),
    ],
    ids=[
        "trained",
        "few",
        "low-rank",
        "scaled",
        "trimmed",
        "rows-removed",
        "rows-added",
        "unrelated",
    ],
)
def test_the_smallest_is_chosen(
    repo: Repo, change: Callable[[np.ndarray], np.ndarray], update: str, part: float
) -> None:
    repo.commit("base", m__safetensors=safetensors_file(BASE))
    name = "layer.1.weight"
    size = added(repo, m__safetensors={**BASE, name: np.ascontiguousarray(change(BASE[name]))})
    assert updates(repo, "HEAD:m.safetensors") == {
        **{key: ["dense"] for key in BASE},
        name: [update] if update == "dense" else [update, "dense"],
    }
    assert size <= part * BASE[name].nbytes + 1000
    assert_comes_back(repo)
    diff = repo.git("show", "--no-textconv").decode()
    lines = [line for line in diff.splitlines() if line.startswith("+") and name in line]
    assert len(lines) == 1
    assert update in lines[0], "a plain git diff shows what was chosen"


def test_a_fine_tune_under_a_new_name(repo: Repo) -> None:
    first = added(repo, models__safetensors=BASE)
    size = added(repo, tuned__safetensors=DENSE)
    assert size < 0.6 * first
    assert all(
        chain == ["delta", "dense"] for chain in updates(repo, "HEAD:tuned.safetensors").values()
    )
    assert_comes_back(repo)


def test_a_fine_tune_while_its_base_is_removed(repo: Repo) -> None:
    """What the index no longer lists, the next commit's file has to stand without; nothing is asked
    of the commit before.
    """
    added(repo, old__safetensors=BASE)
    repo.git("mv", "old.safetensors", "new.safetensors")
    repo.git("commit", "-qm", "moved")
    assert added(repo, new__safetensors=DENSE) < 0.6 * sum(value.nbytes for value in BASE.values())
    assert_comes_back(repo)


def test_renamed_tensors_cost_nothing(repo: Repo) -> None:
    added(repo, m__safetensors=BASE)
    assert (
        added(repo, m__safetensors={f"model.{name}": value for name, value in BASE.items()}) < 2000
    )
    repo.git("rm", "-q", "m.safetensors")
    repo.git("commit", "-qm", "removed")
    # no model of the index holds them any more: the log of stored tensors does
    assert (
        added(repo, again__safetensors={f"x.{name}": value for name, value in BASE.items()}) < 2000
    )
    assert_comes_back(repo)


def test_deleting_the_log_loses_nothing(repo: Repo) -> None:
    """Without it, the same content is stored once more, and exactly."""
    added(repo, m__safetensors=BASE)
    repo.git("rm", "-q", "m.safetensors")
    repo.git("commit", "-qm", "removed")
    for file in (repo.common / "theta").rglob("tensors.sqlite*"):
        file.write_bytes(b"not a database")
    assert added(repo, again__safetensors=BASE) < 2000, "the same dense objects"
    assert_comes_back(repo)


def test_shards_split_again(repo: Repo) -> None:
    names = list(BASE)
    added(repo, one__safetensors=BASE)
    size = added(
        repo,
        a__safetensors={name: BASE[name] for name in names[:1]},
        b__safetensors={name: BASE[name] for name in names[1:]},
    )
    assert size < 2000
    size = added(
        repo,
        a__safetensors={name: DENSE[name] for name in names[:3]},
        b__safetensors={name: DENSE[name] for name in names[3:]},
    )
    assert size < 0.6 * sum(value.nbytes for value in BASE.values())
    assert_comes_back(repo)


def test_a_bf16_copy_of_an_fp32_model(repo: Repo) -> None:
    added(repo, full__safetensors=BASE)
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in BASE.items()}
    assert added(repo, half__safetensors=half) < 3000, "rounding is predicted exactly"
    assert all(chain[0] == "delta" for chain in updates(repo, "HEAD:half.safetensors").values())
    assert_comes_back(repo)


def test_a_named_base(repo: Repo) -> None:
    """``git theta track --base``: of several models with the same names, the right one."""
    other = weights(7)
    added(repo, a__safetensors=other, zoo__safetensors=BASE)
    guessed = added(repo, b__safetensors=DENSE)
    repo.git("reset", "-q", "--hard", "HEAD~1")
    for file in (repo.common / "theta").rglob("*"):
        if file.name.startswith("tensors.sqlite") or file.parent.name == "cache":
            file.unlink()
    repo.theta("track", "c.safetensors", "--base", "zoo.safetensors")
    repo.git("add", ".gitattributes")
    named = added(repo, c__safetensors=trained(BASE, 21))
    assert named < 0.6 * sum(value.nbytes for value in BASE.values())
    assert named < guessed or guessed < 0.6 * sum(value.nbytes for value in BASE.values())
    assert all(
        chain == ["delta", "dense"] for chain in updates(repo, "HEAD:c.safetensors").values()
    )
    assert_comes_back(repo)


@pytest.mark.parametrize("limit", [1, 3])
def test_chains_are_bounded(repo: Repo, limit: int) -> None:
    repo.git("config", "theta.maxChain", str(limit))
    value, contents = {"w": BASE["layer.0.weight"]}, []
    for number in range(5):
        contents.append(safetensors_file(value))
        repo.commit(str(number), m__safetensors=contents[-1])
        (entry,) = repo.manifest("HEAD:m.safetensors").entries
        assert len(entry.chain) <= limit
        value = (
            {"w": few(value["w"] + np.float32(number))[:, ::-1].copy()}
            if number == 9
            else trained(value, number, 1e-7)
        )
    for back, content in enumerate(reversed(contents)):
        repo.git("checkout", "-q", f"HEAD~{back}", "--", "m.safetensors")
        assert repo.read("m.safetensors") == content


def test_a_chain_never_passes_a_dense_copy(repo: Repo) -> None:
    """Large differences: the tensor is soon stored whole again, or against the root."""
    value = {"w": BASE["layer.0.weight"]}
    for number in range(6):
        repo.commit(str(number), m__safetensors=safetensors_file(value))
        (entry,) = repo.manifest("HEAD:m.safetensors").entries
        assert sum(link.size for link in entry.chain[:-1]) <= entry.chain[-1].size
        value = trained(value, number, 1e-3)
    assert_comes_back(repo)


def lose(repo: Repo, damage: bool) -> str:
    """Lose the dense object of a tensor that the next version is based on; its id."""
    place = repo.manifest("HEAD:m.safetensors").by_name["layer.0.weight"].chain[-1].ranges[0]
    path = repo.objects()[place.oid]
    path.chmod(0o644)
    if damage:
        data = bytearray(path.read_bytes())
        data[place.offset + place.length // 2] ^= 0xFF
        path.write_bytes(data)
    else:
        path.unlink()
    return place.oid


@pytest.mark.parametrize("damage", [False, True], ids=["missing", "damaged"])
def test_a_base_that_is_lost_at_add(repo: Repo, damage: bool) -> None:
    repo.commit("base", m__safetensors=safetensors_file(BASE))
    lose(repo, damage)
    repo.write("m.safetensors", safetensors_file(DENSE))
    done = repo.run(["git", "add", "m.safetensors"])
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode()
    assert "layer.0.weight" in said
    assert "stored whole" in said
    found = updates(repo, ":m.safetensors")
    assert found["layer.0.weight"] == ["dense"]
    beside = ["delta", "dense"] if damage else ["dense"]  # it lies in the same object
    assert found["layer.1.weight"] == beside
    repo.git("commit", "-qm", "dense")
    held = repo.read("m.safetensors")
    (repo.path / "m.safetensors").unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert repo.read("m.safetensors") == held


@pytest.mark.parametrize("damage", [False, True], ids=["missing", "damaged"])
def test_a_base_that_is_lost_at_checkout(repo: Repo, damage: bool) -> None:
    repo.commit("base", m__safetensors=safetensors_file(BASE))
    repo.commit("dense", m__safetensors=safetensors_file(DENSE))
    oid = lose(repo, damage)
    repo.git("rm", "-q", "--cached", "m.safetensors")
    repo.git("reset", "-q")
    (repo.path / "m.safetensors").unlink()
    for command in (["git", "checkout", "--", "m.safetensors"], None):
        done = repo.run(command) if command else repo.theta_run("checkout", "m.safetensors")
        said = done.stderr.decode()
        assert done.returncode != 0
        assert "layer.0.weight" in said
        assert oid[:10] in said
        assert not (repo.path / "m.safetensors").exists()


def test_compression_levels(repo: Repo, tmp_path: Path) -> None:
    sizes = {}
    for level in ("fast", "default", "best"):
        other = Repo.create(tmp_path / level, repo.environment)
        other.git("config", "theta.compression", level)
        half = [
            {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
            for tensors in (BASE, trained(BASE, 3, 1e-4))
        ]
        added(other, m__safetensors=half[0])
        sizes[level] = added(other, m__safetensors=half[1])
        assert_comes_back(other)
    assert sizes["best"] <= sizes["default"] <= sizes["fast"]
    repo.git("config", "theta.compression", "most")
    repo.write("m.safetensors", safetensors_file(BASE))
    assert "theta.compression must be fast, default or best" in repo.git_fails(
        "add", "m.safetensors"
    )


def test_the_same_on_any_number_of_threads(repo: Repo, tmp_path: Path) -> None:
    seen = set()
    changed = {
        **DENSE,
        "layer.0.weight": low_rank(BASE["layer.0.weight"]),
        "layer.1.weight": few(BASE["layer.1.weight"]),
    }
    changed["layer.2.weight"] = scaled(BASE["layer.2.weight"])
    for threads, blas in (("1", "1"), ("8", "4"), ("8", "1")):
        other = Repo.create(
            tmp_path / f"t{threads}b{blas}",
            {**repo.environment, "OPENBLAS_NUM_THREADS": blas, "OMP_NUM_THREADS": blas},
        )
        other.git("config", "theta.threads", threads)
        added(other, m__safetensors=BASE)
        added(other, m__safetensors=changed, tuned__safetensors=DENSE)
        seen.add(
            (
                other.blob("HEAD:m.safetensors"),
                other.blob("HEAD:tuned.safetensors"),
                frozenset(other.objects()),
            )
        )
    assert len(seen) == 1


def test_content_that_head_holds_keeps_its_manifest(repo: Repo) -> None:
    """Also where it would be stored in another way today: a chain that the settings now forbid,
    another level, a lost log.
    """
    added(repo, m__safetensors=BASE)
    added(repo, m__safetensors=DENSE)
    text = repo.blob("HEAD:m.safetensors")
    repo.git("config", "theta.maxChain", "1")
    repo.git("config", "theta.compression", "best")
    for path in (repo.common / "theta").rglob("tensors.sqlite*"):
        path.unlink()
    for _ in range(2):
        repo.write("m.safetensors", safetensors_file(DENSE))
        os.utime(repo.path / "m.safetensors")
        repo.git("add", "--renormalize", "m.safetensors")
        assert repo.blob(":m.safetensors") == text
        assert repo.status() == ""
    repo.write("m.safetensors", safetensors_file(BASE))
    repo.git("add", "m.safetensors")
    repo.write("m.safetensors", safetensors_file(DENSE))  # by way of another content in the index
    repo.git("add", "m.safetensors")
    assert repo.blob(":m.safetensors") == text
    assert repo.status() == ""


def test_an_update_that_nobody_here_knows(repo: Repo) -> None:
    """A manifest made with a plugin: the error names the update, and other files are not harmed."""
    added(repo, m__safetensors=BASE, other__safetensors=weights(3))
    lines = repo.blob("HEAD:m.safetensors").split(b"\n")
    text = b"\n".join(
        line.replace(b" dense:", b" wavelet:") if line.startswith(b"layer.0.weight") else line
        for line in lines
    )
    assert b" wavelet:" in text
    blob = repo.git("hash-object", "-w", "--stdin", stdin=text).decode().strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},m.safetensors")
    repo.git("commit", "-qm", "from elsewhere")
    for path in ("m.safetensors", "other.safetensors"):
        (repo.path / path).unlink()
    said = repo.git_fails("checkout", "--", "m.safetensors")
    assert "'wavelet'" in said
    assert "plugin" in said
    done = repo.theta_run("checkout", "m.safetensors")
    assert done.returncode != 0
    assert b"'wavelet'" in done.stderr
    assert not (repo.path / "m.safetensors").exists()
    repo.git("checkout", "--", "other.safetensors")
    # a new version can be added all the same, whole where it would need that base
    repo.write("m.safetensors", safetensors_file(DENSE))
    done = repo.run(["git", "add", "m.safetensors"])
    assert done.returncode == 0, done.stderr
    assert b"'wavelet'" in done.stderr
    assert not any("wavelet" in chain for chain in updates(repo, ":m.safetensors").values())
