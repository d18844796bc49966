"""Push, fetch, clone: a bare repository over file://, and git-lfs with a server of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, model, needed_by, objects_at
from small_models import safetensors_file

if shutil.which("git-lfs") is None:
    pytest.skip("git-lfs is not installed", allow_module_level=True)

ALL_ZERO = "0" * 40


@pytest.fixture
def folder(tmp_path: Path, environment: Mapping[str, str]) -> World:
    """A remote that is a folder and keeps its objects itself."""
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.fixture(params=[False, True], ids=["folder", "git-lfs"])
def world(request: pytest.FixtureRequest, tmp_path: Path, environment: Mapping[str, str]) -> World:
    """Either kind of remote."""
    return World(
        tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=request.param
    )


@pytest.fixture
def server(tmp_path: Path, environment: Mapping[str, str]) -> World:
    """A remote whose objects are at a Git LFS server."""
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=True)


def test_push_and_clone_give_the_same_bytes(world: World) -> None:
    one = world.start()
    data = model(1)
    one.commit("first", model__safetensors=data)
    one.git("push", "-q", "-u", "origin", "main")
    assert world.objects() == one.object_ids() == needed_by(one, "HEAD")
    two = world.clone("two")
    assert two.read("model.safetensors") == data
    two.assert_clean()
    assert two.object_ids() == one.object_ids()
    for repo in (one, two):
        assert not list(repo.common.glob("lfs/objects/*/*/*"))  # the dock is empty again


def test_only_new_objects_are_sent(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    new = one.commit("second", model__safetensors=changed(model(1), 2, 9))
    added = needed_by(one, new) - needed_by(one, "HEAD~1")
    assert world.objects().isdisjoint(added)
    if world.server != world.remote:  # a folder is looked at, and whatever it lacks is sent
        world.forget_objects()
    else:
        for path in world.remote.glob("theta/objects/*/*/*"):
            shutil.copy(path, path.with_suffix(".copy"))
            path.with_suffix(".copy").replace(path)
    one.git("push", "-q", "origin", "main")
    # A new one is a link to ours
    sent = {path.name for path in world.server.glob("*/objects/*/*/*") if path.stat().st_nlink > 1}
    assert sent & world.objects() == added != set()


def test_pull_brings_what_a_colleague_pushed(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    newer = changed(model(1), 3, 5)
    two.commit("second", model__safetensors=newer)
    two.git("push", "-q", "origin", "main")
    one.git("pull", "-q", "--ff-only", "origin", "main")
    assert one.read("model.safetensors") == newer
    one.assert_clean()


@pytest.fixture(scope="module", params=[False, True], ids=["folder", "git-lfs"])
def apart_once(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    environment: Mapping[str, str],
) -> World:
    folder = tmp_path_factory.mktemp("once")
    programs = sharing.with_program(environment, folder / "bin")
    world = World(folder, programs, server=request.param)
    one = world.start()
    one.commit("base", model__safetensors=model(1), other__safetensors=model(2))
    one.git("push", "-q", "origin", "main")
    one.git("checkout", "-q", "-b", "side")
    one.commit("side", other__safetensors=changed(model(2), 0, 3))
    one.git("checkout", "-q", "main")
    one.commit("main", model__safetensors=changed(model(1), 1, 4))
    return world


@pytest.fixture
def apart(apart_once: World, tmp_path: Path) -> World:
    """The remote has what 'main' and 'side' of clone 'one' began with."""
    return apart_once.copy(tmp_path / "world")


@pytest.mark.parametrize(
    "kind",
    [
        "new-branch",
        "tag",
        "annotated-tag",
        "merge",
        "squash",
        "amend",
        "rebase",
        "orphan",
        "delete-and-push",
    ],
)
def test_every_way_to_bring_commits_to_a_remote(apart: World, kind: str) -> None:
    one = Repo(apart.folder / "one", apart.environment)
    push = ["push", "-q", "origin", "main"]
    if kind == "new-branch":
        push = ["push", "-q", "origin", "side:refs/heads/someone/else"]
    elif kind == "tag":
        one.git("tag", "v1", "side")
        push = ["push", "-q", "origin", "v1"]
    elif kind == "annotated-tag":
        one.git("tag", "-a", "-m", "one", "v1", "side")
        push = ["push", "-q", "origin", "v1"]
    elif kind == "merge":
        one.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    elif kind == "squash":
        one.git("merge", "-q", "--squash", "side")
        one.git("commit", "-qm", "squashed")
        one.git("branch", "-D", "side")
    elif kind == "amend":
        one.git("push", "-q", "origin", "main")
        one.write("model.safetensors", changed(model(1), 2, 7))
        one.git("commit", "-qa", "--amend", "-m", "amended")
        push = ["push", "-q", "--force", "origin", "main"]
    elif kind == "rebase":
        one.git("checkout", "-q", "side")
        one.git("rebase", "-q", "main")
        push = ["push", "-q", "origin", "side", "main"]
    elif kind == "orphan":
        one.git("checkout", "-q", "--orphan", "fresh")
        one.commit("fresh", model__safetensors=model(8))
        push = ["push", "-q", "origin", "fresh"]
    elif kind == "delete-and-push":
        one.git("push", "-q", "origin", "main:refs/heads/old")
        push = ["push", "-q", "origin", ":old", "side"]
    one.git(*push)
    apart.assert_complete()
    clone = apart.clone("two", "--no-checkout")
    for branch in (
        clone.git("for-each-ref", "--format=%(refname)", "refs/remotes", "refs/tags")
        .decode()
        .split()
    ):
        clone.git("checkout", "-q", "--detach", branch)
        clone.assert_clean()


def test_deleting_a_branch_needs_nothing(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main", "main:other")
    shutil.rmtree(one.store)
    one.git("push", "-q", "origin", "--delete", "other")
    assert "other" not in world.refs()


def test_a_push_whose_objects_are_missing_moves_no_ref(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    victim = sorted(one.object_ids())[0]
    path = one.objects()[victim]
    saved = path.read_bytes()
    path.chmod(0o644)
    path.unlink()
    said = one.git_fails("push", "origin", "main")
    assert "model.safetensors" in said
    assert victim in said
    assert one.git("rev-parse", "--short", "HEAD").decode().strip() in said
    assert world.refs() == ""
    path.write_bytes(saved)
    one.git("push", "-q", "origin", "main")
    world.assert_complete()


def test_a_damaged_object_is_never_sent(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    victim = sorted(one.objects().values())[0]
    good = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said = one.git_fails("push", "origin", "main")
    assert victim.name in said
    assert "damaged" in said
    assert world.refs() == ""
    assert victim.name not in world.objects()


def test_a_remote_that_cannot_store_objects_gets_no_ref(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    way = world.server / ("theta" if world.server == world.remote else "lfs")
    way.write_bytes(b"in the way")
    said = one.git_fails("push", "origin", "main")
    assert "could not deliver" in said
    assert world.refs() == ""
    way.unlink()
    one.git("push", "-q", "origin", "main")
    world.assert_complete()


def test_lfs_storage_on_the_command_line_is_refused(server: World) -> None:
    """git-lfs hands the setting on to the remote's side, reports success and delivers nothing."""
    one = server.start()
    one.commit("first", model__safetensors=model(1))
    said = one.git_fails(
        "-c", f"lfs.storage={server.folder / 'elsewhere'}", "push", "-q", "origin", "main"
    )
    assert "lfs.storage" in said
    assert server.refs() == ""
    one.git("push", "-q", "origin", "main")
    server.assert_complete()


