"""Merges in which git asks no merge driver: its strategies ``octopus`` (several branches) and
``resolve`` merge manifests as text.

Both call ``git-merge-one-file``, which has the filter smudge our version (``git checkout-index
--stage=2``), puts the merged text in its place, and cleans that (``git update-index``). At these
two moments the user can be told which command merges by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from git_theta.core.names import shell_word

_HEAD = "GITHEAD_"  # git merge sets GITHEAD_<commit>=<name> for each head


def heads(environment: Mapping[str, str]) -> list[str]:
    """The names of what ``git merge`` merges, in the order in which they were given if git tells
    that.
    """
    names = [value for name, value in environment.items() if name.startswith(_HEAD)]
    action, *given = environment.get("GIT_REFLOG_ACTION", "").split(" ")
    return given if action == "merge" and sorted(given) == sorted(names) else names


def command(environment: Mapping[str, str]) -> str:
    """The command that merges the same branches by tensor."""
    names = heads(environment)
    return (
        f"git theta merge {' '.join(map(shell_word, names)) if len(names) > 1 else 'A B C'} -s"
        " STRATEGY"
    )


def before(asker: Sequence[str], environment: Mapping[str, str]) -> str:
    """What to say of a model that ``asker`` (a git command) has smudged for such a merge; nothing
    otherwise.
    """
    if asker[1:2] != ("checkout-index",) or "--stage=2" not in asker:
        return ""
    if len(heads(environment)) > 1:
        return (
            "git's octopus strategy merges its manifest as text; to merge it by tensor:"
            f" {command(environment)}"
        )
    return (
        "git's strategy 'resolve' merges its manifest as text; 'git merge' without '-s resolve'"
        " merges it by tensor"
    )


def after(path: str, asker: Sequence[str]) -> str:
    """What to say when ``asker`` cleans a manifest that such a merge put in the place of the model
    at ``path``; nothing otherwise.
    """
    if asker[1:2] != ("update-index",):
        return ""
    return (
        "git left its manifest in the working tree; write the model with: git theta checkout"
        f" {shell_word(path)}"
    )
