"""The pages of the API reference: every public name, whose docstring mkdocstrings puts there."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import git_theta
from git_theta import errors, plugin, testing, training
from git_theta.plugins import hookspecs

PYTHON = "reference/python.md"
PLUGINS = "reference/plugins.md"


def pages() -> dict[str, str]:
    """Each page's path and text."""
    names = [name for name in git_theta.__all__ if name != "__version__"]
    python = _page(
        "Python API",
        "What `import git_theta` offers. Nothing else is imported before it is used.",
        {
            "": {f"git_theta.{name}": home(getattr(git_theta, name)) for name in names},
            # Not imported here: that would take the frameworks.
            "Training": {
                f"git_theta.training.{name}": f"git_theta.training.{place}.{name}"
                for name, place in training._PLACES.items()
            },
            "Errors": public(errors),
        },
    )
    plugins = _page(
        "Plugin API",
        "What a plugin implements, what it is called with, and what proves that it keeps its"
        " promises.",
        {
            "Hooks": {name: f"{hookspecs.__name__}.{name}" for name in hooks()},
            "Names": names_for_plugins(),
            "Contract suites": public(testing),
        },
    )
    return {PYTHON: python, PLUGINS: plugins}


def hooks() -> list[str]:
    """The names of the hooks."""
    return [name for name in vars(hookspecs) if name.startswith("register_")]


def names_for_plugins() -> dict[str, str]:
    """The names of ``git_theta.plugin`` but for the hooks, and the place of each."""
    tree = ast.parse(inspect.getsource(plugin))
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    places = {a.name: f"{node.module}.{a.name}" for node in imported for a in node.names}
    return {
        f"{plugin.__name__}.{name}": places[name] for name in plugin.__all__ if name not in hooks()
    }


def public(module: ModuleType) -> dict[str, str]:
    """The classes and functions that ``module`` offers: the name to import each by, and where it is
    defined.
    """
    named = getattr(module, "__all__", None)
    names = named or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.getmodule(value) is module
    ]
    return {f"{module.__name__}.{name}": home(getattr(module, name)) for name in names}


def home(value: object) -> str:
    """The full name of a class or function, by the module that defines it."""
    return f"{value.__module__}.{getattr(value, '__qualname__', '')}"


def _page(title: str, about: str, sections: dict[str, dict[str, str]]) -> str:
    lines = [f"# {title}", "", about, ""]
    for section, names in sections.items():
        lines += [f"## {section}", ""] if section else []
        for name, place in names.items():
            lines += [f"::: {place}", "    options:", f"      heading_level: {3 if section else 2}"]
            lines += [f"      heading: {name}", f"      toc_label: {name.rpartition('.')[2]}", ""]
    return "\n".join(lines)
