"""Every version of a real model through every git operation that moves files, byte for byte.

Run by hand: it takes minutes and gigabytes.

    python tests/compat/real_history.py FOLDER

FOLDER holds base, dense, head, trim and their .bf16 copies (as .safetensors and .pt), train-1.pt
and train-2.pt. git-theta must be on PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = ("base", "dense", "head", "train-1", "train-2", "trim")
KINDS = (".safetensors", ".pt", ".bf16.safetensors", ".bf16.pt")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(words)} in {folder} failed:\n{done.stderr}")
    return done.stdout


class Check:
    """A repository whose every commit has a known content."""

    def __init__(self, models: Path, work: Path) -> None:
        self.models, self.work = models, work
        self.repo = work / "repo"
        self.content: dict[str, dict[str, Path]] = {}
        self.count = 0

    def same(self, folder: Path, commit: str, what: str) -> None:
        for name, source in self.content[commit].items():
            if subprocess.run(["cmp", "-s", folder / name, source], check=False).returncode:
                sys.exit(f"{what}: {name} at {commit} is not {source}")
            self.count += 1
        if git(folder, "status", "--porcelain"):
            sys.exit(
                f"{what}: git status is not clean at"
                f" {commit}:\n{git(folder, 'status', '--porcelain')}"
            )

    def build(self) -> None:
        self.repo.mkdir()
        git(self.repo, "init", "-q", "-b", "main")
        git(self.repo, "theta", "install")
        git(self.repo, "theta", "track", "*.safetensors", "*.pt")
        git(self.repo, "add", ".gitattributes")
        git(self.repo, "commit", "-q", "-m", "track")
        now: dict[str, Path] = {}
        for step in STEPS:
            for kind in KINDS:
                source = self.models / f"{step}{kind}"
                if source.is_file():
                    name = f"model{kind}" if not step.startswith("train") else f"train{kind}"
                    shutil.copyfile(source, self.repo / name)
                    now[name] = source
            before = self.objects()
            git(self.repo, "add", "-A")
            git(self.repo, "commit", "-q", "-m", step)
            self.content[step] = dict(now)
            git(self.repo, "tag", step)
            self.same(self.repo, step, "commit")
            print(f"{step}: {self.objects() - before:,} bytes stored", flush=True)

    def objects(self) -> int:
        return sum(
            file.stat().st_size
            for file in (self.repo / ".git/theta/objects").rglob("*")
            if file.is_file()
        )

    def run(self) -> None:
        self.build()
        for step in STEPS:
            git(self.repo, "checkout", "-q", step)
            self.same(self.repo, step, "git checkout")
        for step in STEPS:
            git(self.repo, "checkout", "-q", step)
            for name in self.content[step]:
                (self.repo / name).unlink()
            git(self.repo, "theta", "checkout")
            self.same(self.repo, step, "git theta checkout")
        git(self.repo, "checkout", "-q", "main")
        clone = self.work / "clone"
        git(self.work, "clone", "-q", str(self.repo), str(clone))
        for step in STEPS:
            git(clone, "checkout", "-q", step)
            self.same(clone, step, "clone")
        git(self.repo, "worktree", "add", "-q", str(self.work / "tree"), "head")
        self.same(self.work / "tree", "head", "worktree")
        self.rewriting()
        git(self.repo, "gc", "-q", "--prune=now")
        for step in STEPS:
            git(self.repo, "checkout", "-q", step)
            self.same(self.repo, step, "after gc")

    def rewriting(self) -> None:
        """stash, rebase, cherry-pick and amend."""
        git(self.repo, "checkout", "-q", "-B", "side", "dense")
        shutil.copyfile(self.content["head"]["model.pt"], self.repo / "model.pt")
        git(self.repo, "stash", "-q")
        self.same(self.repo, "dense", "stash")
        git(self.repo, "stash", "pop", "-q")
        self.content["side"] = {
            **self.content["dense"],
            "model.pt": self.content["head"]["model.pt"],
        }
        git(self.repo, "commit", "-q", "-a", "-m", "side")
        self.same(self.repo, "side", "stash pop")
        git(self.repo, "commit", "-q", "--amend", "-m", "side, amended")
        self.same(self.repo, "side", "commit --amend")
        (self.repo / "notes.txt").write_text("upstream\n")
        git(self.repo, "checkout", "-q", "-B", "upstream", "dense")
        git(self.repo, "add", "notes.txt")
        git(self.repo, "commit", "-q", "-m", "notes")
        git(self.repo, "checkout", "-q", "side")
        git(self.repo, "rebase", "-q", "upstream")
        self.same(self.repo, "side", "rebase")
        git(self.repo, "checkout", "-q", "-B", "picked", "dense")
        git(self.repo, "cherry-pick", "side")
        self.same(self.repo, "side", "cherry-pick")


def main() -> None:
    models = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(
        prefix="git-theta-history-", dir=os.environ.get("TMPDIR")
    ) as folder:
        work = Path(folder)
        config = work / "gitconfig"
        config.write_text(
            "[user]\n\tname = Test\n\temail = test@example.org\n[advice]\n\tdetachedHead = false\n"
        )
        os.environ.update(GIT_CONFIG_GLOBAL=str(config), GIT_CONFIG_NOSYSTEM="1", HOME=folder)
        check = Check(models, work)
        check.run()
        print(f"{check.count} files compared, all the same")


if __name__ == "__main__":
    main()
