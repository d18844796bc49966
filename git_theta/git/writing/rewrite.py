"""Rewriting history: every commit of some refs with some of its files changed, and everything else
about it as it was.

``git fast-export`` tells the commits without their files' contents, git-filter-repo's parser hands
them over one by one, and ``git fast-import`` makes the new ones in a scratch repository beside the
real one. Until :func:`move` moves all refs in one transaction, nothing of the real repository has
changed. A commit whose files and parents stay as they are stays itself, signature included.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from git_theta.core.names import display
from git_theta.errors import GitError, UsageError
from git_theta.git.command import inherited_environment, launch, run, run_code
from git_theta.git.history import roots
from git_theta.git.history.manifest_scan import git
from git_theta.git.repository import Repository

INSTALL = "rewriting history needs git-filter-repo: pip install git-filter-repo"
KEPT = "refs/git-theta/before-"  # where the refs of the old history are put
# What follows something else (remotes), is moved in a way of its own (notes, replace), or is of one
# working tree.
_APART = (
    "refs/remotes/",
    "refs/notes/",
    "refs/replace/",
    "refs/stash",
    "refs/bisect/",
    "refs/rewritten/",
    "refs/worktree/",
    "refs/git-theta/",
)
_SIGNED = (b"\ngpgsig", b"\n-----BEGIN PGP SIGNATURE-----\n", b"\n-----BEGIN SSH SIGNATURE-----\n")
_ENDS = _SIGNED[1:]  # what a signature at the end of a tag's message starts with
_UNSIGNED = re.compile(rb"(?m)^gpgsig[^\n]*\n(?: [^\n]*\n)*")
_UNFINISHED = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisection",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
}


@dataclass(frozen=True, slots=True)
class BlobChange:
    """A file that a commit has otherwise than its first parent; ``blob`` is empty where it is gone
    (so is ``mode`` then).
    """

    path: str
    mode: str = ""
    blob: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the commit has an ordinary file there."""
        return self.mode.startswith("100")


