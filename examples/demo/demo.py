"""A small classifier, trained and versioned: what Git-Theta does, in half a minute and with plain
Git commands.

Everything happens in a temporary folder with a Git configuration of its own. ``--keep`` leaves the
folder for you to look around.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import digits
import network
import numpy as np
from safetensors.numpy import load_file, save_file

MODEL = "model.safetensors"
SLANT = 0.6


def main() -> int:
    """Tell the story, scene by scene; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the repository")
    keep = parser.parse_args().keep
    folder = Path(tempfile.mkdtemp(prefix="git-theta-demo-"))
    try:
        story = Story(folder, folder / "digits", isolated_environment(folder))
        for scene in (opening, train, train_on, adapt, costs, look_back, branch_and_merge):
            scene(story)
        closing(story, keep)
    except CommandFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        if not keep:
            remove(folder)
    return 0


# -- scenes ----------------------------------------------------------------------------------------


def opening(story: Story) -> None:
    """A repository that tracks safetensors files."""
    print(bold("Git-Theta: a small classifier under version control"))
    print(dim(f"(in {story.folder}; your own Git settings are not touched)"))
    story.heading("A repository that knows models")
    story.repository.mkdir()
    story.run("git init -q")
    story.run('git theta track "*.safetensors"')
    story.run("git add .gitattributes")
    story.run('git commit -q -m "Track models with Git-Theta"')


def train(story: Story) -> None:
    """The first version of the model."""
    story.heading("Train a network on handwritten digits")
    pictures, labels = digits.draw(4000, seed=1)
    print(gallery(pictures, labels))
    sizes = "-".join(map(str, network.LAYERS))
    print(
        f"\n  {sizes} softmax network, numpy alone, {len(labels):,} pictures such as these, one"
        " pass"
    )
    start = time.perf_counter()
    story.weights = network.train(
        network.new(seed=0), pictures, labels, epochs=1, rate=1e-3, seed=0
    )
    story.commit("First training", time.perf_counter() - start)
    print("\n  What Git itself now stores is this text, one line per tensor:")
    story.run(f"git show HEAD:{MODEL}", show=show_manifest)


def train_on(story: Story) -> None:
    """The second version: every tensor changes."""
    story.heading("Train on")
    pictures, labels = digits.draw(6000, seed=2)
    print(f"  four more passes over {len(labels):,} new pictures: every weight changes")
    start = time.perf_counter()
    story.weights = network.train(story.weights, pictures, labels, epochs=4, rate=3e-4, seed=1)
    story.commit("Train on", time.perf_counter() - start)


def adapt(story: Story) -> None:
    """The third version: only the last layer changes, so only that is stored."""
    story.heading("Adapt the last layer to slanted writing")
    pictures, labels = digits.draw(3000, seed=3, slant=SLANT)
    print(f"  {len(labels):,} slanted pictures; the first two layers stay as they are")
    start = time.perf_counter()
    last = [name for name in story.weights if name.startswith("layer2")]
    story.weights = network.train(
        story.weights, pictures, labels, epochs=4, rate=1e-3, seed=2, only=last
    )
    story.commit("Adapt to slanted writing", time.perf_counter() - start)


def costs(story: Story) -> None:
    """What each commit cost."""
    story.heading("What it cost")
    print(
        dim(
            f"  {'commit':26}{'upright':>9}{'slanted':>9}{'tensors changed':>17}"
            f"{'stored':>13}{'of the file':>13}"
        )
    )
    for version in story.versions:
        changed = f"{version.changed} of {len(story.weights)}"
        print(
            f"  {version.message:26}{version.upright:>9.1%}{version.slanted:>9.1%}{changed:>17}"
            f"{version.stored:>13,}{version.stored / version.size:>13.1%}"
        )
    size, stored = (
        sum(getattr(version, what) for version in story.versions) for what in ("size", "stored")
    )
    print(f"  {'all':26}{'':35}{stored:>13,}{stored / size:>13.1%}")
    print(dim(f"  (bytes, Git's own objects included; the file has {story.versions[0].size:,})"))


