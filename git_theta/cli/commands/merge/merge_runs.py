"""What ``git theta merge`` does: hand over to git, write the versions out, or choose by score."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path

import click

from git_theta.cli.output import path, table, warn
from git_theta.cli.patterns import warn_unmatched
from git_theta.core.names import display, shell_word
from git_theta.drivers.merge_driver import ENVIRONMENT
from git_theta.errors import ThetaError, UsageError
from git_theta.git.command import inherited_environment
from git_theta.git.config import programs
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover
from git_theta.git.writing import merge_trees
from git_theta.plugins import registry
from git_theta.terminal.bars import Bars
from git_theta.workflows.comparing import tracked_models
from git_theta.workflows.merging import merge_branches, merge_rules, resolve, scoring
from git_theta.workflows.merging.outcome import describe
from git_theta.workflows.restoring import smudge
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing

_STEPS = 1000
_NUMBER = re.compile(
    r"(?<![\w./+-])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?))(?![\w/]|\.\w)"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A merge as the user asked for it; ``passed`` are options for ``git merge``."""

    branches: tuple[str, ...]
    strategies: tuple[str, ...]
    words: tuple[str, ...]
    params: str
    message: str | None
    passed: tuple[str, ...]
    by_name: bool = False

    def rules(self, strategy: str | None, words: Sequence[str]) -> merge_rules.Rules:
        """``strategy`` with its options for the tensors that are asked for; all else is left to the
        rules in force.
        """
        chosen = (
            merge_rules.from_words(strategy, words, self.params) if strategy is not None else None
        )
        return merge_rules.asked(chosen, self.by_name)


def check_side_options(given: Sequence[str], strategies: Sequence[str]) -> None:
    """:class:`UsageError` if an option for git (-X) is one of a merge strategy of ours."""
    for option in given:
        key = option.partition("=")[0]
        for name in strategies:
            if any(known.name == key for known in registry.merge_strategy(name).options):
                raise UsageError(
                    f"{key} is an option of {name}: give it as -o {shell_word(option)}"
                )


def run_merge(request: Request, dry_run: bool) -> int:
    """Let git merge, with the chosen strategy in the environment of our merge driver."""
    rules = request.rules(request.strategies[0] if request.strategies else None, request.words)
    if request.strategies and request.params != "*":
        with _session() as session:
            found = list(tracked_models.find(session, "HEAD", ()))
        tracked = [model.manifest for model in found if model.manifest is not None]
        warn_unmatched(request.params, {name for manifest in tracked for name in manifest.by_name})
    with _session() as session:
        if dry_run:
            return _preview(session, request, rules)
        ours = merge_rules.keep_state(session, rules) or _tracks_statistics(session, request)
    environment = inherited_environment({ENVIRONMENT: rules.dump()})
    message = ["-m", request.message] if request.message is not None else []
    passed = [*message, *request.passed, *request.branches]
    sys.stdout.flush()
    if len(request.branches) == 1 and not ours:
        return merge_trees.merge(passed, environment)
    place = session.repository.git_dir
    with tempfile.TemporaryDirectory(
        prefix="git-theta-", dir=None if os.pathsep in str(place) else place
    ) as folder:
        environment["PATH"] = (
            f"{programs.strategy_program(Path(folder))}{os.pathsep}{environment.get('PATH', '')}"
        )
        return merge_trees.merge(["-s", "theta", *passed], environment)


def _tracks_statistics(session: Session, request: Request) -> bool:
    try:
        return merge_branches.tracks_statistics(session, _commits(request))
    except ThetaError:
        return False  # git itself says what is wrong with the names


def _preview(session: Session, request: Request, rules: merge_rules.Rules) -> int:
    conflicts, commits = 0, _commits(request)
    if len(commits) < 2:
        click.echo("Already up to date.")
        return 0
    for model in merge_branches.models(
        session, commits, lambda name: merge_rules.complete(session, name, rules)
    ):
        merged = merge_branches.merge_model(
            session, model, merge_rules.complete(session, model.path, rules)
        )
        session.store.discard()
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(merged.plan.counts.items()))
        click.echo(f"{path(model.path)}: {counts}; {len(merged.resolved)} merged by strategy")
        if merged.manifest is None:
            conflicts += 1
            for line in describe(model.path, merged)[:-2]:
                click.echo(line)
    if not conflicts:
        click.echo("No tensor would be left in conflict.")
    return 1 if conflicts else 0


