"""``git-merge-theta``: git's merge strategy for several branches at once (``git merge -s theta A B
C``).

Git calls ``git-merge-theta BASE… -- HEAD REMOTE…`` and makes one commit with all of them as parents
from what is then in the index. Models are merged by an N-way strategy; every other file as git
merges it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.drivers import text_merge
from git_theta.drivers.encoding import ensure_utf8
from git_theta.drivers.merge_driver import find_rules, given_rules
from git_theta.errors import ThetaError
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover
from git_theta.git.writing import merge_trees, staging
from git_theta.terminal.bars import Bars
from git_theta.workflows.merging import merge_rules
from git_theta.workflows.merging.merge_branches import (
    merge_model,
    merged_tree,
    models,
    statistics,
    tracks_statistics,
)
from git_theta.workflows.merging.outcome import Merged, describe
from git_theta.workflows.session import Session

CANNOT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0: index and working tree hold the merge.

    2: it cannot be done, and nothing changed. One branch: git's own exit code.
    """
    if arguments is None:
        ensure_utf8()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--" not in words:
        _say("this command is for git to run: git merge -s theta BRANCH…")
        return CANNOT
    split = words.index("--")
    heads = words[split + 1 :]
    # Ours and theirs decide tensors: see cli.commands.merge.cmd_merge
    given = [word for word in words[:split] if word.startswith("--")]
    unused = [word[2:] for word in given if word not in ("--ours", "--theirs")]
    if len(heads) > 2 and unused:
        _say(
            f"-X {display(unused[0])} is for a merge of one branch; an option of a strategy is"
            " given by: git theta merge -o KEY=VALUE"
        )
        return CANNOT
    try:
        with Session(discover(), load_settings(), _say, progress=Bars()) as session:
            commits = [merge_trees.commit(head) for head in heads]
            code = (
                _merge_one(session, commits, words[:split])
                if len(heads) == 2
                else _merge(session, commits)
            )
        # Git's own merge of two calls our merge driver, and leaves conflicts as git does.
        return merge_trees.merge_recursive(words) if code and len(heads) == 2 else code
    except ThetaError as error:
        _say(str(error))
        return CANNOT
    except KeyboardInterrupt:
        return 130


def _merge_one(session: Session, commits: Sequence[str], options: Sequence[str]) -> int:
    """Merge one branch, if that takes more than git's own merge with our driver; else, and if it
    cannot be done, :data:`CANNOT`.
    """
    needed = merge_rules.keep_state(session, given_rules(os.environ)) or tracks_statistics(
        session, commits
    )
    # Such as --theirs for ordinary files, from -X theirs
    if not needed or any(option.startswith("-") for option in options):
        return CANNOT
    try:
        return _merge(session, commits)
    except ThetaError:
        return CANNOT  # git will find the same, and leave a conflict


def _merge(session: Session, commits: Sequence[str]) -> int:
    files: dict[str, tuple[str, Manifest]] = {}
    outcomes: dict[str, Merged] = {}

    def rules(path: str) -> merge_rules.Rules:
        return find_rules(session, path, os.environ)

    for model in models(session, commits, rules):
        merged = merge_model(session, model, rules(model.path))
        if merged.manifest is None and len(commits) == 2:
            session.store.discard()
            return CANNOT  # git will find the same, and leave a conflict
        for notice in merged.notices:
            _say(f"{display(model.path)}: {notice}")
        if merged.manifest is None:
            for line in describe(model.path, merged)[:-2]:
                _say(line)
            _say(
                "several branches are merged at once only by a strategy:"
                f" {text_merge.command(os.environ)}"
            )
            return CANNOT
        files[model.path], outcomes[model.path] = (model.mode, merged.manifest), merged
    files.update(statistics(session, commits, outcomes, rules))
    session.store.flush()
    tree = merged_tree(session, commits, files)
    staging.switch(commits[0], tree, session.repository.worktree)
    return 0


def _say(message: str) -> None:
    print(f"git-theta: {message}", file=sys.stderr)
