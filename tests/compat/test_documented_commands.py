"""Every command line in the documentation and in the commands' help runs, with git as it comes: no
setting but the user's name.

:data:`SCENES` says in which world the blocks of a page run, :data:`HELP` the same of the examples
that ``git theta COMMAND -h`` prints. A line that is run nowhere needs a reason in :data:`NOT_RUN`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
from documented import PAGES, Block, Scene, Step, World, blocks, matched, plain, shown_in
from gitrepo import ROOT, Repo
from merging import moved, programs
from small_models import safetensors_file, torch_file

import git_theta
from git_theta.cli import manual

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the lines are for a POSIX shell")

# What stands for a place of the reader's own, and the place in a world that is taken for it.
PLACES = {
    "/mnt/team": "mnt",
    "/shared": "shared",
    "/tmp/three": "three",
    "URL": "origin.git",
}
ADDRESSES = {  # git reads these URLs as folders of a world
    "https://forge.example.com/team/project.git": "origin.git",
    "https://old.example.com/team/models.git": "origin.git",
    "https://new.example.com/team/models.git": "new.git",
}

NOT_RUN = {
    "pip install": "needs a network",
    "pipx install ./git-theta": "needs a network, and pipx",
    "uv tool install ./git-theta": "needs a network, and uv",
    "git clone URL git-theta": "needs a network",
    "make": "runs the tests, or what the tests run",
}
# Blocks that need a Git LFS server, which another test has, by page and last line.
AT_A_SERVER = {
    ("docs/sharing.md", "git theta push origin FETCH_HEAD"): "tests/compat/test_pointers.py",
    (
        "docs/sharing.md",
        "git push --mirror https://new.example.com/team/models.git",
    ): "tests/compat/test_pointers.py",
}
# Pages whose blocks another test runs.
ELSEWHERE = {
    "docs/diff.md": "tests/compat/test_diff_docs.py",
    "docs/tutorial.md": "tests/compat/test_tutorial.py",
    "examples/plugin-json-weights/README.md": "tests/compat/test_plugin_of_every_kind.py",
    "examples/plugin-model-bundle/README.md": "tests/compat/test_powerful_plugins.py",
    "examples/plugin-tanh-average/README.md": "tests/compat/test_powerful_plugins.py",
    "examples/plugin-trim-rows/README.md": "tests/compat/test_example_plugin.py",
}


# -- worlds ----------------------------------------------------------------------------------------


def tensors(seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    names = [f"{module}.attn.q.weight" for module in ("encoder.layer.3", "encoder.layer.4", "h.11")]
    found = {
        name: random.standard_normal((32, 32)).astype(np.float32)
        for name in (*names, "body.weight")
    }
    return {
        **found,
        "head.bias": random.standard_normal(10).astype(np.float32),
        "head.weight": random.standard_normal((10, 512)).astype(np.float32),
    }


def write(world: World, name: str, data: bytes) -> None:
    world.repo.write(name, data)


def must(world: World, *commands: str) -> None:
    """Prepare a world by commands, none of which may fail."""
    for command in commands:
        done = world.shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


Start = Callable[[World], None]
BASES: dict[Start, Start] = {}


def upon(base: Start) -> Callable[[Start], Start]:
    """Marks a start that goes on from another."""

    def mark(start: Start) -> Start:
        BASES[start] = base
        return start

    return mark


def nothing(world: World) -> None:
    """A user with an empty folder who has not configured anything."""


def installed(world: World) -> None:
    must(world, "git theta install")


def new(world: World) -> None:
    """A repository with a model that nobody has added."""
    must(
        world, "git theta install", "git init -q -b main .", "git commit -q --allow-empty -m start"
    )
    write(world, "model.safetensors", safetensors_file(tensors()))


def tracked(world: World) -> None:
    """A repository that tracks models, and has none."""
    must(
        world,
        "git theta install",
        "git init -q -b main .",
        'git theta track "*.safetensors" "*.pt"',
    )
    must(world, "git add .gitattributes", "git commit -q -m Track")


@upon(tracked)
def shared(world: World) -> None:
    """The same with a model and an empty remote."""
    write(world, "model.safetensors", safetensors_file(tensors()))
    must(world, "git init -q --bare -b main ../origin.git", "git remote add origin ../origin.git")


@upon(shared)
def models(world: World) -> None:
    """Models with some history, tags and branches, and a remote that has all of it."""
    base = tensors()
    write(world, "models/small.safetensors", safetensors_file(moved(base, 9)))
    write(world, "model.pt", torch_file(base))
    shards(world, base)
    must(world, "git add .", "git commit -q -m 'Base model'", "git tag v1.0")
    for number, branch in enumerate(
        ("fine-tuned", "task-a", "task-b", "task-c", "other", "qa", "summaries")
    ):
        tune(world, branch, moved(base, 10 + number, "head.weight", "body"))
    must(world, "git branch experiment v1.0", *["git commit -q --allow-empty -m step"] * 20)
    base = moved(base, 3, "head.weight", "encoder")
    write(world, "model.safetensors", safetensors_file(base))
    write(world, "model.pt", torch_file(base))
    shards(world, base)
    must(
        world,
        "git commit -q -a -m 'Trained on'",
        "git tag v1.1",
        "git tag -f base v1.0",
        "git branch sentiment",
    )
    must(world, "git push -q -u origin --all", "git push -q origin --tags")


def tune(world: World, branch: str, values: dict[str, np.ndarray]) -> None:
    must(world, f"git checkout -q -b {branch} v1.0")
    write(world, "model.safetensors", safetensors_file(values))
    must(world, f"git commit -q -a -m {branch}", "git checkout -q main")


def shards(world: World, values: dict[str, np.ndarray]) -> None:
    """A model of two files and an index."""
    halves = [dict(list(values.items())[:3]), dict(list(values.items())[3:])]
    names = [f"sharded/model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    where: dict[str, str] = {}
    for name, half in zip(names, halves, strict=True):
        write(world, name, safetensors_file(half))
        where |= dict.fromkeys(half, name.rpartition("/")[2])
    write(
        world,
        "sharded/model.safetensors.index.json",
        json.dumps({"metadata": {}, "weight_map": where}).encode(),
    )


@upon(models)
def merged(world: World) -> None:
    """The models, with a merge by a strategy as the newest commit."""
    must(
        world,
        "git theta merge fine-tuned -s average",
        "git tag v2.0",
        "git tag v2",
        "git tag -f v1.1 v1.0",
    )
    must(
        world,
        "git init -q --bare -b main ../upstream.git",
        "git remote add upstream ../upstream.git",
    )


@upon(models)
def conflicting(world: World) -> None:
    """Two branches that changed the same two tensors of two models."""
    base = moved(tensors(), 21, "head")
    for name, data in (
        ("model.safetensors", safetensors_file(base)),
        ("model.pt", torch_file(base)),
    ):
        write(world, name, data)
    must(world, "git commit -q -a -m 'Here'", "git checkout -q fine-tuned")
    base = moved(tensors(), 22, "head")
    for name, data in (
        ("model.safetensors", safetensors_file(base)),
        ("model.pt", torch_file(base)),
    ):
        write(world, name, data)
    must(world, "git commit -q -a -m 'There'", "git checkout -q main")


@upon(conflicting)
def in_conflict(world: World) -> None:
    assert world.shell("git merge fine-tuned").returncode == 1


@upon(shared)
def unit_in_conflict(world: World) -> None:
    """Two branches that changed the two factors of one LoRA layer."""

    def adapter(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        shapes = {"lora_A.weight": (8, 64), "lora_B.weight": (64, 8)}
        values = {
            f"layers.0.q_proj.{part}": random.standard_normal(shape).astype(np.float32)
            for part, shape in shapes.items()
        }
        return safetensors_file(values)

    for seed, commands in enumerate(
        (("git checkout -q -b other",), ("git checkout -q main",), ("git tag end",))
    ):
        write(world, "adapter.safetensors", adapter(seed))
        must(world, "git add .", "git commit -q -m Adapter", *commands)
    assert world.shell("git merge other").returncode == 1


@upon(in_conflict)
def resolved(world: World) -> None:
    must(world, "git theta resolve -s average")


@upon(models)
def manifests(world: World) -> None:
    """A clone without objects of the models' repository."""
    must(
        world,
        "cd ..",
        "mv repo before",
        "GIT_THETA_SKIP_SMUDGE=1 git clone -q origin.git repo",
        "cd repo",
    )
    must(world, "git branch experiment origin/experiment")


