"""What a push, or a range of commits, brings: the files that its commits change.

The input is a stranger's. It is streamed, and everything that is looked at counts against a
:class:`Budget`: a few kilobytes of trees that share their parts can describe more files than any
server has time for.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, NamedTuple, cast

from git_theta.core.names import display
from git_theta.errors import GitError
from git_theta.git.command import inherited_environment, launch, run
from git_theta.git.history.manifest_scan import own_objects
from git_theta.git.repository import Repository

_CHUNK = 1 << 16
_LARGEST = 64 << 20  # bytes of a tree: more than a million files
_KEPT = 16 << 20  # bytes of trees that are kept


class Budget:
    """How much of a push is looked at before it is refused."""

    def __init__(self, paths: int) -> None:
        self._left = self._paths = paths

    def spend(self, cost: int) -> None:
        """Take ``cost`` paths; :class:`GitError` if fewer are left."""
        self._left -= cost
        if self._left < 0:
            raise GitError(
                f"there is more to check than {self._paths:,} changed files; push fewer commits at"
                " a time, or raise --limit"
            )


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked at, by object ids: the ``commits`` that can be reached from these names (with
    ``^`` for excluded ones) but, with ``new``, from no ref; the files of ``trees``; and ``blobs``.
    """

    commits: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    new: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A file as ``commit`` (or a tree) has it, and unlike every parent of that commit."""

    commit: str
    path: str
    mode: str
    blob: str

    @property
    def is_file(self) -> bool:
        """Whether it is an ordinary file: no link, no submodule, not deleted."""
        return self.mode.startswith("100")


def scope_of(repository: Repository, tips: Iterable[str]) -> Scope:
    """What a push brings whose refs will name ``tips``, in a repository that has not moved its refs
    yet.
    """
    every = dict.fromkeys(tips)
    asked = [*own_objects(repository), "cat-file", "--buffer"]
    form = "--batch-check=%(objecttype) %(objectname)"
    listed = run([*asked, form], stdin="".join(f"{tip}^{{}}\n" for tip in every).encode("ascii"))
    found: dict[str, list[str]] = {"commit": [], "tree": [], "blob": []}
    for tip, line in zip(every, listed.decode("ascii", "replace").splitlines(), strict=True):
        kind, _, oid = line.partition(" ")
        if kind not in found:
            raise GitError(f"object {tip} is not here, or cannot be read")
        found[kind].append(oid)
    return Scope(tuple(found["commit"]), tuple(found["tree"]), tuple(found["blob"]), new=True)


def refs(repository: Repository, patterns: Sequence[str]) -> dict[str, str]:
    """The refs that match (as ``git for-each-ref`` matches), each with the object that it names."""
    form = "--format=%(objectname) %(refname)"
    listed = run([*own_objects(repository), "for-each-ref", form, "--", *patterns])
    rows = (os.fsdecode(line).partition(" ") for line in listed.splitlines())
    return {name: oid for oid, _, name in rows}


def changes(repository: Repository, scope: Scope, budget: Budget) -> Iterator[Change]:
    """The files that commits of the scope change; of its trees all files; its blobs, without a
    path.

    So every blob of the scope is among them: one that no commit changes has come from a parent.
    (``git diff-tree`` would hold all files of a commit before it names the first.)
    """
    with _Trees(repository) as trees:
        for commit, parents in _commits(repository, scope, budget):
            yield from _differences(trees, commit, parents, budget)
        for tree in scope.trees:
            yield from _differences(trees, tree, (), budget)
    for blob in scope.blobs:
        budget.spend(1)
        yield Change("", "", "100644", blob)


def blobs_at(repository: Repository, places: Sequence[tuple[str, str]]) -> list[str | None]:
    """The blob at each (commit, path); None if there is none, or a line break in its path, which
    git could not be asked for.
    """
    asked = [f"{commit}:{path}" for commit, path in places if "\n" not in path]
    listed = run(
        [
            *own_objects(repository),
            "cat-file",
            "--buffer",
            "--batch-check=%(objecttype) %(objectname)",
        ],
        stdin=os.fsencode("".join(f"{name}\n" for name in asked)),
    )
    # Of a missing one git repeats the name, in which blanks may stand
    answers = iter(listed.split(b"\n")[:-1])
    rows = [b"" if "\n" in path else next(answers) for _, path in places]
    return [
        row[5:].decode("ascii")
        if row.startswith(b"blob ") and len(row) == 5 + repository.hash_length
        else None
        for row in rows
    ]


def _commits(
    repository: Repository, scope: Scope, budget: Budget
) -> Iterator[tuple[str, list[str]]]:
    """Each commit of the scope with its parents."""
    if not scope.commits:
        return
    asked = ["rev-list", "--parents", "--stdin", *(["--not", "--all"] if scope.new else [])]
    names = "".join(f"{name}\n" for name in scope.commits).encode("ascii")
    with _stream(repository, asked, names) as stdout:
        for line in stdout:
            commit, *parents = line.decode("ascii").split()
            budget.spend(1 + len(parents))
            yield commit, parents


def _differences(
    trees: _Trees, commit: str, parents: Sequence[str], budget: Budget
) -> Iterator[Change]:
    """The files of a commit that are not the same in any of its parents."""
    waiting = [(f"{commit}^{{tree}}", [f"{parent}^{{tree}}" for parent in parents], b"")]
    while waiting:
        tree, before, folder = waiting.pop()
        others = [trees.read(other) for other in before]
        for name, entry in trees.read(tree).items():
            olds = [old for other in others if (old := other.get(name)) is not None]
            if entry in olds:
                continue
            path = folder + name
            budget.spend(1 + len(path) // 256)
            if entry.is_tree:
                held = [old.oid for old in olds if old.is_tree]
                waiting.append((entry.oid, held, path + b"/"))
            else:
                yield Change(commit, os.fsdecode(path), entry.mode, entry.oid)


class _Entry(NamedTuple):
    mode: str
    oid: str

    @property
    def is_tree(self) -> bool:
        return self.mode == "40000"


class _Trees:
    """Reads trees through one ``git cat-file``; those that were read last are kept."""

    def __init__(self, repository: Repository) -> None:
        self._process = launch(
            [*own_objects(repository), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._width = repository.hash_length // 2
        self._kept: dict[str, dict[bytes, _Entry]] = {}
        self._size = 0

    def __enter__(self) -> _Trees:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast(IO[bytes], stream).close()
        self._process.wait()

    def read(self, name: str) -> dict[bytes, _Entry]:
        """The entries of a tree, by name; :class:`GitError` if it is not here or too large."""
        kept = self._kept.get(name)
        if kept is None:
            data = self._ask(name)
            kept = self._parsed(data)
            self._size += len(data)
            if self._size > _KEPT:
                self._kept.clear()
                self._size = len(data)
            self._kept[name] = kept
        return kept

    def _ask(self, name: str) -> bytes:
        stdin, stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        stdin.write(name.encode("ascii") + b"\n")
        stdin.flush()
        words = stdout.readline().split()
        if len(words) != 3 or words[1] != b"tree":
            raise GitError(f"tree {name} is not here, or cannot be read")
        size = int(words[2])
        if size > _LARGEST:
            raise GitError(f"tree {name} has {size:,} bytes; it is too large to be looked at")
        data = stdout.read(size + 1)
        if len(data) != size + 1:
            raise GitError(f"git cat-file stopped within tree {name}")
        return data[:-1]

    def _parsed(self, data: bytes) -> dict[bytes, _Entry]:
        found, position = dict[bytes, _Entry](), 0
        while position < len(data):
            end = data.find(b"\0", position)
            mode, _, name = data[position:end].partition(b" ")
            position = end + 1 + self._width
            if end < 0 or position > len(data):
                raise GitError("a tree is damaged; 'git fsck' names it")
            oid = data[end + 1 : position].hex()
            if name in found:
                raise GitError(f"a tree has two entries called {display(os.fsdecode(name), 100)!r}")
            found[name] = _Entry(mode.decode("ascii", "replace").lstrip("0"), oid)
        return found


@contextmanager
def _stream(repository: Repository, arguments: Sequence[str], stdin: bytes) -> Iterator[IO[bytes]]:
    """The output of a git command that looks at the repository's own objects, as it comes.

    :class:`GitError` with git's words if all of it was read and the command failed.
    """
    environment = inherited_environment({"GIT_GRAFT_FILE": os.devnull})
    with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = launch(
            [*own_objects(repository), *arguments],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=words,
            env=environment,
        )
        stdout = cast(IO[bytes], process.stdout)
        try:
            yield stdout
        except BaseException:
            process.kill()
            raise
        finally:
            stdout.close()
            code = process.wait()
        if code:
            words.seek(0)
            said = words.read(_CHUNK).decode("utf-8", "replace").strip().splitlines()
            raise GitError(f"git {arguments[0]} failed: {said[0] if said else f'exit code {code}'}")
