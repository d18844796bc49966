"""The driver that ``git diff`` calls for tracked models: a summary by tensors in place of lines of
digests.

Git's own arguments are documented in git(1) under GIT_EXTERNAL_DIFF. The files it passes hold
manifests where the filter could tell who was asking (see :mod:`git_theta.drivers.asker`),
checkpoints otherwise; either will do. Whatever goes wrong here, git must not stop: then the
manifests are shown as text, and the exit code is 0 all the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from git_theta.core import earlier_release
from git_theta.core.manifest import is_manifest
from git_theta.core.names import display
from git_theta.drivers import blas
from git_theta.errors import FormatError, ThetaError, damaged
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import blobs, changes
from git_theta.git.history.changes import FileChange
from git_theta.git.repository import discover
from git_theta.reports import table
from git_theta.reports.report import ModelReport
from git_theta.terminal import screen
from git_theta.terminal.bars import Bars
from git_theta.workflows.comparing import versions
from git_theta.workflows.comparing.compare import compare
from git_theta.workflows.comparing.statistics import Options, measure_all, read_size
from git_theta.workflows.comparing.version import NOTHING, Version
from git_theta.workflows.session import Session

_HEAD = 64
_LINK = 4096  # bytes of a symbolic link's target


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two files: where its content lies, its blob (all zero: a file of the working
    tree), its mode; ``.`` where there is none.
    """

    file: str
    blob: str
    mode: str

    @property
    def absent(self) -> bool:
        """Whether there is no file on this side."""
        return self.mode == "."

    @property
    def ordinary(self) -> bool:
        """Whether it is a file as opposed to a symbolic link, or no file at all."""
        return self.absent or self.mode.startswith("100")

    @property
    def stored(self) -> bool:
        """Whether git has it as a blob."""
        return self.blob.strip("0") not in ("", ".")


@dataclass(frozen=True, slots=True)
class DiffRequest:
    """One call by git. ``new_path`` differs from ``path`` for a file that was renamed or copied;
    ``told`` are git's own header lines for that.
    """

    path: str
    old: Side
    new: Side
    new_path: str
    told: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Print how the model that git names changed; the exit code, 0."""
    blas.keep_to_one_thread()
    try:
        print(
            *_unmerged(arguments[0]) if len(arguments) == 1 else shown(parse(arguments)), sep="\n"
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the pager was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def parse(arguments: Sequence[str]) -> DiffRequest:
    """Git's arguments: path, file, blob and mode of the old side and of the new one; for a renamed
    file also its new path and header lines.
    """
    path, *rest = arguments
    told = tuple(rest[7].splitlines()) if len(rest) > 7 else ()
    return DiffRequest(
        path,
        Side(rest[0], rest[1], rest[2]),
        Side(rest[3], rest[4], rest[5]),
        rest[6] if len(rest) > 6 else path,
        told,
    )


def shown(call: DiffRequest) -> list[str]:
    """The lines to print."""
    style = screen.style("color.diff")
    lines = [style.paint(line, "1") for line in header(call)]
    if not (call.old.ordinary and call.new.ordinary):
        return [*lines, *_as_text(call, style.colour)]
    with ExitStack() as stack:
        try:
            return [*lines, *_summary(call, style, stack)]
        except Exception as error:
            if os.environ.get("GIT_THETA_DEBUG", "") not in ("", "0"):
                raise
            reason = (
                str(error) if isinstance(error, ThetaError) else f"{type(error).__name__}: {error}"
            )
            reason = damaged(error) if isinstance(error, ImportError) else reason
            return [
                *lines,
                f"  {display(' '.join(reason.split()), 400)}",
                *_as_text(call, style.colour),
            ]


def header(call: DiffRequest) -> list[str]:
    """The lines with which git introduces a file's diff."""
    lines = [f"diff --theta a/{display(call.path)} b/{display(call.new_path)}"]
    if call.old.absent:
        lines.append(f"new file mode {call.new.mode}")
    elif call.new.absent:
        lines.append(f"deleted file mode {call.old.mode}")
    elif call.old.mode != call.new.mode:
        lines += [f"old mode {call.old.mode}", f"new mode {call.new.mode}"]
    return lines + [display(line) for line in call.told if line and not line.startswith("index ")]


