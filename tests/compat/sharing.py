"""Repositories that share: a remote, its clones, and models small enough to push often."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping
from copy import copy
from pathlib import Path

import forking
import numpy as np
from gitrepo import Repo
from small_models import safetensors_file

from git_theta.core.manifest import parse


def with_program(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """``environment`` with ``git-theta`` on PATH, as an installation has it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "git-theta"
    script.write_text(
        f'#!/bin/sh\nexec {shlex.join(forking.program(environment))} "$@"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    return {**environment, "PATH": os.pathsep.join([str(folder), environment["PATH"]])}


def model(seed: int, tensors: int = 6, size: int = 400) -> bytes:
    """A model of random fp32 tensors; the same seed gives the same bytes."""
    random = np.random.default_rng(seed)
    return safetensors_file(
        {
            f"layer.{number}.weight": random.standard_normal(size).astype(np.float32)
            for number in range(tensors)
        }
    )


def changed(data: bytes, number: int, seed: int) -> bytes:
    """The model with one tensor replaced."""
    import safetensors.numpy

    tensors = safetensors.numpy.load(data)
    name = f"layer.{number}.weight"
    tensors[name] = (
        np.random.default_rng(seed).standard_normal(tensors[name].shape).astype(np.float32)
    )
    return safetensors_file(tensors)


def bare(path: Path, environment: Mapping[str, str], *options: str) -> str:
    """A new bare repository; its URL."""
    path.mkdir(parents=True)
    Repo(path, environment).git("init", "-q", "--bare", *options, ".")
    return path.as_uri()


def clone(url: str, path: Path, environment: Mapping[str, str], *options: str, **more: str) -> Repo:
    """A clone, which must succeed."""
    Repo(path.parent, environment).under(more).git("clone", "-q", *options, url, str(path))
    return Repo(path, environment)


def objects_at(folder: Path) -> set[str]:
    """The objects in a repository's folder, Git LFS's and Git-Theta's.

    Each must be what its name says.
    """
    found = set()
    for path in (*folder.glob("lfs/objects/*/*/*"), *folder.glob("theta/objects/*/*/*")):
        if path.is_file() and "." not in path.name:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, (
                f"{path} is not what its name says"
            )
            found.add(path.name)
    return found


def needed_by(repo: Repo, *revisions: str) -> set[str]:
    """The objects that the manifests in revisions' trees need."""
    trees = [repo.git("ls-tree", "-r", "--object-only", revision) for revision in revisions]
    blobs = sorted(set(b"".join(trees).split()))
    listed = repo.git("cat-file", "--batch", stdin=b"".join(blob + b"\n" for blob in blobs))
    found: set[str] = set()
    for _ in blobs:
        head, _, rest = listed.partition(b"\n")
        assert b" blob " in head, head
        size = int(head.split()[2])
        text, listed = rest[:size], rest[size + 1 :]
        if text.startswith(b"git-theta manifest "):
            found |= set(parse(text).objects())
    return found


class World:
    """A bare remote and clones of it.

    With ``server``, its objects are not in its own folder, but at a Git LFS server.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], server: bool) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.remote = self.server = folder / "remote.git"
        self.url = bare(self.remote, environment)
        if server:
            self.server = folder / "server.git"
            config = folder / "gitconfig"
            url = bare(self.server, environment)
            config.write_text(
                Path(environment["GIT_CONFIG_GLOBAL"]).read_text() + f"[lfs]\n\turl = {url}\n"
            )
            self.environment["GIT_CONFIG_GLOBAL"] = str(config)

    def copy(self, folder: Path) -> World:
        """This world with its clones, none of which may be modified, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        for config in [*folder.glob("gitconfig"), *folder.glob("*/config")]:
            config.write_text(config.read_text().replace(str(self.folder), str(folder)))
        world = copy(self)
        world.folder = folder
        world.environment = {
            key: value.replace(str(self.folder), str(folder))
            for key, value in self.environment.items()
        }
        world.remote, world.server = (folder / path.name for path in (self.remote, self.server))
        world.url = world.remote.as_uri()
        for one in self.folder.glob("*/.git"):
            clone = Repo(one.parent, world.environment).copy(folder / one.parent.name)
            config = clone.common / "config"
            config.write_text(config.read_text().replace(str(self.folder), str(folder)))
        return world

    def start(self, name: str = "one") -> Repo:
        repo = Repo.create(self.folder / name, self.environment)
        repo.git("remote", "add", "origin", self.url)
        return repo

    def clone(self, name: str, *options: str, **more: str) -> Repo:
        return clone(self.url, self.folder / name, self.environment, *options, **more)

    def refs(self) -> str:
        return Repo(self.remote, self.environment).git("for-each-ref").decode()

    def objects(self) -> set[str]:
        return objects_at(self.server)

    def forget_objects(self) -> None:
        for name in ("lfs", "theta"):
            shutil.rmtree(self.server / name, ignore_errors=True)

    def assert_complete(self) -> None:
        """Every object of every commit that the remote has can be had."""
        bare = Repo(self.remote, self.environment)
        commits = bare.git("rev-list", "--all").decode().split()
        assert needed_by(bare, *commits) <= self.objects()


def forget(repo: Repo) -> None:
    """Let git forget all that only reflogs know."""
    repo.git("reflog", "expire", "--expire=now", "--all")
    for name in ("ORIG_HEAD", "FETCH_HEAD"):
        (repo.common / name).unlink(missing_ok=True)
