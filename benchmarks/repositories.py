"""Repositories to measure in, with Git-Theta or git-lfs as the filter, apart from the configuration
of whoever runs this.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from measuring import Timing, run

PATTERNS = (
    "*.safetensors filter={0} diff={0} merge={0} -text\n*.pt filter={0} diff={0} merge={0} -text\n"
)


def environment(folder: Path) -> dict[str, str]:
    """An environment whose git knows both filters, as their own ``install`` commands configure
    them.
    """
    config = folder / "gitconfig"
    # Some machines tell Python not to keep what it compiles, which would then happen at every
    # start.
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PYTHON"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    result = {
        **kept,
        "PATH": path,
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    config.write_text(
        "[user]\n\tname = Benchmark\n\temail = benchmark@example.com\n[gc]\n\tauto ="
        " 0\n[core]\n\tautocrlf = false\n"
    )
    run(["git", "lfs", "install", "--skip-repo"], folder, result)
    run([sys.executable, "-m", "git_theta", "install"], folder, result)
    return result


@dataclass(frozen=True)
class Repository:
    """A working tree at ``path`` whose models go through ``filter``: ``theta`` or ``lfs``."""

    path: Path
    filter: str
    environment: Mapping[str, str]

    @classmethod
    def new(cls, path: Path, filter_name: str, environment: Mapping[str, str]) -> Repository:
        """An empty repository."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        repository = cls(path, filter_name, environment)
        repository.git("init", "-q", "-b", "main")
        (path / ".gitattributes").write_text(PATTERNS.format(filter_name))
        repository.git("add", ".gitattributes")
        repository.git("commit", "-q", "-m", "attributes")
        return repository

    def git(self, *arguments: str) -> Timing:
        """Run git."""
        return run(["git", *arguments], self.path, self.environment)

    def put(self, model: Path, name: str) -> Path:
        """The model as a file of the working tree: a copy, so that nothing is shared with the other
        side.
        """
        target = self.path / name
        shutil.copyfile(model, target)
        return target

    @property
    def objects(self) -> Path:
        """Where the filter stores what it takes out of git."""
        return self.path / ".git" / self.filter / "objects"

    def forget(self) -> None:
        """Back to the state in which nothing was ever added: no object, no index, no cache."""
        shutil.rmtree(self.path / ".git" / self.filter, ignore_errors=True)
        (self.path / ".git" / "index").unlink(missing_ok=True)

    def keep(self) -> None:
        """Remember the objects, the caches and the index as they are now."""
        shutil.copytree(
            self.path / ".git" / self.filter, self._kept / "store", copy_function=os.link
        )
        shutil.copyfile(self.path / ".git" / "index", self._kept / "index")

    def restore(self) -> None:
        """Back to what was kept.

        What came since is put aside: ext4 is slow to make files for a while after others were
        deleted.
        """
        (self.path / ".git" / self.filter).rename(
            self._kept / f"aside{len(list(self._kept.iterdir()))}"
        )
        shutil.copytree(
            self._kept / "store", self.path / ".git" / self.filter, copy_function=os.link
        )
        shutil.copyfile(self._kept / "index", self.path / ".git" / "index")

    @property
    def _kept(self) -> Path:
        return self.path / ".git" / "kept"

    def stored(self) -> int:
        """Bytes of all the filter's objects."""
        return sum(file.stat().st_size for file in self.objects.rglob("*") if file.is_file())

    def remove(self) -> None:
        """Delete it: these repositories are large."""
        shutil.rmtree(self.path)
