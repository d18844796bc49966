"""What goes on at once in a remote and its clones: a push, prunes on both sides, an add, a fetch
and a save, round after round.

By hand: ``python tests/compat/racing.py ROUNDS SEED [FOLDER]`` tells what it has done.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pausing
from gitrepo import PATIENCE, Repo, filter_command, isolated_environment
from sharing import changed, clone, model, with_program

from git_theta.core.manifest import is_manifest, parse
from git_theta.errors import ThetaError
from git_theta.git.repository import discover
from git_theta.settings import Settings
from git_theta.workflows import chains
from git_theta.workflows.restoring import smudge
from git_theta.workflows.session import Session

NAME = "model.safetensors"
PROGRAM = [sys.executable, str(Path(pausing.__file__).resolve())]
JITTER = [
    "git_theta.workflows.maintenance.prune:_planned",
    "git_theta.workflows.maintenance.prune:_needed",
    "git_theta.store.local:LocalStore.remove",
    "git_theta.store.local:LocalStore.flush",
    "git_theta.store.local:LocalStore.rely_on",
    "git_theta.store.local:LocalStore._publish",
    "git_theta.store.folder:FolderPlace.lacking",
    "git_theta.store.folder:FolderPlace.send",
    "git_theta.store.folder:FolderPlace.bring",
]
BUSY = "another git command is using the store"
SAVING = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import pausing
with open(os.environ[pausing.VARIABLE], "rb") as file:
    pausing.arrange(json.loads(file.read()))
import git_theta
with open(sys.argv[2], "rb") as file:
    print(git_theta.save(file.read(), sys.argv[3], message="save", branch=sys.argv[4]))
"""