@upon(merged)
def unpulled(world: World) -> None:
    """A clone, while the remote has a newer commit."""
    must(world, "git push -q", "git reset -q --hard HEAD~1")


@upon(models)
def unset(world: World) -> None:
    """A clone that was made before Git-Theta was configured, over one of whose models another was
    saved.
    """
    must(world, "git theta uninstall", "git clone -q ../origin.git ../plain", "cd ../plain")


@upon(models)
def exported(world: World) -> None:
    """The models, exported to a folder and to a bucket."""
    must(
        world,
        f"git theta export v1.0:model.safetensors {world.folder}/shared/model-v1",
        "rm model.safetensors",
    )
    must(world, "git theta export v1.0:model.safetensors s3://my-bucket/runs/7/end")


def plain_history(world: World) -> None:
    """Three versions of a model that git stores whole."""
    must(world, "git theta install", "git init -q -b main .")
    for version in range(3):
        write(world, "model.safetensors", safetensors_file(moved(tensors(), version)))
        write(world, "notes.txt", b"%d" % version)
        must(world, "git add .", f"git commit -q -m 'version {version}'")
    must(world, "git tag -a -m one v1.0")


@upon(plain_history)
def migrated(world: World) -> None:
    must(world, "git theta migrate import")


@upon(migrated)
def published(world: World) -> None:
    must(
        world,
        "git init -q --bare -b main ../origin.git",
        "git remote add origin ../origin.git",
        "git config push.autoSetupRemote true",
    )


