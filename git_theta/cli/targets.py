"""Names of files that a command writes: ``--html[=FILE]``, and refusing names that were meant as
something else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from git_theta.cli.output import Command, path
from git_theta.errors import GitError, UsageError
from git_theta.git.history.changes import is_revision

_PAGE = b'content="git-theta '  # stands near the top of every page of ours
_HEAD = 2048


class PageCommand(Command):
    """A command with ``--html[=FILE]``.

    A word behind ``--html`` is its FILE only if it ends in .html: else it is a revision or a path.
    """

    page_name = "page.html"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give ``--html`` its file's name."""
        words: list[str] = []
        waiting = list(args)
        while waiting and waiting[0] != "--":
            word = waiting.pop(0)
            if word == "--html":
                named = bool(waiting) and _is_page_name(waiting[0])
                word += f"={waiting.pop(0) if named else self.page_name}"
            words.append(f"{word}{self.page_name}" if word == "--html=" else word)
        return super().parse_args(ctx, [*words, *waiting])


def _is_page_name(word: str) -> bool:
    return word.lower().endswith((".html", ".htm")) and not word.startswith("-")


class PageOption(click.Option):
    """``--html[=FILE]``, shown so in help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its text."""
        record = super().get_help_record(ctx)
        return record and (record[0].replace(" [=", "[="), record[1])


def check(name: str, where: str) -> None:
    """:class:`UsageError` if ``name``, given as ``where``, is a revision, or a file of one: it was
    meant as something to read.
    """
    if os.path.lexists(name) or os.sep in name[:2] or "://" in name:
        return
    try:
        revision, colon, _ = name.partition(":")
        drive = os.name == "nt" and re.fullmatch("[A-Za-z]", revision)
        meant = (
            "a file of a revision"
            if colon and not drive and is_revision(revision)
            else "a revision"
            if is_revision(name)
            else ""
        )
    except GitError:  # outside of a repository there are no revisions
        return
    if meant:
        raise UsageError(f"'{path(name)}' is {meant}, not a file to write; {where}")


def check_page(name: str, meant: str) -> None:
    """:class:`UsageError` if a page cannot be written to the file ``name``: it is a revision, or
    holds something else.
    """
    check(name, f"{meant}, '--html=FILE' names the file")
    try:
        with open(name, "rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path(name)} cannot be written: {error.strerror or error}") from None
    if head and _PAGE not in head:
        raise UsageError(
            f"{path(name)} exists and is not a page of Git-Theta; name another file: --html=FILE"
        )


def write_page(name: str, text: str) -> None:
    """Write a page; :class:`UsageError` if that is not possible."""
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path(name)} cannot be written: {error.strerror or error}") from None
