"""The manual page, made from the commands: ``git theta --help`` makes git look for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click

from git_theta import __version__
from git_theta.cli import main
from git_theta.cli.output import Command


@dataclass(frozen=True, slots=True)
class ManualEntry:
    """What there is to say of one command: each option with its text; a group has ``parts``."""

    path: str
    usage: str
    paragraphs: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    examples: str
    parts: tuple[ManualEntry, ...]


def sections() -> Iterator[tuple[str, list[ManualEntry]]]:
    """Our commands in the order of the overview, by section."""
    context = click.Context(main.group, info_name="git theta", **main.CONTEXT)
    for section, commands in main.COMMANDS.items():
        yield (
            section,
            [
                _entry(
                    main.load(name), click.Context(main.load(name), info_name=name, parent=context)
                )
                for name in commands
            ],
        )


def about() -> tuple[str, ...]:
    """The paragraphs on Git-Theta as a whole."""
    return _paragraphs(main.group.help or "")


def _entry(command: click.Command, context: click.Context) -> ManualEntry:
    options = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
    ]
    parts = command.commands if isinstance(command, click.Group) else {}
    return ManualEntry(
        context.command_path,
        " ".join(command.collect_usage_pieces(context)),
        _paragraphs(command.help or ""),
        tuple((record[0], " ".join(record[1].split())) for record in options if record is not None),
        command.examples.strip("\n") if isinstance(command, Command) else "",
        tuple(
            _entry(part, click.Context(part, info_name=name, parent=context))
            for name, part in parts.items()
        ),
    )


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(
        " ".join(paragraph.split()) for paragraph in text.replace("\b", "").strip().split("\n\n")
    )


def page() -> str:
    """The text of ``git-theta(1)``, in the ``man`` macros of troff."""
    lines = [
        f'.TH GIT\\-THETA 1 "" "git\\-theta {_plain(__version__)}" "Git\\-Theta Manual"',
        ".SH NAME",
        "git\\-theta \\- version control for machine\\-learning models, as an extension of Git",
        ".SH SYNOPSIS",
        ".B git theta",
        "COMMAND [OPTION]...",
        ".SH DESCRIPTION",
        *_set(about()),
        ".PP",
        _plain("'git theta COMMAND -h' prints what this page says of one command."),
        ".SH COMMANDS",
    ]
    for section, entries in sections():
        lines.append(f".SS {_plain(section)}")
        for entry in entries:
            lines += _command(entry)
    return "\n".join(lines) + "\n"


def _command(entry: ManualEntry) -> list[str]:
    lines = [
        ".TP",
        f".B {_plain(entry.path)}",
        _plain(entry.usage) or "\\&",
        ".RS",
        *_set(entry.paragraphs),
    ]
    for names, text in entry.options:
        lines += [".TP", f".B {_plain(names)}", _plain(text) or "\\&"]
    if entry.examples:
        lines += [
            ".PP",
            "Examples:",
            ".nf",
            *(_plain(line) or "\\&" for line in entry.examples.splitlines()),
            ".fi",
        ]
    for part in entry.parts:
        lines += _command(part)
    return [*lines, ".RE"]


def _set(paragraphs: tuple[str, ...]) -> list[str]:
    return [line for paragraph in paragraphs for line in (".PP", _plain(paragraph))]


def _plain(text: str) -> str:
    """``text`` with what troff would take for its own escaped."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":  # python -m git_theta.cli.manual > docs/git-theta.1
    sys.stdout.write(page())