# -- what runs where -------------------------------------------------------------------------------


def overwritten(world: World) -> None:
    """A model is saved over the manifest that a clone without Git-Theta holds, and committed."""
    write(world, "model.safetensors", safetensors_file(moved(tensors(), 5)))
    must(world, "git commit -q -a -m 'New model'")


def saved(*values: int) -> Start:
    """Training wrote another version over the model."""

    def prepare(world: World) -> None:
        write(
            world,
            "model.safetensors",
            safetensors_file(moved(tensors(), values[0], "head") if values else tensors()),
        )

    return prepare


def adapter(world: World) -> None:
    """Files to hand over: a LoRA for the model, the same as factors, and a mask."""
    random = np.random.default_rng(5)
    left, right = (
        random.standard_normal((32, 2)).astype(np.float32),
        random.standard_normal((2, 32)).astype(np.float32),
    )
    module = "encoder.layer.3.attn.q"
    folder = world.here / "path" / "to" / "adapter"
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q"],
        "base_model_name_or_path": "x",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    pair = {
        f"base_model.model.{module}.lora_A.weight": right,
        f"base_model.model.{module}.lora_B.weight": left,
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors_file(pair))
    (world.here / "factors.safetensors").write_bytes(
        safetensors_file({f"{module}.weight/R": left, f"{module}.weight/C": right})
    )
    parts: dict[str, Any] = {
        "data": np.ones(2, np.float32),
        "indices": np.array([3, 4]),
        "indptr": np.array([0, *[1] * 31, 2]),
        "shape": np.array([32, 32]),
    }
    np.savez(
        world.here / "mask.npz",
        **{f"{module}.weight/{part}": value for part, value in parts.items()},
    )


def score(world: World) -> None:
    """A program that scores a checkpoint."""
    for name in ("score", "score.py"):
        (world.here / name).write_text("#!/bin/sh\necho 0.5\n", encoding="utf-8")
        (world.here / name).chmod(0o755)


@upon(models)
def free_name(world: World) -> None:
    """No file is in the way of a converted one."""
    must(
        world,
        "git rm -q --cached model.safetensors",
        "rm model.safetensors",
        "git commit -q -m Remove",
        "git commit -q --allow-empty -m step",
    )


@upon(models)
def files(world: World) -> None:
    """Checkpoints that are in no repository."""
    weights: dict[str, Any] = {**tensors()}
    np.savez(world.here / "weights.npz", **weights)
    write(world, "a.safetensors", safetensors_file(tensors()))
    write(world, "b.safetensors", safetensors_file(moved(tensors(), 4)))


