"""The manual page, made from the commands themselves: ``git theta --help`` makes git look for one."""

from __future__ import annotations

import sys

import click

from git_theta import __version__
from git_theta.cli import main
from git_theta.cli.output import Command


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
        *_paragraphs(main.group.help or ""),
        ".PP",
        _plain("'git theta COMMAND -h' prints what this page says of one command."),
        ".SH COMMANDS",
    ]
    context = click.Context(main.group, info_name="git theta")
    for section, commands in main.COMMANDS.items():
        lines.append(f".SS {_plain(section)}")
        for name in commands:
            command = main.group.get_command(context, name)
            if command is not None:
                lines += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(lines) + "\n"


def _command(command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [".TP", f".B {_plain(context.command_path)}", _plain(usage) or "\\&", ".RS", *_paragraphs(command.help or "")]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines += [".TP", f".B {_plain(record[0])}", _plain(" ".join(record[1].split())) or "\\&"]
    if isinstance(command, Command) and command.examples:
        lines += [".PP", "Examples:", ".nf", *(_plain(line) or "\\&" for line in command.examples.strip("\n").splitlines()), ".fi"]
    for name, part in command.commands.items() if isinstance(command, click.Group) else ():
        lines += _command(part, click.Context(part, info_name=name, parent=context))
    return [*lines, ".RE"]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.replace("\b", "").strip().split("\n\n"):
        lines += [".PP", _plain(" ".join(paragraph.split()))]
    return lines


def _plain(text: str) -> str:
    """``text`` with what troff would take for its own escaped."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":  # python -m git_theta.cli.manual > docs/git-theta.1
    sys.stdout.write(page())