def look_back(story: Story) -> None:
    """Every version comes back, to the byte."""
    story.heading("Every version comes back, to the byte")
    newest = len(story.versions) - 1
    for number, version in enumerate(story.versions):
        story.run(f"git checkout -q main{f'~{newest - number}' if number < newest else ''}")
        if not filecmp.cmp(story.model, story.kept(number), shallow=False):
            raise CommandFailed(f"{MODEL} is not what was added as '{version.message}'")
        upright, _ = accuracies(load_file(story.model))
        print(
            f"  {'identical to what was added, all ' + format(version.size, ',') + ' bytes;':58}"
            f" reads {upright:.1%} of upright digits"
        )
    story.run("git status --short")
    print("  nothing to report: the working tree is clean")


def branch_and_merge(story: Story) -> None:
    """Two models that were adapted apart become one."""
    story.heading("Merge two models")
    start = load_file(story.kept(1))
    pictures, labels = digits.draw(3000, seed=4, slant=-SLANT)
    print(
        "  Before the last layer was adapted to slanted writing, another branch begins, and learns"
        " the opposite slant:"
    )
    story.run("git checkout -q -b left main~1")
    weights = network.train(start, pictures, labels, epochs=2, rate=3e-4, seed=3)
    save_file(weights, story.model)
    story.run('git commit -q -a -m "Adapt to the opposite slant"')
    story.run("git checkout -q main")
    print(
        "\n  The first two layers changed on one branch only. The last one did on both: that takes"
        " a strategy."
    )
    story.run("git theta merge left -s average -m Merged", show=lambda _: [])
    story.run("git theta verify-merge")
    tests = [
        digits.draw(2000, seed=101 + number, slant=slant)
        for number, slant in enumerate((0.0, SLANT, -SLANT))
    ]
    print(dim(f"\n  {'branch':26}{'upright':>9}{'slanted':>9}{'opposite':>10}{'mean':>9}"))
    for label, model in (
        ("main", load_file(story.kept(2))),
        ("left", weights),
        ("merged", load_file(story.model)),
    ):
        scores = [network.accuracy(model, *test) for test in tests]
        print(
            f"  {label:26}{scores[0]:>9.1%}{scores[1]:>9.1%}{scores[2]:>10.1%}"
            f"{float(np.mean(scores)):>9.1%}"
        )


def closing(story: Story, keep: bool) -> None:
    """Where to go next."""
    story.heading("Now with a model of your own")
    program = Path(sys.executable).parent / "git-theta"
    print(f"  {program} install      {dim('# once; then git theta works everywhere')}")
    print('  cd your-repository && git theta track "*.safetensors" "*.pt"')
    print("  git add .gitattributes model.safetensors && git commit")
    more = (
        "README.md tells more; git theta --help lists the commands; docs/design.md explains them."
    )
    print(f"  {dim(more)}")
    if keep:
        print(f"\n  The repository is {story.repository}")