@upon(models)
def forge(world: World) -> None:
    """A remote whose committed .thetaconfig names a bucket."""
    must(
        world,
        "git theta remote set origin s3://my-models/project --share",
        "git theta push origin --all",
        "git add .thetaconfig",
    )
    must(
        world,
        "git commit -q -m 'Where the objects are'",
        "git push -q",
        "cd ..",
        "rm -rf repo origin.git/theta",
        "mkdir clones",
        "cd clones",
    )


def train(world: World) -> None:
    """Go on from the version that is checked out."""
    now = dict(git_theta.load("HEAD", "model.safetensors", repo=world.here))
    write(world, "model.safetensors", safetensors_file(moved(now, 30, "body", "encoder")))


@upon(new)
def unshared(world: World) -> None:
    """A repository with a model and no remote."""
    must(world, 'git theta track "*.safetensors"', "git add .", "git commit -q -m Model")


@upon(models)
def copying(world: World) -> None:
    """A folder from which the models' remote can be cloned, and an empty repository for it."""
    must(world, "git init -q --bare -b main ../new.git", "cd ..")


@upon(models)
def side_loading(world: World) -> None:
    adapter(world)


@upon(models)
def scoring(world: World) -> None:
    score(world)


@upon(forge)
def unconfirmed(world: World) -> None:
    """A clone that names a bucket nobody has agreed to."""
    must(
        world,
        "GIT_THETA_SKIP_SMUDGE=1 git clone -q https://forge.example.com/team/project.git",
        "cd project",
    )


@upon(models)
def two_tasks(world: World) -> None:
    """The models, and a strategy for all merges."""
    must(world, "git config theta.merge.strategy ties")


@upon(models)
def by_base(world: World) -> None:
    """A base that another model descends from."""
    must(world, "cp model.safetensors base.safetensors", "git add .", "git commit -q -m Base")


@upon(models)
def pt_only(world: World) -> None:
    """A model to track whose name holds a blank."""
    must(world, "cp model.pt 'my model.pt'")


@upon(models)
def indexed(world: World) -> None:
    """A sharded model at the top."""
    must(world, "git mv sharded/* .", "git commit -q -m 'At the top'")


# -- what the commands must have done --------------------------------------------------------------


def in_place(world: World) -> None:
    assert not world.repo.read("model.safetensors").startswith(b"git-theta manifest")
    world.repo.assert_clean()


def stored(world: World) -> None:
    """HEAD holds a manifest, and what is checked out is the model."""
    assert world.repo.manifest("HEAD:model.safetensors").entries
    in_place(world)


def whole(world: World) -> None:
    assert world.repo.blob("HEAD:model.safetensors") == world.repo.read("model.safetensors")


def deltas(world: World) -> None:
    """The head is stored as its difference."""
    chain = world.repo.manifest("HEAD:model.safetensors").by_name["head.weight"].chain
    assert [link.update for link in chain] == ["delta", "dense"]


def gone_back(world: World) -> None:
    assert (
        world.repo.git("log", "--format=%D %s").decode().splitlines()[-1]
        == "tag: base, main Pretrained model"
    )
    in_place(world)


def cloned(world: World, url: str = "") -> None:
    """A clone of what was pushed has the model."""
    url = url or world.repo.git("remote", "get-url", "--push", "origin").decode().strip()
    must(world, f"git clone -q {url} {world.folder}/checked")
    copy = Repo(world.folder / "checked", world.environment)
    assert copy.manifest("HEAD:model.safetensors").entries
    assert not copy.read("model.safetensors").startswith(b"git-theta manifest")
    copy.assert_clean()


def first_again(world: World) -> None:
    must(
        world,
        "mv model.safetensors found",
        "git checkout -q v1.0 -- model.safetensors",
        "cmp found model.safetensors",
    )


def complete(world: World) -> None:
    """Where the remote's objects are, none is missing."""
    must(world, "git theta fsck --all --remote")


def moved_over(world: World) -> None:
    cloned(world, str(world.folder / "new.git"))


def back_again(world: World) -> None:
    """Commits are as they were before the migration."""
    assert world.repo.git("rev-parse", "HEAD") == world.repo.git(
        "rev-parse", "refs/git-theta/before-import/heads/main"
    )


