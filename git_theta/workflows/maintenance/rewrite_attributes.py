"""What ``.gitattributes`` files of the past become when history is migrated: lines are added,
exchanged or taken out, the rest stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from git_theta.errors import GitError
from git_theta.git.config import attributes
from git_theta.git.config.attributes import AttributesFile
from git_theta.git.repository import Repository

_LFS = {"filter=lfs", "diff=lfs", "merge=lfs"}
_LFS_WORDS = ("filter=lfs", "diff=lfs", "merge=lfs", "-text")


@dataclass(frozen=True, slots=True)
class Tracking:
    """How files are to be stored in every commit: ``patterns`` (as at the top of the working tree)
    by Git-Theta.

    ``paths`` are all files of history that are stored so.
    """

    repository: Repository
    patterns: Sequence[str]
    paths: Iterable[str]

    def apply(self, name: str, data: bytes | None) -> bytes | None:
        """The attributes file ``name`` that holds ``data`` (None: there is none), with what is to
        be tracked tracked by it.

        One in a folder comes after that at the top, so where it says anything of a tracked file,
        that file gets a line of its own.
        """
        folder = name.rpartition("/")[0]
        if data is None:
            return None if folder else self._at_top(AttributesFile(Path(name), ()))
        file = attributes.parse_file(data, Path(name))
        if not folder:
            return self._at_top(file)
        inside = [path for path in self.paths if path.startswith(f"{folder}/")]
        rules = [(folder, line.pattern) for line in file.lines if line.pattern]
        concerned = (
            {path for found in attributes.matches(self.repository, rules, inside) for path in found}
            if inside and rules
            else ()
        )
        for path in sorted(concerned):
            file = file.having(f"/{attributes.literal(path.removeprefix(f'{folder}/'))}")
        return _data(file)

    def _at_top(self, file: AttributesFile) -> bytes:
        for pattern in self.patterns:
            file = _without_lfs(file, pattern).having(pattern)
        return _data(file)


def untracked(name: str, data: bytes | None, lfs: bool) -> bytes | None:
    """The attributes file without what has files stored by Git-Theta (None: nothing is left of it),
    or with Git LFS in its place.
    """
    if data is None:
        return None
    file = attributes.parse_file(data, Path(name))
    patterns = list(
        dict.fromkeys(line.pattern for line in file.lines if line.pattern and line.tracks)
    )
    for pattern in patterns:
        file = file.lacking(pattern)
        if lfs:
            line = attributes.parse_line(" ".join((attributes.written(pattern), *_LFS_WORDS)))
            file = replace(file, lines=(*file.lines, line), ended=True)
    return _data(file) if file.lines or not patterns else None


def _without_lfs(file: AttributesFile, pattern: str) -> AttributesFile:
    """The file without the lines that do nothing but hand ``pattern`` to Git LFS."""
    rest = [
        line
        for line in file.lines
        if not (line.pattern == pattern and _LFS <= set(line.words) <= set(_LFS_WORDS))
    ]
    return replace(file, lines=tuple(rest), ended=file.ended or len(rest) < len(file.lines))


def _data(file: AttributesFile) -> bytes:
    data = file.text().encode("utf-8", "surrogateescape")
    longest = max((len(line.raw) for line in file.lines if line.tracks), default=0)
    if len(data) > attributes.SIZE_LIMIT or longest >= attributes.LINE_LIMIT:
        raise GitError(
            f"{file.path} would get longer than git reads; use fewer or shorter patterns"
        )
    return data


def in_force(repository: Repository, paths: Iterable[str]) -> Mapping[str, bool]:
    """For each path whether git, with the current attributes, has Git-Theta store it."""
    found = attributes.check(repository, paths, ["filter"])
    return {path: attributes.is_tracked(values) for path, values in found.items()}
