"""Measures push, fetch and fsck beside git-lfs moving the same bytes: ``transfers.py [MEASURE...]
--folder DIR [--runs N]``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import results
from measuring import Side, in_turn, median, run
from repositories import PATTERNS, Repository, environment
from results import Result

OBJECTS = 2500
COMMITS, TENSORS = 1000, 300


@dataclass(frozen=True)
class Bench:
    """A scratch folder, the environment git runs in, and how often to repeat."""

    folder: Path
    environment: Mapping[str, str]
    runs: int

    def bare(self, name: str) -> Path:
        """An empty remote."""
        path = self.folder / f"{name}.git"
        shutil.rmtree(path, ignore_errors=True)
        run(["git", "init", "-q", "--bare", str(path)], self.folder, self.environment)
        return path

    def remote(self, repository: Repository) -> Path:
        """Where a repository's remote is."""
        return self.folder / f"{repository.filter}-remote.git"

    def model(self, tensors: int, nbytes: int) -> Path:
        """A synthetic checkpoint, made once."""
        path = self.folder / f"{tensors}x{nbytes}.safetensors"
        if not path.exists():
            checkpoints.write(path, "bf16", tensors, nbytes)
        return path


def transfer(bench: Bench) -> Iterator[Result]:
    """Push and fetch of 2,500 new objects over ``file://``; git-lfs has the very same objects as
    files of its own.
    """
    theta, lfs = _two_repositories(bench, OBJECTS, 128 << 10)
    yield from _pushed(bench, "i-push", "file://", theta, lfs)
    sent = sum(
        file.stat().st_size
        for file in (bench.remote(theta) / "theta" / "objects").rglob("*")
        if file.is_file()
    )
    there = theta.stored()
    yield Result(
        "i-sent",
        "bytes sent / bytes of the new objects",
        f"{sent:,} B",
        f"{there:,} B",
        sent / there,
        1.05,
    )
    yield _fetched(bench, "i-fetch", "file://", theta, lfs)


def server(bench: Bench) -> Iterator[Result]:
    """The same through git-lfs, as with any server: here its own agent for another folder."""
    theta, lfs = _two_repositories(bench, OBJECTS, 128 << 10)
    for repository in (theta, lfs):
        repository.git("config", "lfs.url", bench.bare(f"{repository.filter}-server").as_uri())
    yield from _pushed(bench, "i-push-lfs", "through git-lfs", theta, lfs)
    yield _fetched(bench, "i-fetch-lfs", "through git-lfs", theta, lfs)


def _pushed(bench: Bench, key: str, how: str, *repositories: Repository) -> Iterator[Result]:
    def side(repository: Repository) -> Side:
        def empty() -> None:
            bench.bare(bench.remote(repository).stem)
            shutil.rmtree(
                bench.folder / f"{repository.filter}-server.git" / "lfs", ignore_errors=True
            )
            shutil.rmtree(repository.path / ".git" / "refs" / "remotes", ignore_errors=True)

        repository.git("remote", "add", "origin", bench.remote(repository).as_uri())
        return Side(empty, lambda: repository.git("push", "-q", "origin", "main"))

    timings = in_turn(
        bench.runs, **{repository.filter: side(repository) for repository in repositories}
    )
    yield results.compared(key, f"`git push`, {OBJECTS:,} new objects, {how}", 1.5, timings)


def _fetched(bench: Bench, key: str, how: str, *repositories: Repository) -> Result:
    commands = {"theta": ("theta", "fetch"), "lfs": ("lfs", "fetch", "origin", "main")}

    def side(repository: Repository) -> Side:
        return Side(
            lambda: shutil.rmtree(repository.objects, ignore_errors=True),
            lambda: repository.git(*commands[repository.filter]),
        )

    timings = in_turn(
        bench.runs, **{repository.filter: side(repository) for repository in repositories}
    )
    for repository in repositories:
        repository.remove()
    return results.compared(
        key, f"`git theta fetch` / `git lfs fetch`, {OBJECTS:,} objects, {how}", 1.5, timings
    )