def taken_back(world: World) -> None:
    """What was picked was added to what main had, and taken away again."""
    picked, reverted = (
        git_theta.load(rev, "model.safetensors", repo=world.here) for rev in ("HEAD~2", "HEAD")
    )
    before, later = (
        git_theta.load(rev, "model.safetensors", repo=world.here) for rev in ("HEAD~3", "HEAD~1")
    )
    base, tuned = (
        git_theta.load(rev, "model.safetensors", repo=world.here)
        for rev in ("fine-tuned~1", "fine-tuned")
    )
    for name in base:
        task = tuned[name].astype(np.float64) - base[name]
        assert np.abs(picked[name] - (before[name] + task)).max() < 1e-6
        assert np.abs(reverted[name] - (later[name] - task)).max() < 1e-6


def scene(page: str, start: Start, *steps: Step | str) -> Scene:
    return Scene(
        page, start, tuple(Step(step) if isinstance(step, str) else step for step in steps)
    )


SCENES = [
    scene("README.md", new, Step('git theta track "*.safetensors" "*.pt"', check=stored)),
    scene("README.md", nothing, "git clone URL git-theta"),
    scene("README.md", models, 'git theta track "*.safetensors"'),
    scene("docs/index.md", new, Step("git theta --version", check=stored)),
    scene("docs/index.md", models, "git show --stat"),
    scene("docs/install.md", nothing, "git clone URL git-theta"),
    scene("docs/install.md", installed, "git theta env"),
    scene("docs/install.md", unset, Step("git theta install", check=stored)),
    scene("docs/install.md", unset, Step("git theta install", overwritten, check=stored)),
    scene("docs/ci.md", models, 'pip install "git-theta>=1.0"'),
    scene("docs/ci.md", manifests, "git theta pull"),
    scene("docs/ci.md", models, "git config --global"),
    scene("docs/ci.md", models, 'git theta diff "$base" "$head"'),
    scene(
        "docs/clusters.md",
        models,
        Step("git theta export v1.0:model.safetensors", check=first_again),
    ),
    scene(
        "docs/fine-tuning.md",
        installed,
        Step("git init", saved()),
        Step("git checkout -q -b sentiment", saved(2), check=deltas),
        Step("git checkout -q base", check=gone_back),
    ),
    scene("docs/fine-tuning.md", models, "git theta merge -s ties"),
    scene("docs/fine-tuning.md", models, Step("git theta add model.safetensors", adapter)),
    scene("docs/merging.md", conflicting, Step("git merge fine-tuned")),
    scene("docs/merging.md", in_conflict, Step("git theta resolve -s average", apart=True)),
    scene(
        "docs/merging.md",
        unit_in_conflict,
        Step("git theta resolve adapter.safetensors -s average"),
    ),
    scene("docs/merging.md", two_tasks, Step("git theta merge task-a", apart=True)),
    scene("docs/merging.md", merged, "git theta verify-merge"),
    scene("docs/merging.md", models, Step("git theta merge fine-tuned", score)),
    scene("docs/merging.md", models, Step("git config theta.merge.strategy", check=taken_back)),
    scene(
        "docs/migrating.md", plain_history, Step('git theta track "*.safetensors"', check=stored)
    ),
    scene("docs/migrating.md", models, "pip install git-filter-repo"),
    scene("docs/migrating.md", plain_history, Step("git theta migrate import", check=stored)),
    scene(
        "docs/migrating.md", migrated, Step("git for-each-ref --format='update", check=back_again)
    ),
    scene("docs/migrating.md", migrated, Step("git for-each-ref --format='delete", check=stored)),
    scene("docs/migrating.md", published, Step("git push -q --force --all", check=cloned)),
    scene("docs/migrating.md", migrated, Step("git theta migrate export", check=whole)),
    scene("docs/migrating.md", migrated, Step('git theta untrack "*.safetensors"', check=whole)),
    scene("docs/configuration.md", models, "git config --file .thetaconfig theta.requires 1.0"),
    scene("docs/python.md", installed, "git init -b main models"),
    scene("docs/sharing.md", shared, Step('git theta track "*.safetensors"', check=cloned)),
    scene("docs/sharing.md", unshared, Step("git init --bare", check=cloned)),
    scene(
        "docs/sharing.md",
        models,
        Step("git theta remote set origin s3://my-models/project", check=complete),
    ),
    scene(
        "docs/sharing.md", models, "git theta remote set origin s3://my-models/project --with-lfs"
    ),
    scene(
        "docs/sharing.md",
        models,
        "git theta remote set origin https://models.example.com/project --mirror",
    ),
    scene("docs/sharing.md", models, "git theta remote set origin s3://my-models/project --share"),
    scene(
        "docs/sharing.md",
        forge,
        Step("GIT_THETA_SKIP_SMUDGE=1 git clone", answers="y\n", check=stored),
    ),
    scene("docs/sharing.md", copying, Step("git clone --mirror", check=moved_over)),
    scene("docs/sharing.md", manifests, Step("git theta fetch --params", check=stored)),
    scene("docs/sharing.md", models, "git theta fsck"),
    scene("docs/updates.md", models, Step("git theta add model.safetensors", adapter)),
    scene("CONTRIBUTING.md", nothing, "make test"),
    scene("docs/install.md", nothing, "pipx install"),
]
# The world of a line of help, or of a block whose lines are alternatives; "models" unless it is
# named here.
LINES: dict[str, Start] = {
    "git theta track tuned.safetensors": by_base,
    'git theta track "my model.pt"': pt_only,
    "git theta add model.safetensors --update": side_loading,
    "git theta add model.pt --update": side_loading,
    "git theta checkout": manifests,
    "git theta convert HEAD~1:model.pt model.safetensors": free_name,
    "git theta convert weights.npz": files,
    "git theta merge fine-tuned -s task_arithmetic --sweep": scoring,
    "git theta resolve model.pt": in_conflict,
    "git theta resolve": in_conflict,
    "git add model.safetensors": in_conflict,
    "git commit": resolved,
    "git merge -s theta": two_tasks,
    "git theta verify-merge": merged,
    "git theta diff HEAD~1 -- model.safetensors.index.json": indexed,
    "git theta diff a.safetensors": files,
    "git theta log v1.0..v2.0": merged,
    "git theta push upstream": merged,
    "git theta fetch": manifests,
    "git theta pull": manifests,
    "GIT_THETA_SKIP_SMUDGE=1 git pull": unpulled,
    "git theta remote confirm": unconfirmed,
    "git theta import": exported,
    "git theta migrate import": plain_history,
    "git theta migrate export": migrated,
}
FAILS = {  # lines that are to end with 1
    "docs/merging.md: git merge fine-tuned": "a conflict",
    "docs/merging.md: git theta resolve": "lists what is open, where there is no terminal",
    "docs/merging.md: git theta resolve --params '*.bias' --ours": "the rest is open",
    "docs/merging.md: git theta resolve --by-name": "the rest is open",
    "docs/merging.md: git theta resolve adapter.safetensors -s average": "a unit is open",
    "git theta merge fine-tuned --write-models /tmp/three": "a conflict",
    "git theta resolve": "lists what is open, where there is no terminal",
    "git theta resolve model.pt --params '*.bias' --ours": "the rest is open",
}


