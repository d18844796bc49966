"""``import git_theta``: models read from and committed to real repositories, without a working
tree.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gitrepo import ROOT, Repo
from small_models import safetensors_file

import git_theta
from git_theta.errors import GitError, MergeError, NotCheckedOut, ObjectMissing, UsageError

RANDOM = np.random.default_rng(5)
MODEL = "model.safetensors"


def model(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "word.weight": random.standard_normal((400, 16)).astype(np.float32),
        "layer.0.weight": random.standard_normal((64, 64)).astype(ml_dtypes.bfloat16),
        "layer.1.weight": random.standard_normal((64, 64)).astype(np.float16),
        "steps": np.array([7]),
        "mask": random.integers(0, 2, 300).astype(bool),
        "empty": np.zeros((0, 4), np.float32),
    }


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


@pytest.fixture(autouse=True)
def elsewhere(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment is that of the repositories, and the current directory is none."""
    for key, value in repo.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


# Importing


def test_importing_takes_nothing_along() -> None:
    code = (
        "import sys, git_theta; assert not {'numpy', 'torch', 'click', 'subprocess'} &"
        " set(sys.modules); print(dir(git_theta))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    for name in git_theta.__all__:
        assert repr(name).encode() in done.stdout
        assert getattr(git_theta, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = git_theta.nothing_such


# Loading


def test_load_gives_what_was_added(repo: Repo) -> None:
    values = model()
    first = repo.commit("one", model__safetensors=safetensors_file(values))
    changed = {**values, "word.weight": values["word.weight"] + np.float32(1e-3)}
    repo.commit("two", model__safetensors=safetensors_file(changed))
    assert same(git_theta.load(first, MODEL, repo=repo.path), values)
    assert same(git_theta.load("HEAD~1", MODEL, repo=repo.path / ".git"), values)
    assert same(git_theta.load_from_git("HEAD", repo.path / MODEL, repo=repo.path), changed)
    assert list(git_theta.load("main", MODEL, "layer", repo=repo.path)) == [
        "layer.0.weight",
        "layer.1.weight",
    ]
    assert sorted(git_theta.load("main", MODEL, ["*.1.*", "steps"], repo=repo.path)) == [
        "layer.1.weight",
        "steps",
    ]
    found = git_theta.load("main", MODEL, repo=repo.path)
    for array in found.values():
        array[...] = 0  # its memory is its own
    assert same(git_theta.load("main", MODEL, repo=repo.path), changed)
    repo.assert_clean()


def test_only_what_is_asked_for_is_read(repo: Repo) -> None:
    values = {**model(), "word.weight": np.ones((1100, 256), np.float32)}
    repo.commit("one", model__safetensors=safetensors_file(values))
    wanted = {ref.oid for ref in repo.manifest(f"HEAD:{MODEL}").by_name["word.weight"].objects}
    for oid, path in repo.objects().items():
        if oid not in wanted:
            path.unlink()
    assert same(
        git_theta.load("HEAD", MODEL, "word.weight", repo=repo.path),
        {"word.weight": values["word.weight"]},
    )
    with pytest.raises(ObjectMissing, match=r"layer\.0\.weight"):
        git_theta.load("HEAD", MODEL, repo=repo.path)


def test_what_is_missing_is_named(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(model()), note__txt=b"text")
    for words, said in {
        ("no-such", MODEL): "no revision 'no-such'",
        ("HEAD", "other.safetensors"): "no file other.safetensors in HEAD",
        ("HEAD", "note.txt"): "not stored by Git-Theta",
        ("HEAD", MODEL, "lay"): "no tensor of model.safetensors is called 'lay'",
        ("HEAD", "../x"): "not a file of the repository",
        ("--all", MODEL): "not a revision",
    }.items():
        with pytest.raises(UsageError, match=said):
            git_theta.load(*words, repo=repo.path)
    with pytest.raises(UsageError, match="no framework 'tf'"):
        git_theta.load("HEAD", MODEL, framework="tf", repo=repo.path)
    with pytest.raises(GitError, match="not inside a git repository"):
        git_theta.load("HEAD", MODEL)


def test_open_reads_on_access_and_slices(repo: Repo) -> None:
    values = model()
    repo.commit("one", model__safetensors=safetensors_file(values))
    with git_theta.open("HEAD", MODEL, repo=repo.path) as found:
        assert set(found) == set(values)
        assert len(found) == len(values)
        assert "word.weight" in found
        assert found.specs["layer.0.weight"].dtype == "bf16"
        assert same(dict(found), {name: values[name] for name in found})
        with pytest.raises(KeyError):
            _ = found["weight"]
        with pytest.raises(KeyError):
            found.get_slice("weight")
        for name in ("word.weight", "layer.0.weight", "mask", "empty"):
            part = found.get_slice(name)
            assert part.shape == values[name].shape
            indexes: list[Any] = [
                np.s_[3:9],
                np.s_[:],
                np.s_[-5:],
                np.s_[40:2:-7],
                np.s_[5:5],
                np.s_[...],
                np.s_[::50],
            ]
            indexes += [np.s_[-1], np.s_[0]] if name != "empty" else []
            indexes += (
                [np.s_[2:8, 3], np.s_[7, ::3], np.s_[..., 1]]
                if values[name].ndim == 2 and name != "empty"
                else []
            )
            for index in indexes:
                wanted = values[name][index]
                assert same({"": np.asarray(part[index])}, {"": np.asarray(wanted)}), (name, index)
        with pytest.raises(IndexError):
            _ = found.get_slice("mask")[300]
        assert found.get_slice("steps")[()] == [7]
        with ThreadPoolExecutor(8) as pool:
            for name, array in pool.map(lambda name: (name, found[name]), list(values) * 6):
                assert same({name: array}, {name: values[name]})


def test_a_large_dense_tensor_is_sliced_without_holding_it(repo: Repo) -> None:
    large = np.random.default_rng(1).standard_normal((1024, 1024)).astype(np.float32)
    repo.commit("one", model__safetensors=safetensors_file({"large": large}))
    with git_theta.open("HEAD", MODEL, repo=repo.path) as found:
        for index in (np.s_[255:258], np.s_[1023], np.s_[::200, :3]):
            assert np.array_equal(found.get_slice("large")[index], large[index])


def test_damage_is_told(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(model()))
    (place,) = repo.manifest(f"HEAD:{MODEL}").by_name["word.weight"].ranges
    path = repo.objects()[place.oid]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place.offset + place.length - 20] ^= 1
    path.write_bytes(data)
    with git_theta.open("HEAD", MODEL, repo=repo.path) as found:
        ways: list[Callable[[], object]] = [
            lambda: found["word.weight"],
            lambda: found.get_slice("word.weight")[:2],
        ]
        for read in ways:
            with pytest.raises(git_theta.errors.ObjectDamaged, match=r"word\.weight"):
                read()


def test_safetensors_out(repo: Repo) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    repo.commit("one", model__safetensors=safetensors_file(model()))
    data = git_theta.load("HEAD", MODEL, ["word", "mask"], "safetensors", repo=repo.path)
    assert same(safetensors.load(data), {name: model()[name] for name in ("word.weight", "mask")})


# Saving


def test_save_is_what_git_add_would_store(repo: Repo) -> None:
    values = model()
    first = git_theta.save(values, MODEL, message="one\n\nmore", repo=repo.path)
    assert repo.head() == first
    assert repo.git("log", "-1", "--format=%an %B").decode().strip() == "A U Thor one\n\nmore"
    assert repo.status() == ""
    assert same(git_theta.load(first, MODEL, repo=repo.path), values)
    before = repo.blob(f"HEAD:{MODEL}")
    repo.git("add", "--renormalize", MODEL)
    assert repo.blob(f":{MODEL}") == before
    changed = {**values, "word.weight": values["word.weight"] + np.float32(1e-4)}
    second = git_theta.save_to_git(changed, MODEL, repo=repo.path)
    entries = repo.manifest(f"{second}:{MODEL}").by_name
    assert [link.update for link in entries["word.weight"].chain] == ["delta", "dense"]
    assert entries["layer.0.weight"] == repo.manifest(f"{first}:{MODEL}").by_name["layer.0.weight"]
    # Nothing changed, nothing committed
    assert git_theta.save(changed, MODEL, repo=repo.path) == second
    repo.assert_clean()


def test_save_to_another_branch_touches_nothing_here(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(model()))
    repo.write(MODEL, b"work in progress")
    repo.write("staged.txt", b"staged")
    repo.git("add", "staged.txt")
    before, index = repo.status(), (repo.path / ".git" / "index").read_bytes()
    values = model(2)
    first = git_theta.save(values, MODEL, branch="runs/1", repo=repo.path)
    second = git_theta.save(model(3), MODEL, branch="runs/1", repo=repo.path)
    assert repo.git("rev-list", "runs/1").decode().split() == [
        second,
        first,
        *repo.git("rev-list", "main").decode().split(),
    ]
    assert same(git_theta.load(first, MODEL, repo=repo.path), values)
    assert (repo.status(), (repo.path / ".git" / "index").read_bytes()) == (before, index)
    assert repo.read(MODEL) == b"work in progress"
    assert repo.git("ls-tree", "--name-only", "runs/1").split() == [
        b".gitattributes",
        MODEL.encode(),
    ]
    assert not list((repo.path / ".git" / "theta" / "cache").glob("merge-index*"))


def test_changes_that_are_not_committed_are_never_lost(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(model()))
    repo.write(MODEL, safetensors_file(model(1)))
    with pytest.raises(UsageError, match="has changes in the working tree"):
        git_theta.save(model(2), MODEL, repo=repo.path)
    head = git_theta.save(model(2), MODEL, worktree=False, repo=repo.path)
    assert repo.read(MODEL) == safetensors_file(model(1))
    assert repo.status() == f" M {MODEL}\n"
    repo.git("add", MODEL)
    for worktree in (True, False):
        with pytest.raises(UsageError, match="is staged in the working tree"):
            git_theta.save(model(3), MODEL, worktree=worktree, repo=repo.path)
    repo.write("new.safetensors", b"mine")
    with pytest.raises(UsageError, match="is there, but not committed"):
        git_theta.save(model(3), "new.safetensors", repo=repo.path)
    assert repo.head() == head


def test_save_refuses_what_it_cannot_do(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    cases: list[tuple[Any, str, str]] = [
        (
            model(),
            "model.h6",
            r"model.h6 is not tracked by Git-Theta here; 'git theta track model.h6' it",
        ),
        ({"a": 3}, MODEL, r"'a' \(builtins.int\) cannot be stored as a tensor: it is no array"),
        ({"a": {"b": np.zeros(2)}}, MODEL, "'a'"),
        ({3: np.zeros(2)}, MODEL, "the key 3 is no name"),
        ({"a": np.array(["x"])}, MODEL, "'a'"),
        ({"a": torch.zeros(2, 2).to_sparse()}, MODEL, "dense"),
        (3, MODEL, "a state dict, bytes or a file's path can be saved, not int"),
        (Path("nowhere"), MODEL, "nowhere cannot be read"),
    ]
    for content, path, said in cases:
        with pytest.raises(UsageError, match=said):
            git_theta.save(content, path, repo=repo.path)
    with pytest.raises(UsageError, match="cannot be a branch's name"):
        git_theta.save(model(), MODEL, branch="a..b", repo=repo.path)
    repo.git("branch", "other")
    repo.git("worktree", "add", "-q", str(repo.path.parent / "tree"), "other")
    with pytest.raises(GitError, match="is checked out at"):
        git_theta.save(model(), MODEL, branch="other", repo=repo.path)
    git_theta.save(model(), MODEL, repo=repo.path.parent / "tree")
    assert repo.at(repo.path.parent / "tree").status() == ""
    (repo.path / ".git" / "MERGE_HEAD").write_text(repo.head() + "\n")
    with pytest.raises(UsageError, match="in the middle of something"):
        git_theta.save(model(), MODEL, repo=repo.path)
    (repo.path / ".git" / "MERGE_HEAD").unlink()
    repo.assert_clean()


@pytest.mark.parametrize("path", ["model_1.ckpt", "runs/a [1]/m.ckpt"])
def test_save_to_git_tracks_and_tags_as_the_first_release_did(repo: Repo, path: str) -> None:
    with pytest.warns(
        git_theta.ThetaWarning,
        match=r"is tracked by Git-Theta from now on: \.gitattributes in the same commit says so",
    ):
        made = git_theta.save_to_git(
            {"w": np.arange(300.0)}, path, "message", tag="v1", repo=repo.path
        )
    assert repo.head() == made == repo.git("rev-parse", "v1^{commit}").decode().strip()
    assert repo.git("log", "-1", "--format=%s").decode().strip() == "message"
    assert sorted(
        repo.git("diff", "--name-only", "-z", "HEAD~1", "HEAD").decode().split("\0")[:-1]
    ) == sorted([".gitattributes", path])
    repo.assert_clean()
    assert same(git_theta.load("HEAD", path, repo=repo.path), {"w": np.arange(300.0)})
    assert repo.blob(f"HEAD:{path}").startswith(b"git-theta manifest")
    head = repo.head()
    with pytest.raises(UsageError, match="there is a tag 'v1' already"):
        git_theta.save_to_git({"w": np.arange(301.0)}, path, "more", tag="v1", repo=repo.path)
    assert repo.head() == head
    # No warning: it is tracked now
    git_theta.save_to_git({"w": np.arange(301.0)}, path, "more", tag="v2", repo=repo.path)
    repo.assert_clean()


def test_save_to_git_tags_a_commit_that_is_not_checked_out(repo: Repo) -> None:
    """Somebody else holds the index."""
    lock = repo.path / ".git" / "index.lock"
    lock.touch()
    with pytest.raises(NotCheckedOut) as caught, pytest.warns(git_theta.ThetaWarning):
        git_theta.save_to_git(
            {"w": np.arange(300.0)}, "model_1.ckpt", "message", tag="v1", repo=repo.path
        )
    lock.unlink()
    made = repo.git("rev-parse", "v1^{commit}").decode().strip()
    assert caught.value.commit == made == repo.head()


def test_save_to_git_takes_no_attributes_along_that_are_not_committed(repo: Repo) -> None:
    repo.write(".gitattributes", b"*.txt text\n")
    with pytest.raises(UsageError, match=r"\.gitattributes has changes in the working tree"):
        git_theta.save_to_git({"w": np.arange(300.0)}, "model_1.ckpt", repo=repo.path)


def test_attributes_are_those_of_the_branch(repo: Repo) -> None:
    repo.git("switch", "-q", "-c", "wide")
    repo.write(".gitattributes", b"*.ckpt filter=theta -text\n")
    repo.git("commit", "-qam", "wide")
    repo.git("switch", "-q", "main")
    git_theta.save({"a": np.zeros(100)}, "m.ckpt", branch="wide", repo=repo.path)
    with pytest.raises(UsageError, match="not tracked by Git-Theta on wide"):
        git_theta.save({"a": np.zeros(100)}, MODEL, branch="wide", repo=repo.path)
    repo.assert_clean()


def test_a_bare_repository_and_a_first_commit(repo: Repo, tmp_path: Path) -> None:
    repo.commit("one", model__safetensors=safetensors_file(model()))
    repo.git("clone", "-q", "--bare", str(repo.path), str(tmp_path / "bare.git"))
    repo.git("--git-dir", str(tmp_path / "bare.git"), "config", "remote.origin.url", str(repo.path))
    with pytest.warns(git_theta.ThetaWarning):
        made = git_theta.save(model(1), MODEL, branch="main", repo=tmp_path / "bare.git")
    assert same(git_theta.load("main", MODEL, repo=tmp_path / "bare.git"), model(1))
    assert (
        repo.git("--git-dir", str(tmp_path / "bare.git"), "rev-parse", "main").decode().strip()
        == made
    )
    new = repo.at(tmp_path / "new")
    new.path.mkdir()
    new.git("init", "-q", ".")
    new.write(".gitattributes", b"*.safetensors filter=theta -text\n")
    git_theta.save(model(), MODEL, repo=new.path)
    assert new.git("rev-list", "--count", "HEAD") == b"1\n"
    assert new.status() == "?? .gitattributes\n"


def test_other_files_go_along(repo: Repo) -> None:
    repo.write("on-disk.bin", safetensors_file(model(4)))
    files: dict[str | os.PathLike[str], Any] = {
        MODEL: model(),
        "config.json": b'{"a": 1}\n',
        "sub/copy.safetensors": repo.path / "on-disk.bin",
    }
    made = git_theta.save_files(files, message="three", repo=repo.path)
    assert repo.read("config.json") == b'{"a": 1}\n'
    assert repo.read("sub/copy.safetensors") == safetensors_file(model(4))
    assert repo.status() == "?? on-disk.bin\n"
    assert same(git_theta.load(made, "sub/copy.safetensors", repo=repo.path), model(4))
    with pytest.raises(UsageError, match="are many for git"):
        git_theta.save_files(
            {"a.txt": bytes(17 << 20), "b.txt": b""}, message="big", repo=repo.path
        )


def test_nobodys_commit_is_lost(repo: Repo) -> None:
    """Several threads save different models to one branch at once: every commit is there."""
    names = [f"m{number}.safetensors" for number in range(4)]
    start = threading.Barrier(len(names))

    def one(name: str) -> str:
        start.wait()
        return git_theta.save(model(), name, branch="together", repo=repo.path)

    with ThreadPoolExecutor(len(names)) as pool:
        made = set(pool.map(one, names))
    assert made <= set(repo.git("rev-list", "together").decode().split())
    assert len(made) == len(names)
    assert set(names) <= set(repo.git("ls-tree", "--name-only", "together").decode().split())
    repo.assert_clean()


def test_threads_wait_for_each_other(repo: Repo) -> None:
    """Ten threads save to the branch that is checked out, and ten to another one; somebody has the
    index for a moment.
    """
    lock = repo.path / ".git" / "index.lock"
    lock.touch()
    threading.Timer(1, lock.unlink).start()

    def one(number: int) -> str:
        branch = None if number % 2 else "together"
        return git_theta.save(
            {"a": np.full(500, number)}, f"m{number}.safetensors", branch=branch, repo=repo.path
        )

    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(one, range(20)))
    for branch, commits in (("main", made[1::2]), ("together", made[::2])):
        assert set(commits) <= set(repo.git("rev-list", branch).decode().split())
        assert len(repo.git("ls-tree", "--name-only", branch).split()) == 11
    repo.assert_clean()


def test_a_model_that_somebody_else_saved_is_not_overwritten(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from git_theta.git.writing import plumbing
    from git_theta.workflows.storing import commit

    monkeypatch.setattr(commit, "turn", nullcontext)  # somebody whom no lock keeps out, as git
    git_theta.save(model(), MODEL, branch="shared", repo=repo.path)
    move = plumbing.move

    def late(*arguments: str | None) -> bool:
        monkeypatch.setattr(plumbing, "move", move)
        git_theta.save(model(1), MODEL, branch="shared", repo=repo.path)
        return move(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(plumbing, "move", late)
    with pytest.raises(GitError, match="changed the same file; load it and save again"):
        git_theta.save(model(2), MODEL, branch="shared", repo=repo.path)
    assert same(git_theta.load("shared", MODEL, repo=repo.path), model(1))


# Torch


def test_torch_files_in_and_out(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.randn(300, 20)
    state = {
        "model": {
            "w": weight,
            "w.t": weight.t(),
            "tied": weight,
            "half": torch.randn(600).bfloat16(),
            "fp8": torch.randn(99).to(torch.float8_e4m3fn),
        },
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(40, 20)}},
            "lr": 0.1,
        },
        "complex": torch.randn(70, dtype=torch.complex64).conj(),
        "none": torch.empty(0, 3),
        "slice": torch.arange(1000)[100:200:3],
    }
    git_theta.save(state, "train.pt", repo=repo.path)
    again = torch.load(repo.path / "train.pt", weights_only=True)
    assert torch.equal(again["model"]["w.t"], weight.t())
    assert again["model"]["tied"].data_ptr() == again["model"]["w"].data_ptr()
    found = git_theta.load("HEAD", "train.pt", framework="torch", repo=repo.path)
    assert torch.equal(found["model.w"], weight)
    assert torch.equal(found["model.w.t"], weight.t())
    assert torch.equal(found["model.tied"], weight)
    assert torch.equal(found["model.half"], state["model"]["half"])
    assert torch.equal(
        found["model.fp8"].view(torch.uint8), state["model"]["fp8"].view(torch.uint8)
    )
    assert torch.equal(found["slice"], state["slice"])
    assert found["none"].shape == (0, 3)
    assert found["optimizer.state.0.step"] == 3
    with git_theta.open("HEAD", "train.pt", "torch", repo=repo.path) as opened:
        assert torch.equal(opened.get_slice("model.w.t")[3:5, 7:9], weight.t()[3:5, 7:9])
        assert torch.equal(opened.get_slice("model.half")[5], state["model"]["half"][5])
    weights = state["model"]
    git_theta.save(weights, MODEL, repo=repo.path)
    loaded = git_theta.load("HEAD", MODEL, framework="torch", repo=repo.path)
    assert all(
        torch.equal(loaded[n].view(torch.uint8), weights[n].contiguous().view(torch.uint8))
        for n in weights
    )
    git_theta.save({"a": np.arange(100.0)}, "plain.pt", repo=repo.path)
    assert torch.equal(
        torch.load(repo.path / "plain.pt", weights_only=True)["a"],
        torch.arange(100.0, dtype=torch.float64),
    )
    repo.assert_clean()


def test_names_that_two_tensors_of_a_torch_file_have(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    one, two = torch.arange(600.0).reshape(20, 30), torch.arange(800.0).reshape(40, 20)
    git_theta.save({"a.b": one, "a": {"b": two.t()}, "c": one.t()}, "model.pt", repo=repo.path)
    with git_theta.open("HEAD", "model.pt", "torch", repo=repo.path) as found:
        assert len(found) == 3
        assert sorted(value.numel() for name, value in found.items() if name.startswith("a.b")) == [
            600,
            800,
        ]
        assert torch.equal(found["a.b"], one)
        assert torch.equal(found["a.b#2"].reshape(-1), two.reshape(-1))


def test_views_that_would_take_much_memory(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(20_000.0)
    for count, found in ((4, 4), (40, 1)):
        git_theta.save(
            {str(n): base[n : n + 18_000].reshape(2, -1).t() for n in range(count)},
            "model.pt",
            repo=repo.path,
        )
        with git_theta.open("HEAD", "model.pt", "torch", repo=repo.path) as checkpoint:
            assert len(checkpoint) == found
            assert sum(value.numel() for value in checkpoint.values()) == (
                18_000 * 4 if found == 4 else 20_000
            )


def test_slices_of_a_distributed_checkpoint(repo: Repo) -> None:
    data = ROOT / "tests" / "data" / "dcp"
    repo.write(".gitattributes", b"*.distcp filter=theta -text\n")
    for name in (".metadata", "__0_0.distcp"):
        repo.write(f"dcp/{name}", (data / name).read_bytes())
    repo.git("add", ".")
    repo.git("commit", "-qm", "slices")
    found = git_theta.load("HEAD", "dcp/__0_0.distcp", repo=repo.path)
    assert {name: (str(value.dtype), value.shape) for name, value in found.items()} == {
        "model.w": ("float32", (4, 3)),
        "model.b": ("bfloat16", (3,)),
    }
    done = repo.theta_run("convert", "HEAD:dcp/__0_0.distcp", "x.safetensors")
    assert done.returncode == 1
    assert b"one file of a distributed checkpoint" in done.stderr
    assert not (repo.path / "x.safetensors").exists()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        repo.write(f"cut/{name}", (data.with_name("dcp-sharded") / name).read_bytes())
    repo.git("add", ".")
    repo.git("commit", "-qm", "cut")
    found = git_theta.load("HEAD", "cut/__0_0.distcp", repo=repo.path)
    assert list(found) == ["model.w@0,0"], "a slice does not go by the name of the whole tensor"


def test_what_a_gguf_file_holds_besides_stays(repo: Repo) -> None:
    gguf = pytest.importorskip("gguf")
    repo.write(".gitattributes", b"*.gguf filter=theta -text\n")
    repo.write("small.gguf", (ROOT / "tests" / "data" / "formats" / "small.gguf").read_bytes())
    repo.git("add", ".")
    repo.git("commit", "-qm", "small")
    before = set(gguf.GGUFReader(repo.path / "small.gguf").fields)
    git_theta.save({"new.weight": np.ones((4, 32), np.float32)}, "small.gguf", repo=repo.path)
    reader = gguf.GGUFReader(repo.path / "small.gguf")
    assert {name for name in reader.fields if not name.startswith("GGUF.")} == {
        name for name in before if not name.startswith("GGUF.")
    }
    assert [tensor.name for tensor in reader.tensors] == ["new.weight"]


def test_metadata_of_the_file_stays(repo: Repo) -> None:
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import save as dumped

    repo.commit("one", model__safetensors=dumped({"a": np.arange(100.0)}, {"format": "pt"}))
    git_theta.save({"a": np.arange(50.0)}, MODEL, repo=repo.path)
    with safetensors.safe_open(repo.path / MODEL, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_jax_arrays(repo: Repo) -> None:
    """In a process of its own: jax starts threads, beside which nothing may fork."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    code = f"""
import git_theta, jax
git_theta.save({{"a": jax.numpy.arange(100.0)}}, {MODEL!r}, repo=".")
found = git_theta.load("HEAD", {MODEL!r}, framework="jax", repo=".")["a"]
assert isinstance(found, jax.Array) and (found == jax.numpy.arange(100.0)).all()
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


# Comparing, merging, history


def test_diff(repo: Repo) -> None:
    git_theta.save(model(), MODEL, repo=repo.path)
    git_theta.save({**model(), "steps": np.array([8])}, MODEL, repo=repo.path)
    (found,) = git_theta.diff("HEAD~1", "HEAD", MODEL, repo=repo.path)
    assert found.change.new_path == MODEL
    assert found.comparison is not None
    assert [(change.kind, change.name) for change in found.comparison.changes] == [
        ("modified", "steps")
    ]
    assert git_theta.diff("HEAD~1", "HEAD", "sub", repo=repo.path) == []
    repo.write(MODEL, safetensors_file({**model(), "steps": np.array([7])}))
    assert git_theta.diff("HEAD~1", repo=repo.path)[0].comparison.counts["modified"] == 0  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no-such"):
        git_theta.diff("no-such", "HEAD", repo=repo.path)


def test_merge(repo: Repo) -> None:
    base = model()
    git_theta.save(base, MODEL, repo=repo.path)
    one, two = dict(base), dict(base)
    one["word.weight"], two["word.weight"] = base["word.weight"] + 1, base["word.weight"] + 3
    two["steps"] = np.array([9])
    git_theta.save(two, MODEL, branch="side", repo=repo.path)
    ours = git_theta.save(one, MODEL, repo=repo.path)
    with pytest.raises(MergeError, match=r"word\.weight.*give a strategy"):
        git_theta.merge("side", repo=repo.path)
    assert repo.head() == ours
    made = git_theta.merge("side", strategy="average", message="both", repo=repo.path)
    assert repo.git("rev-list", "--parents", "-1", "HEAD").decode().split()[1:] == [
        ours,
        repo.git("rev-parse", "side").decode().strip(),
    ]
    merged = git_theta.load(made, MODEL, repo=repo.path)
    assert np.abs(merged["word.weight"] - (base["word.weight"] + 2)).max() < 1e-6
    assert merged["steps"] == 9
    assert repo.status() == ""
    assert git_theta.merge("side", repo=repo.path) == made  # already there
    # Nothing of its own: it moves on
    assert git_theta.merge("main", into="side", repo=repo.path) == made
    assert repo.git("rev-parse", "side").decode().strip() == made
    for branch in ("x", "y"):
        half = np.full((64, 64), ord(branch), np.float16)
        git_theta.save({**merged, "layer.1.weight": half}, MODEL, branch=branch, repo=repo.path)
    other = git_theta.merge("y", strategy="theirs", params="layer.1.*", into="x", repo=repo.path)
    assert (git_theta.load(other, MODEL, repo=repo.path)["layer.1.weight"] == ord("y")).all()
    assert repo.head() == made
    with pytest.raises(UsageError, match="no branch nowhere"):
        git_theta.merge("x", into="nowhere", repo=repo.path)
    repo.assert_clean()


@pytest.mark.parametrize("when", ["while it merges", "when it has merged"])
def test_a_merge_into_a_branch_that_moves_meanwhile_changes_nothing(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from git_theta.git.writing import plumbing

    git_theta.save(model(), MODEL, repo=repo.path)
    git_theta.save({**model(), "steps": np.array([9])}, MODEL, branch="side", repo=repo.path)
    git_theta.save({**model(), "mask": model()["mask"] ^ True}, MODEL, repo=repo.path)
    before, moved = repo.head(), list[str]()

    def somebody(*arguments: object) -> object:
        if not moved:
            made = (
                repo.git("commit-tree", f"{before}^{{tree}}", "-p", before, "-m", "meanwhile")
                .decode()
                .strip()
            )
            repo.git("update-ref", "refs/heads/main", made)
            moved.append(made)
        return real(*arguments)

    name = "commit_tree" if when == "while it merges" else "move"
    real = getattr(plumbing, name)
    monkeypatch.setattr(plumbing, name, somebody)
    with pytest.raises(GitError, match="moved by somebody else meanwhile; merge again"):
        git_theta.merge("side", repo=repo.path)
    assert [repo.head()] == moved
    repo.assert_clean()
    made = git_theta.merge("side", repo=repo.path)
    assert git_theta.load(made, MODEL, "steps", repo=repo.path)["steps"] == 9
    repo.assert_clean()


def test_merge_leaves_other_conflicts_to_git(repo: Repo) -> None:
    repo.commit("one", a__txt=b"a\n")
    repo.git("switch", "-q", "-c", "side")
    repo.commit("side", a__txt=b"b\n")
    repo.git("switch", "-q", "main")
    head = repo.commit("main", a__txt=b"c\n")
    with pytest.raises(GitError, match=r"a\.txt"):
        git_theta.merge("side", repo=repo.path)
    assert repo.head() == head
    assert repo.status() == ""


def test_log_tells_metrics(repo: Repo) -> None:
    first = git_theta.save(model(), MODEL, message="one", repo=repo.path)
    second = git_theta.save(model(1), MODEL, message="two", repo=repo.path)
    git_theta.record_metrics(second, {"loss": 9.0}, repo=repo.path)
    metrics: dict[str, Any] = {"loss": np.float32(0.25), "epoch": 3, "worst": float("inf")}
    git_theta.record_metrics(second, metrics, repo=repo.path)
    steps = git_theta.log(MODEL, repo=repo.path)
    assert [step.commit.oid for step in steps] == [second, first]
    assert [step.metrics for step in steps] == [
        {"loss": 0.25, "epoch": 3, "worst": float("inf")},
        {},
    ]
    assert [
        step.commit.subject for step in git_theta.log(MODEL, "HEAD~1", "word", 1, repo=repo.path)
    ] == ["one"]
    shown = repo.theta("log", MODEL).decode()
    assert "loss 0.25, epoch 3, worst inf" in shown
    import json

    records = json.loads(repo.theta("log", MODEL, "--json"))
    assert records["commits"][0]["metrics"] == {"loss": 0.25, "epoch": 3, "worst": None}
    assert records["commits"][1]["metrics"] == {}
    repo.theta("log", MODEL, "--html", "page.html")
    assert b"loss 0.25" in repo.read("page.html")
    repo.git("notes", "--ref=theta-metrics", "add", "-f", "-m", "not JSON", second)
    assert git_theta.log(MODEL, repo=repo.path)[0].metrics == {}
    with pytest.raises(UsageError, match="'loss' is str, not a number"):
        git_theta.record_metrics(second, {"loss": "low"}, repo=repo.path)  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="no revision"):
        git_theta.log(MODEL, "nothing", repo=repo.path)


def test_a_repository_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(GitError, match=r"^there is no folder .*nowhere$"):
        git_theta.load("HEAD", MODEL, repo=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(GitError, match=r"file is not a folder$"):
        git_theta.load("HEAD", MODEL, repo=str(tmp_path / "file"))
    with pytest.raises(GitError, match=r" is not inside a git repository$"):
        git_theta.load("HEAD", MODEL, repo=tmp_path)
    for url in ("https://example.com/a/b.git", "ssh://git@example.com/a"):
        with pytest.raises(UsageError, match=r"is a URL, not a folder: 'git clone' it first"):
            git_theta.load("HEAD", MODEL, repo=url)


# GitPython


def test_repositories_and_commits_of_gitpython(repo: Repo) -> None:
    """``git.Repo`` and ``git.Commit`` are taken, and what is returned GitPython takes."""
    import git

    opened = git.Repo(repo.path)
    one, two = model(1), model(2)
    first = opened.commit(git_theta.save(one, MODEL, message="One", repo=opened))
    second = opened.commit(git_theta.save(two, MODEL, message="Two", repo=opened))
    assert same(git_theta.load(first, MODEL, repo=opened), one)
    assert [item.change.new_path for item in git_theta.diff(first, second, repo=opened)] == [MODEL]
    git_theta.record_metrics(second, {"loss": 0.5}, repo=opened)
    steps = git_theta.log(MODEL, rev=second, repo=opened)
    assert [opened.commit(step.commit.hexsha) for step in steps] == [second, first]
    assert same(git_theta.load(steps[1].commit, MODEL, repo=opened), one)
    assert steps[0].metrics == {"loss": 0.5}