def history(bench: Bench) -> Iterator[Result]:
    """The pre-push hook after 1,000 commits of 300 tensors, when the last changed one tensor."""
    repository = _long_history(bench)
    remote = bench.bare("theta-remote")
    repository.git("remote", "add", "origin", remote.as_uri())
    repository.git("push", "-q", "--no-verify", "origin", "HEAD~1:refs/heads/main")
    git = ["git", "rev-parse", "HEAD", "HEAD~1"]
    head, before = subprocess.run(
        git,
        cwd=repository.path,
        env=dict(bench.environment),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    line = f"refs/heads/main {head} refs/heads/main {before}\n"
    script = bench.folder / "pre-push.sh"
    script.write_text(f"printf '{line}' | git theta pre-push origin {remote.as_uri()}\n")
    # All that the last commit needs is there then, and no other object is
    run(["sh", str(script)], repository.path, bench.environment)
    kept = _objects(remote)
    needed = [_named(bench, repository, revision) for revision in ("HEAD", "HEAD~1")]
    (new,) = needed[0] - needed[1]

    def side() -> Side:
        return Side(
            kept[new].unlink,
            lambda: run(["sh", str(script)], repository.path, bench.environment),
        )

    ours = median(in_turn(2 * bench.runs, theta=side())["theta"])
    if _objects(remote) != kept:
        raise SystemExit("one object was to be sent")
    what = f"pre-push, {COMMITS:,} commits of {TENSORS} tensors, 1 new"
    yield Result("i-pre-push", what, str(ours), "", ours.wall, 0.5, "s")
    repository.remove()


def fsck(bench: Bench) -> Iterator[Result]:
    """Stored bytes that ``git theta fsck`` checks in a second; it must be at least 500 MB, so its
    inverse at most 2 s per GB.
    """
    repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
    repository.put(bench.model(32, 32 << 20), "model.safetensors")
    repository.git("add", "model.safetensors")
    repository.git("commit", "-q", "-m", "model")
    ours = median(
        in_turn(bench.runs, theta=Side(lambda: None, lambda: repository.git("theta", "fsck")))[
            "theta"
        ]
    )
    stored = repository.stored()
    what = (
        f"`git theta fsck`, 1 GiB model in {stored / 1e6:.0f} MB stored"
        f" ({stored / ours.wall / 1e6:.0f} MB/s)"
    )
    yield Result("i-fsck", what, str(ours), "", ours.wall / (stored / 1e9), 2, "s/GB")
    repository.remove()


MEASURES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    name.__name__: name for name in (transfer, server, history, fsck)
}


def _objects(remote: Path) -> dict[str, Path]:
    return {file.name: file for file in (remote / "theta" / "objects").rglob("*") if file.is_file()}


def _named(bench: Bench, repository: Repository, revision: str) -> set[str]:
    """The objects that the model's manifest names."""
    shown = ["git", "show", f"{revision}:model.safetensors"]
    text = subprocess.run(
        shown,
        cwd=repository.path,
        env=dict(bench.environment),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r":([0-9a-f]{64}):", text))


def _two_repositories(bench: Bench, tensors: int, nbytes: int) -> tuple[Repository, Repository]:
    """A model of so many tensors, committed; and a repository in which each of its objects is an
    ordinary file of git-lfs.
    """
    theta = Repository.new(bench.folder / "theta", "theta", bench.environment)
    theta.put(bench.model(tensors, nbytes), "model.safetensors")
    theta.git("add", "model.safetensors")
    theta.git("commit", "-q", "-m", "model")
    lfs = Repository.new(bench.folder / "lfs", "lfs", bench.environment)
    lfs.git("lfs", "install", "--local")
    (lfs.path / ".gitattributes").write_text(
        PATTERNS.format("lfs") + "*.object filter=lfs diff=lfs merge=lfs -text\n"
    )
    for number, path in enumerate(
        sorted(file for file in theta.objects.rglob("*") if file.is_file())
    ):
        shutil.copyfile(path, lfs.path / f"{number:05}.object")
    lfs.git("add", ".")
    lfs.git("commit", "-q", "-m", "objects")
    return theta, lfs


def _long_history(bench: Bench) -> Repository:
    """Every commit replaces one tensor's line, by what ``git fast-import`` takes: its objects are
    not stored, the last one's are.
    """
    repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
    repository.put(bench.model(TENSORS, 16 << 10), "model.safetensors")
    repository.git("add", "model.safetensors")
    repository.git("commit", "-q", "-m", "model")
    shown = subprocess.run(
        ["git", "show", "HEAD:model.safetensors"],
        cwd=repository.path,
        env=dict(bench.environment),
        capture_output=True,
        check=True,
    )
    lines = shown.stdout.split(b"\n")
    first = lines.index(b"") + 1
    stream = []
    for number in range(COMMITS):
        changed = list(lines)
        place = first + number % TENSORS
        fields = changed[place].split(b" ")
        oid = fields[-1].split(b":")[1]
        # The last commit has the real objects, of which one is not in the commit before
        if number < COMMITS - 1:
            fields[-1] = fields[-1].replace(oid, b"%064x" % (number + 1))
            changed[place] = b" ".join(fields)
        text = b"\n".join(changed)
        stream.append(
            b"commit refs/heads/main\ncommitter B <b@example.com> %d +0000\ndata 1\nx\n"
            % (1_700_000_000 + number)
        )
        stream.append(b"from refs/heads/main^0\n" if not number else b"")
        stream.append(b"M 100644 inline model.safetensors\ndata %d\n%s\n" % (len(text), text))
    subprocess.run(
        ["git", "fast-import", "--quiet"],
        input=b"".join(stream),
        cwd=repository.path,
        env=dict(bench.environment),
        check=True,
    )
    return repository


def main() -> int:
    """Measure what the command line asks for and print a table; 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    return results.collect(
        parser,
        "sharing.json",
        MEASURES,
        lambda folder, asked: Bench(folder, environment(folder), asked.runs),
    )


if __name__ == "__main__":
    sys.exit(main())
