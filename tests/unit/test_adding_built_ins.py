"""Adding a built-in as CONTRIBUTING.md says: done in a copy of the package, and used there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import git_theta

PACKAGE = Path(git_theta.__file__).parent
ROOT = PACKAGE.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

FORMAT = """
from git_theta.core.layout import Extent, Layout
from git_theta.errors import FormatError


class LinesFormat:
    name = "lines"
    suffixes = (".lines",)

    def sniff(self, head):
        return head.startswith(b"LINES")

    def scan(self, source):
        if source.size < 6:
            raise FormatError("the file is cut short")
        size = source.size - 5
        return Layout(self.name, source.size, (Extent("all", "u8", (size,), 5, size),))
"""
FORMAT_ROW = """\
    "lines": FormatRow(
        "git_theta.checkpoints.lines:LinesFormat", (".lines",), b"LINES", inside=".lines"
    ),
"""
USE_FORMAT = """
import io, zipfile
from git_theta.core.source import BytesSource
from git_theta.plugins import registry
found = next(registry.detect(b"LINES and more", ".x"))
assert found.name == "lines", found.name
assert registry.scan(found, BytesSource(b"LINESabc")).extents[0].shape == (3,)
assert "lines" in [known.name for known in registry.checkpoint_formats()]
assert registry.knows_tensors("lines")
assert registry.fallback().name == "opaque"
target = io.BytesIO()
with zipfile.ZipFile(target, "w") as archive:
    archive.writestr(zipfile.ZipInfo("a.lines"), b"LINESabcdef")
data = target.getvalue()
outer = next(registry.detect(data[:4096], ".zip"))
assert [e.name for e in registry.scan(outer, BytesSource(data)).extents] == ["a.lines/all"]
"""
UPDATE = """
import numpy as np

from git_theta.core.tensors import Encoded, Tensor
from git_theta.errors import PayloadError


class Reversed:
    name = "reversed"
    needs_base = True
    parts = ("flag",)

    def encode(self, tensor, base, level):
        same = base is not None and bytes(tensor.data) == bytes(base.data)[::-1]
        return Encoded([b""]) if same else None

    def decode(self, payload, spec, base):
        if base is None or base.spec != spec or len(payload):
            raise PayloadError("a reversed tensor needs its base and nothing else")
        return bytes(base.data)[::-1]

    def from_parts(self, base, parts):
        return Tensor(base.dtype, base.shape, bytes(base.data)[::-1]), Encoded([b""])
"""
UPDATE_ROW = """\
    "reversed": "git_theta.updates.reversed:Reversed",
"""
USE_UPDATE = """
import numpy as np
from git_theta.core.tensors import Tensor
from git_theta.plugins import registry, tables
from git_theta.updates.choose import choose
from git_theta.workflows.exchange import supplied
old = Tensor.from_array(np.random.default_rng(1).integers(0, 255, 5000, np.uint8).reshape(50, 100))
new = Tensor(old.dtype, old.shape, bytes(old.data)[::-1])
update, encoded = choose(new, old, registry.updates(), "default")
assert update.name == "reversed", update.name
assert encoded.size == 0
assert tables.FALLBACK_UPDATE == "dense"
change, = supplied.from_file("reversed", {"w/flag": np.ones(1)})
assert change.encode(old)[0].data == new.data
"""
STRATEGY = """
STRATEGIES = (
    *STRATEGIES,
    Formula("first", "the first side, computed", lambda case, _: case.sides[0].copy(), ()),
)
"""
USE_STRATEGY = """
import numpy as np
from git_theta.core.contracts import MergeCase
from git_theta.merges.options import complete
from git_theta.plugins import registry
found = registry.merge_strategy("first")
case = MergeCase("w", None, (np.ones(3, np.float32), np.zeros(3, np.float32)))
assert found.merge(case, complete(found.name, found.options, {})).tolist() == [1, 1, 1]
"""


def named(heading: str, name: str) -> list[str]:
    """The files of the package that the first two steps below a heading say to write, for NAME."""
    section = CONTRIBUTING.partition(f"### {heading} in five steps\n")[2].partition("\n#")[0]
    steps = re.findall(r"^\d\. (.*?)(?=^\d\. |\Z)", section, re.MULTILINE | re.DOTALL)
    assert len(steps) == 5, heading
    paths = re.findall(r"`(git_theta/[\w/]+\.py)`", steps[0] + steps[1])
    files = dict.fromkeys(paths)
    files.pop("git_theta/core/contracts.py", None)
    return [path.replace("NAME", name) for path in files]


def changed(copy: Path) -> list[str]:
    """The modules of the copy that are new or not as they were."""
    return sorted(
        path.relative_to(copy).as_posix()
        for path in (copy / "git_theta").rglob("*.py")
        if not (ROOT / path.relative_to(copy)).exists()
        or path.read_bytes() != (ROOT / path.relative_to(copy)).read_bytes()
    )


def run(copy: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import git_theta; print(git_theta.__file__)\n{code}"],
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(copy))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "git_theta", ignore=ignored)
    return tmp_path


def test_a_format_is_a_module_and_a_row(copy: Path) -> None:
    module, table = named("Add a checkpoint format", "lines")
    (copy / module).write_text(FORMAT)
    text = (copy / table).read_text("utf-8")
    assert text.count("\nFORMATS = {\n") == 1
    (copy / table).write_text(text.replace("\nFORMATS = {\n", f"\nFORMATS = {{\n{FORMAT_ROW}"))
    assert changed(copy) == sorted([module, table])
    run(copy, USE_FORMAT)


def test_an_update_is_a_module_and_a_row(copy: Path) -> None:
    module, table = named("Add an update", "reversed")
    (copy / module).write_text(UPDATE)
    head, start, rest = (copy / table).read_text("utf-8").partition("\nUPDATES = {\n")
    rows, end, rest = rest.partition("}\n")
    (copy / table).write_text("".join([head, start, rows, UPDATE_ROW, end, rest]))
    assert changed(copy) == sorted([module, table])
    run(copy, USE_UPDATE)


def test_a_strategy_is_one_change(copy: Path) -> None:
    (family,) = named("Add a merge strategy", "first")
    with (copy / family).open("a") as file:
        file.write(STRATEGY)
    assert changed(copy) == [family]
    run(copy, USE_STRATEGY)


def test_a_command_is_a_module_and_a_row() -> None:
    assert named("Add a command", "x") == [
        "git_theta/cli/commands/SECTION/cmd_x.py",
        "git_theta/cli/main.py",
    ]


def test_every_path_that_the_guide_names_exists() -> None:
    paths = re.findall(
        r"(?<![\w./-])((?:git_theta|tests|docs|examples|benchmarks)/[\w./-]+)", CONTRIBUTING
    )
    assert paths
    for path in paths:
        if "NAME" not in path:
            assert (ROOT / path.rstrip("./")).exists(), path
