"""The shape of the package: no circles, unique names, small folders, tests that mirror modules."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import git_theta

PACKAGE = Path(git_theta.__file__).parent
ROOT = PACKAGE.parent
LARGEST_FOLDER = 16


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each module: parsed by a test, as every worker collects them all."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that any import names, in functions and type-checking blocks too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES:
                    yield full
                elif node.module in MODULES and full != "git_theta.__version__":  # a plain text
                    yield node.module


@cache
def graph_of_imports() -> dict[str, set[str]]:
    return {name: set(imported(tree)) - {name} for name, tree in trees().items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of the graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle(graph_of_imports()) == []


def test_folders_import_each_other_in_no_circle() -> None:
    """What stands side by side in a folder, each sub-folder taken as one."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    for package in sorted(packages):
        inside = f"{package}."

        def child(name: str, inside: str = inside) -> str:
            return name.removeprefix(inside).partition(".")[0]

        arrows: dict[str, set[str]] = defaultdict(set)
        for name, targets in graph_of_imports().items():
            if name.startswith(inside):
                found = {child(target) for target in targets if target.startswith(inside)}
                arrows[child(name)] |= found - {child(name)}
        assert circle(arrows) == [], package


def test_a_module_name_stands_once() -> None:
    stems = Counter(
        path.stem for path in MODULES.values() if path.stem not in ("__init__", "__main__")
    )
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_a_class_name_stands_once() -> None:
    names = Counter(
        node.name
        for tree in trees().values()
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_stay_small() -> None:
    sizes = Counter(path.parent for path in MODULES.values() if path.stem != "__init__")
    assert {str(path): size for path, size in sizes.items() if size > LARGEST_FOLDER} == {}


def test_packages_hold_no_code() -> None:
    """An ``__init__`` is a docstring; the public ones re-export names when they are asked for."""
    public = {"git_theta", "git_theta.training", "git_theta.testing"}
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in public:
            assert [type(node).__name__ for node in trees()[name].body] == ["Expr"], name


def test_unit_tests_mirror_the_package() -> None:
    """A folder of unit tests is one of the package; a test lies where the module it names is."""
    tests = ROOT / "tests" / "unit"
    elsewhere = {"docs", "examples"}
    places = {path.stem: path.parent.relative_to(PACKAGE) for path in MODULES.values()}
    for path in sorted(tests.rglob("test_*.py")):
        folder = path.parent.relative_to(tests)
        if folder.parts[:1] and folder.parts[0] in elsewhere:
            continue
        assert (PACKAGE / folder).is_dir(), f"{path}: the package has no folder {folder}"
        place = places.get(path.stem.removeprefix("test_"))
        assert place is None or place == folder, f"{path}: its module is in {place}"


def test_a_unit_test_uses_what_its_folder_holds() -> None:
    """A test of several modules lies in a folder that holds one of them, at whatever depth."""
    tests = ROOT / "tests" / "unit"
    strangers = []
    for path in sorted(tests.rglob("test_*.py")):
        folder = path.parent.relative_to(tests)
        if folder.parts[:1] in ((), ("docs",)):
            continue
        inside = ".".join(("git_theta", *folder.parts))
        used = imported(ast.parse(path.read_text(encoding="utf-8")))
        if not any(name == inside or name.startswith(f"{inside}.") for name in used):
            strangers.append(str(path.relative_to(tests)))
    assert strangers == []


def test_a_test_module_name_stands_once() -> None:
    """Pytest imports tests and their helpers by their bare names."""
    paths = [path for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest"]
    stems = Counter(path.stem for path in paths)
    assert [stem for stem, count in stems.items() if count > 1] == []


# Imports in functions

# The filter is started for every git command that touches a model: first comes its answer to git,
# then what it does to each file.
ANSWER = ("git_theta.start", "git_theta.__main__", "git_theta.drivers.filter_process")
FILTER = (
    "git_theta.drivers.filter_work",
    "git_theta.workflows.storing.clean",
    "git_theta.workflows.restoring.smudge",
    "git_theta.workflows.chains",
)
COMMANDS = "git_theta.cli."
# What takes milliseconds to import (tempfile: 3, numpy: 60), or what not everybody has installed
OPTIONAL = {"torch", "jax", "scipy", "git_filter_repo"}
SLOW = {
    *("numpy", "safetensors", "tensorstore", "rich", "git", "blake3", "zstandard"),
    *("tempfile", "subprocess", "zipfile", "concurrent.futures", "http", "ssl", "urllib.request"),
}
MANY = 6  # modules of ours that take as long as one of these
REASONS = {
    "answer": "its module is read before the filter answers git, which must not wait for it",
    "filter": "its module is read for every file that git stages or restores: few need it",
    "command": "`git theta COMMAND -h`, and a wrong option, are answered without it",
    "optional": "not everybody has it",
    "slow": f"few calls use it, and it takes milliseconds or brings what does, or {MANY} of ours",
}


def statements(tree: ast.AST, late: bool = False) -> Iterator[tuple[bool, str, int]]:
    """Each import at run time: whether it stands in a function, the module, and its line."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((late, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield late, full if full in MODULES else node.module, node.lineno
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(node, late or function)


@cache
def all_imports() -> dict[str, list[tuple[bool, str, int]]]:
    return {name: list(statements(tree)) for name, tree in trees().items()}


@cache
def brought(*names: str) -> set[str]:
    """All that importing ``names`` imports, except in functions."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [target for late, target, _ in all_imports().get(name, ()) if not late]
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return found


def reason(name: str, target: str) -> str | None:
    """Why a function of the module ``name`` imports ``target``, by :data:`REASONS`."""
    if target in brought(name):
        return None
    if name in brought(*ANSWER):
        return "answer"
    if name in brought(*FILTER):
        return "filter"
    if name.startswith(COMMANDS):
        return "command"
    new = brought(target) - brought(name)
    if target.partition(".")[0] in OPTIONAL:
        return "optional"
    return "slow" if new & SLOW or len(new & MODULES.keys()) >= MANY else None


def test_functions_import_only_what_would_delay_a_start() -> None:
    late = [
        (name, target, f"{MODULES[name]}:{line}")
        for name, found in all_imports().items()
        for inside, target, line in found
        if inside
    ]
    reasons = {(name, target): reason(name, target) for name, target, _ in late}
    needless = [f"{place}: {target}" for name, target, place in late if not reasons[name, target]]
    assert needless == [], "import it at the top of the module"
    assert set(reasons.values()) == set(REASONS), "a reason that is none any more"
    used = brought(*(target for _, target, _ in late))
    assert (OPTIONAL | SLOW) - used == set(), "these need not be listed any more"


def test_an_import_in_a_function_needs_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "git_theta.workflows.comparing.invented"
    source = (
        "import os\ndef f():\n import shlex\n import torch\n from git_theta.core import names\n"
    )
    monkeypatch.setitem(all_imports(), name, list(statements(ast.parse(source))))
    found = [(target, reason(name, target)) for late, target, _ in all_imports()[name] if late]
    assert found == [("shlex", None), ("torch", "optional"), ("git_theta.core.names", None)]


# The linters


def test_the_types_of_every_module_are_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    checked = [ROOT / name for name in settings["tool"]["mypy"]["files"]]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ours = [
        folder
        for folder in ROOT.iterdir()
        if not folder.name.startswith(".")
        and f"{folder.name}/" not in ignored
        and not (folder / "pyvenv.cfg").exists()
    ]
    modules = [path for folder in ours for path in folder.rglob("*.py")]
    assert len(modules) > len(MODULES)
    assert [path for path in modules if not any(map(path.is_relative_to, checked))] == []


PROJECT = ("git_theta", "docs", "examples", "benchmarks")
EXCEPTION = re.compile(r"# noqa(?!: [A-Z0-9, ]+ - \S)|# type: ignore(?!\[[a-z, -]+\]  # \S)")


def test_an_exception_from_a_linter_has_its_reason_beside_it() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in PROJECT
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if EXCEPTION.search(line)
    ]
    assert found == []


def test_a_rule_that_is_ignored_has_its_reason_beside_it() -> None:
    """In pyproject.toml: at the line's end, or in a comment line above."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("[tool.ruff.lint]")
    ruff = lines[start : lines.index("[tool.mypy]")]
    bare, said = [], ""
    for line in ruff:
        if re.match(r' +"[A-Z]+[0-9]+"|"[^"]+" = \[', line) and "#" not in line and not said:
            bare.append(line)
        said = line if line.startswith("#") or (said and line.startswith('"')) else ""
    assert bare == []
