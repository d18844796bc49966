"""Whatever a user can name is documented: commands, options, settings, environment variables,
hooks, public names.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import git_theta
from git_theta import errors, plugin, settings, testing, training
from git_theta.cli import main, manual
from git_theta.plugins import hookspecs

PROJECT = Path(__file__).parents[3]
PAGES = {path.name: path.read_text("utf-8") for path in (PROJECT / "docs").glob("*.md")}
CONFIGURATION = PAGES["configuration.md"]
README = (PROJECT / "README.md").read_text("utf-8")
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/*.1",
        "examples/**/*.md",
        "examples/**/*.yml",
        "examples/**/*.py",
        ".github/**/*.yml",
        "git_theta/**/*.py",
    )
    for path in PROJECT.glob(pattern)
)
SOURCE = "\n".join(path.read_text("utf-8") for path in (PROJECT / "git_theta").rglob("*.py"))
HOOKS = [name for name in vars(hookspecs) if name.startswith("register_")]


def rows(heading: str) -> dict[str, list[str]]:
    """The table below a heading of the page on settings: of each line its first cell, and the
    others.
    """
    section = CONFIGURATION.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {first.strip("`"): others for first, *others in cells}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, and every one of a group's."""
    waiting = [(f"git theta {name}", main.load(name)) for name in main.TARGETS]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        waiting += (
            [(f"{path} {name}", part) for name, part in command.commands.items()]
            if isinstance(command, click.Group)
            else []
        )


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()]
)
def test_a_command_and_its_options_say_what_they_do(path: str, command: click.Command) -> None:
    assert command.help, f"{path} has no docstring"
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{path} {option.opts[0]} has no help"


def test_the_manual_has_every_command() -> None:
    entries = [entry for _, section in manual.sections() for entry in section]
    entries += [part for entry in entries for part in entry.parts]
    assert sorted(entry.path for entry in entries) == sorted(path for path, _ in commands())
    for path, command in commands():
        entry = next(entry for entry in entries if entry.path == path)
        written = " ".join(names for names, _ in entry.options)
        options = [
            option
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
        ]
        assert all(name in written for option in options for name in option.opts), path


@pytest.mark.parametrize(
    "name",
    [name for section, names in main.COMMANDS.items() if section != "Plumbing" for name in names],
)
def test_a_guide_mentions_the_command(name: str) -> None:
    assert any(re.search(rf"git theta {name}\b", text) for text in PAGES.values()), (
        f"no page in docs/ mentions git theta {name}"
    )


def mentioned() -> dict[str, list[str]]:
    """Each 'git theta ...' in a page's code, by page: what stands in backquotes, and lines of
    blocks.
    """
    found = {}
    for name, text in {**PAGES, "README.md": README}.items():
        code = [
            part
            for inline in re.findall(r"`(git theta [^`]+)`", text)
            for part in [" ".join(inline.split())]
        ]
        code += [
            line.partition(" #")[0]
            for line in re.findall(r"^(?:\$ )?(?:\w+=\S+ )?(git theta .*)", text, re.MULTILINE)
        ]
        found[name] = sorted(
            {
                part
                for line in code
                for part in re.split(r" (?:&&|\|) ", line)
                if part.startswith("git theta ")
            }
        )
    return found


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_every_command_that_is_mentioned_can_be_typed(page: str) -> None:
    for line in mentioned()[page]:
        if "[" in line or "…" in line:  # a synopsis
            continue
        words = [word for word in shlex.split(line)[2:] if word != "\\"]
        if words[0].startswith("-") or words[0] in ("COMMAND", "json-weights"):
            continue
        command = main.group.get_command(click.Context(main.group), words[0])
        assert command is not None, line
        rest = words[1:]
        if isinstance(command, click.Group) and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        options = {
            option
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        } | {
            "--",
            "-h",
        }
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - options
        assert not unknown or command.context_settings.get("ignore_unknown_options"), line


INSTALLING = re.compile(r"(?:pip|pipx|uv tool|uv pip|uv) (?:install|add) [^\n`]*")


