"""Which files Git-Theta tracks, by the attributes in the commit that has them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from git_theta.git.config import attributes
from git_theta.git.history import pushed
from git_theta.git.history.pushed import Budget, Change
from git_theta.git.repository import Repository
from git_theta.git.writing import staging

_RULES_COST = 1000  # asking git about another set of attributes files costs as much as many paths


def tracked(
    repository: Repository, found: Sequence[Change], budget: Budget
) -> dict[tuple[str, str], bool]:
    """Whether Git-Theta tracks each file, by the attributes in the file's own commit: by (commit,
    path).
    """
    rules = _rules(repository, found)
    groups: dict[tuple[tuple[str, str], ...], list[Change]] = {}
    for change in found:
        mine = [(folder, rules.get((change.commit, folder))) for folder in _folders(change.path)]
        key = tuple((folder, blob) for folder, blob in mine if blob)
        groups.setdefault(key, []).append(change)
    answer: dict[tuple[str, str], bool] = {}
    for files, group in groups.items():
        budget.spend(_RULES_COST)
        with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
            index = Path(folder, "index")
            staging.put(
                {f"{where}{attributes.FILE}": ("100644", blob) for where, blob in files},
                repository.git_dir,
                index=index,
            )
            paths = dict.fromkeys(change.path for change in group)
            values = attributes.check(repository, paths, ["filter"], index=index)
        for change in group:
            answer[change.commit, change.path] = attributes.is_tracked(values[change.path])
    return answer


def _rules(repository: Repository, found: Iterable[Change]) -> dict[tuple[str, str], str]:
    """The attributes files that may say something of the files: (commit, folder) → blob."""
    asked = dict.fromkeys(
        (change.commit, folder) for change in found for folder in _folders(change.path)
    )
    places = [(commit, f"{folder}{attributes.FILE}") for commit, folder in asked]
    return {
        where: blob
        for where, blob in zip(asked, pushed.blobs_at(repository, places), strict=True)
        if blob
    }


def _folders(path: str) -> list[str]:
    """The folders above a path, each with a slash at its end, the top (empty) first."""
    parts = path.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts) + 1)]
