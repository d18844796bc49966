"""Real repositories for the tests: git with Git-Theta as its filter, apart from the configuration
of whoever runs them.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import forking

from git_theta.core.manifest import Manifest, parse

ROOT = Path(__file__).resolve().parents[2]
ATTRIBUTES = "*.safetensors filter=theta -text\n*.pt filter=theta -text\n*.bin filter=theta -text\n"
PATIENCE = 600  # seconds: no test waits so long unless something hangs, however busy the machine is
CONFIG = """\
[user]
	name = A U Thor
	email = author@example.com
[init]
	defaultBranch = main
[protocol "file"]
	allow = always
[advice]
	detachedHead = false
[gc]
	auto = 0
[core]
	autocrlf = false
[filter "theta"]
	process = %s
	required = true
"""


def filter_command() -> str:
    """What git runs, for a Git-Theta that need not be installed."""
    return shlex.join([*forking.PROGRAM, "filter-process"])


def isolated_environment(home: Path) -> dict[str, str]:
    """An environment in which git knows nothing but what a file below ``home`` says."""
    left = ("GIT_", "XDG_", "COLUMNS", "LINES")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left)}
    home.mkdir(parents=True, exist_ok=True)
    config = home / "gitconfig"
    quoted = '"' + filter_command().replace("\\", "\\\\").replace('"', '\\"') + '"'
    config.write_text(CONFIG % quoted, encoding="utf-8")
    return {
        **kept,
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        # Starting more costs each of thousands of commands a tenth of a second
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
        "PYTHONWARNINGS": "error",
    }


@dataclass(frozen=True)
class Repo:
    """A working tree at ``path`` and the environment in which git runs there."""

    path: Path
    environment: Mapping[str, str]

    @classmethod
    def create(cls, path: Path, environment: Mapping[str, str], *options: str) -> Repo:
        """A new repository whose .gitattributes are committed."""
        path.mkdir(parents=True)
        repo = cls(path, environment)
        repo.git("init", "-q", *options, ".")
        repo.write(".gitattributes", ATTRIBUTES.encode())
        repo.git("add", ".gitattributes")
        repo.git("commit", "-qm", "attributes")
        return repo

    def copy(self, path: Path) -> Self:
        """A copy of this working tree and its repository, in place of what is at ``path``.

        For states that many tests begin with. Nothing may be modified here: the copy's files are
        new to git, which asks its index for what the filter would make of each.
        """
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(self.path, path, symlinks=True)
        copy = replace(self, path=path)
        attributes = path / ".git" / "info" / "attributes"
        assert not attributes.exists()
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text("* filter=known\n", encoding="utf-8")
        clean = "filter.known.clean=git cat-file blob :%f"
        copy.git("-c", clean, "update-index", "-q", "--refresh")
        attributes.unlink()
        return copy

    def at(self, path: Path) -> Repo:
        """Another working tree, in the same environment."""
        return Repo(path, self.environment)

    def under(self, environment: Mapping[str, str]) -> Repo:
        """The same working tree, with more variables set."""
        return Repo(self.path, {**self.environment, **environment})

    def run(
        self, words: Sequence[str], stdin: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """A command, whatever its exit code. It must not take forever, nor show a traceback."""
        done = subprocess.run(
            words,
            cwd=self.path,
            env={**self.environment, **environment},
            input=stdin or b"",
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
        return done

    def git(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> bytes:
        """What a git command prints; it must succeed."""
        done = self.run(["git", *arguments], stdin, **environment)
        said = done.stderr.decode("utf-8", "replace")
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.returncode}\n{said}"
        return done.stdout

    def git_fails(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> str:
        """What a git command says on standard error; it must fail."""
        done = self.run(["git", *arguments], stdin, **environment)
        said = done.stderr.decode("utf-8", "replace")
        assert done.returncode not in (0, -11), f"git {' '.join(arguments)} succeeded\n{said}"
        return said

    def theta_run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """``git theta ARGUMENTS``, whatever its exit code."""
        done = forking.run(arguments, self.path, {**self.environment, **environment}, PATIENCE)
        if done is None:
            return self.under(environment).run([*forking.PROGRAM, *arguments])
        assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
        return done

    def theta(self, *arguments: str, **environment: str) -> bytes:
        """What ``git theta ARGUMENTS`` prints; it must succeed."""
        done = self.theta_run(*arguments, **environment)
        assert done.returncode == 0, (
            f"git theta {' '.join(arguments)}:"
            f" {done.returncode}\n{done.stderr.decode('utf-8', 'replace')}"
        )
        return done.stdout

    def status(self) -> str:
        """``git status``: empty when the working tree is what HEAD holds."""
        return self.git("status", "--porcelain").decode("utf-8", "replace")

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the working tree, in place."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def read(self, name: str) -> bytes:
        """A file of the working tree."""
        return (self.path / name).read_bytes()

    def commit(self, message: str, **files: bytes) -> str:
        """Write, add and commit files (``name__ext`` for name.ext) and return the commit's id."""
        for name, data in files.items():
            self.write(name.replace("__", "."), data)
        self.git("add", "--", *(name.replace("__", ".") for name in files))
        self.git("commit", "-qm", message)
        return self.head()

    def head(self) -> str:
        """The id of HEAD's commit."""
        return self.git("rev-parse", "HEAD").decode().strip()

    def blob(self, name: str) -> bytes:
        """What git stores under a name such as ``HEAD:model.pt``."""
        return self.git("cat-file", "blob", name)

    def manifest(self, name: str) -> Manifest:
        """The manifest that git stores under a name such as ``HEAD:model.pt``."""
        return parse(self.blob(name))

    @property
    def common(self) -> Path:
        """The repository's folder."""
        return self.path / self.git("rev-parse", "--git-common-dir").decode().rstrip("\n")

    @property
    def store(self) -> Path:
        """The folder of Git-Theta's objects."""
        return self.common / "theta" / "objects"

    def objects(self, checked: Collection[str] = ()) -> dict[str, Path]:
        """The store's objects by id, those that are here in part left out.

        Each must be what its name says, and read-only; those that are ``checked`` are left out.
        """
        found = {}
        left_out = {*checked, *(path.name for path in self.store.glob("*/*/*.partial"))}
        for path in sorted(path for path in self.store.glob("*/*/*") if path.name not in left_out):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, (
                f"{path} is not what its name says"
            )
            assert not stat.S_IMODE(path.stat().st_mode) & 0o222, f"{path} can be written"
            assert path.parts[-3:-1] == (path.name[:2], path.name[2:4])
            found[path.name] = path
        return found

    def object_ids(self) -> set[str]:
        """The names in the store, unchecked; those of objects that are here in part left out."""
        return {path.name for path in self.store.glob("*/*/*") if not path.suffix}

    def leftovers(self) -> list[str]:
        """Temporary files that nobody removed."""
        return sorted(path.name for path in (self.common / "theta" / "tmp").glob("*"))

    def assert_clean(self) -> None:
        """Nothing to commit, nothing left behind, no object harmed."""
        assert self.status() == ""
        assert self.leftovers() == []
        self.objects()
