"""Who may import whom, and what may be imported before git has had the filter's first answer."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import git_theta
from git_theta.git import pktline

PACKAGE = Path(git_theta.__file__).parent
ROOT = PACKAGE.parent

# From the top down: a module imports from its own package and from layers below.
LAYERS = (
    ("start",),
    ("__main__",),
    ("cli", "training"),
    ("drivers", "api", "testing"),
    ("terminal",),
    ("reports",),
    ("workflows",),
    ("store", "plugins"),
    ("git",),
    ("settings",),
    ("checkpoints", "updates", "merges"),
    ("core",),
    ("errors", "isolation"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PURE = ("core", "checkpoints", "updates", "merges")
# What knows of processes, the network, terminals and git is not for the pure layers.
FOREIGN = {
    "subprocess",
    "socket",
    "urllib",
    "http",
    "asyncio",
    "tempfile",
    "shutil",
    "git",
    "click",
    "rich",
    "pluggy",
    "tensorstore",
    "logging",
}
OPENS_FILES = {"git_theta.core.source"}  # a checkpoint on disk, by a path that its caller gives

# Core.pager, and a command given on the command line
USERS_OWN_WORDS = {"git_theta.cli.output", "git_theta.cli.commands.merge.merge_runs"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, those inside functions and type-checking blocks too: line and module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_part_has_a_layer() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts - {"__init__"} <= RANK.keys()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    own = layer_of(name_of(path))
    for line, target in imports(path):
        if not target.startswith("git_theta.") or target == "git_theta.__version__":
            continue
        other = layer_of(target)
        allowed = other == own or not own or RANK[other] > RANK[own]
        assert allowed, f"{path}:{line}: {own} may not import {target}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if layer_of(name_of(path)) in PURE], ids=name_of
)
def test_pure_layers_know_neither_git_nor_disk_nor_environment(path: Path) -> None:
    for line, target in imports(path):
        assert target.split(".")[0] not in FOREIGN, f"{path}:{line}: {target}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ):
            assert node.attr not in (
                "environ",
                "getenv",
                "system",
                "popen",
            ), f"{path}:{node.lineno}: os.{node.attr}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and name_of(path) not in OPENS_FILES
        ):
            assert node.func.id not in (
                "open",
                "print",
                "input",
                "eval",
                "exec",
            ), f"{path}:{node.lineno}: {node.func.id}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_unpickles_evaluates_or_runs_a_shell(path: Path) -> None:
    for line, target in imports(path):
        assert target.split(".")[0] not in (
            "pickle",
            "_pickle",
            "marshal",
            "shelve",
            "dill",
            "cloudpickle",
        ), f"{path}:{line}: {target}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            shell = [keyword for keyword in node.keywords if keyword.arg == "shell"]
            assert not shell or name_of(path) in USERS_OWN_WORDS, f"{path}:{node.lineno}: a shell"
            if isinstance(node.func, ast.Name):
                assert node.func.id not in (
                    "eval",
                    "exec",
                    "compile",
                    "__import__",
                ), f"{path}:{node.lineno}: {node.func.id}"


# Start-up

HEAVY = {
    *(
        "numpy",
        "torch",
        "tensorstore",
        "git",
        "rich",
        "click",
        "pluggy",
        "importlib.metadata",
        "zstandard",
        "blake3",
    ),
    *(
        "scipy",
        "ml_dtypes",
        "safetensors",
        "asyncio",
        "multiprocessing",
        "concurrent.futures",
        "sqlite3",
        "json",
        "uuid",
    ),
    *("email", "http", "ssl", "logging", "unittest", "tempfile", "hashlib"),
}


def imported(arguments: list[str], stdin: bytes = b"") -> tuple[set[str], bytes]:
    """The modules that a Python process imports, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    lines = done.stderr.decode().splitlines()
    return {
        line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")
    }, done.stdout


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What Python imports for nothing at all: site-packages may bring their own."""
    return imported(["-c", "pass"])[0]


def test_the_filter_answers_before_anything_heavy_is_imported(bare: set[str]) -> None:
    client = ["git-filter-client", "version=2"]
    offered = ["capability=clean", "capability=smudge", "capability=delay", "capability=unknown"]
    said = (
        b"".join(map(pktline.text, client))
        + pktline.FLUSH
        + b"".join(map(pktline.text, offered))
        + pktline.FLUSH
    )
    found, answer = imported(["-m", "git_theta", "filter-process"], said)
    expected = [["git-filter-server", "version=2"], offered[:3]]
    assert answer == b"".join(
        b"".join(map(pktline.text, lines)) + pktline.FLUSH for lines in expected
    )
    assert "git_theta.drivers.filter_process" in found
    assert (found - bare) & HEAVY == set()
    later = ("cli", "workflows", "plugins", "store", "updates", "merges", "checkpoints", "reports")
    assert [
        name for name in found if name.startswith("git_theta.") and layer_of(name) in later
    ] == []


def test_importing_the_package_imports_nothing_heavy(bare: set[str]) -> None:
    for code in (
        "import git_theta",
        "import git_theta.plugins.registry",
        "import git_theta.core.manifest",
        "import git_theta.settings",
    ):
        found = imported(["-c", code])[0] - bare
        assert found & (HEAVY - {"json", "hashlib", "blake3"}) == set(), code


def test_help_imports_no_arrays(bare: set[str]) -> None:
    found, said = imported(["-m", "git_theta", "--help"])
    assert b"filter-process" in said
    assert (found - bare) & {
        "numpy",
        "torch",
        "tensorstore",
        "git",
        "rich",
        "zstandard",
        "scipy",
        "ml_dtypes",
    } == set()


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"hello\n",
        b"0000",
        b"0015git-filter-client\n0000",
        b"0016git-filter-client\n000eversion=1\n0000",
        b"ffff",
        b"0005",
    ],
)
def test_who_is_not_git_gets_a_line_not_a_traceback(stdin: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "git_theta", "filter-process"],
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 1
    assert done.stdout == b""
    assert bool(done.returncode) == bool(said)


STARTS_PROGRAMS = {"git_theta.git.command", "git_theta.isolation"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_programs_are_started_by_their_absolute_path(path: Path) -> None:
    """A bare name may be a program of the current folder: git.command finds it on PATH.

    A shell is for the user's own words.
    """
    starts = {"run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}
    other = {
        "system",
        "popen",
        "execlp",
        "execvp",
        "execlpe",
        "execvpe",
        "spawnlp",
        "spawnvp",
        "posix_spawnp",
        "startfile",
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            continue
        module, function = node.func.value.id, node.func.attr
        assert not (module == "os" and function in other), f"{path}:{node.lineno}: os.{function}"
        assert not (module == "shutil" and function == "which"), (
            f"{path}:{node.lineno}: use git.command.find"
        )
        if (
            module == "subprocess"
            and function in starts
            and name_of(path) not in STARTS_PROGRAMS | USERS_OWN_WORDS
        ):
            words = node.args[0]
            first = words.elts[0] if isinstance(words, ast.List) else None
            bare = first is None or isinstance(first, ast.Constant)
            assert not bare, (
                f"{path}:{node.lineno}: use git.command.call or launch, or find the program first"
            )
