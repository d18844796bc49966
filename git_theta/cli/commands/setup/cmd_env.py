"""``git theta env``: what is installed, what is configured, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

import git_theta
from git_theta import settings
from git_theta.cli.mistracked_notes import lines
from git_theta.cli.output import Command, bold, page, path, plural, table
from git_theta.core.names import did_you_mean
from git_theta.errors import GitError, ThetaError, UsageError
from git_theta.git import lfs_program
from git_theta.git.command import version as version_of_git
from git_theta.git.config import config_file, consent, programs, push_hook
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import Repository, discover
from git_theta.git.writing import index
from git_theta.workflows.restoring import mistracked
from git_theta.workflows.session import Session

_NEEDED = (
    "blake3",
    "click",
    "GitPython",
    "ml_dtypes",
    "numpy",
    "pluggy",
    "rich",
    "safetensors",
    "tensorstore",
    "zstandard",
)
_OPTIONAL = {"torch": "not needed to store .pt files"}
_GIT = (2, 36)


@dataclass(frozen=True, slots=True)
class EnvironmentReport:
    """Sections of (name, value) rows, and what is missing or wrong, each with what to do."""

    sections: dict[str, list[tuple[str, str]]]
    problems: list[str]


@click.command(cls=Command, examples="git theta env\ngit theta env --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def env(as_json: bool) -> int:
    """Show versions, the repository, the settings in force and where they come from, and what is
    missing.

    It starts the configured filter once to see whether it answers. In a repository, files that git
    does not store the way .gitattributes says and a pre-push hook that sends no objects are
    reported, too. The exit code is 1 if something is missing.
    """
    report = collect()
    if as_json:
        click.echo(
            json.dumps(
                {
                    **{title: dict(rows) for title, rows in report.sections.items()},
                    "problems": report.problems,
                },
                indent=2,
            )
        )
    else:
        page(list(_text(report)))
    return 1 if report.problems else 0


def _text(report: EnvironmentReport) -> Iterator[str]:
    for title, rows in report.sections.items():
        yield bold(title)
        yield from table([(name, path(value)) for name, value in rows], indent="  ")
    yield bold("Missing")
    yield from (f"  {path(problem)}" for problem in report.problems or ["nothing"])


def collect() -> EnvironmentReport:
    """Look at everything; never fails, whatever is broken."""
    problems: list[str] = []
    sections = {"Versions": list(_versions(problems))}
    try:
        repository: Repository | None = discover()
    except GitError:
        repository = None
    sections["Repository"] = list(_repository(repository))
    try:
        sections["Settings"] = list(_settings(problems))
        sections["Filter"] = list(_filter(problems))
    except GitError as error:
        problems.append(f"git's config cannot be read: {error}")
    if repository is not None:
        try:
            sections["Models"] = list(_models(repository, problems))
        except ThetaError as error:
            problems.append(f"the models of this repository cannot be looked at: {error}")
    return EnvironmentReport(sections, problems)


def _versions(problems: list[str]) -> Iterator[tuple[str, str]]:
    yield "git-theta", f"{git_theta.__version__} ({Path(git_theta.__file__).parent})"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    yield from _git(problems)
    yield from _git_lfs()
    from importlib.metadata import PackageNotFoundError, version

    for name in (*_NEEDED, *_OPTIONAL):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            if name in _OPTIONAL:
                yield name, f"not installed: {_OPTIONAL[name]}"
            else:
                yield name, "not installed"
                problems.append(f"the Python package {name} is not installed; install it with pip")


def _git(problems: list[str]) -> Iterator[tuple[str, str]]:
    try:
        said = version_of_git()
    except GitError as error:
        problems.append(str(error))
        yield "git", "not installed"
        return
    yield "git", said
    numbers = tuple(
        int(word) if word.isdecimal() else 0 for word in said.split(" ")[0].split(".")[:2]
    )
    if numbers < _GIT:
        problems.append(f"git {'.'.join(map(str, _GIT))} or newer is needed; this is {said}")


def _git_lfs() -> Iterator[tuple[str, str]]:
    release = lfs_program.release()
    if release is None:
        yield (
            "git-lfs",
            (
                "not installed: it is needed only to push to and fetch from a Git LFS server"
                " (https://git-lfs.com)"
            ),
        )
        return
    yield "git-lfs", release or "does not work"


def _repository(repository: Repository | None) -> Iterator[tuple[str, str]]:
    if repository is None:
        yield "none", "the current folder is in no git repository"
        return
    yield "working tree", str(repository.worktree or "none (bare)")
    yield "git folder", str(repository.git_dir)
    yield (
        "objects",
        str(repository.objects) + ("" if repository.objects.is_dir() else " (none yet)"),
    )
    for folder in repository.alternates():
        yield "also reads", str(folder)


def _models(repository: Repository, problems: list[str]) -> Iterator[tuple[str, str]]:
    """What git holds, whether it is stored the way the attributes say, and whether pushes send the
    objects.
    """
    wanted = load_settings(repository)
    with Session(repository, wanted, lambda _: None) as session:
        held = mistracked.survey(session)
    yield "in git", plural(len(held.manifests), "model")
    problems += lines(repository, held.found)
    unfinished = index.unfinished(repository)
    if unfinished:
        problems.append(unfinished)
    hook = push_hook.look(repository)
    yield (
        "pre-push hook",
        (
            f"{hook.state.value}"
            f" ({hook.path}){', called by you (theta.hook)' if wanted.hook == 'manual' else ''}"
        ),
    )
    if (
        push_hook.silence(hook)
        and wanted.hook == "auto"
        and (held.tracked or repository.objects.is_dir())
    ):
        problems.append(push_hook.silence(hook))


def _settings(problems: list[str]) -> Iterator[tuple[str, str]]:
    """Each setting with its value and origin; a value that is not allowed is a problem, not the
    end.
    """
    found = {value.key.lower(): value for value in config_file.values(settings.PATTERN)}
    for field in fields(settings.Settings):
        key: settings.Key = field.metadata["key"]
        value = found.pop(key.name.lower(), None)
        if value is None:
            default: Any = field.default
            yield key.name, f"{default if default != '' else 'none'} (default)"
            continue
        try:
            settings.parse(
                f"{value.key}\n{value.text}\0".encode("utf-8", "surrogateescape")
                if value.text is not None
                else f"{value.key}\0".encode()
            )
        except UsageError as error:
            problems.append(str(error))
        yield key.name, f"{value.text or ''} ({value.place})"
    for value in found.values():
        hint = did_you_mean(value.key, [key.name for key in settings.keys().values()])
        yield value.key, f"{value.text or ''} ({value.place}; not a setting of this release{hint})"


def _filter(problems: list[str]) -> Iterator[tuple[str, str]]:
    now = programs.in_force()
    process = now.get(programs.PROCESS)
    if process is None or not process.text:
        yield "none", "git has no filter called theta"
        problems.append("git is not configured to use Git-Theta; run 'git theta install'")
        return
    for value in now.values():
        ours = (
            ""
            if programs.is_ours(value) or value.key == programs.REQUIRED
            else "; not written by Git-Theta"
        )
        yield value.key, f"{programs.summary(value)} ({value.place}{ours})"
    answer = programs.try_filter(process.text)
    yield "it answers", "yes" if answer == "" else "no"
    if answer:
        problems.append(f"the configured filter does not work: {answer}")
    lacking = [key for key in programs.wanted(programs.program(), False) if key not in now]
    if lacking:
        problems.append(
            f"git's config lacks {' and '.join(lacking)}; run 'git theta install' again"
        )
    elif not programs.is_set_up(now):
        problems.append(
            "filter.theta.required is not true, so a failing filter would let whole models into"
            " git; run 'git theta install' again"
        )
    problems.extend(_older(now.values()))
    if os.environ.get("GIT_THETA_SKIP_SMUDGE", "") not in ("", "0"):
        yield "GIT_THETA_SKIP_SMUDGE", "set: checkouts leave manifests"


def _older(now: Iterable[config_file.Value]) -> Iterator[str]:
    """Commands in git's config that an earlier release wrote."""
    effect = "PYTHONPATH and other settings of Python reach what it starts"
    older = [value for value in now if programs.is_older(value)]
    for scope in dict.fromkeys(value.scope for value in older):
        keys = ", ".join(value.key for value in older if value.scope == scope)
        option = "" if scope == "global" else f" --{scope}"
        yield (
            f"{keys}: written by an earlier release, so {effect}; run 'git theta install{option}'"
            " again"
        )
    agent = config_file.values(rf"^lfs\.customtransfer\.{consent.AGENT[1]}\.args$")
    if agent and '"$p" -I ' not in (agent[-1].text or ""):
        yield (
            f"{agent[-1].key}: written by an earlier release, so {effect}; run 'git theta remote"
            " set NAME URL --with-lfs' again"
        )
