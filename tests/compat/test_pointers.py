"""Objects that forges keep: what their collectors would delete after each kind of push."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import serving
import sharing
from dying import killed
from gitrepo import PATIENCE, Repo
from http_world import (
    SECRET,
    GitServer,
    HttpWorld,
    collected_by_gitea,
    collected_by_gitlab,
    git_server,
    needed_sizes,
)
from sharing import changed, model

pytest.importorskip("giftless", reason="giftless is the Git LFS server")
pytest.importorskip("jwt", reason="giftless takes its tokens")
if shutil.which("git-lfs") is None:
    pytest.skip("git-lfs is not installed", allow_module_level=True)

REF = "refs/theta/objects"
BRANCH = "refs/heads/theta/objects"
REPOSITORY = "git_theta.git.writing.pointer_repository"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("lfs-server")
    with serving.lfs(folder, SECRET) as port:
        yield port, folder


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environment: Mapping[str, str],
    server: tuple[int, Path],
) -> Iterator[HttpWorld]:
    own = {**environment, "GIT_DEFAULT_HASH": getattr(request, "param", "sha1")}
    with serving.proxy(server[0]) as between:
        yield HttpWorld(tmp_path, sharing.with_program(own, tmp_path / "bin"), between, server[1])


@pytest.fixture
def one(world: HttpWorld) -> Repo:
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    return repo


def remote(world: HttpWorld) -> Repo:
    return Repo(world.remote, world.environment)


def assert_kept(world: HttpWorld, bare: Repo | None = None) -> dict[str, int]:
    """Every object that the remote's commits need is there, and no collector deletes any."""
    there = bare or remote(world)
    there.git("gc", "-q", "--prune=now")
    needed = needed_sizes(there)
    assert needed
    assert needed.keys() <= world.objects()
    assert collected_by_gitlab(there, set(needed)) == set()
    assert collected_by_gitea(there, needed) == set()
    return needed


