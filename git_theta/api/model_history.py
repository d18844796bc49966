"""Comparing, merging and telling the history of models: ``diff``, ``merge``, ``log`` and
``record_metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from git_theta.api import sessions
from git_theta.api.sessions import RepoLike, Revision, StrPath
from git_theta.errors import UsageError
from git_theta.git.history import changes
from git_theta.workflows.comparing import log as history
from git_theta.workflows.comparing import metrics, versions
from git_theta.workflows.comparing.log import Step
from git_theta.workflows.comparing.versions import ModelDiff
from git_theta.workflows.merging import merge_rules
from git_theta.workflows.merging.merge_commits import merge_commits


def diff(
    old: Revision,
    new: Revision | None = None,
    path: StrPath | None = None,
    *,
    repo: RepoLike | None = None,
) -> list[ModelDiff]:
    """The models that differ between the revisions ``old`` and ``new`` (None: the files of the
    working tree), each with its tensors.

    ``path`` narrows it to one model, or a folder. ``comparison.changes`` of a result tells which
    tensors were added, removed, modified, renamed, reshaped or retyped; all of it comes from
    manifests, no tensor is read, but files of the working tree are hashed.
    """
    with sessions.session(repo) as session, ExitStack() as stack:
        words = [sessions.revision(word) for word in (old, new) if word is not None]
        asked = changes.resolve(words, False, session.cwd)
        paths = (
            [] if path is None else [f":(top,literal){sessions.from_top(session.repository, path)}"]
        )
        return list(versions.diff(session, asked, paths, stack, session.cwd))


def log(
    path: StrPath,
    rev: Revision = "HEAD",
    params: str | Sequence[str] = (),
    count: int | None = None,
    *,
    repo: RepoLike | None = None,
) -> list[Step]:
    """The commits that changed the model at ``path``, newest first: what each did to its tensors,
    what that costs, and its metrics.

    ``rev`` is a revision or a range such as ``v1.0..main``. With ``params`` (globs) only commits
    that changed such a tensor; ``count`` is how many commits are looked at.
    """
    rev = sessions.revision(rev)
    with sessions.session(repo) as session:
        if not changes.is_revision(rev, session.cwd):
            raise UsageError(f"there is no revision {rev!a}")
        globs = [params] if isinstance(params, str) else list(params)
        return history.log(
            session, sessions.from_top(session.repository, path), [rev], globs, count, session.cwd
        )


def merge(
    *branches: Revision,
    strategy: str | None = None,
    options: Mapping[str, object] | None = None,
    params: str = "*",
    by_name: bool = False,
    message: str | None = None,
    into: str | None = None,
    repo: RepoLike | None = None,
) -> str:
    """Merge ``branches`` into the branch ``into`` (default: the current one) and return the commit
    that it then has.

    Tensors that several sides changed are merged by ``strategy`` with ``options``, where their name
    matches the glob ``params``; others, and all without ``strategy``, as a committed
    ``.theta.toml`` or the setting ``theta.merge.strategy`` says. With ``by_name`` one model in two
    file formats is merged by tensor name. All other files are merged as git does it (2.38 or newer
    is needed). Only where ``into`` is checked out are index and working tree touched.

    :class:`~git_theta.errors.MergeError` names tensors that no rule merges,
    :class:`~git_theta.errors.GitError` other files in conflict; nothing has changed then.
    """
    if not branches:
        raise UsageError("name at least one branch to merge")
    with sessions.session(repo) as session:
        given = merge_rules.asked(
            merge_rules.rule(strategy, options or {}, params) if strategy is not None else None,
            by_name,
        )

        def rules(path: str) -> merge_rules.Rules:
            return merge_rules.complete(session, path, given, into or "HEAD")

        return merge_commits(session, list(map(sessions.revision, branches)), rules, message, into)


def record_metrics(
    commit: Revision, values: Mapping[str, float], *, repo: RepoLike | None = None
) -> None:
    """Note numbers, such as the loss of the model it holds, on ``commit``; ``git theta log`` shows
    them. They replace earlier ones.
    """
    with sessions.session(repo) as session:
        metrics.record(session, sessions.revision(commit), values)
