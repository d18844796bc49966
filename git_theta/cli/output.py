"""Text for a person: commands' help with examples, tables, colour and a pager where the output is a
terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from git_theta.core.manifest import Entry
from git_theta.core.names import display
from git_theta.core.readable.numbers import plural, size
from git_theta.errors import GitError
from git_theta.git.command import inherited_environment
from git_theta.git.config import config_file
from git_theta.git.repository import Repository
from git_theta.reports.naming import layer_order
from git_theta.terminal import colour
from git_theta.terminal.columns import table

__all__ = [
    "Command",
    "CommandGroup",
    "chain",
    "detail",
    "details",
    "page",
    "path",
    "plural",
    "size",
    "table",
    "warn",
]


class Command(click.Command):
    """A command whose help ends with examples, printed as they are written."""

    def __init__(self, *arguments: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then whatever click adds."""
        if self.examples:
            write_verbatim(formatter, "Examples", self.examples)
        super().format_epilog(ctx, formatter)


class CommandGroup(Command, click.Group):
    """A command of several, likewise."""


def write_verbatim(formatter: click.HelpFormatter, title: str, text: str) -> None:
    """A section of a command's help whose lines stay as they are."""
    with formatter.section(title):
        for line in text.strip("\n").splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def bold(text: str) -> str:
    """``text``, bold on a terminal."""
    return click.style(text, bold=True) if colour.taken(sys.stdout) else text


def yellow(text: str) -> str:
    """``text``, yellow on a terminal."""
    return click.style(text, fg="yellow") if colour.taken(sys.stdout) else text


def warn(message: str) -> None:
    """One line on standard error."""
    click.echo(f"git-theta: warning: {message}", err=True)


def path(text: object) -> str:
    """A path (or other text of a user's) for a person: printable ASCII as it is, other text
    escaped, so that it cannot move the cursor.
    """
    plain = str(text)
    return plain if re.fullmatch("[ -~]*", plain) else display(plain)


def from_here(repository: Repository, name: str) -> str:
    """A path from the top of the working tree, as seen from the current folder."""
    if repository.worktree is None:
        return name
    here = os.path.relpath(
        Path(os.path.realpath(repository.worktree)) / name, os.path.realpath(Path.cwd())
    )
    return here.replace(os.sep, "/")


def chain(entry: Entry) -> str:
    """How a tensor is stored: ``delta(changed=12) on 2 delta on dense``, newest first; ``inline``
    when it stands in the manifest.
    """
    if not entry.chain:
        return "inline"
    first = entry.chain[0]
    text, names = (
        first.update + (f"({first.note})" if first.note else ""),
        [link.update for link in entry.chain[1:]],
    )
    while names:
        same = next((count for count, name in enumerate(names) if name != names[0]), len(names))
        text += f" on {names[0]}" if same == 1 else f" on {same} {names[0]}"
        names = names[same:]
    return text


def detail(entry: Entry) -> tuple[str, str, str, str]:
    """A tensor's row: name (with its other names), type and shape, stored size, how it is
    stored.
    """
    names = " = ".join(map(display, (entry.name, *entry.aliases)))
    stored = "-" if entry.inline is not None else size(sum(link.size for link in entry.chain))
    return names, str(entry.spec), stored, chain(entry)


def details(entries: Sequence[Entry]) -> list[tuple[str, str, str, str]]:
    """The rows of a model's tensors, layers in order of their numbers."""
    return [detail(entries[index]) for index in layer_order([entry.name for entry in entries])]


def page(lines: Sequence[str]) -> None:
    """Print ``lines``, through git's pager if they do not fit the terminal."""
    if os.name != "nt" and sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines:
        try:
            pager = config_file.pager()
        except GitError:
            pager = ""
        if pager not in ("", "cat") and _through(pager, lines):
            return
    for line in lines:
        click.echo(line)


def _through(pager: str, lines: Sequence[str]) -> bool:
    """Whether the pager, run as git runs it, took the lines."""
    environment = {"LESS": "FRX", "LV": "-c", **inherited_environment()}
    try:
        # The user's own
        process = subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, env=environment)  # noqa: S602 - git's core.pager
    except OSError:
        return False
    with contextlib.suppress(BrokenPipeError):
        process.communicate(
            "".join(f"{line}\n" for line in lines).encode(sys.stdout.encoding, "backslashreplace")
        )
    return process.returncode != 127