@pytest.mark.parametrize("storage", ["relative", "absolute"])
def test_lfs_storage_in_the_config_is_respected(server: World, storage: str) -> None:
    chosen = "my-lfs" if storage == "relative" else str(server.folder / "my-lfs")
    one = server.start()
    one.git("config", "lfs.storage", chosen)
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    server.assert_complete()
    two = server.clone("two", "-c", f"lfs.storage={chosen}")
    assert two.read("model.safetensors") == model(1)


def test_a_push_by_url_and_by_relative_path(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "../remote.git", "main:by-path")
    folder.assert_complete()
    one.commit("second", model__safetensors=changed(model(1), 1, 2))
    one.git("push", "-q", folder.url, "main:by-url")
    folder.assert_complete()
    other = sharing.bare(folder.folder / "other.git", folder.environment)
    one.git("remote", "add", "relative", "../other.git")
    one.git("push", "-q", "relative", "main")
    assert objects_at(folder.folder / "other.git") == needed_by(one, "HEAD", "HEAD~1")
    assert other.endswith("other.git")
    third = folder.folder / "third.git"
    one.git("push", "-q", sharing.bare(third, folder.environment), "main")
    assert objects_at(third) == needed_by(one, "HEAD", "HEAD~1")


def test_insteadof_and_pushurl_lead_to_the_right_place(folder: World) -> None:
    one = folder.start()
    one.git("remote", "set-url", "origin", "short:remote.git")
    one.git("config", f"url.{folder.folder.as_uri()}/.insteadOf", "short:")
    second = folder.folder / "second.git"
    sharing.bare(second, folder.environment)
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    one.git("remote", "set-url", "--push", "origin", second.as_uri())
    one.commit("second", model__safetensors=changed(model(1), 1, 2))
    one.git("push", "-q", "origin", "main:new")
    assert needed_by(one, "HEAD") - needed_by(one, "HEAD~1") <= objects_at(second)