def write_models(request: Request, folder: str) -> int:
    """Begin the merge with git and write base, ours and theirs of every model left in conflict, for
    the user's own code.
    """
    code = run_merge(request, dry_run=False)
    with _session() as session:
        try:
            found = resolve.conflicted(session, (), Path.cwd())
        except UsageError:
            return code
        for name, versions in found.items():
            target = Path(folder) / name
            target.mkdir(parents=True, exist_ok=True)
            for label, manifest in zip(("base", "ours", "theirs"), versions, strict=True):
                if manifest is not None:
                    file = target / f"{label}{Path(name).suffix}"
                    file.unlink(missing_ok=True)
                    fetch_missing(session, [manifest])
                    smudge.write(session.store, manifest, file, session.pool())
            click.echo(f"Wrote base, ours and theirs of {path(name)} to {path(target)}.")
            click.echo(
                f"Put your result at {path(name)}, then: git add {shell_word(name)} && git commit"
            )
    return code


def by_score(
    request: Request,
    sweeps: Sequence[str],
    command: str,
    minimize: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Score every candidate with the user's command, outside of the working tree, and merge with
    the best.
    """
    if not request.strategies:
        raise click.UsageError("--eval needs at least one strategy to try: -s NAME[,NAME…]")
    if "{checkpoint}" not in command:
        raise click.UsageError("--eval needs {checkpoint} where the candidate's file name belongs")
    steps = [parse_sweep(sweep) for sweep in sweeps]
    tried = scoring.candidates(request.strategies, request.words, steps)

    def rules(candidate: scoring.Candidate) -> merge_rules.Rules:
        return request.rules(candidate.strategy, candidate.words)

    for candidate in tried:
        rules(candidate)  # a value out of range is told before any is tried
    found = []
    with _session() as session:
        commits = _commits(request)
        if len(commits) < 2:
            click.echo("[]" if as_json else "Already up to date.")
            return 0
        model = scoring.only_model(session, commits)
        for score in scoring.scores(session, model, tried, rules, partial(_evaluate, command)):
            found.append(score)
            if not as_json:
                words = " ".join(score.candidate.words)
                click.echo(f"{score.candidate.strategy} {words}: {_shown(score)}", err=True)
    best = scoring.best(found, minimize)
    _show(found, best, as_json)
    if best is None:
        raise UsageError(
            "no candidate could be scored; run the --eval command by hand on a checkpoint to"
            " see why"
        )
    if dry_run:
        return 0
    chosen = best.candidate
    return run_merge(
        replace(request, strategies=(chosen.strategy,), words=chosen.words), dry_run=False
    )


def _evaluate(command: str, file: Path) -> float | None:
    """What the user's ``command`` prints as the score of a checkpoint; None if it fails."""
    line = command.replace("{checkpoint}", shlex.quote(str(file)))
    # The user's own command line
    done = subprocess.run(  # noqa: S602 - the user's
        line, shell=True, stdout=subprocess.PIPE, env=inherited_environment(), check=False
    )
    if done.returncode != 0:
        return None
    return last_number(done.stdout.decode("utf-8", "replace"))


def last_number(text: str) -> float | None:
    """The last number that stands in ``text`` by itself, not in a word or path; None without one,
    or if it is NaN or infinite.
    """
    numbers = _NUMBER.findall(text)
    value = float(numbers[-1]) if numbers else math.nan
    return value if math.isfinite(value) else None


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """``key=from:to:step`` (or ``key=a,b,c``) as the key and its values, both ends included;
    :class:`UsageError` otherwise.
    """
    key, equals, span = text.partition("=")
    if not equals or not key:
        raise UsageError(f"'{display(text, 60)}' is not KEY=FROM:TO:STEP")
    if ":" not in span:
        return key, span.split(",")
    try:
        start, stop, step = (Decimal(part) for part in span.split(":"))
        if step <= 0 or stop < start or not all(map(Decimal.is_finite, (start, stop, step))):
            raise ValueError
        count = int((stop - start) / step) + 1
    except (ValueError, InvalidOperation, OverflowError):
        raise UsageError(
            f"'{display(text, 60)}' is not KEY=FROM:TO:STEP with a step above 0"
        ) from None
    if count > _STEPS:
        raise UsageError(
            f"'{display(text, 60)}' asks for {count} candidates; at most {_STEPS} are tried"
        )
    return key, [str(start + number * step) for number in range(count)]


def _show(found: Sequence[scoring.Score], best: scoring.Score | None, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "strategy": score.candidate.strategy,
                "options": list(score.candidate.words),
                "score": score.value,
                "best": score is best,
            }
            for score in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [
        (
            score.candidate.strategy,
            " ".join(score.candidate.words),
            _shown(score),
            "*" if score is best else "",
        )
        for score in found
    ]
    for line in table(lines, ("strategy", "options", "score", ""), right=(2,)):
        click.echo(line)


def _shown(score: scoring.Score) -> str:
    return "failed" if score.value is None else f"{score.value:g}"


def _commits(request: Request) -> list[str]:
    """What git would merge: HEAD, then each branch that has something to add."""
    ours, *heads = (merge_trees.commit(name) for name in ("HEAD", *request.branches))
    return [ours, *merge_trees.to_merge(ours, heads)]


def _session() -> Session:
    repository = discover()
    return Session(repository, load_settings(repository), warn, progress=Bars())
