"""metrics: numbers that belong to a commit, such as the loss of the model it holds, kept as notes
in ``refs/notes/theta-metrics``.

A note is one JSON object of names and numbers. Notes are shared like any other ref: ``git push
origin refs/notes/theta-metrics``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from git_theta.errors import UsageError
from git_theta.git import gitpython
from git_theta.git.writing import plumbing
from git_theta.store.guard import turn
from git_theta.workflows.session import Session

NAMESPACE = "theta-metrics"
_SIZE = 1 << 16  # bytes of a note that is looked at


def record(session: Session, commit: str, metrics: Mapping[str, float]) -> None:
    """Give ``commit`` these metrics, in place of those it has; :class:`UsageError` for what is no
    number.
    """
    values = {}
    for name, value in metrics.items():
        try:
            values[name] = value if isinstance(value, int) else float(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"the metric {name!a} is {type(value).__qualname__}, not a number"
            ) from None
    text = json.dumps({name: _plain(value) for name, value in values.items()})
    # Git reads all notes, and replaces them by its own, whoever wrote others meanwhile
    with turn(session.repository.common_dir):
        gitpython.set_note(NAMESPACE, commit, text, _folder(session))


def of_commits(session: Session, commits: Iterable[str]) -> dict[str, dict[str, float]]:
    """Commit → its metrics, for those of ``commits`` that have any.

    What is no note of ours is passed over.
    """
    notes = plumbing.notes(NAMESPACE, session.cwd or session.repository.git_dir)
    found = {}
    for commit in commits:
        text = session.blobs.read(notes[commit], _SIZE) if commit in notes else None
        metrics = _parse(text) if text is not None else {}
        if metrics:
            found[commit] = metrics
    return found


def _folder(session: Session) -> Path:
    return session.cwd or session.repository.worktree or session.repository.git_dir


def _plain(value: float) -> float | str:
    """JSON has no words for NaN and infinity, so they are strings there."""
    return value if math.isfinite(value) else str(float(value))


def _parse(text: bytes) -> dict[str, float]:
    try:
        values = json.loads(text)
        return {
            str(name): value if isinstance(value, int) else float(value)
            for name, value in values.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