def test_every_push_names_its_objects(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    first = assert_kept(world)
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    assert len(assert_kept(world)) > len(first)
    assert remote(world).git("rev-list", "--count", REF).strip() == b"2"
    assert b"[skip ci]" in remote(world).git("log", "-1", "--format=%s", REF)


def test_nothing_of_it_shows_in_a_clone(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "-u", "origin", "main")
    two = world.clone("two")
    for repo in (one, two):
        repo.git("fetch", "-q", "origin")
        assert b"theta" not in repo.git("branch", "-a")
        assert repo.git("log", "--all", "--format=%s").split() == [b"first", b"attributes"]
        assert b"theta" not in repo.git("for-each-ref")
        repo.assert_clean()


def test_a_second_clone_adds_what_is_new_alone(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    two.commit("second", model__safetensors=changed(model(1), 0, 7))
    two.git("push", "-q", "origin", "main")
    assert_kept(world)
    new = remote(world).git("ls-tree", "--name-only", REF).split()
    assert len(new) == len(needed_sizes(two, "HEAD").keys() - needed_sizes(two, "HEAD~1").keys())


def named_at(bare: Repo, ref: str = REF) -> set[str]:
    """The ids in the pointers of a ref's whole history."""
    found = set()
    for line in bare.git("rev-list", "--objects", "--no-object-names", ref).decode().split():
        if bare.git("cat-file", "-t", line) == b"blob\n":
            found.add(
                bare.git("cat-file", "blob", line).split()[3].decode().removeprefix("sha256:")
            )
    return found


@pytest.mark.parametrize("world", ["sha1", "sha256"], indirect=True)
def test_no_way_of_pushing_leaves_an_object_to_collectors(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    assert_kept(world)
    # A branch, force pushed
    one.git("checkout", "-q", "-b", "side")
    one.commit("b", model__safetensors=changed(model(1), 1, 11))
    one.git("push", "-q", "origin", "side")
    assert_kept(world)
    one.git("reset", "-q", "--hard", "main")
    one.commit("c", model__safetensors=changed(model(1), 2, 12))
    one.git("push", "-q", "--force", "origin", "side")
    assert_kept(world)
    # Rebased
    one.git("checkout", "-q", "main")
    one.commit("d", other__safetensors=model(5))
    one.git("push", "-q", "origin", "main")
    one.git("rebase", "-q", "main", "side")
    one.git("push", "-q", "--force", "origin", "side")
    assert_kept(world)
    # Squashed, and the branch deleted
    one.git("checkout", "-q", "main")
    one.git("merge", "-q", "--squash", "side")
    one.git("commit", "-qm", "squashed")
    one.git("push", "-q", "origin", "main")
    one.git("push", "-q", "origin", ":side")
    assert_kept(world)
    # Without the hook, then with it
    one.commit("e", model__safetensors=changed(model(1), 3, 13))
    one.git("push", "-q", "--no-verify", "origin", "main")
    one.git("rm", "-q", "model.safetensors")
    one.commit("f", third__safetensors=model(9))
    one.git("push", "-q", "origin", "main")
    assert_kept(world)


def test_a_fork_has_all_pointers_where_they_are_in_a_branch_or_a_tag(
    world: HttpWorld, one: Repo
) -> None:
    for mode in ("branch", "tag"):
        one.git("config", "theta.pointers", mode)
        for seed in (21, 22):
            one.commit(f"{mode} {seed}", model__safetensors=changed(model(1), 0, seed))
            one.git("push", "-q", "origin", "main")
        fork = sharing.clone(world.url, world.folder / mode, world.environment, "--bare")
        assert_kept(world, fork)


def test_a_mirror_push_from_a_working_clone_is_made_good_by_the_next_push(
    world: HttpWorld, one: Repo
) -> None:
    one.git("push", "-q", "origin", "main")
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    one.git("push", "-q", "--mirror", "origin")
    assert REF not in world.refs()
    one.git("commit", "-q", "--allow-empty", "-m", "no model")
    one.git("push", "-q", "origin", "main")
    assert_kept(world)
    # The setting that has every push mirror
    one.git("config", "remote.origin.mirror", "true")
    one.commit("third", model__safetensors=changed(model(1), 0, 8))
    one.run(["git", "push", "origin"])
    one.git("config", "--unset", "remote.origin.mirror")
    one.git("commit", "-q", "--allow-empty", "-m", "no model")
    one.git("push", "-q", "origin", "main")
    assert_kept(world)


def test_a_ref_made_anew_by_another_clone_is_completed(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    before = named_at(remote(world))
    two = world.clone("two")
    remote(world).git("update-ref", "-d", REF)
    two.commit("second", model__safetensors=changed(model(1), 0, 7))
    two.git("push", "-q", "origin", "main")
    one.git("pull", "-q", "--ff-only", "origin", "main")
    one.git("commit", "-q", "--allow-empty", "-m", "no model")
    one.git("push", "-q", "origin", "main")
    assert named_at(remote(world)) >= before
    assert_kept(world)


@pytest.mark.parametrize(
    "step",
    [
        ("git_theta.workflows.sharing.push", "deliver"),
        (REPOSITORY, "PointerRepository.prepare"),
        (REPOSITORY, "PointerRepository.commit"),
        (REPOSITORY, "PointerRepository.push"),
        (REPOSITORY, "PointerRepository.remember"),
    ],
    ids=lambda step: step[1],
)
def test_a_push_that_is_killed_is_completed_by_the_next(
    world: HttpWorld, one: Repo, step: tuple[str, str]
) -> None:
    killed(one, *step, 1, "push", "origin")
    one.git("push", "-q", "origin", "main")
    assert_kept(world)
    one.assert_clean()


PUSHERS = 5


def test_pushers_race(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    clones = [world.clone(f"clone{number}") for number in range(PUSHERS)]
    for number, repo in enumerate(clones):
        repo.git("checkout", "-q", "-b", f"branch{number}")
        repo.commit("own", model__safetensors=changed(model(1), 0, 100 + number))
    pushes = [
        subprocess.Popen(
            ["git", "push", "-q", "origin", "HEAD"],
            cwd=repo.path,
            env=repo.environment,
            stderr=subprocess.PIPE,
        )
        for repo in clones
    ]
    for push in pushes:
        _, said = push.communicate(timeout=PATIENCE)
        assert push.returncode == 0, said.decode()
        assert b"warning" not in said
    assert_kept(world)
    history = remote(world).git("rev-list", "--parents", REF).splitlines()
    assert len(history) == PUSHERS + 1
    assert all(len(line.split()) <= 2 for line in history)  # no merge


# What a push asks of its surroundings


class Ssh:
    """A remote that is reached by a program in place of ssh, which counts its calls."""

    def __init__(self, world: HttpWorld, host: str) -> None:
        self.url = f"ssh://git@{host}{world.remote}"
        self.calls = world.folder / "calls"
        self.script = world.folder / "ssh.sh"
        self.script.write_text(
            f'#!/bin/sh\necho "$@" >> {shlex.quote(str(self.calls))}\n'
            'for last; do :; done\nexec sh -c "$last"\n'
        )
        self.script.chmod(0o755)

    def connect(self, repo: Repo) -> Repo:
        repo.git("remote", "set-url", "origin", self.url)
        return repo.under({"GIT_SSH_COMMAND": str(self.script), "GIT_SSH_VARIANT": "ssh"})

    def count(self) -> int:
        number = len(self.calls.read_text().splitlines()) if self.calls.exists() else 0
        self.calls.unlink(missing_ok=True)
        return number


def test_a_push_connects_once_more_and_three_times_in_a_race(world: HttpWorld, one: Repo) -> None:
    ssh = Ssh(world, "example.org")
    two = ssh.connect(world.start("two"))
    one = ssh.connect(one)
    one.git("push", "-q", "origin", "main")
    assert ssh.count() == 2
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    assert ssh.count() == 2
    two.commit("other", model__safetensors=model(3))
    two.git("push", "-q", "origin", "main:other")  # it does not know the ref yet: a race
    assert ssh.count() == 4
    one.commit("third", model__safetensors=changed(model(1), 0, 8))
    one.git("push", "-q", "origin", "main")
    assert ssh.count() == 4
    assert_kept(world)


REFUSES = """\
#!/bin/sh
case "$1" in refs/heads/main) ;; *) echo "only main is welcome" >&2; exit 1;; esac
"""


def refuse(world: HttpWorld) -> None:
    hook = world.remote / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(REFUSES)
    hook.chmod(0o755)


def test_a_server_that_refuses_the_ref_is_reported_once(world: HttpWorld, one: Repo) -> None:
    refuse(world)
    said = one.run(["git", "push", "origin", "main"])
    assert said.returncode == 0
    assert said.stderr.count(b"did not take the Git LFS pointers") == 1
    assert b"only main is welcome" in said.stderr
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    said = one.run(["git", "push", "origin", "main"])
    assert said.returncode == 0
    assert b"pointers" not in said.stderr
    assert REF not in world.refs()
    (world.remote / "hooks" / "update").unlink()  # it changes its mind
    one.git("commit", "-q", "--allow-empty", "-m", "no model")
    one.git("push", "-q", "origin", "main")
    assert_kept(world)


@pytest.mark.parametrize("host", ["gitlab.com", "gitlab.example.org", "huggingface.co"])
def test_hosts_that_collect_and_refuse_fail_the_push(
    world: HttpWorld, one: Repo, host: str
) -> None:
    one = Ssh(world, host).connect(one)
    refuse(world)
    said = one.git_fails("push", "origin", "main")
    assert "theta.pointers off" in said
    assert "only main is welcome" in said
    assert world.refs() == ""
    (world.remote / "hooks" / "update").unlink()
    one.git("push", "-q", "origin", "main")
    assert BRANCH in world.refs()
    assert_kept(world)
    refuse(world)
    one.git("config", "theta.pointers", "off")
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")


CHECKS_OBJECTS = """\
#!/bin/sh
while read old new ref; do
    for blob in $(git rev-list --objects --no-object-names $new --not --all); do
        oid=$(git cat-file blob $blob 2>/dev/null | sed -n 's/^oid sha256://p')
        [ -z "$oid" ] || [ -n "$(find %s -name $oid)" ] || { echo "objects are missing"; exit 1; }
    done
done
"""


def test_a_server_that_checks_objects_and_lost_some_gets_what_is_needed(
    world: HttpWorld, one: Repo
) -> None:
    """As GitLab: it takes no pointer without its object."""
    world.storage.mkdir(parents=True, exist_ok=True)
    hook = world.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(CHECKS_OBJECTS % shlex.quote(str(world.storage)))
    hook.chmod(0o755)
    one.git("checkout", "-q", "-b", "side")
    one.commit("gone", model__safetensors=changed(model(1), 0, 6))
    one.git("push", "-q", "origin", "main", "side")
    gone = needed_sizes(one, "side").keys() - needed_sizes(one, "main").keys()
    assert_kept(world)
    remote(world).git("update-ref", "-d", REF)
    for path in world.storage.rglob("*"):
        if path.name in gone:
            path.unlink()
    one.git("checkout", "-q", "main")
    remote(world).git("branch", "-D", "side")
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    assert_kept(world)
    assert not named_at(remote(world)) & gone


def test_a_branch_in_the_way_is_reported(world: HttpWorld, one: Repo) -> None:
    remote(world).git("fast-import", "--quiet", stdin=IN_THE_WAY)
    one.git("config", "theta.pointers", "branch")
    said = one.run(["git", "push", "origin", "main"])
    assert said.returncode == 0
    assert said.stderr.count(b"did not take the Git LFS pointers") == 1


IN_THE_WAY = b"commit refs/heads/theta\ncommitter A <a@b> 1 +0000\ndata 1\nx\n\n"

OPTIONS = """\
#!/bin/sh
while read old new ref; do echo "$ref ${GIT_PUSH_OPTION_COUNT:-0}" >> options; done
"""


def test_push_options_and_other_settings_are_for_the_user_own_refs(
    world: HttpWorld, one: Repo
) -> None:
    hook = world.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(OPTIONS)
    hook.chmod(0o755)
    remote(world).git("config", "receive.advertisePushOptions", "true")
    for key, text in {
        "push.pushOption": "ci.skip",
        "push.followTags": "true",
        "push.gpgSign": "if-asked",
        "push.default": "matching",
        "fetch.prune": "true",
        "fetch.fsckObjects": "true",
        f"url.{world.url}-none.pushInsteadOf": world.url,
        "url.nowhere:.insteadOf": "git-theta",
    }.items():
        one.git("config", key, text)
    one.git("remote", "set-url", "--push", "origin", world.url)
    hooks = one.common / "hooks" / "reference-transaction"
    hooks.write_text("#!/bin/sh\necho $GIT_DIR >> ../ran; exit 0\n")
    hooks.chmod(0o755)
    one.git("tag", "-am", "v1", "v1")
    one.git("push", "-q", "origin", "main")
    seen = (world.remote / "options").read_text().splitlines()
    assert f"{REF} 0" in seen
    assert "refs/heads/main 1" in seen
    assert_kept(world)


@pytest.mark.parametrize("way", ["helper", "no helper", "config", "command", "worktree"])
def test_credentials_reach_the_pointers(world: HttpWorld, one: Repo, way: str) -> None:
    remote(world).git("config", "http.receivepack", "true")
    with git_server(world.folder) as server:
        one.git("remote", "set-url", "origin", server.url(world.remote))
        command = one
        if way in ("helper", "no helper"):
            if way == "no helper":
                one.git("config", f"credential.{server.root}.helper", "")
            command = one.under({"GIT_ASKPASS": str(askpass(world, server))})
            command.git("push", "-q", "origin", "main")
            asked = (world.folder / "asked").read_text().splitlines()
            # Name and password: once if a helper keeps them, else once for each connection
            assert len(asked) == (2 if way == "helper" else 4)
        elif way == "config":
            one.git("config", f"http.{server.root}.extraHeader", server.header)
            one.git("push", "-q", "origin", "main")
        elif way == "worktree":
            one.git("config", "extensions.worktreeConfig", "true")
            one.git("config", "--worktree", f"http.{server.root}.extraHeader", server.header)
            one.git("push", "-q", "origin", "main")
        else:
            setting = f"http.{server.root}.extraHeader={server.header}"
            one.git("-c", setting, "push", "-q", "origin", "main")
    assert_kept(world)


def askpass(world: HttpWorld, server: GitServer) -> Path:
    """A program that answers what git asks for, and counts."""
    script = world.folder / "askpass.sh"
    script.write_text(
        f'#!/bin/sh\necho "$1" >> {shlex.quote(str(world.folder / "asked"))}\n'
        f'case "$1" in User*) echo {server.user};; *) echo {server.password};; esac\n'
    )
    script.chmod(0o755)
    return script


# What stands at the remote was written by others


HOSTILE = b"""\
commit refs/theta/objects
committer A <a@b> 1 +0000
data 1
x
M 100644 inline ../../escape
data 4
evil
M 120000 inline 0
data 11
/etc/passwd
M 100644 inline deep/er/.git/config
data 5
[core
M 100644 inline .gitattributes
data 13
* filter=evil

done
"""


def test_a_hostile_history_is_never_checked_out_and_changes_nothing(
    world: HttpWorld, one: Repo
) -> None:
    text = HOSTILE.replace(b"../../escape", b"escape").replace(b".git/config", b"config")
    many = b"".join(
        b"M 100644 inline x%d\ndata 3\nn%02d\n" % (number, number % 100) for number in range(20000)
    )
    text = text.replace(b"\n\ndone\n", b"\n" + many + b"\ndone\n")
    remote(world).git("fast-import", "--quiet", "--done", stdin=text)
    hostile = remote(world).git("rev-parse", REF)
    one.git("push", "-q", "origin", "main")
    assert remote(world).git("rev-parse", f"{REF}~1") == hostile
    assert_kept(world)
    one.assert_clean()


def test_a_ref_that_is_not_a_commit_is_reported(world: HttpWorld, one: Repo) -> None:
    blob = remote(world).git("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    remote(world).git("update-ref", REF, blob)
    said = one.run(["git", "push", "origin", "main"])
    assert said.returncode == 0
    assert b"is not a commit" in said.stderr


# Other tools


def test_standard_tools_alone_move_a_repository(
    world: HttpWorld,
    one: Repo,
    tmp_path: Path,
    environment: Mapping[str, str],
    server: tuple[int, Path],
) -> None:
    versions = [model(1), changed(model(1), 0, 7), changed(model(1), 0, 8)]
    for number, data in enumerate(versions[1:]):
        one.commit(str(number), model__safetensors=data)
    one.git("push", "-q", "origin", "main")
    with serving.proxy(server[0]) as between:
        (tmp_path / "new").mkdir()
        own = sharing.with_program(environment, tmp_path / "new" / "bin")
        new = HttpWorld(tmp_path / "new", own, between, server[1])
        mirror = sharing.clone(world.url, tmp_path / "m.git", world.environment, "--mirror")
        mirror.git("lfs", "fetch", "--all", "origin")
        mirror = Repo(mirror.path, new.environment)
        mirror.git("lfs", "install", "--local")
        mirror.git("push", "-q", "--mirror", new.url)
        assert_kept(new)
        clone = new.clone("clone")
        for back, data in enumerate(reversed(versions)):
            clone.git("checkout", "-q", f"main~{back}" if back else "main")
            assert clone.read("model.safetensors") == data


def test_push_all_names_what_was_pushed_without_pointers(world: HttpWorld, one: Repo) -> None:
    one.git("config", "theta.pointers", "off")
    one.git("push", "-q", "origin", "main")
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    assert REF not in world.refs()
    two = world.clone("two")
    two.theta("push", "--all")
    assert_kept(world)


def test_fsck_names_objects_without_a_pointer(world: HttpWorld, one: Repo) -> None:
    one = Ssh(world, "gitlab.com").connect(one)
    one.git("config", "theta.pointers", "off")
    one.git("push", "-q", "origin", "main")
    one.theta("fsck", "--remote")  # the user does without
    one.git("config", "--unset", "theta.pointers")
    said = one.theta_run("fsck", "--remote")
    assert said.returncode == 1
    for oid in needed_sizes(one):
        assert b"unnamed  object %s" % oid.encode() in said.stdout
    assert b"git theta push --all" in said.stderr
    one.theta("push", "--all")
    one.theta("fsck", "--remote")
    assert_kept(world)


def test_objects_of_a_fork_are_carried_to_the_target(
    world: HttpWorld,
    one: Repo,
    tmp_path: Path,
    environment: Mapping[str, str],
    server: tuple[int, Path],
) -> None:
    """The steps of docs/sharing.md for a merge request from a fork."""
    one.git("push", "-q", "origin", "main")
    with serving.proxy(server[0]) as between:
        (tmp_path / "new").mkdir()
        own = sharing.with_program(environment, tmp_path / "new" / "bin")
        target = HttpWorld(tmp_path / "new", own, between, server[1])
        with target.credentials.open("a") as file:
            file.write(world.credentials.read_text())
        config = Path(target.environment["GIT_CONFIG_GLOBAL"])
        text = config.read_text()
        url = next(line.split()[2] for line in text.splitlines() if "/info/lfs" in line)
        config.write_text(text.replace(f"url = {url}", ""))
        (tmp_path / "carry").mkdir()
        carry = Repo(tmp_path / "carry", target.environment)
        carry.git("init", "-q")
        for name, place, lfs in (
            ("origin", target.url, url),
            ("fork", world.url, one.git("config", "lfs.url").decode().strip()),
        ):
            carry.git("remote", "add", name, place)
            carry.git("config", f"remote.{name}.lfsurl", lfs)
        carry.git("fetch", "-q", "fork", "main")
        carry.theta("push", "origin", "FETCH_HEAD")
        needed = needed_sizes(one)
        assert needed.keys() == target.objects() == named_at(remote(target))
