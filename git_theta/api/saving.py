"""Committing models from memory: ``save`` and ``save_files``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from git_theta.api import arrays, sessions
from git_theta.api.sessions import RepoLike, StrPath
from git_theta.core.contracts import BuildsFiles, BuildsPieces, SavesObjects
from git_theta.core.names import display
from git_theta.core.source import BytesSource, FileSource, PiecesSource, Source
from git_theta.core.tensors import Buffer, Tensor
from git_theta.errors import FormatError, NotCheckedOut, ThetaError, UsageError
from git_theta.git.writing import plumbing
from git_theta.plugins import registry
from git_theta.workflows.restoring.reader import StoredSource
from git_theta.workflows.session import Session
from git_theta.workflows.storing import commit

Content = Mapping[str, Any] | Buffer | StrPath | FileSource


def save(
    state_dict: Content,
    path: StrPath,
    *,
    message: str | None = None,
    branch: str | None = None,
    worktree: bool = True,
    repo: RepoLike | None = None,
) -> str:
    """Commit ``state_dict`` as the model at ``path`` to ``branch``, straight from memory, and
    return the commit's id.

    ``state_dict`` maps names to arrays of numpy, torch or jax; the suffix of ``path`` says what
    file it becomes: ``.safetensors``, ``.pt`` (with torch imported, all that ``torch.save`` takes),
    or any other format that Git-Theta can build. Bytes are committed as the file's content, and a
    :class:`~pathlib.Path` as that of the file it names. What is stored is what ``git add`` would
    store: the smallest exact difference from the branch's version. ``path`` counts from the top of
    the repository that ``repo`` (default: the current directory) lies in, and must be tracked by
    Git-Theta on the branch.

    ``branch`` need not exist: it then starts at HEAD. It is moved by compare-and-swap, so that
    nobody's commit is lost; where nothing changed, no commit is made and the branch's own is
    returned. Where ``branch`` (default: the current one) is checked out, its index and working tree
    follow, as after ``git merge``, and files with changes that are not committed are refused;
    ``worktree=False`` leaves the file as it is, so ``git status`` shows it as changed. On any other
    branch neither is touched. Git's commit hooks do not run.

    What is saved must not change meanwhile: copy what a training loop goes on with, or use
    :mod:`git_theta.training`.

    :class:`~git_theta.errors.UsageError` for what cannot be stored, or a path that is not tracked;
    :class:`~git_theta.errors.GitError` when somebody else changed the model on the branch
    meanwhile.
    """
    return save_files(
        {path: state_dict},
        message=message or f"Save {Path(path).name}",
        branch=branch,
        worktree=worktree,
        repo=repo,
    )


def save_to_git(
    state_dict: Content,
    path: StrPath,
    message: str | None = None,
    *,
    tag: str | None = None,
    repo: RepoLike | None = None,
) -> str:
    """:func:`save` to the current branch, under the name it had in the first Git-Theta, and as that
    did it.

    A ``path`` that is not tracked is tracked in the same commit, by a line in ``.gitattributes``; a
    :class:`ThetaWarning` says so. With ``tag`` the commit gets that tag;
    :class:`~git_theta.errors.UsageError` if there is one of that name.
    """
    with ExitStack() as stack:
        session = stack.enter_context(sessions.session(repo))
        if tag is not None:
            plumbing.check_new_tag(tag, commit.folder(session))
        name = sessions.from_top(session.repository, path)
        added = commit.tracking(session, name)
        sources = {name: _source(session, name, state_dict, None, stack)}
        if added is not None:
            sources[added[0]] = BytesSource(added[1])
        tracked = frozenset([name] if added else [])
        words = message or f"Save {Path(path).name}"
        problem = None
        try:
            made = commit.commit(session, sources, words, tracked=tracked)
        except NotCheckedOut as error:
            problem, made = error, error.commit
        if added is not None:
            session.warn(
                f"{display(name)} is tracked by Git-Theta from now on: {display(added[0])} in the"
                " same commit says so"
            )
        if tag is not None:
            plumbing.set_tag(tag, made, commit.folder(session))
        if problem is not None:
            raise problem
        return made


def save_files(
    files: Mapping[StrPath, Content],
    *,
    message: str,
    branch: str | None = None,
    worktree: bool = True,
    repo: RepoLike | None = None,
) -> str:
    """As :func:`save`, for several files in one commit.

    Of those that Git-Theta does not track, bytes and files are stored as git stores them (a
    ``config.json`` beside the model), but state dicts, and files with a checkpoint's suffix, are
    refused.
    """
    with ExitStack() as stack:
        for content in files.values():
            if isinstance(content, FileSource):
                stack.enter_context(content)
        session = stack.enter_context(sessions.session(repo))
        sources: dict[str, Source] = {}
        models = {suffix for known in registry.checkpoint_formats() for suffix in known.suffixes}
        for path, content in files.items():
            name = sessions.from_top(session.repository, path)
            if (
                isinstance(content, Mapping)
                or len(files) == 1
                or PurePosixPath(name).suffix.lower() in models
            ):
                commit.require_tracked(session, name, branch)
            sources[name] = _source(session, name, content, branch, stack)
        return commit.commit(session, sources, message, branch, worktree)


def _source(
    session: Session, path: str, content: Content, branch: str | None, stack: ExitStack
) -> Source:
    if isinstance(content, FileSource):
        return content
    if isinstance(content, bytes | bytearray | memoryview):
        return BytesSource(content)
    if isinstance(content, Mapping):
        return _built(session, path, content, branch)
    if isinstance(content, str | os.PathLike):
        try:
            return stack.enter_context(FileSource(content))
        except OSError as error:
            if isinstance(error, ThetaError):
                raise
            raise UsageError(
                f"{display(os.fspath(content))} cannot be read: {error.strerror or error}"
            ) from None
    raise UsageError(
        f"{display(path)}: a state dict, bytes or a file's path can be saved, not"
        f" {type(content).__qualname__}"
    )


def _built(
    session: Session, path: str, state_dict: Mapping[str, Any], branch: str | None
) -> Source:
    """The file that ``state_dict`` becomes; it is put together in memory only if it must be."""
    suffix = PurePosixPath(path).suffix.lower()
    builders = [
        known
        for known in registry.checkpoint_formats()
        if suffix in known.suffixes and isinstance(known, BuildsFiles)
    ]
    if not builders:
        suffixes = sorted(
            {
                s
                for known in registry.checkpoint_formats()
                if isinstance(known, BuildsFiles)
                for s in known.suffixes
            }
        )
        raise UsageError(
            f"{display(path)}: a state dict can be saved as {', '.join(suffixes)}; give other files"
            " as bytes or as a path"
        )
    builder, like = builders[0], None
    if isinstance(builder, SavesObjects):
        if builder.saves(state_dict):
            return PiecesSource(builder.save(state_dict))
    else:
        like = _before(session, path, branch, builder.name)
    tensors = arrays.to_tensors(state_dict)
    if isinstance(builder, BuildsPieces):
        return PiecesSource(builder.pieces(tensors, like))
    return PiecesSource([_whole(builder, tensors, like)])


def _whole(builder: BuildsFiles, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
    """The file with what ``like`` holds besides tensors, such as GGUF's keys, if both fit into one
    file.
    """
    if like is not None:
        try:
            return builder.build(tensors, like)
        except FormatError:
            pass
    return builder.build(tensors, None)


def _before(session: Session, path: str, branch: str | None, form: str) -> Source | None:
    """The branch's version of the file, where it is of the same format and can be read: what is no
    tensor is taken from there.
    """
    manifest = commit.version(session, path, branch)
    if manifest is None or manifest.format != form:
        return None
    try:
        return StoredSource(session, manifest)
    except ThetaError:
        return None