@dataclass(frozen=True, slots=True)
class CommitChanges:
    """A commit that is about to be rewritten: its id, its parents', and its files as changes to the
    first parent's.
    """

    oid: str
    parents: tuple[str, ...]
    changes: tuple[BlobChange, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or tag: what it names (``oid``), and the commit behind that."""

    name: str
    oid: str
    commit: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Old commits with the new ones in their places, and refs with what they are to name.

    What stayed itself is in neither.
    """

    commits: Mapping[str, str]
    refs: Mapping[Ref, str]


def require_library() -> None:
    """:class:`UsageError`, saying how to get it, where git-filter-repo is not installed."""
    try:
        import git_filter_repo  # noqa: F401 - is it there?
    except ImportError:
        raise UsageError(f"git-filter-repo is not installed; {INSTALL}") from None


def require_quiet(repository: Repository) -> None:
    """:class:`GitError` unless nothing is under way that the old history would be needed for: each
    says what to do about it.
    """
    if repository.hash_length != 40:
        raise GitError("git-filter-repo rewrites no SHA-256 repositories yet")
    if (repository.common_dir / "shallow").exists():
        raise GitError(
            "this clone is shallow; 'git fetch --unshallow' brings the history that is to be"
            " rewritten"
        )
    for name, what in _UNFINISHED.items():
        if (repository.git_dir / name).exists():
            raise GitError(f"a {what} is under way; finish or abort it first")
    others = [
        tree
        for tree in roots.worktrees(repository)
        if repository.worktree is None or not tree.samefile(repository.worktree)
    ]
    if others:
        listed = ", ".join(display(str(tree), 80) for tree in others)
        raise GitError(
            f"there are further working trees ({listed}); 'git worktree remove' takes one away, its"
            " branch stays"
        )
    stashes = len(roots.stashes(repository))
    if stashes:
        raise GitError(
            f"changes are stashed ({stashes}), which would no longer fit; 'git stash pop' or 'git"
            " stash drop' them first"
        )
    if repository.worktree is None:
        return
    changed = run(
        ["status", "--porcelain", "--untracked-files=no", "-z"], cwd=repository.worktree
    ).split(b"\0")
    if changed[0]:
        raise GitError(
            "there are changes that are not committed"
            f" ({display(os.fsdecode(changed[0][3:]), 80)}); commit or stash them first"
        )
    code, _ = run_code(["symbolic-ref", "-q", "HEAD"], cwd=repository.worktree, allowed=(0, 1))
    head = git(repository, ["rev-parse", "-q", "--verify", "HEAD"]) if code else b""
    if head and not git(
        repository,
        [
            "for-each-ref",
            "--contains",
            head.decode().strip(),
            "--count=1",
            "refs/heads",
            "refs/tags",
        ],
    ):
        raise GitError(
            "HEAD is detached at commits that no branch holds; 'git switch -c NAME' makes one of"
            " them"
        )


def refs(repository: Repository, names: Sequence[str]) -> list[Ref]:
    """The refs to rewrite: those ``names`` mean, or all that are this repository's own (branches,
    tags, …; not remote-tracking ones).

    A tag of something other than a commit, and an annotated tag object outside of ``refs/tags``,
    stay as they are.
    """
    listed = git(
        repository,
        ["for-each-ref", "--format=%(refname)%00%(objectname)%00%(objecttype)%00%(symref)"],
    )
    rows = [line.split("\0") for line in listed.decode("utf-8", "surrogateescape").splitlines()]
    chosen = {_full_name(repository, name) for name in names}
    unknown = chosen - {row[0] for row in rows}
    apart = sorted(name for name in chosen if name.startswith(_APART)) or sorted(unknown)
    if apart:
        raise UsageError(f"{display(apart[0], 120)} is not a branch or tag of this repository")
    wanted = [
        row
        for row in rows
        if not row[3] and (row[0] in chosen if chosen else not row[0].startswith(_APART))
    ]
    wanted = [
        row
        for row in wanted
        if row[2] == "commit" or (row[2] == "tag" and row[0].startswith("refs/tags/"))
    ]
    asked = "".join(f"{row[1]}^{{}}\n" for row in wanted).encode("ascii")
    peeled = (
        git(repository, ["cat-file", "--batch-check=%(objectname) %(objecttype)"], asked)
        .decode("ascii")
        .splitlines()
        if wanted
        else []
    )
    found = [(row, words.split(" ")) for row, words in zip(wanted, peeled, strict=True)]
    return [Ref(row[0], row[1], words[0]) for row, words in found if words[1:] == ["commit"]]


def _full_name(repository: Repository, name: str) -> str:
    asked = ["rev-parse", "-q", "--verify", "--symbolic-full-name", "--end-of-options", name]
    code, full = run_code(["--git-dir", str(repository.git_dir), *asked], allowed=(0, 1, 128))
    words = full.decode("utf-8", "surrogateescape").split("\n")
    if code or len(words) != 2 or not words[0].startswith("refs/"):
        raise UsageError(f"{display(name, 120)!r} is not a branch or tag of this repository")
    return words[0]


def files(repository: Repository, chosen: Sequence[Ref]) -> set[tuple[str, str]]:
    """Every (path, blob) of the ordinary files in the commits of ``chosen``."""
    options = [
        "log",
        "--format=",
        "--raw",
        "-r",
        "-m",
        "--root",
        "--no-renames",
        "--no-abbrev",
        "-z",
        "--diff-filter=AMT",
        "--stdin",
    ]
    listed = git(repository, options, "".join(f"{ref.commit}\n" for ref in chosen).encode("ascii"))
    found: set[tuple[str, str]] = set()
    fields = iter(listed.split(b"\0"))
    for field in fields:
        words = field.decode("ascii").split()
        if words:
            path = next(fields)
            if words[1].startswith("100"):
                found.add((path.decode("utf-8", "surrogateescape"), words[3]))
    return found


def signatures(repository: Repository, rewritten: Rewritten) -> int:
    """How many signed commits and annotated tags are rewritten, and so lose their signatures."""
    oids = [*rewritten.commits, *(ref.oid for ref in rewritten.refs if ref.oid != ref.commit)]
    count = 0
    for start in range(0, len(oids), 1000):
        text = git(
            repository,
            ["cat-file", "--batch"],
            "\n".join(oids[start : start + 1000]).encode("ascii") + b"\n",
        )
        count += sum(text.count(mark) for mark in _SIGNED)
    return count


class RewriteScratch:
    """A repository in ``folder`` that sees the real one's objects.

    New objects go into the real one if it is to ``keep`` them.
    """

    def __init__(self, repository: Repository, folder: Path, keep: bool) -> None:
        self.repository = repository
        self.git_dir = folder / "scratch.git"
        objects = repository.common_dir / "objects"
        run(["init", "-q", "--bare", "--template=", str(self.git_dir)])
        (self.git_dir / "objects" / "info" / "alternates").write_text(
            f"{objects}\n", "utf-8", "surrogateescape"
        )
        self._environment = {"GIT_OBJECT_DIRECTORY": str(objects)} if keep else {}

    def git(self, arguments: Sequence[str], stdin: bytes = b"") -> bytes:
        """What a git command prints there."""
        return run(
            ["--git-dir", str(self.git_dir), *arguments], stdin=stdin, environment=self._environment
        )

    def store(self, data: bytes) -> str:
        """Have git store a small blob; its id."""
        return self.git(["hash-object", "-w", "--stdin"], data).decode("ascii").strip()

    def store_file(self, path: Path) -> str:
        """Have git store a file's bytes as they are; its id."""
        return (
            self.git(
                [
                    "-c",
                    "core.bigFileThreshold=64m",
                    "hash-object",
                    "-w",
                    "--no-filters",
                    "--",
                    str(path),
                ]
            )
            .decode("ascii")
            .strip()
        )

    def kept_bytes(self, blobs: Iterable[str]) -> int:
        """Bytes on disk of blobs, as git has compressed them."""
        asked = "".join(f"{blob}\n" for blob in blobs).encode("ascii")
        return (
            sum(map(int, self.git(["cat-file", "--batch-check=%(objectsize:disk)"], asked).split()))
            if asked
            else 0
        )

    def rewrite(
        self, chosen: Sequence[Ref], change: Callable[[CommitChanges], Sequence[BlobChange]]
    ) -> Rewritten:
        """Make the new history of ``chosen``: ``change`` says what each commit's changes are to be,
        parents come first.

        They are changes to what was made of the first parent.
        """
        marks = self.git_dir / "marks"
        work = _RewriteWork(change)
        with (
            tempfile.TemporaryFile() as words,
            _exporting(self.repository, chosen, words) as source,
        ):
            options = [
                "fast-import",
                "--quiet",
                "--force",
                "--date-format=raw-permissive",
                f"--export-marks={marks}",
            ]
            importer = launch(
                ["--git-dir", str(self.git_dir), "-c", "core.ignorecase=false", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=words,
                env=inherited_environment(self._environment),
            )
            target = cast(IO[bytes], importer.stdin)
            try:
                work.run(source, target)
            except BrokenPipeError:
                pass
            except BaseException:
                importer.kill()
                raise
            finally:
                with contextlib.suppress(OSError):
                    target.close()
                importer.wait()
            if importer.returncode:
                raise GitError(f"git fast-import failed: {_reason(words)}")
        return self._outcome(chosen, work, marks)

    def _outcome(self, chosen: Sequence[Ref], work: _RewriteWork, marks: Path) -> Rewritten:
        made = (
            dict(line.split(" ") for line in marks.read_text("ascii").splitlines())
            if marks.exists()
            else {}
        )
        new = {old: made[f":{mark}"] for mark, old in work.old.items()}
        commits = dict(new)
        return Rewritten(
            commits, {ref: self._named(ref.oid, new) for ref in chosen if ref.commit in commits}
        )

    def _named(self, oid: str, new: dict[str, str]) -> str:
        """What takes the place of a commit, or of an annotated tag of one: the same words for the
        new object, without a signature.
        """
        if oid not in new:
            text = self.git(["cat-file", "tag", oid])
            head, _, message = text.partition(b"\n\n")
            lines = _UNSIGNED.sub(b"", head + b"\n").split(b"\n", 1)
            target = self._named(lines[0].removeprefix(b"object ").decode("ascii"), new)
            cut = min(
                (at for at in map((b"\n" + message).find, _ENDS) if at >= 0), default=len(message)
            )
            made = b"object " + target.encode("ascii") + b"\n" + lines[1] + b"\n" + message[:cut]
            new[oid] = (
                self.git(["hash-object", "-t", "tag", "-w", "--stdin"], made)
                .decode("ascii")
                .strip()
            )
        return new[oid]


class _RewriteWork:
    """What the parser calls for each element of the stream.

    ``old`` holds the original of each commit that is made, by its mark.
    """

    def __init__(self, change: Callable[[CommitChanges], Sequence[BlobChange]]) -> None:
        self._change = change
        self.old: dict[int, str] = {}

    def run(self, source: IO[bytes], target: IO[bytes]) -> None:
        import git_filter_repo

        self._file_change = git_filter_repo.FileChange
        parser = git_filter_repo.FastExportParser(
            commit_callback=self._commit, tag_callback=self._tag, reset_callback=self._reset
        )
        try:
            parser.run(source, target)
        except (AttributeError, AssertionError, SystemExit) as error:
            # How the parser takes what it does not know
            raise GitError(
                "git-filter-repo cannot read what git fast-export wrote:"
                f" {display(str(error), 200)}"
            ) from None

    def _commit(self, commit: Any, _: object) -> None:
        given = tuple(map(_plain, commit.file_changes))
        parents = tuple(
            self.old[parent] if isinstance(parent, int) else parent.decode("ascii")
            for parent in commit.parents
        )
        wanted = self._change(CommitChanges(commit.original_id.decode("ascii"), parents, given))
        if set(wanted) == set(given) and not any(
            isinstance(parent, int) for parent in commit.parents
        ):
            commit.skip(commit.original_id)
            return
        self.old[commit.id] = commit.original_id.decode("ascii")
        commit.file_changes = [self._changed(item) for item in wanted]

    def _tag(self, tag: Any) -> None:
        tag.skip()  # they are made at the end, as the stream confuses nested ones

    def _reset(self, reset: Any) -> None:
        if isinstance(reset.from_ref, bytes):
            reset.skip()

    def _changed(self, change: BlobChange) -> Any:
        path = change.path.encode("utf-8", "surrogateescape")
        if not change.blob:
            return self._file_change(b"D", path)
        return self._file_change(
            b"M", path, change.blob.encode("ascii"), change.mode.encode("ascii")
        )


def _plain(change: Any) -> BlobChange:
    path = change.filename.decode("utf-8", "surrogateescape")
    if change.type == b"D":
        return BlobChange(path)
    return BlobChange(path, change.mode.decode("ascii"), change.blob_id.decode("ascii"))


@contextlib.contextmanager
def _exporting(
    repository: Repository, chosen: Sequence[Ref], words: IO[bytes]
) -> Iterator[IO[bytes]]:
    """The stream that ``git fast-export`` writes."""
    options = [
        "--no-data",
        "--show-original-ids",
        "--use-done-feature",
        "--signed-tags=strip",
        "--mark-tags",
        "--reencode=no",
    ]
    with tempfile.TemporaryFile() as names:
        names.write("".join(f"{ref.name}\n" for ref in chosen).encode("utf-8", "surrogateescape"))
        names.seek(0)
        process = launch(
            [
                "--git-dir",
                str(repository.git_dir),
                "--no-replace-objects",
                "fast-export",
                *options,
                "--stdin",
            ],
            stdin=names,
            stdout=subprocess.PIPE,
            stderr=words,
        )
        stdout = cast(IO[bytes], process.stdout)
        try:
            yield stdout
        except BaseException:
            process.kill()
            raise
        finally:
            stdout.close()
            process.wait()
    if process.returncode:
        raise GitError(f"git fast-export failed: {_reason(words)}")


def _reason(words: IO[bytes]) -> str:
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("fatal:")] or lines
    return display(fatal[0], 300) if fatal else "it said nothing"


def move(repository: Repository, rewritten: Rewritten, kept: str, message: str) -> None:
    """Move all refs to the new history, or none; the old one stays reachable under ``kept`` (see
    :data:`KEPT`).

    Notes are copied to the new commits, and replacements made for them too.
    """
    lines = ["start"]
    for ref, new in rewritten.refs.items():
        lines.append(f"create {kept}/{ref.name.removeprefix('refs/')} {ref.oid}")
        lines.append(f"update {ref.name} {new} {ref.oid}")
    code, _ = run_code(
        ["--git-dir", str(repository.git_dir), "symbolic-ref", "-q", "HEAD"], allowed=(0, 1)
    )
    head = git(repository, ["rev-parse", "HEAD"]).decode("ascii").strip() if code else ""
    if head in rewritten.commits:
        lines.append("option no-deref")
        lines.append(f"update HEAD {rewritten.commits[head]} {head}")
    lines += _replacements(repository, rewritten)
    text = "\n".join([*lines, "prepare", "commit", ""]).encode("utf-8", "surrogateescape")
    git(repository, ["update-ref", "--create-reflog", "-m", message, "--stdin"], text)
    pairs = "".join(f"{old} {new}\n" for old, new in rewritten.commits.items()).encode("ascii")
    for name in (
        git(repository, ["for-each-ref", "--format=%(refname)", "refs/notes"])
        .decode("utf-8", "surrogateescape")
        .splitlines()
    ):
        git(repository, ["notes", f"--ref={name}", "copy", "--force", "--stdin"], pairs)


def _replacements(repository: Repository, rewritten: Rewritten) -> list[str]:
    listed = git(
        repository, ["for-each-ref", "--format=%(refname) %(objectname)", "refs/replace"]
    ).decode("ascii")
    lines = []
    for name, _, target in (line.partition(" ") for line in listed.splitlines()):
        new = rewritten.commits.get(name.removeprefix("refs/replace/"))
        if new is not None:
            lines.append(f"update refs/replace/{new} {rewritten.commits.get(target, target)}")
    return lines


def kept_name(repository: Repository, what: str) -> str:
    """The first free name below which the refs of the old history can be put:
    ``refs/git-theta/before-import``, else ``…-import-2``.
    """
    listed = (
        git(repository, ["for-each-ref", "--format=%(refname)", "refs/git-theta"])
        .decode("utf-8", "surrogateescape")
        .splitlines()
    )
    number, name = 1, f"{KEPT}{what}"
    while any(ref.startswith(f"{name}/") for ref in listed):
        number += 1
        name = f"{KEPT}{what}-{number}"
    return name
