"""Patterns that users give: where and how to write them, and what git finds they match."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from git_theta.cli.output import path, warn
from git_theta.core.names import did_you_mean
from git_theta.errors import UsageError
from git_theta.git.config import attributes
from git_theta.git.repository import Repository

_GIT_READS = (".gitattributes", ".gitignore", ".gitmodules", ".theta.toml")


@dataclass(frozen=True, slots=True)
class PatternPlace:
    """A pattern as it is to be written: its text, and the folder (from the top, ``""`` for the top)
    whose ``.gitattributes`` gets it.
    """

    folder: str
    pattern: str

    @property
    def file(self) -> str:
        """The attributes file, from the top."""
        return self.below(attributes.FILE)

    def below(self, name: str) -> str:
        """The path, from the top, of ``name`` in the folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        text = attributes.written(self.pattern)
        return path(text) if text.startswith('"') else f'"{path(text)}"'


def resolve(pattern: str, cwd: Path, top: Path) -> PatternPlace:
    """Where and how a pattern given in ``cwd`` is to be written.

    What names a folder means all below it; what names a file (the shell may have expanded a
    pattern) means that name only. :class:`UsageError` for one that lies outside the working tree
    ``top``, is empty, or is negated, which git has not for attributes.
    """
    if not pattern:
        raise UsageError("a pattern must not be empty")
    folder, top = Path(os.path.realpath(cwd)), Path(os.path.realpath(top))
    text = _relative(pattern.replace("\\", "/") if os.name == "nt" else pattern, folder, top)
    while text == ".." or text.startswith("../"):
        folder, text = folder.parent, text[3:] or "."
    where = inside(folder, top, pattern)
    there = folder / text
    if text == ".":
        return PatternPlace(where, "*")
    if there.is_dir() or text.endswith("/"):
        stem = text.rstrip("/")
        return PatternPlace(where, f"{attributes.literal(stem) if there.is_dir() else stem}/**")
    if os.path.lexists(there):
        return PatternPlace(where, _no_macro(attributes.literal(text)))
    if text.startswith("!"):
        raise UsageError(
            f"'{path(pattern)}': git knows no negative patterns for attributes; 'git theta untrack'"
            " takes a pattern out"
        )
    return PatternPlace(where, _no_macro(text))


def _relative(text: str, cwd: Path, top: Path) -> str:
    """``text`` as seen from ``cwd``.

    A leading ``/`` means the pattern's folder, unless as a path it is in the working tree, or
    exists.
    """
    slash = "/" if text.endswith("/") else ""
    absolute = os.path.normpath(cwd / text) if text.startswith((".", "..")) else text
    known = Path(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    if os.path.isabs(absolute) and (
        known.is_relative_to(top)
        or (os.path.lexists(absolute) and not os.path.lexists(f"{cwd}{text}"))
    ):
        return Path(os.path.relpath(known, cwd)).as_posix() + slash
    return text


def inside(folder: Path, top: Path, given: str) -> str:
    """``folder`` from the top of the working tree; :class:`UsageError`, naming what was ``given``,
    when it lies outside.
    """
    try:
        relative = Path(os.path.realpath(folder)).relative_to(os.path.realpath(top)).as_posix()
    except ValueError:
        raise UsageError(f"'{path(given)}' lies outside the repository {path(top)}") from None
    return "" if relative == "." else relative


def _no_macro(pattern: str) -> str:
    """At the start of a line ``[attr]`` defines a macro; this means the same characters."""
    return "[atr]" + pattern.removeprefix("[attr]") if pattern.startswith("[attr]") else pattern


def matched(
    repository: Repository, places: Sequence[PatternPlace], present: Iterable[str]
) -> list[list[str]]:
    """For each pattern the paths it matches: those ``present``, and a made-up one, so that a
    pattern can be tried before its files exist.

    :class:`UsageError` for a pattern that takes files which git itself reads: it could not read
    them any more.
    """
    every = set(present)
    reserved = {place.below(name) for place in places for name in _GIT_READS}
    reserved |= {found for found in every if found.rpartition("/")[2] in _GIT_READS}
    for place in places:
        probe = attributes.sample(place.pattern)
        if probe is not None:
            every.add(place.below(probe))
    found = attributes.matches(
        repository, [(place.folder, place.pattern) for place in places], every | reserved
    )
    for place, paths in zip(places, found, strict=True):
        taken = sorted(reserved.intersection(paths))
        if taken:
            raise UsageError(
                f"{place} would also take {path(taken[0])}, which git itself reads; say for example"
                ' "*.safetensors"'
            )
    return [sorted(paths) for paths in found]


def warn_unmatched(glob: str, names: Collection[str]) -> None:
    """Warn that ``glob`` matches none of the tensors' ``names``; suggest the likely one."""
    if glob != "*" and names and not any(fnmatchcase(name, glob) for name in names):
        warn(f"no tensor is called '{path(glob)}'{did_you_mean(glob, names)}")
