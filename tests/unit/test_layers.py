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

# From the top down: a module imports from its own package and from layers below. Each layer says
# what it holds, and what it may know of the outside.
LAYERS: dict[tuple[str, ...], tuple[str, str]] = {
    ("start",): ("the start of every program, isolated from its surroundings", "arguments"),
    ("__main__",): ("`git theta`: the command that the arguments name", "arguments"),
    ("cli", "training"): (
        "the commands (`cli/commands`, in the sections of `git theta -h`); callbacks for training",
        "arguments, environment, terminal",
    ),
    ("drivers", "api", "testing", "plugin"): (
        "the programs that git starts; the Python API; contract suites for plugins; the names that"
        " plugins import",
        "environment, standard input",
    ),
    ("terminal",): (
        "bars, tables, width and colour for a screen; imports rich once there is something to show",
        "the terminal",
    ),
    ("reports",): ("diffs and histories as tables, pages, Markdown, JSON and CSV", "nothing"),
    ("workflows",): ("the verbs, see below", "repositories and stores, given to them"),
    ("store", "plugins"): (
        "objects on disk, in buckets and at Git LFS servers; the registry of plugins",
        "one outside thing each",
    ),
    ("git",): (
        "Git: its history (`history`), settings (`config`), and writing to it (`writing`)",
        "the program git",
    ),
    ("settings",): ("the settings by name, with their defaults", "environment"),
    ("checkpoints", "updates", "merges"): (
        "one module a format, an update, a family of merge strategies",
        "neither git nor disk",
    ),
    ("core",): ("manifest, layout, skeleton, names, element types, contracts", "nothing"),
    ("errors", "isolation"): (
        "every error raised on purpose; how an isolated Python starts",
        "nothing",
    ),
}
# The parts of ``workflows``, likewise.
PARTS: dict[tuple[str, ...], str] = {
    (
        "exchange",
    ): "other forms of a model: convert, zarr arrays, updates handed over, PEFT adapters",
    ("maintenance",): "the store and the history: fsck, prune, migrate",
    ("merging",): "several versions into one",
    ("comparing",): "what changed between versions",
    ("storing",): "from a checkpoint's bytes to a manifest: clean, commit",
    ("restoring",): "from a manifest back to bytes: smudge, checkout, reading single tensors",
    ("sharing",): "objects to and from remotes: routes, fetch, push, pointers",
    (
        "chains",
        "bundles",
        "slices",
        "session",
        "progress",
    ): "a tensor and its chain of objects; which of them share an object; what one command shares",
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PART_RANK = {name: rank for rank, names in enumerate(PARTS) for name in names}
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
    """Line and module of every import, also inside functions and type-checking blocks."""
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


@pytest.mark.parametrize("path", sorted((PACKAGE / "workflows").rglob("*.py")), ids=name_of)
def test_workflows_import_down_only(path: Path) -> None:
    own = path.relative_to(PACKAGE / "workflows").parts[0].removesuffix(".py")
    for line, target in imports(path):
        other = target.split(".")[2] if target.startswith("git_theta.workflows.") else own
        if own not in (other, "__init__"):
            allowed = PART_RANK[other] > PART_RANK[own] or len(PARTS) - 1 == PART_RANK[other]
            assert allowed, f"{path}:{line}: {own} may not import {target}"


def test_every_part_of_workflows_has_a_rank() -> None:
    parts = {path.stem for path in (PACKAGE / "workflows").iterdir()} - {"__init__", "__pycache__"}
    assert parts == PART_RANK.keys()


def layer_tables() -> str:
    """The layers as the page on the design shows them."""
    lines = ["| layer | holds | knows |", "|---|---|---|"]
    for names, (holds, knows) in LAYERS.items():
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {holds} | {knows} |")
    lines += ["", "| part of `workflows` | does |", "|---|---|"]
    for names, does in PARTS.items():
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {does} |")
    return "\n".join(lines)


def test_the_design_page_shows_the_layers() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- layers -->\n")[2].partition("\n<!-- end of layers -->")[0]
    assert shown == layer_tables(), f"put this between the marks:\n{layer_tables()}"


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


# Git's commands, and what surrounds a process

RUNS_GIT = {"run", "run_code", "call", "launch"}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if layer_of(name_of(path)) != "git"], ids=name_of
)
def test_git_is_run_below_git_only(path: Path) -> None:
    """Everything above asks for values: it knows neither git's options nor what git prints."""
    for line, target in imports(path):
        module, _, name = target.rpartition(".")
        runs = target == "git_theta.git.command" or (
            module == "git_theta.git.command" and name in RUNS_GIT
        )
        assert not runs, f"{path}:{line}: {target}; a function of git_theta.git should do this"


SURROUNDINGS = {
    "os": {"environ", "environb", "getenv", "putenv", "getcwd", "getcwdb"},
    "sys": {"stdin", "argv"},
    "Path": {"cwd"},
}
SEE_THEIR_SURROUNDINGS = ("terminal", "cli", "drivers", "settings")
ALSO_SEE = {
    "git_theta.__main__": "the program's start",
    "git_theta.start": "the program's start",
    "git_theta.git.command": "PATH, and the environment that git is given",
    "git_theta.git.repository": "what git itself tells its children: GIT_INDEX_FILE and the like",
    "git_theta.git.lfs_program": "the environment that git-lfs is given",
    "git_theta.git.gitpython": "GitPython asks the environment which git to run",
    "git_theta.store.gateway": "TensorStore learns by the environment whom to ask",
    "git_theta.store.web": "the certificates that the user names for TensorStore",
    "git_theta.store.kvstore": "TensorStore and cloud credentials are set by the environment",
    "git_theta.training.background": "a saver keeps the folder that it was made in",
    "git_theta.workflows.restoring.checkout": "pathspecs count from the current folder",
    "git_theta.workflows.session": "paths of a bare repository count from the current folder",
}


def surroundings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a module looks at environment, standard input, arguments or the current folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in SURROUNDINGS.get(node.value.id, ()):
                yield node.lineno, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in SURROUNDINGS:
            for alias in node.names:
                if alias.name in SURROUNDINGS[node.module]:
                    yield node.lineno, f"{node.module}.{alias.name}"


def test_the_surroundings_are_for_those_who_are_started() -> None:
    found = {
        name_of(path): list(surroundings(ast.parse(path.read_text(encoding="utf-8"))))
        for path in MODULES
        if layer_of(name_of(path)) not in SEE_THEIR_SURROUNDINGS
    }
    looking = {name: places for name, places in found.items() if places}
    assert {name: places for name, places in looking.items() if name not in ALSO_SEE} == {}
    assert ALSO_SEE.keys() - looking.keys() == set(), "these need not be listed any more"


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
            and name_of(path) != "git_theta.isolation"  # no thread runs yet
        ):
            given = {keyword.arg for keyword in node.keywords}
            # Without it the program gets the C library's list, which a thread may be changing
            assert given & {"env", None}, f"{path}:{node.lineno}: pass env=inherited_environment()"
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
