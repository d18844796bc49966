"""Where a repository's parts are. Found once, by asking git."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.names import display
from git_theta.errors import GitError
from git_theta.git.command import run_code


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: ``git_dir`` (this worktree's), ``common_dir`` (shared by all worktrees),
    ``worktree`` (None if bare).

    ``hash_length`` is the number of hex digits of git's own object names: 40, or 64 in a SHA-256
    repository.
    """

    git_dir: Path
    common_dir: Path
    worktree: Path | None
    hash_length: int

    @property
    def objects(self) -> Path:
        """The folder of Git-Theta's objects."""
        return self.common_dir / "theta" / "objects"

    @property
    def cache(self) -> Path:
        """The folder of this worktree for things that may be deleted at any time."""
        return self.git_dir / "theta" / "cache"

    @property
    def index(self) -> Path:
        """The index file in force."""
        named = os.environ.get("GIT_INDEX_FILE")
        return Path(named).absolute() if named else self.git_dir / "index"

    def alternates(self) -> list[Path]:
        """Object folders of the repositories this one borrows from (``clone --shared``,
        ``--reference``), recursively.
        """
        found = borrowed(self.common_dir)
        for named in os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "").split(os.pathsep):
            if named and not named.startswith('"'):
                found.append(Path(named).parent / "theta" / "objects")
        return found


def discover(start: Path | None = None) -> Repository:
    """The repository that ``start`` (default: the current directory) lies in; :class:`GitError`
    when there is none.
    """
    asked = ["--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel"]
    code, words = run_code(["rev-parse", *asked], cwd=start, allowed=(0, 128))
    answers = words.decode("utf-8", "surrogateescape").split("\n")
    if len(answers) > 5:  # a folder's name breaks the line: one question at a time
        each = (
            run_code(["rev-parse", question], cwd=start, allowed=(0, 128))[1] for question in asked
        )
        answers = [answer.decode("utf-8", "surrogateescape").removesuffix("\n") for answer in each]
    if len(answers) < 4:
        if start is not None:
            raise GitError(f"{display(str(start), 400)} is not inside a git repository")
        _require_current_folder()
        raise GitError("not inside a git repository; 'git init' makes one, 'cd' leads into one")
    common_dir = Path(os.path.normpath(Path(start or Path.cwd()) / answers[1]))
    # The last question fails where there is no working tree
    worktree = Path(answers[3]) if code == 0 else None
    return Repository(Path(answers[0]), common_dir, worktree, 64 if answers[2] == "sha256" else 40)


def is_inside() -> bool:
    """Whether the current folder is in a repository that git can use."""
    return run_code(["rev-parse", "--git-dir"], allowed=range(256))[0] == 0


def prefix() -> str:
    """The current folder from the top of the working tree: ``sub/folder/``, at the top empty."""
    _, said = run_code(["rev-parse", "--show-prefix"])
    return os.fsdecode(said).rstrip("\n")


def _require_current_folder() -> None:
    try:
        Path.cwd()
    except OSError:
        raise GitError(
            "the current folder does not exist any more; 'cd' to one that does"
        ) from None


def borrowed(common_dir: Path) -> list[Path]:
    """Object folders that the repository in ``common_dir`` borrows from, recursively."""
    queue = [common_dir / "objects"]
    for folder in queue:
        for line in _alternate_lines(folder):
            path = Path(os.path.normpath(folder / line))
            if path not in queue and len(queue) < 32:
                queue.append(path)
    return [folder.parent / "theta" / "objects" for folder in queue[1:]]


def _alternate_lines(folder: Path) -> list[str]:
    try:
        text = (folder / "info" / "alternates").read_text("utf-8", "surrogateescape")
    except OSError:
        return []
    return [line for line in text.splitlines() if line and not line.startswith(("#", '"'))]
