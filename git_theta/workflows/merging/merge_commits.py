"""merge_commits: merge branches as a commit without a working tree; models by tensor, every other
file as git merges it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.errors import GitError, MergeError, UsageError
from git_theta.git.history import revisions
from git_theta.git.writing import merge_trees, plumbing, staging
from git_theta.store.guard import turn
from git_theta.workflows.merging.merge_branches import merge_model, merged_tree, models, statistics
from git_theta.workflows.merging.merge_rules import Rules
from git_theta.workflows.merging.outcome import Merged, describe
from git_theta.workflows.session import Session


def merge_commits(
    session: Session,
    names: Sequence[str],
    rules: Callable[[str], Rules],
    message: str | None = None,
    into: str | None = None,
) -> str:
    """Merge the revisions ``names`` into the branch ``into`` (None: the one checked out) and return
    the commit that it then has.

    ``rules`` gives the rules for the model at a path. As with ``git merge``, a branch that has
    nothing of its own just moves on, and where the branch is checked out, index and working tree
    follow. :class:`MergeError` for tensors in conflict, :class:`GitError` for other files; nothing
    has changed then.
    """
    cwd = session.cwd or session.repository.worktree or session.repository.git_dir
    branch = plumbing.branch(session.repository, into, cwd)
    ours = branch.tip
    if ours is None:
        raise UsageError(f"there is no branch {branch.shown} to merge into")
    heads = [merge_trees.commit(name, cwd) for name in names]
    new = merge_trees.to_merge(ours, heads, cwd)
    if not new:
        return ours
    if len(new) == 1 and revisions.is_ancestor(ours, new[0], cwd):
        made, reason = new[0], f"merge {names[0]}: Fast-forward (git-theta)"
    else:
        tree = _tree(session, [ours, *new], rules)
        text = message or f"Merge {', '.join(map(repr, names))} into {branch.shown}"
        made, reason = (
            plumbing.commit_tree(tree, [ours, *new], text, cwd),
            f"merge {', '.join(names)} (git-theta)",
        )
    with turn(session.repository.common_dir):
        moved = plumbing.commit(branch.name, cwd) != ours
        if branch.here and not moved:
            staging.switch(ours, made, session.repository.worktree)
        if moved or not plumbing.move(branch.name, made, ours, reason, cwd):
            if branch.here and not moved:
                staging.switch(made, ours, session.repository.worktree)
            raise GitError(f"{branch.shown} was moved by somebody else meanwhile; merge again")
    return made


def _tree(session: Session, commits: Sequence[str], rules: Callable[[str], Rules]) -> str:
    files: dict[str, tuple[str, Manifest]] = {}
    outcomes: dict[str, Merged] = {}
    for model in models(session, commits, rules):
        merged = merge_model(session, model, rules(model.path))
        for notice in merged.notices:
            session.warn(f"{display(model.path)}: {notice}")
        if merged.manifest is None:
            session.store.discard()
            said = " ".join(line.strip() for line in describe(model.path, merged)[:-2])
            raise MergeError(f"{said}; give a strategy to merge them by")
        files[model.path], outcomes[model.path] = (model.mode, merged.manifest), merged
    files.update(statistics(session, commits, outcomes, rules))
    session.store.flush()
    return merged_tree(session, commits, files)
