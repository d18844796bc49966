"""Repositories with branches that trained apart, for the tests of merging."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import forking
import numpy as np
from gitrepo import ROOT, Repo
from small_models import safetensors_file

Tensors = dict[str, np.ndarray]
MODEL = "model.safetensors"


def model(seed: int = 1) -> Tensors:
    """Four layers of 32 x 32, a bias and a step counter."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {
        f"layer{i}.weight": random.standard_normal((32, 32)).astype(np.float32) for i in range(4)
    }
    return {
        **tensors,
        "layer3.bias": random.standard_normal(32).astype(np.float32),
        "step": np.array([100]),
    }


def moved(tensors: Tensors, seed: int, *names: str) -> Tensors:
    """``tensors`` with the named ones (prefixes; none: all floats) changed a little."""
    random = np.random.default_rng(seed)
    chosen = names or ("",)
    return {
        name: (
            value + (random.standard_normal(value.shape) * 0.01).astype(value.dtype)
            if value.dtype.kind == "f" and name.startswith(chosen)
            else value
        )
        for name, value in tensors.items()
    }


def total(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The sum in float64, in the order given."""
    return sum((array.astype(np.float64) for array in arrays), np.zeros(()))


def average(*arrays: np.ndarray) -> np.ndarray:
    """The mean in float64, rounded once to the first one's type."""
    return (total(arrays) / len(arrays)).astype(arrays[0].dtype)


def programs(folder: Path) -> Path:
    """A folder with ``git-theta`` and ``git-merge-theta``, as an installation has them."""
    folder.mkdir(parents=True)
    for name, module in (
        ("git-theta", "git_theta.__main__"),
        ("git-merge-theta", "git_theta.drivers.merge_strategy"),
    ):
        script = folder / name
        start = (
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom {module} import"
            " main\nsys.exit(main())\n"
        )
        script.write_text(f"#!{sys.executable}\n{start}")
        script.chmod(0o755)
    return folder


class Branches(Repo):
    """A repository whose merges are ours; ``save`` commits a model of arrays."""

    @classmethod
    def make(cls, path: Path, environment: Mapping[str, str], bin_folder: Path) -> Branches:
        """On ``main``: the attributes."""
        repo = cls.create(path, {**environment, "PATH": f"{bin_folder}:{environment['PATH']}"})
        command = shlex.join([*forking.program(environment), "merge-driver"])
        repo.git("config", "merge.theta.driver", f"{command} %O %A %B %P")
        repo.git("config", "merge.theta.recursive", "theta-ancestors")
        repo.git("config", "merge.theta-ancestors.driver", f"{command} --ancestors %O %A %B %P")
        repo.git("config", "rerere.enabled", "false")
        repo.write(
            ".gitattributes",
            b"*.safetensors filter=theta merge=theta -text\n*.pt filter=theta merge=theta -text\n",
        )
        repo.git("commit", "-qam", "merge driver")
        assert isinstance(repo, Branches)
        return repo

    def save(self, message: str, tensors: Tensors, path: str = MODEL, **files: bytes) -> Tensors:
        """Commit a model, and other files."""
        self.write(path, safetensors_file(tensors))
        self.git("add", path)
        for name, data in files.items():
            self.write(name.replace("__", "."), data)
            self.git("add", name.replace("__", "."))
        self.git("commit", "-qm", message)
        return tensors

    def branch(
        self, name: str, tensors: Tensors, start: str = "main", path: str = MODEL, **files: bytes
    ) -> Tensors:
        """A branch of one commit on ``start``; main stays checked out."""
        self.git("checkout", "-q", "-b", name, start)
        self.save(name, tensors, path, **files)
        self.git("checkout", "-q", "main")
        return tensors

    def tensors(self, path: str = MODEL) -> Tensors:
        """The model in the working tree."""
        import safetensors.numpy

        return safetensors.numpy.load(self.read(path))

    def fails(self, *words: str, code: int = 1, **environment: str) -> str:
        """What ``git WORDS`` says, which must end with ``code``."""
        return self._said(self.under(environment).run(["git", *words]), code)

    def told(self, *words: str, code: int = 0, **environment: str) -> str:
        """What ``git theta WORDS`` says."""
        return self._said(self.theta_run(*words, **environment), code)

    def lend(self, remote: Path) -> None:
        """Bring every object to a new bare repository, the remote 'origin'; none is left here."""
        Repo(self.path, self.environment).git("init", "-q", "--bare", str(remote))
        self.git("remote", "add", "origin", remote.as_uri())
        self.told("push", "origin", "--all")
        for file in (*self.store.glob("*/*/*"), *(self.common / "lfs" / "objects").glob("*/*/*")):
            file.unlink()

    def settled(self) -> None:
        """Nothing is open: no conflict, no record of one, and what is checked out is what is
        committed.
        """
        self.assert_clean()
        assert self.git("ls-files", "--unmerged") == b""
        self.git("fsck", "--no-progress", "--no-dangling")

    def records(self) -> list[str]:
        """Partly resolved models that are remembered."""
        return sorted(file.name for file in (self.common / "theta" / "merge").glob("*"))

    def _said(self, done: subprocess.CompletedProcess[bytes], code: int) -> str:
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == code, f"{done.returncode}\n{text}"
        return text


def same(one: Tensors, other: Tensors) -> bool:
    """Whether two models hold the same bytes under the same names."""
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )
