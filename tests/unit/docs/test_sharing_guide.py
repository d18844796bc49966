"""docs/sharing.md names commands, options and settings that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from git_theta.cli import main
from git_theta.settings import keys
from git_theta.store.storage_url import parse_url

TEXT = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^\$ (?:\w+=\S+ )?(git theta [^#\n]*)|`(git theta [^`]+)`", TEXT, re.MULTILINE)))


@pytest.mark.parametrize("line", [first or second for first, second in COMMANDS])
def test_every_command_can_be_typed(line: str) -> None:
    words = shlex.split(line)[2:]
    command = main.group.get_command(click.Context(main.group), words[0])
    assert command is not None
    rest = words[1:]
    if isinstance(command, click.Group) and rest:
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= options


def test_every_url_is_taken() -> None:
    urls = re.findall(r"(?:remote set \S+|Use) ((?:s3|gs|https?|file)://\S+)", TEXT)
    assert len(urls) > 3
    for url in urls:
        parse_url(url)


def test_every_setting_exists() -> None:
    named = set(re.findall(r"theta\.(?!(?:confirmedUrl|git)\b)[a-z][A-Za-z.]*[a-zA-Z]", TEXT))
    assert named <= {key.name for key in keys().values()}
    assert named
