"""checkout: write checkpoints into the working tree directly, by all threads, without git holding
them in memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.manifest import (
    MAGIC,
    Manifest,
    dump,
    is_manifest,
    parse,
    parse_if_manifest,
    unconverted,
)
from git_theta.core.names import display, shell_word
from git_theta.errors import GitError, ManifestError, ThetaError, UsageError
from git_theta.git.history import listing
from git_theta.git.history.changes import is_revision
from git_theta.git.writing import index, plumbing, staging
from git_theta.workflows import chains
from git_theta.workflows.restoring import mistracked, smudge
from git_theta.workflows.restoring.mistracked import Mistracked
from git_theta.workflows.restoring.statcache import StatCache, now
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing


@dataclass(frozen=True, slots=True)
class Target:
    """A file to write: its path in the repository, its manifest, and whether it is to be
    executable.
    """

    path: str
    manifest: Manifest
    executable: bool


@dataclass(frozen=True, slots=True)
class CheckoutOutcome:
    """What became of the files: those written, with their stat data, and those that could not be,
    with the reason.
    """

    written: tuple[Target, ...]
    failed: tuple[tuple[str, ThetaError], ...]
    stats: Mapping[str, os.stat_result]


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to write; those that must not or cannot be written, with the reason; and what
    ``found`` says of all that were looked at.

    ``models`` is how many models were looked at; a sparse checkout leaves ``left_out`` of them out.
    """

    targets: tuple[Target, ...]
    refused: tuple[tuple[str, ThetaError], ...]
    found: tuple[Mistracked, ...]
    models: int
    left_out: int


def plan(session: Session, pathspecs: Sequence[str]) -> Plan:
    """The files to write.

    With ``pathspecs`` (as git understands them): all models in the index that match, as ``git
    checkout -- PATH`` would restore them; without: only those that are absent or still hold their
    manifest, so that no change of the user's is lost, and none that a sparse checkout leaves out. A
    path that no attribute tracks is refused: git would store the model as it is.
    """
    if session.repository.worktree is None:
        raise GitError("this repository has no working tree to check out into")
    unfinished = index.unfinished(session.repository, session.cwd)
    if unfinished:
        raise GitError(unfinished)
    held = mistracked.survey(session, None, pathspecs)
    if held.unmatched:
        raise UsageError(_unmatched(pathspecs, held.unmatched, session.cwd or Path.cwd()))
    targets, refused, left_out = [], list[tuple[str, ThetaError]](), 0
    for path, (entry, content) in held.manifests.items():
        if entry.unmerged:
            continue
        if entry.left_out and not pathspecs:
            left_out += 1
            continue
        if path not in held.tracked:
            continue
        try:
            manifest = parse(unconverted(content.data))
        except ManifestError as error:
            refused.append((path, error))
            continue
        full = session.full_path(path)
        if pathspecs or _is_unwritten(full, manifest):
            targets.append(Target(path, manifest, entry.mode == "100755"))
        elif _is_other_manifest(full):
            word = mistracked.word(path)
            reason = (
                "the file is the manifest of another version, not a model; 'git theta checkout"
                f" {word}' writes the version in the index"
            )
            refused.append((path, GitError(reason)))
    if pathspecs and held.manifests and all(entry.unmerged for entry, _ in held.manifests.values()):
        names = " ".join(map(display, pathspecs))
        raise UsageError(
            f"{names}: in conflict, so there is no one version to write; settle it with: git theta"
            f" resolve {shell_word(pathspecs[0])}"
        )
    return Plan(tuple(targets), tuple(refused), held.found, len(held.manifests), left_out)


def _unmatched(pathspecs: Sequence[str], unmatched: Sequence[str], cwd: Path) -> str:
    """What to say of ``unmatched``, those of ``pathspecs`` that match nothing in the index."""
    first = unmatched[0]
    if pathspecs[0] == first and not first.startswith("-") and is_revision(first, cwd):
        said = f"{display(first)} is a branch or commit, and this command takes paths"
        paths = " ".join(map(shell_word, pathspecs[1:]))
        git = f"git checkout {shell_word(first)}"
        if paths:
            return f"{said}; for files of it: {git} -- {paths}"
        return f"{said}; to switch to it: {git}"
    return f"nothing in the index matches {' '.join(map(display, unmatched))}"