# -- how it is told --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """A committed model: how well it reads upright and slanted digits, its size and what was stored
    for it in bytes, tensors changed.
    """

    message: str
    upright: float
    slanted: float
    size: int
    stored: int
    changed: int


@dataclass
class Story:
    """The repository on the stage, the model in its present state, and the versions committed so
    far.
    """

    folder: Path
    repository: Path
    environment: dict[str, str]
    weights: network.Weights = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    scenes: int = 0

    @property
    def model(self) -> Path:
        """The model's file in the working tree."""
        return self.repository / MODEL

    def kept(self, number: int) -> Path:
        """A copy of the model outside of the repository, as it was when version ``number`` was
        added.
        """
        return self.folder / f"{number}.safetensors"

    def heading(self, text: str) -> None:
        """Begin a scene."""
        self.scenes += 1
        print(f"\n{bold(f'{self.scenes}. {text}')}")

    def run(self, command: str, show: object = None) -> str:
        """Run a command as a user would type it, show it and its output (or what ``show`` makes of
        that).
        """
        print(f"  {green('$')} {command}", flush=True)
        output = self.quietly(command)
        for line in show(output) if callable(show) else output.splitlines():
            print(f"    {dim(line)}")
        return output

    def quietly(self, command: str) -> str:
        """Run a command; what it prints."""
        import shlex

        done = subprocess.run(
            shlex.split(command),
            cwd=self.repository,
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise CommandFailed(
                f"'{command}' failed ({done.returncode}):\n{done.stderr or done.stdout}"
            )
        return done.stdout

    def commit(self, message: str, seconds: float) -> None:
        """Save the model, commit it, and say what that cost."""
        upright, slanted = accuracies(self.weights)
        print(
            f"  {seconds:.1f} s; it reads {bold(f'{upright:.1%}')} of 2,000 unseen digits,"
            f" {slanted:.1%} of slanted ones\n"
        )
        save_file(self.weights, self.model)
        shutil.copyfile(self.model, self.kept(len(self.versions)))
        before = self.stored()
        self.run(f"git add {MODEL}")
        self.run(f'git commit -q -m "{message}"')
        stored, size = self.stored() - before, self.model.stat().st_size
        added = self.quietly(
            f"git diff-tree --root --numstat --no-commit-id HEAD -- {MODEL}"
        ).split()[0]
        changed = int(added) if self.versions else len(self.weights)
        self.versions.append(Version(message, upright, slanted, size, stored, changed))
        print(
            f"  a file of {size:,} bytes, {bold(f'{stored:,} bytes stored')} ({stored / size:.1%})"
        )

    def stored(self) -> int:
        """Bytes of all objects in the repository: Git's own and Git-Theta's."""
        folders = (
            self.repository / ".git" / "objects",
            self.repository / ".git" / "theta" / "objects",
        )
        return sum(
            file.stat().st_size
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
        )


class CommandFailed(Exception):  # noqa: N818 - what it says is not an error of ours
    """Something did not go as the story tells it."""


def accuracies(weights: network.Weights) -> tuple[float, float]:
    """How many of 2,000 unseen digits are read rightly: upright ones, slanted ones."""
    if not _unseen:
        _unseen.extend((digits.draw(2000, seed=101), digits.draw(2000, seed=102, slant=SLANT)))
    upright, slanted = (network.accuracy(weights, *pair) for pair in _unseen)
    return upright, slanted


_unseen: list[tuple[np.ndarray, np.ndarray]] = []


def gallery(pictures: np.ndarray, labels: np.ndarray, shown: Sequence[int] = (2, 5, 8, 3)) -> str:
    """One picture of each digit in ``shown``, side by side in characters."""
    chosen = [
        pictures[np.flatnonzero(labels == label)[0]].reshape(digits.SIDE, digits.SIDE)
        for label in shown
    ]
    rows = np.concatenate(
        [(picture[3:-3:2, 4:-4] + picture[4:-2:2, 4:-4]) / 2 for picture in chosen], axis=1
    )
    return "\n".join(
        "  " + "".join(" .:-=+*#%@"[min(9, int(value * 10))] for value in row) for row in rows
    )


def show_manifest(text: str) -> list[str]:
    """A manifest with its lines cut to the width of a terminal."""
    return [line if len(line) <= 86 else line[:83] + "..." for line in text.splitlines()]


def isolated_environment(folder: Path) -> dict[str, str]:
    """An environment in which git reads no configuration but the demo's, and finds this Python's
    git-theta.
    """
    config = folder / "gitconfig"
    config.write_text(
        "[user]\n\tname = Demo\n\temail = demo@example.com\n[init]\n\tdefaultBranch ="
        " main\n[core]\n\tautocrlf = false\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {
        **kept,
        "PATH": path,
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def remove(folder: Path) -> None:
    """Delete ``folder``. Objects are read-only, which Windows would not let one delete."""
    for file in folder.rglob("*"):
        file.chmod(file.stat().st_mode | 0o200)
    shutil.rmtree(folder)


def _styled(code: str, text: str) -> str:
    plain = (
        not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    )
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str) -> str:
    """In bold type on a terminal."""
    return _styled("1", text)


def dim(text: str) -> str:
    """In faint type on a terminal."""
    return _styled("2", text)


def green(text: str) -> str:
    """In green on a terminal."""
    return _styled("32", text)


if __name__ == "__main__":
    sys.exit(main())