# What is done after a line of a page, before the next.
PREPARED = {"docs/merging.md: git cherry-pick fine-tuned": train}


# -- the tests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    for module in ("moto", "flask_cors"):
        pytest.importorskip(module, reason="moto serves S3's protocol")
    with serving.s3() as port:
        for name in ("my-models", "my-bucket"):
            serving.Bucket(port, name).request("PUT")
        yield port


Build = Callable[[Start], World]


@pytest.fixture(scope="module")
def build(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], s3: int
) -> Build:
    """Makes worlds. What starts a world is done once, and then copied."""
    top = tmp_path_factory.mktemp("documented")
    made: dict[Start, World] = {}
    number = iter(range(10_000))
    common = {key: value for key, value in environment.items() if key != "GIT_CONFIG_GLOBAL"} | {
        "PATH": f"{programs(top / 'bin')}{os.pathsep}{environment['PATH']}",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "base": "v1.0",
        "head": "main",
    }

    def world(folder: Path, here: Path) -> World:
        made = World(folder, {**common, "HOME": str(folder / "home")}, folder / here)
        (folder / "home").mkdir(parents=True, exist_ok=True)
        places = "".join(
            f'[url "{folder / name}"]\n\tinsteadOf = {url}\n' for url, name in ADDRESSES.items()
        )
        (folder / "home" / "places").write_text(places, encoding="utf-8")
        return made

    def find(start: Start) -> World:
        if start not in made:
            if start in BASES:
                first = find(BASES[start])
            else:
                first = world(top / f"start{next(number)}", Path("repo"))
                for name in ("repo", "shared", "mnt"):
                    (first.folder / name).mkdir(parents=True)
                settings = (
                    "[user]\n\tname = A U Thor\n\temail = author@example.com\n[include]\n\tpath ="
                    " places\n"
                )
                (first.folder / "home" / ".gitconfig").write_text(settings, encoding="utf-8")
            start(first)
            made[start] = first
        template = made[start]
        folder = top / f"world{next(number)}"
        shutil.copytree(template.folder, folder, symlinks=True)
        return world(folder, template.here.relative_to(template.folder))

    return find