def test_the_first_push_to_a_second_remote_sends_everything(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    one.git("push", "-q", "origin", "main")
    fork = folder.folder / "fork.git"
    one.git("remote", "add", "fork", sharing.bare(fork, folder.environment))
    one.git("push", "-q", "fork", "main")
    assert objects_at(fork) == needed_by(one, "HEAD", "HEAD~1")


def test_an_object_that_a_folder_lost_is_sent_again(folder: World) -> None:
    one = folder.start()
    tensors = {
        f"t{number:03}": np.random.default_rng(number).standard_normal(100).astype(np.float32)
        for number in range(80)
    }
    one.commit("first", model__safetensors=safetensors_file(tensors))
    one.git("push", "-q", "origin", "main")
    relied = [
        ref.oid for entry in one.manifest("HEAD:model.safetensors").entries for ref in entry.objects
    ][1:]
    for number, oid in enumerate(relied[20:23]):
        next(folder.remote.glob(f"theta/objects/*/*/{oid}")).unlink()
        one.commit(
            "next",
            model__safetensors=safetensors_file(
                {**tensors, "t000": tensors["t000"] + np.float32(number + 1)}
            ),
        )
        one.git("push", "-q", "origin", "main")
        assert oid in folder.objects()
        folder.assert_complete()


def test_what_is_not_here_is_fetched_for_a_push_to_another_remote(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.commit("second", model__safetensors=model(2))
    one.git("push", "-q", "origin", "main")
    two = folder.clone("two")
    assert not needed_by(two, "HEAD~1") <= two.object_ids()
    fork = folder.folder / "fork.git"
    two.git("remote", "add", "fork", sharing.bare(fork, folder.environment))
    two.git("push", "-q", "fork", "main")
    assert objects_at(fork) == needed_by(one, "HEAD", "HEAD~1")


def test_a_merge_of_manifests_alone_can_be_pushed(world: World) -> None:
    one = world.start()
    one.commit("base", model__safetensors=model(1), other__safetensors=model(2))
    one.git("push", "-q", "origin", "main", "main:side")
    one.git("checkout", "-q", "-b", "side")
    one.commit("side", other__safetensors=model(3))
    one.git("push", "-q", "origin", "side")
    one.git("checkout", "-q", "main")
    one.commit("main", model__safetensors=model(4))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
    two.git("merge", "-q", "-m", "merge", "origin/side", GIT_THETA_SKIP_SMUDGE="1")
    assert two.object_ids() == set()
    two.git("push", "-q", "origin", "main")
    world.assert_complete()
    assert two.object_ids() == set()


def test_a_shallow_clone_can_push(world: World) -> None:
    one = world.start()
    for seed in range(4):
        one.commit(str(seed), model__safetensors=model(seed))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two", "--depth", "1")
    two.commit("more", model__safetensors=changed(model(3), 0, 9))
    two.git("push", "-q", "origin", "main")
    world.assert_complete()


def test_a_partial_clone_can_push(folder: World) -> None:
    Repo(folder.remote, folder.environment).git("config", "uploadpack.allowFilter", "true")
    one = folder.start()
    for seed in range(4):
        one.commit(str(seed), model__safetensors=model(seed))
    one.git("push", "-q", "origin", "main")
    two = folder.clone("two", "--filter=blob:none")
    two.commit("more", model__safetensors=changed(model(3), 0, 9))
    two.git("push", "-q", "origin", "main")
    folder.assert_complete()
    fork = folder.folder / "fork.git"
    two.git("remote", "add", "fork", sharing.bare(fork, folder.environment))
    two.git("push", "-q", "fork", "main")
    assert objects_at(fork) == folder.objects()


def test_a_sha256_repository_and_a_worktree(tmp_path: Path, environment: Mapping[str, str]) -> None:
    environment = sharing.with_program(environment, tmp_path / "bin")
    remote = tmp_path / "remote.git"
    url = sharing.bare(remote, environment, "--object-format=sha256")
    one = Repo.create(tmp_path / "one", environment, "--object-format=sha256")
    one.git("remote", "add", "origin", url)
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    one.git("worktree", "add", "-q", "../tree", "-b", "tree")
    tree = one.at(tmp_path / "tree")
    tree.commit("second", model__safetensors=model(2))
    tree.git("push", "-q", "origin", "tree")
    assert objects_at(remote) == needed_by(one, "main", "tree")
    assert sharing.clone(url, tmp_path / "two", environment, "-b", "tree").read(
        "model.safetensors"
    ) == model(2)


def test_mirror_push_from_a_bare_clone(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    mirror = folder.clone("mirror.git", "--mirror")
    target = folder.folder / "target.git"
    mirror.git("remote", "add", "target", sharing.bare(target, folder.environment))
    mirror.theta("fetch", "--all")
    mirror.theta("push", "target", "--all")
    mirror.git("push", "-q", "--mirror", "target")
    assert objects_at(target) == needed_by(one, "HEAD")


def test_a_clone_fetches_all_files_through_one_git_lfs(server: World) -> None:
    one = server.start()
    files = {f"m{number}__safetensors": model(number) for number in range(5)}
    one.commit("first", **files)
    one.git("push", "-q", "origin", "main")
    log, spy = server.folder / "calls", server.folder / "spy"
    spy.mkdir()
    (spy / "git-lfs").write_text(
        f'#!/bin/sh\necho "$@" >> "{log}"\nexec {shutil.which("git-lfs")} "$@"\n'
    )
    (spy / "git-lfs").chmod(0o755)
    server.environment["PATH"] = f"{spy}:{server.environment['PATH']}"
    two = server.clone("two")
    for name, data in files.items():
        assert two.read(name.replace("__", ".")) == data
    assert [line for line in log.read_text().splitlines() if "filter-process" in line] == [
        "filter-process"
    ]
    two.assert_clean()


def _without_git_lfs(world: World) -> dict[str, str]:
    """The environment of a machine on which git-lfs is not installed."""
    tools = world.folder / "tools"
    tools.mkdir()
    for name in ("git", "sh", "cat", "dirname", "git-upload-pack", "git-receive-pack"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    exec_path = subprocess.run(
        ["git", "--exec-path"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if Path(exec_path, "git-lfs").exists():
        pytest.skip("git-lfs is a part of this git")
    return {**world.environment, "PATH": f"{world.folder / 'bin'}:{tools}"}


def test_without_git_lfs_the_message_says_how_to_get_it(server: World) -> None:
    one = server.start()
    one.commit("first", model__safetensors=model(1))
    without = Repo(one.path, _without_git_lfs(server))
    said = without.git_fails("push", "origin", "main")
    assert "git-lfs is not installed" in said
    assert "https://git-lfs.com" in said
    assert server.refs() == ""
    without.commit("local work goes on", model__safetensors=changed(model(1), 0, 77))
    one.git("push", "-q", "origin", "main")
    failed = Repo(server.folder, without.environment).run(["git", "clone", "-q", server.url, "two"])
    assert failed.returncode != 0
    assert b"git-lfs is not installed" in failed.stderr


def test_without_git_lfs_a_folder_can_be_shared(folder: World) -> None:
    folder.environment = _without_git_lfs(folder)
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    assert folder.clone("two").read("model.safetensors") == model(1)


# Hooks


def _hook(repo: Repo) -> Path:
    return repo.common / "hooks" / "pre-push"


def _write_hook(path: Path, text: str, mode: int = 0o755) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path.read_bytes()


SHELL = (
    '#!/bin/bash\nset -eu\ncat > "$(dirname "$0")/$(basename "$0").stdin"\necho "$1 $2" >'
    ' "$(dirname "$0")/pre-push.args"\n'
)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_users_own_hook_runs_with_the_whole_input(folder: World, order: str) -> None:
    one = folder.start()
    hook = _hook(one)
    if order == "after":
        one.commit("first", model__safetensors=model(1))
        ours = hook.read_text()
        _write_hook(hook, ours + SHELL.split("\n", 2)[2])
    else:
        original = _write_hook(hook, SHELL)
        one.commit("first", model__safetensors=model(1))
    one.git("branch", "second")
    one.git("push", "-q", "origin", "main", "second")
    lines = sorted((hook.parent / "pre-push.stdin").read_text().splitlines())
    head = one.head()
    assert lines == [
        f"refs/heads/{name} {head} refs/heads/{name} {ALL_ZERO}" for name in ("main", "second")
    ]
    assert (hook.parent / "pre-push.args").read_text() == f"origin {folder.url}\n"
    folder.assert_complete()
    # Nothing to push: the hook gets nothing, and runs all the same
    one.git("push", "-q", "origin", "main")
    assert (hook.parent / "pre-push.stdin").read_bytes() == b""
    if order == "before":
        one.theta("uninstall", "--local")
        assert hook.read_bytes() == original
        assert hook.stat().st_mode & 0o777 == 0o755
        one.theta("install", "--local")
        one.theta("install", "--local")
        one.theta("uninstall", "--local")
        assert hook.read_bytes() == original


def test_a_users_hook_that_refuses_ends_the_push(folder: World) -> None:
    one = folder.start()
    _write_hook(_hook(one), "#!/bin/sh\necho no >&2\nexit 7\n")
    one.commit("first", model__safetensors=model(1))
    said = one.git_fails("push", "origin", "main")
    assert "no" in said
    assert folder.refs() == ""


@pytest.mark.parametrize("kind", ["python", "symlink", "switched-off", "binary"])
def test_a_hook_that_takes_no_lines_is_moved_aside_and_put_back(folder: World, kind: str) -> None:
    one = folder.start()
    hook = _hook(one)
    python = (
        "#!/usr/bin/env python3\nimport sys,"
        " pathlib\npathlib.Path(__file__).with_name('seen').write_bytes(sys.stdin.buffer.read())\n"
    )
    if kind == "python":
        _write_hook(hook, python)
    elif kind == "symlink":
        _write_hook(folder.folder / "shared-hook", python)
        hook.parent.mkdir(exist_ok=True)
        hook.symlink_to(folder.folder / "shared-hook")
    elif kind == "switched-off":
        _write_hook(hook, "#!/bin/sh\nexit 9\n", 0o644)
    else:
        hook.parent.mkdir(exist_ok=True)
        shutil.copy(shutil.which("true") or "/bin/true", hook)
    before = (hook.read_bytes(), hook.lstat().st_mode, hook.is_symlink(), hook.lstat().st_mtime_ns)
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    seen = (folder.folder if kind == "symlink" else hook.parent) / "seen"
    if kind in ("python", "symlink"):
        assert "refs/heads/main" in (
            seen.read_text() if seen.exists() else (hook.parent / "seen").read_text()
        )
    one.theta("uninstall", "--local")
    assert (
        hook.read_bytes(),
        hook.lstat().st_mode,
        hook.is_symlink(),
        hook.lstat().st_mtime_ns,
    ) == before
    assert not list(hook.parent.glob("*git-theta*"))


def test_git_lfs_own_hook_lives_on(folder: World) -> None:
    one = folder.start()
    one.git("lfs", "install", "--local")
    original = _hook(one).read_bytes()
    one.write(
        ".gitattributes",
        one.read(".gitattributes") + b"*.dat filter=lfs diff=lfs merge=lfs -text\n",
    )
    one.git("add", ".gitattributes")
    one.commit("both", model__safetensors=model(1), big__dat=b"pointer me" * 100)
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    assert len(folder.objects()) == len(one.object_ids()) + 1
    two = folder.clone(
        "two", "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true"
    )
    assert two.read("big.dat") == b"pointer me" * 100
    assert two.read("model.safetensors") == model(1)
    one.theta("uninstall", "--local")
    assert _hook(one).read_bytes() == original


def test_git_lfs_files_are_pushed_though_our_hook_was_first(folder: World) -> None:
    one = folder.start()
    one.commit("ours", model__safetensors=model(1))
    one.run(["git", "lfs", "install", "--local"])  # finds its place taken and says so
    one.git("config", "filter.lfs.process", "git-lfs filter-process")
    one.write(
        ".gitattributes",
        one.read(".gitattributes") + b"*.dat filter=lfs diff=lfs merge=lfs -text\n",
    )
    one.git("add", ".gitattributes")
    one.commit("theirs", big__dat=b"pointer me" * 100)
    one.git("push", "-q", "origin", "main")
    assert len(folder.objects()) == len(one.object_ids()) + 1


def test_hooks_path_inside_the_working_tree_is_left_alone_until_install(folder: World) -> None:
    one = folder.start()
    hook = one.path / ".githooks" / "pre-push"
    original = _write_hook(hook, "#!/bin/sh\nexit 0\n")
    one.git("config", "core.hooksPath", ".githooks")
    one.write("model.safetensors", model(1))
    done = one.run(["git", "add", "model.safetensors"])
    assert b"git theta install" in done.stderr
    assert hook.read_bytes() == original
    assert not _hook(one).exists()
    one.theta("install", "--local")
    assert hook.read_bytes() != original
    one.git("commit", "-qm", "first")
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    one.theta("uninstall", "--local")
    assert hook.read_bytes() == original


def test_hooks_path_of_the_user_gets_the_hook(folder: World) -> None:
    chosen = folder.folder / "my hooks"
    chosen.mkdir()
    one = folder.start()
    one.git("config", "core.hooksPath", str(chosen))
    one.commit("first", model__safetensors=model(1))
    assert (chosen / "pre-push").exists()
    assert not _hook(one).exists()
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()
    one.theta("uninstall", "--local")
    assert list(chosen.iterdir()) == []


def test_a_hook_that_calls_ours_itself_is_left_alone(folder: World) -> None:
    one = folder.start()
    original = _write_hook(_hook(one), '#!/bin/sh\nexec git theta pre-push "$@"\n')
    one.commit("first", model__safetensors=model(1))
    assert _hook(one).read_bytes() == original
    one.git("push", "-q", "origin", "main")
    folder.assert_complete()


def test_a_clone_that_only_checked_out_has_the_hook(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    two = folder.clone("two")
    assert b"theta-hook pre-push" in _hook(two).read_bytes()


def test_push_to_a_remote_on_another_machine_is_not_taken_for_a_folder(folder: World) -> None:
    one = folder.start()
    one.commit("first", model__safetensors=model(1))
    one.git("remote", "add", "far", "https://127.0.0.1:1/none.git")
    done = one.theta_run("push", "far")
    assert done.returncode == 1
    assert b"could not deliver to far" in done.stderr
