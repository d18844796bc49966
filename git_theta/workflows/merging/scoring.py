"""Choosing a merge strategy by score: each candidate is merged, written out and scored by the
caller.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.workflows.merging import merge_rules
from git_theta.workflows.merging.merge_branches import BranchModel, merge_model, models
from git_theta.workflows.merging.merge_rules import Rules
from git_theta.workflows.merging.outcome import describe
from git_theta.workflows.restoring import smudge
from git_theta.workflows.session import Session


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy with options as ``key=value`` words."""

    strategy: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A candidate and what it scored; None: it could not be merged or scored."""

    candidate: Candidate
    value: float | None


def candidates(
    strategies: Sequence[str], words: Sequence[str], sweeps: Sequence[tuple[str, Sequence[str]]]
) -> list[Candidate]:
    """Every combination of a strategy and swept option values."""
    keys = [key for key, _ in sweeps]
    return [
        Candidate(strategy, (*words, *map("=".join, zip(keys, values, strict=True))))
        for strategy in strategies
        for values in product(*(steps for _, steps in sweeps))
    ]


def only_model(session: Session, commits: Sequence[str]) -> BranchModel:
    """The one model that several of ``commits`` changed; :class:`UsageError` if there are none or
    several.
    """
    found = models(session, commits, lambda _: Rules())
    if len(found) != 1:
        listed = ", ".join(display(model.path) for model in found) or "none"
        raise UsageError(
            "choosing by score needs exactly one model that changed on several sides, not"
            f" {len(found)} ({listed})"
        )
    return found[0]


def scores(
    session: Session,
    model: BranchModel,
    tried: Iterable[Candidate],
    rules: Callable[[Candidate], Rules],
    evaluate: Callable[[Path], float | None],
) -> Iterator[Score]:
    """Score each candidate in turn, outside of the working tree.

    ``rules`` gives a candidate's rules, ``evaluate`` the score of the file at a path. Objects that
    a candidate needs are dropped once its file is written.
    """
    for candidate in tried:
        asked = merge_rules.complete(session, model.path, rules(candidate))
        merged = merge_model(session, model, asked)
        if merged.manifest is None:
            session.store.discard()
            words = " ".join(candidate.words)
            session.warn(f"{candidate.strategy} {words}: {describe(model.path, merged)[0]}")
            yield Score(candidate, None)
            continue
        with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
            file = Path(folder) / Path(model.path).name
            try:
                smudge.write(session.store, merged.manifest, file, session.pool())
            finally:
                session.store.discard()
            value = evaluate(file)
        yield Score(candidate, value)


def best(found: Sequence[Score], minimize: bool) -> Score | None:
    """The score that is highest (with ``minimize`` lowest), the first of equal ones; None if no
    candidate was scored.
    """
    known = [score for score in found if score.value is not None]
    ranked = sorted(known, key=lambda score: score.value or 0.0, reverse=not minimize)
    return ranked[0] if ranked else None