@pytest.mark.parametrize("path", [path.relative_to(PROJECT).as_posix() for path in TEXTS])
def test_nothing_tells_to_install_the_earlier_program(path: str) -> None:
    """Without a version, an index serves the earlier Git-Theta."""
    for line in INSTALLING.findall((PROJECT / path).read_text("utf-8")):
        for word in re.findall(r"(?<![\w/.-])git-theta(?:\[[\w,]+\])?(?![\w/-])\S*", line):
            assert re.search(r"(>=|==)\d", word), f"{path}: {line}"


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(settings.keys()))
def test_a_setting_is_documented_with_values_and_default(field: str) -> None:
    key, default = settings.keys()[field], getattr(settings.Settings(), field)
    if not key.name.startswith("theta."):
        assert f"`{key.name}`" in CONFIGURATION
        return
    values, shown, meaning = rows("Git's configuration")[key.name]
    assert meaning
    if isinstance(default, str):
        words = re.split(", | or ", key.allowed) if default else []
        assert re.findall(r"`(\w+)`", values)[: len(words)] == words
        assert shown.strip("`") == default or not default
    elif (
        bounds := re.fullmatch(r"a whole number from (\d+) to (\d{1,6})", key.allowed)
    ) is not None:
        assert values == f"{bounds[1]} to {bounds[2]}"
    if isinstance(default, int):
        assert settings._whole(0, 1 << 62, shown.partition(":")[0]) == default


def test_every_setting_on_the_page_exists() -> None:
    known = {key.name for key in settings.keys().values()}
    for name in rows("Git's configuration"):
        assert name in known or f'"{name.rpartition(".")[2]}"' in SOURCE or f'"{name}"' in SOURCE, (
            name
        )


def test_the_environment_variables_are_those_of_the_source() -> None:
    used = set(re.findall(r"""(?<=["'])GIT_THETA_[A-Z_]+(?=["'])""", SOURCE))
    assert {name for name in rows("The environment") if name.startswith("GIT_THETA_")} == used


# -- Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented(hook: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, hook))
    assert f"`{hook}`" in PAGES["plugins.md"]


def public() -> Iterator[tuple[str, object]]:
    """Every public name and what it stands for."""
    yield from (
        (f"git_theta.{name}", getattr(git_theta, name))
        for name in git_theta.__all__
        if name != "__version__"
    )
    yield from ((f"git_theta.testing.{name}", getattr(testing, name)) for name in testing.__all__)
    yield from ((f"git_theta.plugin.{name}", getattr(plugin, name)) for name in plugin.__all__)
    for name, value in vars(errors).items():
        if inspect.isclass(value):
            yield f"git_theta.errors.{name}", value


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_a_public_name_has_a_docstring(name: str, value: object) -> None:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return  # a type's other name
    assert inspect.getdoc(value), name
    assert "__doc__" not in vars(value) or vars(value)["__doc__"], (
        f"{name} has inherited its docstring"
    )
    for part, method in vars(value).items():
        if (
            inspect.isclass(value)
            and not part.startswith("_")
            and (inspect.isroutine(method) or isinstance(method, property))
        ):
            assert inspect.getdoc(method), f"{name}.{part}"


@pytest.mark.parametrize("name", training.__all__)
def test_a_callback_has_a_docstring(name: str) -> None:
    """Read rather than imported, which would take its framework."""
    source = PROJECT / "git_theta" / "training" / f"{training._PLACES[name]}.py"
    classes = (
        node
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    found = next(classes)
    methods = [part for part in found.body if isinstance(part, ast.FunctionDef)]
    nodes: list[ast.ClassDef | ast.FunctionDef] = [found, *methods]
    for node in nodes:
        assert node.name.startswith("_") or ast.get_docstring(node), f"{name}: {node.name}"


@pytest.mark.parametrize(
    "name", [name for name in (*git_theta.__all__, *training.__all__) if name != "__version__"]
)
def test_the_guide_to_python_mentions_the_name(name: str) -> None:
    assert re.search(rf"`(git_theta\.)?{name}\b|git_theta\.{name}\b|\b{name}\(", PAGES["python.md"])


@pytest.mark.parametrize(
    "name", [name for name in testing.__all__ if inspect.isfunction(getattr(testing, name))]
)
def test_the_guide_to_plugins_mentions_the_suite(name: str) -> None:
    assert name in PAGES["plugins.md"]