def held(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """``environment`` in which git runs :mod:`pausing` wherever it would run git-theta."""
    with_it = with_program(environment, folder)
    words = " ".join(map(shlex.quote, PROGRAM))
    script = folder / "git-theta"
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    config = folder / "gitconfig"
    text = Path(environment["GIT_CONFIG_GLOBAL"]).read_text(encoding="utf-8")
    quoted = filter_command().replace("\\", "\\\\").replace('"', '\\"')
    assert quoted in text
    config.write_text(
        text.replace(quoted, f"{words} filter-process".replace("\\", "\\\\").replace('"', '\\"')),
        encoding="utf-8",
    )
    return {**with_it, "GIT_CONFIG_GLOBAL": str(config)}


class Lost(AssertionError):
    """Something needed is not there, or a command that succeeded did not do its work."""


class Forked:
    """One of our own commands, in a fork of this process: rounds by the hundred need not import
    everything each time.
    """

    def __init__(self, race: Race, repo: Repo, words: Sequence[str]) -> None:
        from git_theta import __main__ as program

        self.said = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed when read
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setpgid(0, 0)
            os.chdir(repo.path)
            os.environ.clear()
            os.environ.update(race.environment)
            for number, file in enumerate(self.said, 1):
                os.dup2(file.fileno(), number)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the process ends with it
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - likewise
            random.seed(os.urandom(8))
            if words[1] == "-c":
                sys.argv = list(words[2:])
                exec(words[2], {})
                code = 0
            else:
                sys.argv = list(words[1:])
                pausing.arrange(json.loads(race.asked.read_text()), words[2])
                code = program.main()
        except BaseException as error:
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        both = []
        for file in self.said:
            file.seek(0)
            both.append(file.read())
            file.close()
        return both[0], both[1]


class Race:
    """A bare remote, a clone that works in all ways at once, and one that fetches."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], seed: int, forks: bool = False
    ) -> None:
        self.folder, self.random, self.forks = folder, random.Random(seed), forks
        self.asked = folder / "asked.json"
        self.environment = {**held(environment, folder / "bin"), pausing.VARIABLE: str(self.asked)}
        self.arrange()
        bare = folder / "remote.git"
        bare.mkdir(parents=True)
        self.remote = Repo(bare, self.environment)
        self.remote.git("init", "-q", "--bare", ".")
        self.one = Repo.create(folder / "one", self.environment)
        self.one.git("remote", "add", "origin", str(bare))
        first = model(0, tensors=4, size=64)
        self.pool = [
            first,
            *(changed(first, number % 4, number) for number in range(1, 7)),
            model(9, tensors=4, size=64),
        ]
        self.files = []
        for number, data in enumerate(self.pool):
            self.files.append(folder / f"{number}.safetensors")
            self.files[-1].write_bytes(data)
        self.recorded = {hashlib.sha256(data).hexdigest() for data in self.pool}
        self.one.commit("start", model__safetensors=first)
        self.one.git("push", "-q", "origin", "main")
        self.two = clone(str(bare), folder / "two", self.environment)
        self.sound: set[tuple[Path, str]] = set()
        self.done: dict[str, int] = {}

    def arrange(self, **asked: object) -> None:
        self.asked.write_text(json.dumps({"patience": 20.0, **asked}), encoding="utf-8")

    def start(self, repo: Repo, *words: str) -> subprocess.Popen[bytes] | Forked:
        if self.forks and words[0] == sys.executable:
            return Forked(self, repo, words)
        return subprocess.Popen(
            words,
            cwd=repo.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def round(self) -> None:
        """Everything at once, then a look at all that must be so."""
        pick = self.random
        self._make_garbage()
        time.sleep(0.03)
        self.arrange(began=time.time(), jitter=JITTER)
        time.sleep(0.03)
        target, source, saved = (
            f"t{pick.randrange(3)}",
            f"s{pick.randrange(3)}",
            f"s{pick.randrange(3)}",
        )
        tip = (
            self.one.run(["git", "rev-parse", "-q", "--verify", source]).stdout.decode().strip()
            or self.one.head()
        )
        fetched = pick.choice(["main", "t0", "t1", "t2"])
        added, stored = pick.randrange(len(self.pool)), pick.randrange(len(self.pool))
        self.one.write(NAME, self.pool[added])
        now = [["--now"] if pick.random() < 0.5 else [] for _ in range(2)]
        saver = str(Path(pausing.__file__).parent)
        works = {
            "push": (self.one, ["git", "push", "-q", "-f", "origin", f"{tip}:refs/heads/{target}"]),
            "prune there": (self.remote, [*PROGRAM, "prune", *now[0]]),
            "prune here": (self.one, [*PROGRAM, "prune", *now[1]]),
            "add": (self.one, ["git", "add", NAME]),
            "fetch": (self.two, [*PROGRAM, "fetch", "origin", f"origin/{fetched}"]),
            "save": (
                self.one,
                [sys.executable, "-c", SAVING, saver, str(self.files[stored]), NAME, saved],
            ),
        }
        order = list(works)
        pick.shuffle(order)
        running: dict[str, subprocess.Popen[bytes] | Forked] = {}
        for name in order:
            if name == "fetch":
                self.two.git("fetch", "-q", "origin")
            running[name] = self.start(works[name][0], *works[name][1])
            time.sleep(pick.random() ** 2 * 0.15)
        ends = {
            name: (*process.communicate(timeout=PATIENCE), process.returncode)
            for name, process in running.items()
        }
        for name, (_, said, code) in ends.items():
            outcome = (
                "done"
                if not code
                else "busy"
                if name.startswith("prune") and BUSY.encode() in said
                else "failed"
            )
            self.done[f"{name}: {outcome}"] = self.done.get(f"{name}: {outcome}", 0) + 1
            if b"Traceback" in said or (outcome == "failed" and name != "fetch"):
                raise Lost(f"{name} failed: {said.decode(errors='replace')}")
        if (
            not ends["push"][2]
            and self.remote.git("rev-parse", f"refs/heads/{target}").decode().strip() != tip
        ):
            raise Lost("a push that succeeded moved nothing")
        if (
            self.one.blob(f":{NAME}")
            and hashlib.sha256(self.decoded(self.one, f":{NAME}")).digest()
            != hashlib.sha256(self.pool[added]).digest()
        ):
            raise Lost("what was added is something else")
        if (
            hashlib.sha256(
                self.decoded(self.one, f"{ends['save'][0].decode().strip()}:{NAME}")
            ).digest()
            != hashlib.sha256(self.pool[stored]).digest()
        ):
            raise Lost("what was saved is something else")
        tracked = f"refs/remotes/origin/{fetched}"
        if not ends["fetch"][2]:
            self.check(self.two, ["--no-walk", tracked])
        elif self.two.run(["git", "rev-parse", "-q", "--verify", tracked]).returncode == 0:
            seen = self.two.git("rev-parse", tracked).decode().strip()
            if seen in self.remote.git("rev-list", "--all").decode().split():
                raise Lost(
                    f"fetch failed though the remote needs {seen}:"
                    f" {ends['fetch'][1].decode(errors='replace')}"
                )
        self.check(self.remote, ["--all"])
        self.check(self.one, ["--all", "--reflog", "--indexed-objects"])
        self.check_locks()

    def _make_garbage(self) -> None:
        """Let old versions be needed by nothing, here or there, that what comes may need again."""
        pick = self.random
        gone = f"refs/heads/t{pick.randrange(3)}"
        if (
            pick.random() < 0.7
            and self.remote.run(["git", "rev-parse", "-q", "--verify", gone]).returncode == 0
        ):
            self.remote.git("update-ref", "-d", gone)
        if pick.random() < 0.7:
            self.one.run(["git", "branch", "-q", "-D", f"s{pick.randrange(3)}"])
            self.one.git("reflog", "expire", "--expire=now", "--all")
            for name in ("ORIG_HEAD", "FETCH_HEAD"):
                (self.one.common / name).unlink(missing_ok=True)
        if pick.random() < 0.3:
            self.one.git("reset", "-q", "--hard")

    def check(self, repo: Repo, words: Sequence[str]) -> None:
        """Every version that ``words`` of rev-list reach is a recorded one, to the byte."""
        listed = (
            repo.git(
                "rev-list",
                "--objects",
                "--filter=object:type=blob",
                "--filter-provided-objects",
                *words,
            )
            .decode()
            .splitlines()
        )
        new = [line.split(" ")[0] for line in listed if line.endswith(f" {NAME}")]
        for blob in new:
            text = repo.blob(blob)
            if not is_manifest(text):
                raise Lost(f"{blob} is no manifest")
            for oid, size in parse(text).objects().items():
                path = repo.common / "theta" / "objects" / oid[:2] / oid[2:4] / oid
                if not path.is_file() or path.stat().st_size != size:
                    raise Lost(f"{repo.path}: object {oid} of {blob} is lost")
            if (repo.path, blob) not in self.sound:
                if hashlib.sha256(self.decoded(repo, blob)).hexdigest() not in self.recorded:
                    raise Lost(f"{repo.path}: {blob} is not what was stored")
                self.sound.add((repo.path, blob))

    def decoded(self, repo: Repo, name: str) -> bytes:
        """The model that a manifest in ``repo`` stands for, from that repository's own objects."""
        with Session(discover(repo.path), Settings(), print) as session:
            try:
                manifest = parse(repo.blob(name))
                chains.require(session.store, manifest)
                return b"".join(
                    map(bytes, smudge.stream(session.store, manifest, session.pool(), 1))
                )
            except ThetaError as error:
                raise Lost(f"{repo.path}: {name}: {error}") from None

    def check_locks(self) -> None:
        """No lock is left, and no temporary file."""
        for repo in (self.remote, self.one, self.two):
            left = [*repo.common.rglob("*.lock"), *(repo.common / "theta" / "tmp").glob("*")]
            if left:
                raise Lost(f"left behind: {left}")
            deadline = time.monotonic() + PATIENCE
            while not _free(repo.common / "theta"):
                if time.monotonic() > deadline:
                    raise Lost(f"{repo.path} is still held")
                time.sleep(0.02)


def _free(folder: Path) -> bool:
    import fcntl

    if not folder.is_dir():
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def rounds(
    folder: Path, environment: Mapping[str, str], seed: int, count: int, forks: bool = False
) -> Iterator[Race]:
    """``count`` rounds; the race after each."""
    race = Race(folder, environment, seed, forks)
    for number in range(count):
        try:
            race.round()
        except Lost as error:
            raise Lost(f"seed {seed}, round {number}: {error}") from None
        yield race


def main() -> int:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp(prefix="racing-"))
    environment = isolated_environment(folder / "home")
    begun, number = time.monotonic(), 0
    for number, race in enumerate(rounds(folder / "race", environment, seed, count, forks=True), 1):
        if number % 10 == 0:
            print(number, f"{time.monotonic() - begun:.0f} s", race.done, flush=True)
    print(f"{number} rounds with seed {seed}: nothing lost", race.done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
