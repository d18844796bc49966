"""For each tensor of a model the commit that last changed it: from manifests alone, as ``git
blame`` does it for lines.

Every tensor of the newest version is looked for in the versions before: where it stands in a parent
too (the same bytes, type and shape; under another name if need be), the parent is asked on. The
commit whose parents have it not is the one. What is a line of the manifest in both is found by
comparing sets of lines, so even long histories of large models take little time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.manifest import Entry, parse
from git_theta.errors import ManifestError, UsageError
from git_theta.git.history.commits import Commit, of_file
from git_theta.workflows.comparing.compare import matches
from git_theta.workflows.comparing.log import reader
from git_theta.workflows.session import Session

_Read = Callable[[str | None], bytes | None]


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor as it is now, the ``commit`` that gave it its value, and ``then``: how it was called
    and stored there.
    """

    entry: Entry
    commit: Commit
    then: Entry


def blame(
    session: Session,
    path: str,
    revisions: Sequence[str] = (),
    globs: Sequence[str] = (),
    cwd: Path | None = None,
) -> list[Origin]:
    """Where each tensor of the model ``path`` (from the top) comes from, in the file's order."""
    commits = of_file(path, revisions, cwd)
    text = reader(session)
    newest = next((commit for commit in commits if commit.blob), None)
    start = text(newest.blob) if newest else None
    if newest is None or start is None or commits[0].blob is None:
        raise UsageError(f"{path} is not a model of Git-Theta's there")
    now = dict(zip(_lines(start), parse(start).entries, strict=True))
    lines = [
        line
        for line, entry in now.items()
        if not globs or any(matches(name, globs) for name in (entry.name, *entry.aliases))
    ]
    found = _owners(commits, newest, lines, text)
    return [Origin(now[line], *found[line]) for line in lines]


def _owners(
    commits: Sequence[Commit], newest: Commit, lines: Sequence[bytes], text: _Read
) -> dict[bytes, tuple[Commit, Entry]]:
    """For each line of the newest version the commit it comes from, and its entry there."""
    by_oid = {commit.oid: commit for commit in commits}
    # Commit → its line → the newest version's lines
    waiting: dict[str, dict[bytes, list[bytes]]] = defaultdict(dict)
    waiting[newest.oid] = {line: [line] for line in lines}
    found: dict[bytes, tuple[Commit, Entry]] = {}
    for commit in commits:
        mine = waiting.pop(commit.oid, {})
        for parent in commit.parents:
            if mine and parent in by_oid:
                # One that cannot be read tells nothing: the search ends before it
                with suppress(ManifestError):
                    mine = _pass_on(
                        mine, text(commit.blob), text(by_oid[parent].blob), waiting[parent]
                    )
        if mine:
            keys = list(mine)
            for line, entry in zip(keys, _parsed(text(commit.blob) or b"", keys), strict=True):
                found.update((final, (commit, entry)) for final in mine[line])
        if not waiting:
            break
    return found


def _pass_on(
    mine: dict[bytes, list[bytes]],
    child: bytes | None,
    parent: bytes | None,
    theirs: dict[bytes, list[bytes]],
) -> dict[bytes, list[bytes]]:
    """Give the parent what it has too; returns the rest."""
    if parent is None or child is None:
        return mine
    held, own = _lines(parent), set(_lines(child))
    shared = mine.keys() & set(held)
    rest = [line for line in mine if line not in shared]
    others = [line for line in held if line not in own] if rest else []
    known: dict[tuple[object, ...], list[tuple[Entry, bytes]]] = defaultdict(list)
    for entry, line in zip(_parsed(parent, others), others, strict=True):
        known[entry.digest, entry.spec].append((entry, line))
    passed = {line: line for line in shared}
    for entry, line in zip(_parsed(child, rest), rest, strict=True):
        same = known.get((entry.digest, entry.spec))
        if same:
            passed[line] = next((pair for pair in same if pair[0].name == entry.name), same[0])[1]
    for line, theirs_line in passed.items():
        theirs.setdefault(theirs_line, []).extend(mine[line])
    return {line: finals for line, finals in mine.items() if line not in passed}


def _lines(text: bytes) -> list[bytes]:
    return text.partition(b"\n\n")[2].split(b"\n")[:-1]


def _parsed(text: bytes, lines: Iterable[bytes]) -> tuple[Entry, ...]:
    """The entries of some lines of the manifest ``text``."""
    head = text.partition(b"\n\n")[0]
    try:
        return parse(head + b"\n\n" + b"".join(line + b"\n" for line in lines)).entries
    except ManifestError as error:
        raise ManifestError(f"a manifest in the history cannot be read: {error}") from None
