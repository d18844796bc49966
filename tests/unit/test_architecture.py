"""The shape of the package: no circles, unique names, small folders, tests that mirror modules."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import git_theta

PACKAGE = Path(git_theta.__file__).parent
ROOT = PACKAGE.parent
LARGEST_FOLDER = 16


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


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
                elif node.module in MODULES:
                    yield node.module


GRAPH = {name: set(imported(tree)) - {name} for name, tree in TREES.items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of the graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle(GRAPH) == []


def test_folders_import_each_other_in_no_circle() -> None:
    """What stands side by side in a folder, each sub-folder taken as one."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    for package in sorted(packages):
        inside = f"{package}."

        def child(name: str, inside: str = inside) -> str:
            return name.removeprefix(inside).partition(".")[0]

        arrows: dict[str, set[str]] = defaultdict(set)
        for name, targets in GRAPH.items():
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
        for tree in TREES.values()
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_stay_small() -> None:
    sizes = Counter(path.parent for path in MODULES.values() if path.stem != "__init__")
    assert {str(path): size for path, size in sizes.items() if size > LARGEST_FOLDER} == {}


def test_packages_hold_no_code() -> None:
    """An ``__init__`` is a docstring; the public ones re-export names when they are asked for."""
    public = {"git_theta", "git_theta.training", "git_theta.testing", "git_theta.plugins"}
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in public:
            assert [type(node).__name__ for node in TREES[name].body] == ["Expr"], name


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