def reason_not_to_run(command: str) -> str | None:
    return next(
        (reason for beginning, reason in NOT_RUN.items() if command.startswith(beginning)), None
    )


def start_of(line: str) -> Start:
    """The world of a line that is run by itself: the longest entry of LINES that it begins with."""
    known = [beginning for beginning in LINES if line.startswith(beginning)]
    return LINES[max(known, key=len)] if known else models


def run(world: World, command: str, where: str, shown: list[str], answers: str = "") -> None:
    """Run a line, which must succeed, or fail if it is to; what the page shows must be what it
    prints.
    """
    if reason_not_to_run(command):
        return
    done = world.shell(world.placed(command, PLACES), answers)
    said = f"$ {command}\n{done.stdout}{done.stderr}"
    assert done.returncode == int(f"{where}{command}" in FAILS), said
    for line in shown:
        assert shown_in(line.removesuffix(f" {answers}".rstrip()), said), (
            f"{line}\nis not in\n{said}"
        )


@cache
def table() -> tuple[list[list[tuple[Step, Block]]], list[Block]]:
    return matched(SCENES)


def test_every_block_is_run() -> None:
    _, left = table()
    missed = {(block.page, block.commands[-1]) for block in left if block.page not in ELSEWHERE}
    assert missed == AT_A_SERVER.keys()
    assert all((ROOT / test).exists() for test in AT_A_SERVER.values())
    for page, test in ELSEWHERE.items():
        assert any(block.page == page for block in left), page
        assert (ROOT / test).exists()


@pytest.mark.parametrize("number", range(len(SCENES)), ids=[scene.title for scene in SCENES])
def test_the_lines_of_a_page(build: Build, number: int) -> None:
    scenes, _ = table()
    world = build(SCENES[number].start)
    for step, block in scenes[number]:
        where = f"{block.page}: "
        if step.apart:
            for command, shown in block.dialogue:
                run(build(start_of(command)), command, where, shown)
            continue
        if step.prepare is not None:
            step.prepare(world)
        for command, shown in block.dialogue:
            run(world, command, where, shown, step.answers)
            PREPARED.get(f"{where}{command}", nothing)(world)
        if step.check is not None:
            step.check(world)


def examples() -> dict[str, list[str]]:
    """The examples in each command's help."""
    waiting = [entry for _, entries in manual.sections() for entry in entries]
    found = {}
    while waiting:
        entry = waiting.pop(0)
        waiting = [*entry.parts, *waiting]
        if entry.examples:
            found[entry.path] = [
                command for line in entry.examples.splitlines() if (command := plain(line))
            ]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_examples_in_help(build: Build, path: str) -> None:
    for line in EXAMPLES[path]:
        run(build(start_of(line)), line, "", [], "y\n")


def test_the_tables_name_nothing_else() -> None:
    """What is not in the documentation any more is not in the tables."""
    shown = [
        (block.page, command)
        for page in PAGES
        for block in blocks(page)
        if block.language != "python"
        for command in block.commands
    ]
    helped = [line for found in EXAMPLES.values() for line in found]
    lines = [*(command for _, command in shown), *helped]
    for beginning in (*NOT_RUN, *LINES):
        assert any(line.startswith(beginning) for line in lines), beginning
    assert {*FAILS, *PREPARED} <= {*(f"{page}: {command}" for page, command in shown), *helped}