def _summary(call: DiffRequest, style: table.Style, stack: ExitStack) -> list[str]:
    bars = Bars(wanted=not os.environ.get("GIT_PAGER_IN_USE"))  # a pager has the screen
    session = stack.enter_context(Session(discover(), load_settings(), _warn, progress=bars))
    old = _version(session, call.old, call.path, NOTHING, stack)
    new = _version(session, call.new, call.new_path, old, stack)
    change = FileChange(call.path, call.new_path, call.old.mode, call.new.mode, None, None, "M")
    found = versions.model_diff(change, old, new)
    if found.comparison is None:
        raise ThetaError(found.problem)
    changes = found.comparison.changes
    limit, added = session.settings.diff_limit, found.comparison.old is not None
    total = min(limit, sum(read_size(change, added) for change in changes))
    with session.progress.begin("Comparing", total) as bar:
        options = Options(limit=limit, added=added)
        results = list(measure_all(changes, found.reader, session.pool(), options, bar.advance))
    return table.model(
        ModelReport(call.new_path, found.comparison, changes, tuple(results)), style, headed=False
    )


def _version(session: Session, side: Side, path: str, other: Version, stack: ExitStack) -> Version:
    if side.absent or side.file == os.devnull:
        return NOTHING
    text = _manifest_text(session, side)
    if text is not None:
        return versions.stored(session, text)
    file = Path(side.file)
    with file.open("rb") as opened:
        if earlier_release.is_metadata(opened.read(_HEAD)):
            raise FormatError(earlier_release.ADVICE)
    shown = f"Reading {display(path, 40)}"
    with session.progress.begin(shown, file.stat().st_size) as bar:
        if side.stored:  # a checkpoint that was committed as it is
            return versions.file(file, session, session.pool(), stack, bar.advance)
        return versions.working_tree(session, path, other, stack, bar.advance, file)


def _manifest_text(session: Session, side: Side) -> bytes | None:
    """The manifest of a side, where git has it: in the file itself, else in the blob."""
    with open(side.file, "rb") as file:
        if is_manifest(file.read(_HEAD)):
            return Path(side.file).read_bytes()
    text = session.blobs.read(side.blob) if side.stored else None
    return text if text is not None and is_manifest(text) else None


def _warn(message: str) -> None:
    print(f"git-theta: {message}", file=sys.stderr)


def _as_text(call: DiffRequest, colour: bool) -> list[str]:
    """Git's own diff of the manifests, as far as they can be had."""
    with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
        files = []
        for name, side in (("old", call.old), ("new", call.new)):
            file = Path(folder, name)
            file.write_bytes(_text_of(side))
            files.append(str(file))
        raw = changes.of_two_files(files[0], files[1], colour)
    lines = raw.decode("utf-8", "backslashreplace").splitlines()
    start = next(
        (
            number
            for number, line in enumerate(lines)
            if line.lstrip("\x1b[0123456789;m").startswith("@@")
        ),
        None,
    )
    if start is None:
        return []
    names = [
        "/dev/null" if side.absent else f"{letter}/{display(path)}"
        for side, letter, path in _letters(call)
    ]
    return [f"--- {names[0]}", f"+++ {names[1]}", *lines[start:]]


def _letters(call: DiffRequest) -> list[tuple[Side, str, str]]:
    return [(call.old, "a", call.path), (call.new, "b", call.new_path)]


def _text_of(side: Side) -> bytes:
    """A side's manifest, or a line that says what there is instead."""
    if side.absent:
        return b""
    try:
        if not side.ordinary:
            return Path(side.file).read_bytes()[:_LINK] + b"\n"
        with open(side.file, "rb") as file:
            if is_manifest(file.read(_HEAD)):
                return Path(side.file).read_bytes()
        if side.stored:
            text = blobs.if_any(side.blob)
            if text is not None and is_manifest(text):
                return text
        return f"(a checkpoint of {Path(side.file).stat().st_size} bytes)\n".encode()
    except (OSError, ThetaError) as error:
        return f"({display(str(error), 200)})\n".encode()


def _unmerged(path: str) -> list[str]:
    """What an unresolved merge did to the model, by the manifests of its three sides."""
    lines = [f"* Unmerged path {display(path)}"]
    try:
        with Session(discover(), load_settings(), _warn, progress=Bars()) as session:
            base, ours, theirs = (session.manifest(f":{stage}:{path}") for stage in (1, 2, 3))
            if ours is None or theirs is None:
                return lines
            first = {change.name: change for change in compare(base, ours).changes}
            second = {change.name: change for change in compare(base, theirs).changes}
            both = [
                name
                for name in first
                if name in second
                and (first[name].new and first[name].entry.digest)
                != (second[name].new and second[name].entry.digest)
            ]
    except (ThetaError, OSError):
        return lines
    lines.append(
        f"  ours changed {len(first):,}, theirs {len(second):,}; {len(both):,} in different ways on"
        " both sides"
    )
    return (
        lines
        + [f"    {display(name, 200)}" for name in both[:20]]
        + ([f"    ... and {len(both) - 20:,} more"] if len(both) > 20 else [])
    )
