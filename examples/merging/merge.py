"""Two fine-tunes of one network, merged four ways and evaluated; then one of them is reverted after
further training.

Needs git and Git-Theta, numpy and nothing else. Everything happens in a temporary folder
(``--keep`` leaves it) with a Git configuration of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import digits
import network
from demo import isolated_environment, remove
from safetensors.numpy import load_file, save_file

MODEL = "model.safetensors"
SLANT = 0.9
WAYS = ("-s average", "-s slerp", "-s task_arithmetic -o lambda=0.8", "-s ties -o density=0.5")


def main() -> int:
    """Tell it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the repository")
    keep = parser.parse_args().keep
    folder = Path(tempfile.mkdtemp(prefix="git-theta-merging-"))
    try:
        story = Story(folder)
        story.train()
        story.merge()
        story.revert()
    except subprocess.CalledProcessError as error:
        print(f"\n{error}\n{error.stderr}", file=sys.stderr)
        return 1
    finally:
        if keep:
            print(f"\nThe repository is {folder / 'digits'}")
        else:
            remove(folder)
    return 0


class Story:
    """A repository with the branches ``main``, ``right`` and ``left``, and what the models on them
    can read.
    """

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "digits"
        self.environment = isolated_environment(folder)
        self.tests = [
            digits.draw(1500, seed=100 + i, slant=slant)
            for i, slant in enumerate((0.0, SLANT, -SLANT))
        ]
        self.repository.mkdir()
        self.git("init -q")
        self.run(["git", "theta", "track", "*.safetensors"])
        self.git("add .gitattributes")
        self.git("commit -q -m attributes")

    def train(self) -> None:
        """A base on main, a fine-tune to writing that leans to the right, one to writing that leans
        to the left.
        """
        print(f"{'accuracy on digits that are':54}{'upright':>9}{'right':>9}{'left':>9}{'mean':>9}")
        base = network.train(
            network.new(seed=0), *digits.draw(4000, seed=1), epochs=3, rate=1e-3, seed=0
        )
        self.commit(base, "base")
        for branch, slant, seed in (("right", SLANT, 2), ("left", -SLANT, 3)):
            self.git(f"checkout -q -b {branch} main")
            tuned = network.train(
                base, *digits.draw(3000, seed=seed, slant=slant), epochs=2, rate=2e-4, seed=seed
            )
            self.commit(tuned, f"fine-tuned: {branch}")
            self.git("checkout -q main")

    def merge(self) -> None:
        """Both fine-tunes in one model, by four strategies."""
        self.git("checkout -q -b merged right")
        for way in WAYS:
            self.git(f"theta merge left {way} -m merged")
            self.git("theta verify-merge")
            self.show(f"git theta merge left {way}")
            self.git("reset -q --hard right")

    def revert(self) -> None:
        """Train on after the fine-tune to the right, then take that fine-tune back alone."""
        later = network.train(
            load_file(self.repository / MODEL),
            *digits.draw(3000, seed=5, slant=-SLANT),
            epochs=2,
            rate=2e-4,
            seed=5,
        )
        self.commit(later, "trained on: left")
        self.git("config theta.merge.strategy task_arithmetic")
        self.git("revert --no-edit HEAD~1")
        self.show("git revert HEAD~1 (the fine-tune: right)")
        self.git("cherry-pick HEAD~2")
        self.show("git cherry-pick HEAD~2 (and add it again)")

    def commit(self, weights: network.Weights, message: str) -> None:
        """Save and commit a model, and say what it can."""
        save_file(weights, self.repository / MODEL)
        self.git(f"add {MODEL}")
        self.run(["git", "commit", "-q", "-m", message])
        self.show(message)

    def show(self, label: str) -> None:
        """A line of the table, for the model in the working tree."""
        weights = load_file(self.repository / MODEL)
        scores = [network.accuracy(weights, *test) for test in self.tests]
        print(
            f"{label:54}" + "".join(f"{score:9.1%}" for score in [*scores, float(np.mean(scores))]),
            flush=True,
        )

    def git(self, words: str) -> None:
        """A git command, which must succeed."""
        self.run(["git", *words.split()])

    def run(self, words: list[str]) -> None:
        """A command, which must succeed."""
        subprocess.run(
            words,
            cwd=self.repository,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )


if __name__ == "__main__":
    sys.exit(main())
