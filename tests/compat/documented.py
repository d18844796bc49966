"""The commands that the documentation shows, and small worlds to run them in as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gitrepo import PATIENCE, ROOT, Repo

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/*/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    if path.name != "CHANGELOG.md"
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+#(?=\s).*$")


@dataclass(frozen=True)
class Block:
    """A block of a page: commands with what they print, or Python."""

    page: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines, without comments."""
        return [command for command, _ in self.dialogue]

    @property
    def dialogue(self) -> list[tuple[str, list[str]]]:
        """Each command line, and the lines that the page shows as its output."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if self.language == "sh" or line.startswith("$ "):
                if command := plain(line.removeprefix("$ ")):
                    found.append((command, []))
            elif line.strip():
                assert found, f"{self.page}: '{line}' follows no command"
                found[-1][1].append(line)
        return found


def plain(line: str) -> str:
    """A command line without its comment."""
    return _COMMENT.sub("", line if not line.startswith("#") else "").strip()


def blocks(page: str) -> list[Block]:
    """Every block of commands or Python of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [Block(page, match[2], textwrap.dedent(match[3])) for match in _FENCE.finditer(text)]
    for block in found:
        assert block.language in ("console", "sh") or not re.search(
            r"^\$ ", block.text, re.MULTILINE
        ), f"{page}: not marked as console"
    return [block for block in found if block.language in ("console", "sh", "python")]


@dataclass
class World:
    """A folder with repositories, a home, and a shell that is somewhere in it."""

    folder: Path
    environment: dict[str, str]
    here: Path = field(default_factory=Path)

    @property
    def repo(self) -> Repo:
        """Where the shell is."""
        return Repo(self.here, self.environment)

    def placed(self, text: str, places: Mapping[str, str]) -> str:
        """``text`` with absolute paths that are examples moved into this world."""
        for place, name in places.items():
            text = re.sub(rf"(?<![\w.:/]){re.escape(place)}\b", str(self.folder / name), text)
        return text

    def shell(self, command: str, answers: str = "") -> subprocess.CompletedProcess[str]:
        """Run a line of shell; ``cd`` is for the next ones, too."""
        where = self.folder / "where"
        script = f"{command}\nstatus=$?\npwd > {shlex.quote(str(where))}\nexit $status\n"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.here,
            env=self.environment,
            input=answers,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        if where.exists():
            self.here = Path(where.read_text(encoding="utf-8").rstrip("\n"))
        return done

    def python(self, blocks: Sequence[str]) -> str:
        """What Python prints into which ``blocks`` are pasted, one after the other; no line may
        fail.
        """
        end = "PASTED TO THE END"
        pasted = "\n".join(f"{block}\n" for block in [*blocks, f"print({end!r})"])
        # At a prompt, a blank line ends a block, as when a reader pastes.
        done = subprocess.run(
            [sys.executable, "-i", "-q", "-c", ""],
            cwd=self.here,
            env=self.environment,
            input=pasted,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = re.sub(r"^(?:>>> |\.\.\. )+", "", done.stderr, flags=re.MULTILINE).strip()
        assert end in done.stdout, done.stderr
        assert not said, said
        return done.stdout


@dataclass(frozen=True)
class Step:
    """A block, named by how its first line begins; ``prepare`` is done before.

    ``apart``: its lines are alternatives, each to be run in a world of its own.
    """

    first: str
    prepare: Callable[[World], None] | None = None
    check: Callable[[World], None] | None = None
    apart: bool = False
    answers: str = ""


@dataclass(frozen=True)
class Scene:
    """Blocks of a page that are run one after the other, in a world made by ``start``."""

    page: str
    start: Callable[[World], None]
    steps: tuple[Step, ...]

    @property
    def title(self) -> str:
        return f"{self.page}: {self.steps[0].first}"


def matched(scenes: Sequence[Scene]) -> tuple[list[list[tuple[Step, Block]]], list[Block]]:
    """The block of each step of each scene, and the blocks of all pages that belong to no step."""
    waiting = [block for page in PAGES for block in blocks(page) if block.language != "python"]
    found = []
    for scene in scenes:
        pairs = []
        for step in scene.steps:
            mine = (
                block
                for block in waiting
                if block.page == scene.page and block.commands[0].startswith(step.first)
            )
            block = next(mine, None)
            assert block is not None, f"{scene.page} has no block that begins with: {step.first}"
            waiting.remove(block)
            pairs.append((step, block))
        found.append(pairs)
    return found, waiting


def shown_in(line: str, output: str) -> bool:
    """Whether ``output`` holds a line that a page shows; dots stand for anything."""
    squeezed = " ".join(output.split())
    parts = [" ".join(part.split()) for part in re.split(r"\.\.\.|…", line)]
    return all(part in squeezed for part in parts)
