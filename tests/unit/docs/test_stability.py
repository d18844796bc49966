"""The page of promises lists what there is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from test_links import site_module

import git_theta
from git_theta import errors, plugin, settings, testing, training
from git_theta.cli import main
from git_theta.plugins import tables

PROJECT = Path(__file__).parents[3]
PAGE = (PROJECT / "docs" / "stability.md").read_text("utf-8")
promises = site_module("promises")


def test_the_lists_are_those_of_the_program() -> None:
    assert promises.replaced(PAGE) == PAGE, "run: python docs/mkdocs/promises.py"


def listed(word: str) -> set[str]:
    """What stands in backquotes between a list's marks."""
    text = PAGE.partition(f"<!-- {word} -->\n")[2].partition(f"<!-- end of {word} -->")[0]
    return set(re.findall(r"`([^`]+)`", text))


def commands() -> Iterator[tuple[str, click.Command]]:
    waiting = [(f"git theta {name}", main.load(name)) for name in main.TARGETS]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        if isinstance(command, click.Group):
            waiting += [(f"{path} {name}", part) for name, part in command.commands.items()]


def test_every_command_and_option_is_listed() -> None:
    for path, command in commands():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{path}` |")]
        options = [option for option in command.params if isinstance(option, click.Option)]
        shown = {name for option in options if not option.hidden for name in option.opts}
        assert set(re.findall(r"`(--?[\w-]+)`", row.split("|")[2])) == shown, path


def test_every_setting_and_stored_name_is_listed() -> None:
    keys = {key.name for key in settings.keys().values() if key.name.startswith("theta.")}
    assert keys <= listed("settings")
    assert {*tables.FORMATS, *tables.UPDATES} <= listed("stored")


@pytest.mark.parametrize("module", [git_theta, training, plugin, testing, errors])
def test_every_public_name_is_listed(module: ModuleType) -> None:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if inspect.isclass(value)
    ]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"- `{module.__name__}`:")]
    assert re.findall(r"`([^`]+)`", row)[1:] == list(names)


def test_every_json_is_described() -> None:
    described = PAGE.partition("\n## JSON\n")[2].partition("\n## ")[0]
    for path, command in commands():
        if any("--json" in option.opts for option in command.params):
            assert re.search(
                rf"`({path} .*--json.*|(git theta )?{path.split()[-1]})`", described
            ), path


def test_the_site_has_the_page() -> None:
    text = (PROJECT / "docs" / "mkdocs" / "mkdocs.yml").read_text("utf-8")
    assert "      - stability.md\n" in text