def _is_unwritten(path: Path, manifest: Manifest) -> bool:
    """Whether the file is absent, or is the manifest of this very content."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        if status.st_size > 256 << 20:
            return False
        with path.open("rb") as file:
            if not file.read(4).startswith(b"git-"):
                return False
        held = parse_if_manifest(path.read_bytes())
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return held is not None and held.same_content(manifest)


def _is_other_manifest(path: Path) -> bool:
    """Whether the file starts like a manifest."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            return is_manifest(file.read(len(MAGIC)))
    except OSError:
        return False


def checkout(session: Session, targets: Sequence[Target]) -> CheckoutOutcome:
    """Write ``targets``: each appears complete and verified, or stays as it was.

    The index then knows them as unchanged.
    """
    outcome = write_all(session, targets)
    mark(session, outcome)
    return outcome


def write_all(session: Session, targets: Sequence[Target]) -> CheckoutOutcome:
    """Write ``targets`` and leave the index alone."""
    if any(chains.missing(session.store, target.manifest) for target in targets):
        fetch_missing(session, [target.manifest for target in targets])
    done, failed = [], []
    total = sum(target.manifest.size for target in targets)
    with session.progress.begin("Writing models", total) as whole:
        for target in targets:
            bar = whole
            if len(targets) > 1:
                bar = whole.begin(f"  {display(target.path)}", target.manifest.size)
            try:
                done.append((target, _write(session, target, bar.advance)))
            except ThetaError as error:
                failed.append((target.path, error))
            finally:
                if bar is not whole:
                    bar.end()
        if failed:
            whole.end()  # as far as it got
    return CheckoutOutcome(
        tuple(target for target, _ in done),
        tuple(failed),
        {target.path: status for target, status in done},
    )


def stage(session: Session, target: Target, mode: str) -> None:
    """Write ``target`` into the working tree and put its manifest into the index, as resolved and
    unchanged; or neither.
    """
    session.require_release()
    cwd = session.repository.worktree
    blob = plumbing.blob(session.hand_out(target.manifest), cwd)
    before = listing.index([listing.literal(target.path)], cwd)
    staging.put({target.path: (mode, blob)}, cwd)
    outcome = write_all(session, [target])
    if outcome.failed:
        staging.restore(target.path, len(blob), before, cwd)
        raise outcome.failed[0][1]
    mark(session, outcome)


def mark(session: Session, outcome: CheckoutOutcome) -> None:
    """Tell the index, and the stat cache, that what was written is unchanged.

    That only saves git the look into the files: when another command has the index locked, nothing
    is told and nothing is wrong.
    """
    written = outcome.stats
    if not written:
        return
    index.settle(max(max(status.st_mtime_ns, status.st_ctime_ns) for status in written.values()))
    cache = StatCache(session.repository.cache)
    for target in outcome.written:
        cache.put(target.path, written[target.path], now(), dump(target.manifest))
    if not index.refresh(session.repository, written):
        staging.look_again(session.repository.worktree)


def _write(session: Session, target: Target, advance: Callable[[int], None]) -> os.stat_result:
    path = session.full_path(target.path)
    _check_parents(session, target.path)
    chains.require(session.store, target.manifest)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(session, path)
        if path.is_dir() and not path.is_symlink():
            raise GitError(
                f"a folder stands where {display(target.path)} should be; move it away first"
            )
        smudge.write(session.store, target.manifest, temporary, session.pool(), advance)
        if target.executable:
            mode = temporary.stat().st_mode
            temporary.chmod(mode | (mode & 0o444) >> 2)
        temporary.replace(path)
        return path.lstat()
    except OSError as error:
        if isinstance(error, ThetaError):
            raise
        raise GitError(
            f"{display(target.path)} cannot be written: {error.strerror or error}"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def temporary_beside(session: Session, path: Path) -> Path:
    """A fresh name from which a file can be renamed to ``path``: in the store where that is the
    same file system, else beside it.
    """
    temporary = session.store.temporary_path()
    if temporary.parent.stat().st_dev == path.parent.stat().st_dev:
        return temporary
    return path.with_name(f".{temporary.name}.git-theta")


def _check_parents(session: Session, path: str) -> None:
    """As git does, never write through a symbolic link: a repository could lead it anywhere."""
    assert session.repository.worktree is not None
    folder = session.repository.worktree
    for part in path.split("/")[:-1]:
        folder = folder / part
        if folder.is_symlink():
            raise GitError(
                f"{display(path)} lies behind the symbolic link {display(str(folder))}; it is not"
                " written"
            )
