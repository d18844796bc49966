"""The lists of the page on stability, made from what there is: ``python docs/mkdocs/promises.py``
writes them anew, between the marks in ``docs/stability.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

import git_theta
from git_theta import errors, plugin, testing, training
from git_theta.cli import main
from git_theta.core.manifest import VERSION
from git_theta.plugins import registry, tables

DOCS = Path(__file__).resolve().parents[1]
PAGE = DOCS / "stability.md"


def lists() -> dict[str, str]:
    """Each list's text by the word in its mark."""
    settings = (DOCS / "configuration.md").read_text("utf-8")
    strategies = [
        strategy.name
        for strategy in registry.merge_strategies()
        if type(strategy).__module__.startswith("git_theta.")
    ]
    return {
        "commands": "\n".join(_commands()),
        "settings": _names(
            re.findall(r"^\| `((?:theta|remote)\.[\w.]+)` \|", settings, re.MULTILINE)
        ),
        "python": "\n".join(
            f"- `{module.__name__}`: {_names(names)}"
            for module, names in (
                (git_theta, git_theta.__all__),
                (training, training.__all__),
                (plugin, plugin.__all__),
                (testing, testing.__all__),
                (errors, [name for name, value in vars(errors).items() if isinstance(value, type)]),
            )
        ),
        "stored": "\n".join(
            [
                f"- manifests of version {VERSION}",
                f"- formats: {_names(tables.FORMATS)}",
                f"- updates: {_names(tables.UPDATES)}",
                f"- merge strategies: {_names(strategies)}",
            ]
        ),
    }


def _commands() -> Iterator[str]:
    yield "| command | options |"
    yield "|---|---|"
    for name in main.TARGETS:
        yield from _command(f"git theta {name}", main.load(name))


def _command(path: str, command: click.Command) -> Iterator[str]:
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    yield f"| `{path}` | {_names(name for option in options for name in option.opts)} |"
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from _command(f"{path} {name}", part)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def replaced(text: str) -> str:
    """The page ``text`` with its lists as they are now."""
    for word, made in lists().items():
        marks = f"<!-- {word} -->\n", f"\n<!-- end of {word} -->"
        pattern = f"(?<={re.escape(marks[0])}).*?(?={re.escape(marks[1])})"
        text, count = re.subn(pattern, made.replace("\\", r"\\"), text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name} has no place for the list of {word}")
    return text


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text("utf-8")), "utf-8")
