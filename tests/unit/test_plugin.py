"""The names for plugin authors: complete, documented, and all that plugins need."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from git_theta import plugin
from git_theta.core import contracts, tensors
from git_theta.plugins import hookspecs

ROOT = Path(__file__).parents[2]
ALIASES = {
    "Buffer": tensors,
    "Change": contracts,
    "Combination": contracts,
    "Level": contracts,
    "Read": contracts,
    "hookimpl": hookspecs,
}
OFFERED = {name: getattr(plugin, name) for name in plugin.__all__}
HOOKS = [name for name in vars(hookspecs) if name.startswith("register_")]
PUBLIC = ("git_theta", "git_theta.plugin", "git_theta.testing", "git_theta.errors")


def test_it_holds_nothing_of_its_own() -> None:
    tree = ast.parse(inspect.getsource(plugin))
    assert [type(node).__name__ for node in tree.body[1:-1]] == ["ImportFrom"] * (
        len(tree.body) - 2
    )
    assert isinstance(tree.body[-1], ast.Assign)
    imported = {alias.name for node in tree.body[2:-1] for alias in node.names}  # type: ignore[attr-defined]
    assert sorted(plugin.__all__) == plugin.__all__
    assert imported == set(plugin.__all__)


def test_it_has_every_hook_and_every_contract() -> None:
    assert set(HOOKS) <= OFFERED.keys()
    assert [name for name in contracts.__all__ if name not in OFFERED] == []


def named(value: object) -> Iterator[tuple[str, object]]:
    """The names of ours that a class or function has in its annotations, with their values."""
    parts = [value, *vars(value).values()] if inspect.isclass(value) else [value]
    functions = [part.fget if isinstance(part, property) else part for part in parts]
    written = [
        note
        for part in functions
        for note in getattr(part, "__annotations__", {}).values()
        if isinstance(note, str)
    ]
    scope = vars(inspect.getmodule(value))
    for name in sorted(set(re.findall(r"\b[A-Z]\w+\b", " ".join(written)))):
        known = scope.get(name)
        if name in ALIASES or getattr(known, "__module__", "").startswith("git_theta."):
            yield name, known


@pytest.mark.parametrize("hook", HOOKS)
def test_whatever_a_hook_leads_to_is_offered(hook: str) -> None:
    waiting, seen = [getattr(hookspecs, hook)], set[str]()
    while waiting:
        for name, value in named(waiting.pop()):
            assert name in OFFERED, f"{hook} leads to {name}"
            if name not in seen and name not in ALIASES:
                seen.add(name)
                waiting.append(value)
    assert seen or hook == "register_commands"


@pytest.mark.parametrize("name", contracts.__all__)
def test_whatever_a_contract_names_is_offered(name: str) -> None:
    if name not in ALIASES:
        assert [other for other, _ in named(OFFERED[name]) if other not in OFFERED] == []


@pytest.mark.parametrize("name", plugin.__all__)
def test_each_name_is_documented(name: str) -> None:
    value = OFFERED[name]
    if name in ALIASES:
        source = inspect.getsource(ALIASES[name])
        assert re.search(rf'^{name} = .*\n"""', source, re.MULTILINE), name
    elif isinstance(value, types.ModuleType):
        own = [f for f in vars(value).values() if inspect.getmodule(f) is value]
        assert own
        assert all(inspect.getdoc(function) for function in own)
    else:
        assert vars(value).get("__doc__") or inspect.isfunction(value), name
        assert inspect.getdoc(value), name


def test_importing_it_takes_little() -> None:
    heavy = {"numpy", "torch", "click", "rich", "git", "tensorstore", "importlib.metadata"}
    code = (
        "import sys; before = set(sys.modules); import git_theta.plugin;"
        " print(*sorted(set(sys.modules) - before))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    found = set(done.stdout.split())
    assert "git_theta.plugin" in found
    assert found & heavy == set()


def code() -> Iterator[tuple[str, str]]:
    """The code of the plugins in examples/ and of the page on plugins, by where it is."""
    for path in sorted((ROOT / "examples").glob("plugin-*/**/*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        yield "docs/plugins.md", inspect.cleandoc("\n" + block)


def test_plugins_import_public_names_only() -> None:
    for place, text in code():
        for node in ast.walk(ast.parse(text)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                ours = module is not None and module.split(".")[0] == "git_theta"
                assert not ours or module in PUBLIC, f"{place}: {module}"
