"""No command says that all is well when git does not store, or has not checked out, what the
attributes say.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import ATTRIBUTES, Repo
from sharing import World, changed, model, needed_by

import git_theta
from git_theta.api.sessions import ThetaWarning
from git_theta.core import lfs_pointer
from git_theta.errors import FormatError, GitError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
needs_git_lfs = pytest.mark.skipif(
    shutil.which("git-lfs") is None, reason="git-lfs is not installed"
)


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.fixture
def one(world: World) -> Repo:
    """A repository with one model, pushed."""
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    repo.git("push", "-q", "origin", "main")
    return repo


def said(repo: Repo, *words: str) -> tuple[int, str]:
    """The exit code of ``git theta WORDS`` and all that it says."""
    done = repo.theta_run(*words)
    return done.returncode, (done.stdout + done.stderr).decode()


def problems(repo: Repo) -> list[str]:
    """What ``git theta env`` finds missing or wrong in the repository (not in this configuration,
    which is a test's).
    """
    done = repo.theta_run("env", "--json")
    found = [
        line
        for line in json.loads(done.stdout)["problems"]
        if not line.startswith("git's config lacks")
    ]
    assert done.returncode == 1 or not found
    return found


def without_filter(repo: Repo, folder: Path) -> Repo:
    """The repository as git sees it where Git-Theta was never installed."""
    text = (
        Path(repo.environment["GIT_CONFIG_GLOBAL"])
        .read_text("utf-8")
        .partition('[filter "theta"]')[0]
    )
    config = folder / "plain-gitconfig"
    config.write_text(text, "utf-8")
    return Repo(repo.path, {**repo.environment, "GIT_CONFIG_GLOBAL": str(config)})


def assert_all_say(
    repo: Repo, *expected: str, commands: tuple[str, ...] = ("fsck", "pull", "checkout", "ls-files")
) -> None:
    """Every one of ``commands``, and env, names what is ``expected``, and only ls-files, which is a
    list, succeeds.
    """
    for command in commands:
        code, text = said(repo, command)
        assert code == (0 if command == "ls-files" else 1), f"{command}: {text}"
        assert "all is well" not in text
        assert "in place" not in text
        for word in expected:
            assert word in text, f"{command}: {text}"
    listed = "\n".join(problems(repo))
    for word in expected:
        assert word in listed


def assert_well(repo: Repo) -> None:
    """All commands agree that nothing is wrong, and so does git."""
    assert "all is well" in said(repo, "fsck")[1]
    for command in ("fsck", "pull", "checkout"):
        assert said(repo, command)[0] == 0
    assert problems(repo) == []
    assert repo.status() == ""


# A clone whose checkout failed


@pytest.mark.parametrize("cause", ["objects", "filter"])
def test_a_clone_whose_checkout_failed(
    world: World, one: Repo, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Repo(world.folder / "two", world.environment)
    objects, aside = world.remote / "theta", world.remote / "aside"
    if cause == "objects":
        objects.rename(aside)
    broken: dict[str, str] = (
        {}
        if cause == "objects"
        else {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "filter.theta.process",
            "GIT_CONFIG_VALUE_0": "no",
        }
    )
    outside = Repo(world.folder, world.environment).under(broken)
    outside.git_fails("clone", "-q", world.url, str(two.path))
    assert not (two.path / "model.safetensors").exists()
    assert two.git("ls-files") == b""  # git writes the index last
    assert said(two, "fetch")[0] == (1 if cause == "objects" else 0)
    if cause == "objects":
        aside.rename(objects)
    for command in ("pull", "checkout", "fsck", "ls-files", "diff"):
        code, text = said(two, command)
        assert code == 1, f"{command}: {text}"
        assert "'git reset --hard'" in text
        assert "all is well" not in text
        assert "in place" not in text
    assert any("'git reset --hard'" in line for line in problems(two))
    for name, value in two.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GitError, match="'git reset --hard'"):
        git_theta.load(":0", "model.safetensors", repo=two.path)
    two.git("reset", "-q", "--hard")
    assert two.read("model.safetensors") == model(1)
    assert_well(two)


def test_a_repository_without_commits_has_nothing_to_go_on_with(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    (tmp_path / "new").mkdir()
    new = Repo(tmp_path / "new", environment)
    new.git("init", "-q", ".")
    assert said(new, "pull") == (0, "Nothing to do: the index holds no model.\n")
    assert said(new, "checkout") == (0, "Nothing to write: the index holds no model.\n")
    assert said(new, "fsck")[0] == 0
    assert problems(new) == []


# Manifests that no attribute tracks


def test_a_renamed_model_that_no_pattern_matches(world: World, one: Repo) -> None:
    one.git("mv", "model.safetensors", "model.bits")
    one.git("commit", "-qm", "rename")
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    text = two.blob("HEAD:model.bits")
    assert two.read("model.bits") == text
    for repo in (one, two):
        before = repo.read("model.bits")
        assert_all_say(repo, "model.bits", "'git theta track model.bits'")
        assert said(repo, "checkout", "model.bits")[0] == 1
        assert repo.read("model.bits") == before
    two.theta("track", "model.bits")
    assert "git add .gitattributes" in said(two, "fsck")[1]
    two.git("add", ".gitattributes")
    two.theta("pull")
    assert two.read("model.bits") == model(1)
    two.git("commit", "-qam", "track it")
    assert two.blob("HEAD:model.bits") == text
    assert_well(two)


def test_a_renamed_model_keeps_its_file(one: Repo) -> None:
    """Where the model is in the working tree, tracking its new name is all."""
    one.git("mv", "model.safetensors", "model.bits")
    one.theta("track", "model.bits")
    one.git("add", ".gitattributes")
    one.git("commit", "-qam", "rename")
    assert one.read("model.bits") == model(1)
    assert one.blob("HEAD:model.bits").startswith(b"git-theta manifest ")
    assert_well(one)


def test_names_that_a_shell_would_take_apart(one: Repo) -> None:
    (one.path / "sub").mkdir()
    one.git("mv", "model.safetensors", "sub/my model's.bits")
    code, text = said(one, "fsck")
    command = f"git theta track {shlex.quote(chr(115) + 'ub/my model' + chr(39) + 's.bits')}"
    assert code == 1
    assert command in text
    subprocess.run(
        command.replace("git theta", "git-theta"),
        shell=True,
        cwd=one.path,
        env=dict(one.environment),
        check=True,
    )
    one.git("add", ".gitattributes")
    assert said(one, "fsck")[0] == 0


def test_a_command_names_paths_as_seen_from_the_current_folder(one: Repo) -> None:
    (one.path / "sub").mkdir()
    one.git("mv", "model.safetensors", "sub/m.bits")
    inside = one.at(one.path / "sub")
    for command in ("fsck", "pull", "ls-files"):
        assert "'git theta track m.bits'" in said(inside, command)[1]
    inside.theta("track", "m.bits")
    assert "'git add .gitattributes'" in said(inside, "fsck")[1]
    inside.git("add", ".gitattributes")
    assert said(inside, "fsck")[0] == 0


@pytest.mark.parametrize("folder", ["", "sub"])
def test_attributes_that_were_never_committed(
    tmp_path: Path, environment: Mapping[str, str], folder: str
) -> None:
    repo = Repo(tmp_path / "repo", sharing.with_program(environment, tmp_path / "bin"))
    (repo.path / folder).mkdir(parents=True)
    repo.git("init", "-q", ".")
    where = f"{folder}/" if folder else ""
    repo.write(f"{where}.gitattributes", ATTRIBUTES.encode())
    repo.write(f"{where}model.pt", model(1))
    repo.git("add", f"{where}model.pt")
    repo.git("commit", "-qm", "without attributes")
    code, text = said(repo, "fsck")
    assert code == 1
    assert f"{where}model.pt: " in text
    assert f"'git add {where}.gitattributes'" in text
    assert f"'git add {where}.gitattributes'" in "\n".join(problems(repo))
    code, text = said(repo, "pull")
    assert f"'git add {where}.gitattributes'" in text
    assert code == 0  # the model is there; it is clones that lack it
    repo.git("add", f"{where}.gitattributes")
    repo.git("commit", "-qm", "attributes")
    assert_well(repo)


def test_lost_attributes_in_a_part_of_a_repository(world: World, one: Repo) -> None:
    """What 'git subtree split' does: the attributes at the top stay behind."""
    (one.path / "part").mkdir()
    one.git("mv", "model.safetensors", "part/model.safetensors")
    one.git("commit", "-qm", "move")
    split = one.git("commit-tree", "-m", "split", "HEAD:part").decode().strip()
    one.git("push", "-q", "origin", f"{split}:refs/heads/split")
    two = world.clone("two", "--branch", "split")
    assert_all_say(two, "'git theta track model.safetensors'")
    two.theta("track", "*.safetensors")
    two.git("add", ".gitattributes")
    two.theta("pull")
    assert two.read("model.safetensors") == model(1)
    two.git("commit", "-qam", "track it")
    assert_well(two)


# Tracked files that are no manifests


def test_a_model_committed_where_git_theta_was_not_installed(
    world: World, one: Repo, tmp_path: Path
) -> None:
    plain = without_filter(world.clone("two"), tmp_path)
    new = changed(model(1), 0, 2)
    plain.write("model.safetensors", new)
    plain.git("commit", "-qam", "raw")
    plain.git("push", "-q", "--no-verify", "origin", "main")
    assert plain.blob("HEAD:model.safetensors") == new
    three = world.clone("three")
    assert three.read("model.safetensors") == new
    for repo, commands in ((three, ("fsck", "ls-files")),):
        assert_all_say(
            repo,
            "model.safetensors",
            "'git add --renormalize model.safetensors'",
            commands=commands,
        )
    code, text = said(three, "pull")
    assert "'git add --renormalize model.safetensors'" in text
    assert "in place" not in text
    assert code == 0  # the model is there
    three.git("add", "--renormalize", "model.safetensors")
    three.git("commit", "-qm", "with Git-Theta")
    assert three.blob("HEAD:model.safetensors").startswith(b"git-theta manifest ")
    assert three.read("model.safetensors") == new
    assert_well(three)


def test_a_bare_repository_is_looked_at_through_head(
    world: World, one: Repo, tmp_path: Path
) -> None:
    bare = Repo(world.remote, world.environment)
    assert "all is well" in said(bare, "fsck")[1]
    plain = without_filter(one, tmp_path)
    plain.write("raw.bin", model(2))
    plain.git("add", "raw.bin")
    plain.git("commit", "-qm", "raw")
    plain.git("push", "-q", "--no-verify", "origin", "main")
    code, text = said(bare, "fsck")
    assert code == 1
    assert "raw.bin: committed without Git-Theta" in text
    assert "raw.bin" in "\n".join(problems(bare))


def test_many_are_summed_up(one: Repo, tmp_path: Path) -> None:
    plain = without_filter(one, tmp_path)
    for number in range(8):
        plain.write(f"raw{number}.bin", b"x" * 100)
    plain.git("add", *(f"raw{number}.bin" for number in range(8)))
    code, text = said(one, "fsck")
    assert code == 1
    assert text.count("committed without Git-Theta") == 5
    assert "8 problems" in text
    assert "3 more files likewise" in text
    assert said(one, "ls-files")[1].count("committed without Git-Theta") == 8


@pytest.mark.parametrize("option", ["intent", "assume-unchanged", "skip-worktree", "empty"])
def test_states_of_the_index_that_are_no_fault(one: Repo, option: str) -> None:
    if option == "intent":
        one.write("new.bin", model(2))
        one.git("add", "-N", "new.bin")
    elif option == "empty":
        one.write("empty.bin", b"")
        one.git("add", "empty.bin")
    else:
        one.git("update-index", f"--{option}", "model.safetensors")
    assert said(one, "fsck")[0] == 0
    assert problems(one) == []


def test_a_sparse_checkout_says_what_it_leaves_out(world: World, one: Repo) -> None:
    one.write("sub/other.safetensors", model(2))
    one.git("add", ".")
    one.git("commit", "-qm", "second")
    one.git("push", "-q", "origin", "main")
    two = world.clone("two", "--sparse")
    assert not (two.path / "sub").exists()
    assert said(two, "checkout") == (
        0,
        (
            "Nothing to write: every model is in place but for 1 that the sparse checkout leaves"
            " out.\n"
        ),
    )
    two.theta("pull")
    assert said(two, "pull") == (
        0,
        "Nothing to do: every model is in place but for 1 that the sparse checkout leaves out.\n",
    )
    assert said(two, "fsck")[0] == 0


def test_shallow_clones_and_superprojects_are_well(world: World, one: Repo) -> None:
    shallow = world.clone("shallow", "--depth", "1")
    assert_well(shallow)
    shallow.git("submodule", "--quiet", "add", world.url, "inner")
    shallow.git("commit", "-qm", "a submodule")
    assert_well(shallow)
    assert_well(shallow.at(shallow.path / "inner"))


# Manifests that are not the model


def test_a_manifest_of_a_newer_release(one: Repo) -> None:
    text = one.blob("HEAD:model.safetensors").replace(
        b"git-theta manifest 1", b"git-theta manifest 9", 1
    )
    blob = one.git("hash-object", "-w", "--stdin", "--no-filters", stdin=text).decode().strip()
    one.git("update-index", "--cacheinfo", f"100644,{blob},model.safetensors")
    (one.path / "model.safetensors").unlink()
    for command in ("pull", "checkout", "fetch", "fsck"):
        code, told = said(one, command)
        assert code == 1, f"{command}: {told}"
        assert "newer" in told
        assert "in place" not in told


def test_a_manifest_of_another_version_in_place_of_a_model(world: World, one: Repo) -> None:
    old = one.blob("HEAD:model.safetensors")
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    one.write("model.safetensors", old)
    code, text = said(one, "pull")
    assert code == 1
    assert "'git theta checkout model.safetensors'" in text
    one.theta("checkout", "model.safetensors")
    assert one.read("model.safetensors") == changed(model(1), 0, 2)
    assert_well(one)


# Git LFS pointers


@pytest.mark.parametrize(
    "name", ["m.bin", "m.pt", "m.safetensors", "m.gguf", "m.h5", "m.npz", "m.weights"]
)
def test_a_git_lfs_pointer_is_not_added(repo: Repo, name: str) -> None:
    repo.theta("track", "*.gguf", "*.h5", "*.npz", "*.weights")
    repo.write(name, POINTER)
    for command in (["git", "add", name], ["git", "-c", "theta.onInvalid=store", "add", name]):
        done = repo.run(command)
        assert done.returncode != 0
        assert (
            f"{name}: this is a Git LFS pointer, not the model: run 'git lfs pull' first"
            in done.stderr.decode()
        )
    done = repo.theta_run("add", name)
    assert done.returncode != 0
    assert repo.git("ls-files", name) == b""
    assert repo.leftovers() == []
    assert repo.object_ids() == set()


def test_save_refuses_a_git_lfs_pointer(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in repo.environment.items():
        monkeypatch.setenv(name, value)
    head = repo.head()
    with pytest.raises(FormatError, match="Git LFS pointer"):
        git_theta.save(POINTER, "m.bin", repo=repo.path)
    assert repo.head() == head


@needs_git_lfs
def test_tracking_what_git_lfs_has_not_fetched(world: World) -> None:
    """'track' says what to do, git status stays quiet meanwhile, and what is said works."""
    repo = Repo.create(world.folder / "lfs", world.environment)
    repo.git("lfs", "install", "--local")
    repo.write(".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n")
    repo.write("m.bin", model(1))
    repo.git("add", ".")
    repo.git("commit", "-qm", "with Git LFS")
    repo.git("push", "-q", world.url, "main")
    two = world.clone("two", GIT_LFS_SKIP_SMUDGE="1")
    pointer = two.read("m.bin")
    assert pointer.startswith(b"version https://git-lfs")
    two.git("lfs", "install", "--local")
    text = said(two, "track", "*.bin")[1]
    assert "m.bin is a Git LFS pointer, not the model: run 'git lfs pull' first" in text
    assert "git lfs pull && git add m.bin" in text
    assert "renormalize" not in text
    two.git("commit", "-qam", "track it")
    os.utime(two.path / "m.bin")
    assert two.status() == ""
    two.git("add", "--renormalize", "m.bin")
    assert two.status() == ""
    assert_all_say(
        two, "m.bin", "committed without Git-Theta (a Git LFS pointer)", "'git lfs pull'"
    )
    two.git("lfs", "pull")
    two.git("add", "m.bin")
    two.git("commit", "-qm", "with Git-Theta")
    assert two.read("m.bin") == model(1)
    assert two.blob("HEAD:m.bin").startswith(b"git-theta manifest ")
    assert_well(two)


def test_a_pointer_that_was_committed_as_a_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release could that did not know pointers."""
    repo = Repo.create(world.folder / "one", world.environment)
    with monkeypatch.context() as patch:
        for name, value in repo.environment.items():
            patch.setenv(name, value)
        patch.setattr(lfs_pointer, "is_pointer", lambda *_: False)
        with pytest.warns(ThetaWarning, match="plain bytes"):
            git_theta.save(POINTER, "m.bin", repo=repo.path)
    assert repo.read("m.bin") == POINTER
    os.utime(repo.path / "m.bin")
    shutil.rmtree(repo.common / "theta" / "cache")
    assert repo.status() == ""  # what HEAD holds is given back
    assert_all_say(repo, "m.bin", "Git LFS pointer", "git lfs smudge <m.bin")
    repo.write("m.bin", model(1))
    repo.git("commit", "-qam", "the model")
    assert_well(repo)


# Symbolic links


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_symbolic_links_are_not_models(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(model(1))
    (repo.path / "model.safetensors").symlink_to(tmp_path / "cache")
    command = (
        "cp -L model.safetensors model.safetensors.new && mv model.safetensors.new"
        " model.safetensors"
    )
    text = said(repo, "track", "*.safetensors")[1]
    assert "model.safetensors: a symbolic link, not a model" in text
    assert command in text
    assert "Now: git add .gitattributes\n" in text
    code, text = said(repo, "add", "model.safetensors")
    assert code == 1
    assert command in text
    for name in ("fsck", "ls-files"):
        code, text = said(repo, name)
        assert code == (1 if name == "fsck" else 0)
        assert command in text
    assert any(command in line for line in problems(repo))
    subprocess.run(command, shell=True, cwd=repo.path, check=True)
    assert said(repo, "add", "model.safetensors") == (0, "")
    repo.git("commit", "-qm", "a model")
    assert repo.blob("HEAD:model.safetensors").startswith(b"git-theta manifest ")
    assert said(repo, "fsck")[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_link_to_a_tracked_model_is_fine(repo: Repo) -> None:
    repo.commit("model", model__safetensors=model(1))
    (repo.path / "sub").mkdir()
    (repo.path / "sub" / "latest.safetensors").symlink_to("../model.safetensors")
    assert said(repo, "add", "sub/latest.safetensors") == (0, "")
    assert "symbolic" not in said(repo, "track", "*.safetensors")[1]
    assert said(repo, "fsck")[0] == 0
    assert "latest" not in said(repo, "ls-files")[1]
    assert "latest" not in said(repo, "ls-files", "sub")[1]
    repo.git("commit", "-qm", "a link")
    assert "latest" not in said(repo, "ls-files", "HEAD")[1]
    bare = repo.path.parent / "bare.git"
    repo.git("clone", "-q", "--bare", str(repo.path), str(bare))
    assert "symbolic" not in said(repo.at(bare), "ls-files")[1]


# Hooks that send nothing


def husky(repo: Repo) -> Path:
    """A hooks folder of the user's choice, as husky makes one."""
    folder = repo.path / ".husky"
    folder.mkdir()
    (folder / "pre-push").write_text("#!/usr/bin/env sh\necho tests pass\n")
    (folder / "pre-push").chmod(0o755)
    repo.git("config", "core.hooksPath", ".husky")
    return folder / "pre-push"


def delivered(world: World, repo: Repo, seed: int) -> bool:
    """Whether a push of a new version brings its objects along."""
    repo.commit("next", model__safetensors=model(seed))
    repo.git("push", "-q", "origin", "main")
    return needed_by(repo, "HEAD") <= world.objects()


@pytest.mark.parametrize("cause", ["husky", "absent", "off"])
def test_env_tells_of_a_hook_that_sends_nothing(world: World, one: Repo, cause: str) -> None:
    assert problems(one) == []
    hook = one.common / "hooks" / "pre-push"
    if cause == "husky":
        hook = husky(one)
    elif cause == "absent":
        hook.unlink()
    else:
        hook.chmod(0o644)
    (found,) = problems(one)
    assert "pushes would leave the models' objects behind" in found
    assert str(hook) in found
    assert "'git theta install'" in found
    if cause == "husky":
        assert "does not call Git-Theta" in said(one, "track", "*.safetensors")[1]
        assert not delivered(world, one, 2)  # it is true
        assert "does not call Git-Theta" in said(one, "push")[1]
    one.theta("install", "--local")
    assert problems(one) == []
    assert delivered(world, one, 3)
    if cause == "husky":
        assert "tests pass" in hook.read_text()


def test_a_hook_that_the_user_looks_after(one: Repo) -> None:
    husky(one)
    one.git("config", "theta.hook", "manual")
    assert problems(one) == []
    assert "does not call" not in said(one, "track", "*.safetensors")[1]


@needs_git_lfs
def test_git_lfs_update_takes_the_hook_away(world: World, one: Repo) -> None:
    one.git("lfs", "update", "--force")
    hook = one.common / "hooks" / "pre-push"
    assert "git theta" not in hook.read_text()
    (found,) = problems(one)
    assert "is the one of git-lfs and does not call Git-Theta" in found
    one.theta("install", "--local")
    assert problems(one) == []
    assert "git lfs pre-push" in hook.read_text()
    assert delivered(world, one, 3)
