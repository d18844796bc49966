"""What the package declares it needs, and what it imports: neither more than the other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import git_theta

PACKAGE = Path(git_theta.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
# Distributions whose module has another name
MODULES = {"gitpython": "git"}
# The caller's own libraries: imported only where the caller has imported them or asks for them
CALLERS = {"jax", "transformers", "pytorch_lightning", "lightning"}


def declared() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    names = [re.split(r"[^\w.-]", line)[0].lower() for line in every]
    return sorted(MODULES.get(name, name.replace("-", "_")) for name in names)


@cache
def imported() -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return (
        found - set(sys.stdlib_module_names) - {"git_theta", "_typeshed"}
    )  # the latter is for type checkers alone


@pytest.mark.parametrize("module", declared())
def test_what_is_declared_is_imported(module: str) -> None:
    assert module in imported()


def test_what_is_imported_is_declared() -> None:
    assert imported() - CALLERS - set(declared()) == set()
