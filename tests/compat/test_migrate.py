"""migrate: history from raw files or Git LFS pointers to manifests and back, byte for byte, with
everything else about it as it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from dying import killed
from gitrepo import Repo
from sharing import changed, model
from small_models import torch_file

from git_theta.core.manifest import is_manifest
from git_theta.core.readable.numbers import size

pytest.importorskip("git_filter_repo", reason="git-filter-repo is not installed")

PEOPLE = [
    {
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_AUTHOR_DATE": "1111111111 +0545",
    },
    {
        "GIT_COMMITTER_NAME": "Bea",
        "GIT_COMMITTER_EMAIL": "b@example.com",
        "GIT_COMMITTER_DATE": "1234567890 -1130",
    },
]


def plain(path: Path, environment: Mapping[str, str]) -> Repo:
    """A repository that knows nothing of models."""
    path.mkdir(parents=True)
    repo = Repo(path, environment)
    repo.git("init", "-q", ".")
    return repo


def commit(repo: Repo, message: str, files: Mapping[str, bytes] = {}, **environment: str) -> str:
    for name, data in files.items():
        repo.write(name, data)
    repo.git("add", "-A")
    repo.under(environment).git("commit", "-q", "--allow-empty", "-m", message)
    return repo.head()


def trained(steps: int) -> bytes:
    """A model of which every version changes one tensor more."""
    data = model(1)
    for step in range(steps):
        data = changed(data, step % 6, 100 + step)
    return data


def pointer(data: bytes) -> bytes:
    return (
        "version https://git-lfs.github.com/spec/v1\noid"
        f" sha256:{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n".encode()
    )


def lfs_store(repo: Repo, data: bytes) -> bytes:
    """Put ``data`` where Git LFS keeps it; the pointer to it."""
    oid = hashlib.sha256(data).hexdigest()
    path = repo.common / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return pointer(data)


def expected_files(repo: Repo, revision: str) -> dict[str, bytes]:
    """What a checkout of an original revision holds, Git LFS's files included."""
    found = {}
    for line in (
        repo.git("ls-tree", "-r", "-z", revision).decode("utf-8", "surrogateescape").split("\0")
    ):
        if line and line.startswith("100"):
            head, _, name = line.partition("\t")
            data = repo.git("cat-file", "blob", head.split(" ")[2])
            if data.startswith(b"version https://git-lfs"):
                oid = data.split(b"sha256:")[1][:64].decode()
                data = (repo.common / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes()
            found[name] = data
    return found


def headers(repo: Repo, oid: str) -> list[bytes]:
    """A commit or tag without what names other objects, or signs it."""
    text = repo.git("cat-file", "-p", oid)
    head, _, message = text.partition(b"\n\n")
    kept = [
        line
        for line in head.split(b"\n")
        if not line.startswith((b"tree ", b"parent ", b"object ", b"gpgsig ", b" "))
    ]
    return [*kept, message]


def pairs(repo: Repo, kept: str) -> dict[str, str]:
    """Each ref of the old history and what became of it."""
    listed = repo.git("for-each-ref", "--format=%(refname)", kept).decode().split()
    return {name: name.replace(f"{kept}/", "refs/") for name in listed}


def matched_commits(repo: Repo, old: str, new: str) -> list[tuple[str, str]]:
    """The commits of two histories that have the same form, pairwise."""
    both = [
        repo.git("rev-list", "--topo-order", "--parents", ref).decode().splitlines()
        for ref in (old, new)
    ]
    assert [len(line.split()) for line in both[0]] == [len(line.split()) for line in both[1]]
    return [(a.split()[0], b.split()[0]) for a, b in zip(*both, strict=True)]


def assert_same_history(repo: Repo, kept: str, tmp_path: Path) -> int:
    """Commits and tags say the same, and every file of every commit checks out as it was; how many
    commits were compared.
    """
    seen: dict[str, str] = {}
    for old, new in pairs(repo, kept).items():
        if repo.git("cat-file", "-t", old) == b"tag\n":
            assert headers(repo, old) == headers(repo, new)
        for one, other in matched_commits(repo, old, new):
            assert seen.setdefault(one, other) == other
    tree = repo.at(tmp_path / "compared")
    repo.git("worktree", "add", "-q", "--detach", "--no-checkout", str(tree.path))
    for one, other in seen.items():
        assert headers(repo, one) == headers(repo, other)
        tree.git("checkout", "-q", "-f", other)
        assert tree.status() == ""
        wanted = expected_files(repo, one)
        there = {
            name
            for name in tree.git("ls-files", "-z").decode("utf-8", "surrogateescape").split("\0")
            if name
        }
        assert {name for name in there if not name.endswith(".gitattributes")} >= {
            name for name in wanted if "gitattributes" not in name
        }
        for name, data in wanted.items():
            if not name.endswith(".gitattributes"):
                assert tree.read(name) == data, (one, name)
    repo.git("worktree", "remove", "--force", str(tree.path))
    return len(seen)


def trees_without_attributes(repo: Repo, ref: str) -> list[list[str]]:
    listed = repo.git("rev-list", "--topo-order", ref).decode().split()
    return [
        [
            line
            for line in repo.git("ls-tree", "-r", commit).decode().splitlines()
            if not line.endswith(".gitattributes")
        ]
        for commit in listed
    ]


def import_all(repo: Repo, *options: str) -> str:
    said = repo.theta("migrate", "import", *options).decode()
    assert repo.status() == ""
    assert repo.leftovers() == []
    assert "all is well" in repo.theta("fsck", "--all").decode()
    return said


KEPT = "refs/git-theta/before-import"


def test_a_linear_history_there_and_back(tmp_path: Path, environment: Mapping[str, str]) -> None:
    repo = plain(tmp_path / "repo", environment)
    first = commit(repo, "only text", {"README": b"hello\n"})
    for step in range(1, 5):
        commit(
            repo,
            f"step {step}",
            {"model.safetensors": trained(step), "log.txt": b"%d\n" % step},
            **PEOPLE[step % 2],
        )
    (repo.path / "model.safetensors").unlink()
    commit(
        repo,
        "back to an earlier one, and a text",
        {"model.safetensors": trained(2), "notes.txt": b"x"},
    )
    before = repo.head()
    untouched = (repo.path / "model.safetensors").stat()
    said = import_all(repo)
    assert "Tracked: *.safetensors" in said
    assert "4 versions of 1 model" in said
    assert "Rewrote 5 commits and 1 ref." in said
    assert KEPT in said
    assert repo.git("rev-parse", f"{KEPT}/heads/main").decode().strip() == before
    # What has no model stays itself
    assert repo.git("merge-base", "HEAD", before).decode().strip() == first
    # Nor was the file written again
    assert (repo.path / "model.safetensors").stat().st_mtime_ns == untouched.st_mtime_ns
    assert (
        repo.read(".gitattributes") == b"*.safetensors filter=theta diff=theta merge=theta -text\n"
    )
    chains = [repo.manifest(f"HEAD~{back}:model.safetensors") for back in (3, 2)]
    new = {oid for oid in chains[1].objects() if oid not in chains[0].objects()}
    assert len(new) <= 2  # the tensor that the step changed, and perhaps a skeleton
    assert repo.blob("HEAD:model.safetensors") == repo.blob("HEAD~3:model.safetensors")
    assert assert_same_history(repo, KEPT, tmp_path) == 6
    old = trees_without_attributes(repo, before)
    repo.theta("migrate", "export")
    assert trees_without_attributes(repo, "HEAD") == old
    assert not (repo.path / ".gitattributes").exists()
    assert repo.status() == ""
    assert repo.git("rev-parse", "HEAD^{tree}") == repo.git("rev-parse", f"{before}^{{tree}}")


def test_import_and_export_of_an_unsigned_history_give_the_very_same_commits(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    for step in range(3):
        commit(repo, f"step {step}", {"model.safetensors": trained(step)})
    before = repo.head()
    import_all(repo)
    assert repo.head() != before
    repo.theta("migrate", "export")
    assert repo.head() == before
    assert repo.status() == ""


def busy(repo: Repo) -> None:
    """Branches, merges, tags of every kind, notes, odd names, dates, encodings, many models."""
    commit(
        repo,
        "start",
        {
            "README": b"hello\n",
            "sub/.gitattributes": b"*.pt binary\n*.txt text\n",
            "sub/a.txt": b"a\n",
        },
    )
    repo.git("tag", "-a", "-m", "before models", "early")
    commit(
        repo,
        "models",
        {
            "a.safetensors": trained(0),
            "sub/b.pt": torch_file({"w": array(1)}),
            "bad.safetensors.txt": b"x",
        },
        **PEOPLE[0],
    )
    repo.git("checkout", "-qb", "topic")
    commit(
        repo,
        "topic",
        {"a.safetensors": trained(1), 'odd/"n\tä me".safetensors': trained(3)},
        **PEOPLE[1],
    )
    repo.git(
        "-c",
        "i18n.commitEncoding=ISO-8859-1",
        "commit",
        "-q",
        "--allow-empty",
        "-F",
        "-",
        stdin="gr\xfc\xdfe\n".encode("latin-1"),
    )
    repo.under(PEOPLE[1]).git("tag", "-a", "-m", "first\n\nlines", "v1")
    repo.git("tag", "-a", "-m", "nested", "v1-nested", "v1")
    repo.git("checkout", "-q", "main")
    (repo.path / "sub" / "link").symlink_to("../a.safetensors")
    script = repo.write("sub/run.pt", torch_file({"w": array(2)}))
    script.chmod(0o755)
    commit(repo, "main goes on", {"sub/b.pt": torch_file({"w": array(1) + 1})})
    repo.git("merge", "-q", "--no-ff", "-m", "merge topic", "topic")
    repo.git("mv", "a.safetensors", "renamed.safetensors")
    repo.git("commit", "-qm", "renamed")
    repo.git("tag", "light")
    repo.git("notes", "add", "-m", "a note")
    commit(repo, "renamed and trained", {"renamed.safetensors": trained(2)})
    repo.git("checkout", "-q", "--orphan", "other")
    repo.git("rm", "-rfq", ".")
    commit(repo, "another root", {"c.safetensors": trained(5)})
    repo.git("checkout", "-q", "main")
    repo.git("tag", "of-a-blob", "HEAD:README")


def array(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((20, 20)).astype(np.float32)


@pytest.mark.skipif(os.name == "nt", reason="names and links that Windows has not")
def test_branches_merges_tags_notes_and_odd_names(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    busy(repo)
    early, blob = (repo.git("rev-parse", name) for name in ("early", "of-a-blob"))
    refs = repo.git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags")
    import_all(repo)
    assert repo.git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags") == refs
    assert repo.git("rev-parse", "early") == early
    assert repo.git("rev-parse", "of-a-blob") == blob
    assert repo.git("notes", "show", "light") == b"a note\n"
    assert repo.git("cat-file", "-t", "v1-nested") == b"tag\n"
    assert assert_same_history(repo, KEPT, tmp_path) >= 9
    for name in ("a.safetensors", "sub/b.pt", 'odd/"n\tä me".safetensors', "sub/run.pt"):
        assert is_manifest(repo.blob(f"main~2:{name}")), name
    assert not is_manifest(repo.blob("main:bad.safetensors.txt"))
    assert repo.git("ls-tree", "main", "sub/run.pt").startswith(b"100755 ")
    assert repo.git("ls-tree", "main", "sub/link").startswith(b"120000 ")
    attributes = repo.git("check-attr", "filter", "diff", "text", "--", "sub/b.pt").decode()
    assert attributes == "sub/b.pt: filter: theta\nsub/b.pt: diff: theta\nsub/b.pt: text: unset\n"
    renamed = repo.manifest("main:renamed.safetensors"), repo.manifest("main~1:renamed.safetensors")
    shared = [{place for e in manifest.entries for place in e.ranges} for manifest in renamed]
    assert len(shared[0] & shared[1]) >= 4
    repo.theta("migrate", "export")
    assert repo.status() == ""
    for old, new in pairs(repo, KEPT).items():
        assert trees_without_attributes(repo, old) == trees_without_attributes(repo, new)


def test_git_lfs_pointers_and_files_that_stay_there(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    lfs = (
        b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs"
        b" -text\n"
    )
    versions = [trained(step) for step in range(3)]
    png = lfs_store(repo, b"picture")
    for number, data in enumerate(versions):
        commit(
            repo,
            f"{number}",
            {".gitattributes": lfs, "model.safetensors": lfs_store(repo, data), "a.png": png},
        )
    raw = commit(
        repo,
        "raw again, as some do",
        {"model.safetensors": trained(4), "more.safetensors": trained(5)},
    )
    said = import_all(repo)
    assert "5 versions of 2 models" in said
    assert repo.read(".gitattributes").splitlines() == [
        b"*.png filter=lfs diff=lfs merge=lfs -text",
        b"*.safetensors filter=theta diff=theta merge=theta -text",
    ]
    for back, data in ((1, versions[2]), (3, versions[0])):
        assert repo.blob(f"HEAD~{back}:a.png") == png
        assert is_manifest(repo.blob(f"HEAD~{back}:model.safetensors"))
        repo.git("checkout", "-q", f"HEAD~{back}")
        assert repo.read("model.safetensors") == data
        repo.git("checkout", "-q", "main")
    shutil.rmtree(repo.common / "lfs")
    assert b"'git lfs install'" in repo.theta_run("migrate", "export", "--lfs").stderr
    assert trees_without_attributes(repo, "HEAD~1") == trees_without_attributes(repo, f"{raw}~1")
    assert repo.blob("HEAD:more.safetensors") == pointer(trained(5))
    assert sorted(repo.blob("HEAD:.gitattributes").splitlines()) == sorted(lfs.splitlines())
    for data in (*versions, trained(4)):
        oid = hashlib.sha256(data).hexdigest()
        assert (repo.common / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == data


def test_missing_git_lfs_objects_are_named_before_anything_is_done(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": lfs_store(repo, trained(1))})
    commit(repo, "two", {"model.safetensors": pointer(trained(2))})
    refs = repo.git("for-each-ref")
    done = repo.theta_run("migrate", "import")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert all(
        word in said
        for word in (
            "model.safetensors",
            hashlib.sha256(trained(2)).hexdigest(),
            "git lfs fetch --all",
        )
    )
    assert repo.git("for-each-ref") == refs


def test_a_dry_run_tells_the_true_sizes_and_changes_nothing(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    for step in range(4):
        commit(repo, f"{step}", {"model.safetensors": trained(step)})
    refs, count = repo.git("for-each-ref"), repo.git("count-objects", "-v")
    said = repo.theta("migrate", "import", "--dry-run").decode()
    assert "Would rewrite 4 commits" in said
    assert "% less" in said
    assert (repo.git("for-each-ref"), repo.git("count-objects", "-v")) == (refs, count)
    assert repo.object_ids() == set()
    assert repo.leftovers() == []
    assert repo.status() == ""
    really = import_all(repo)
    stored = said.splitlines()[1].replace("would take", "take")
    assert really.splitlines()[1] == stored
    objects = sum(path.stat().st_size for path in repo.objects().values())
    texts = sum(len(repo.blob(f"HEAD~{back}:model.safetensors")) for back in range(4))
    assert f"take {size(objects + texts)} (" in stored
    said = repo.theta("migrate", "export", "--dry-run").decode()
    assert "Would rewrite 4 commits" in said
    assert "more)" in said


def test_one_branch_alone_and_a_second_run(tmp_path: Path, environment: Mapping[str, str]) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": trained(1), "data.weights": trained(2)})
    repo.git("branch", "other")
    commit(repo, "two", {"model.safetensors": trained(3)})
    other = repo.git("rev-parse", "other")
    import_all(repo, "--include", "*.weights", "main")
    assert repo.git("rev-parse", "other") == other
    assert is_manifest(repo.blob("main:data.weights"))
    assert not is_manifest(repo.blob("main:model.safetensors"))
    import_all(repo, "main", "other")
    assert repo.git("for-each-ref", f"{KEPT}-2/heads/main")
    assert is_manifest(repo.blob("main~1:model.safetensors"))
    assert is_manifest(repo.blob("other:model.safetensors"))
    assert is_manifest(repo.blob("main:data.weights"))
    head = repo.head()
    said = repo.theta("migrate", "import").decode()
    assert "Nothing to migrate" in said
    assert "Rewrote 0 commits" in said
    assert repo.head() == head


def test_signatures_are_counted_and_replacements_follow(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": trained(1)})
    text = repo.git("cat-file", "commit", "HEAD").replace(
        b"\n\n", b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END\n\n", 1
    )
    signed = repo.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=text).decode().strip()
    repo.git("reset", "-q", "--hard", signed)
    commit(repo, "two", {"model.safetensors": trained(2)})
    third = commit(repo, "three", {"model.safetensors": trained(3)})
    repo.git("replace", "--graft", third, signed)
    repo.git(
        "branch", "replacement", repo.git("rev-parse", f"refs/replace/{third}").decode().strip()
    )
    assert len(repo.git("rev-list", "main").split()) == 2
    said = import_all(repo)
    assert "Dropped 1 signature, made for the old ids." in said
    assert len(repo.git("rev-list", "main").split()) == 2
    assert len(repo.git("--no-replace-objects", "rev-list", "main").split()) == 3
    assert b"gpgsig" not in repo.git("cat-file", "commit", "main~1")


def test_a_bare_repository(tmp_path: Path, environment: Mapping[str, str]) -> None:
    source = plain(tmp_path / "source", environment)
    for step in range(2):
        commit(source, f"{step}", {"model.safetensors": trained(step)})
    source.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    repo = source.at(tmp_path / "bare.git")
    repo.theta("migrate", "import")
    assert is_manifest(repo.blob("main~1:model.safetensors"))
    assert "all is well" in repo.theta("fsck", "--all").decode()
    repo.theta("migrate", "export")
    assert repo.head() == source.head()


def test_from_a_folder_below(tmp_path: Path, environment: Mapping[str, str]) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"deep/model.safetensors": trained(1), "model.safetensors": trained(2)})
    repo.at(repo.path / "deep").theta("migrate", "import", "--include", "/model.safetensors")
    assert is_manifest(repo.blob("HEAD:model.safetensors"))
    assert not is_manifest(repo.blob("HEAD:deep/model.safetensors"))
    assert repo.status() == ""


def test_a_detached_head_follows(tmp_path: Path, environment: Mapping[str, str]) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": trained(1)})
    commit(repo, "two", {"model.safetensors": trained(2)})
    repo.git("checkout", "-q", "HEAD~1")
    import_all(repo)
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "main~1")
    assert repo.read("model.safetensors") == trained(1)


@pytest.mark.skipif(os.name == "nt", reason="kill")
@pytest.mark.parametrize(
    ("function", "calls"),
    [("_Import.change", 1), ("_Import.change", 5), ("RewriteScratch.rewrite", 1)],
)
def test_a_run_that_is_killed_has_changed_nothing(
    tmp_path: Path, environment: Mapping[str, str], function: str, calls: int
) -> None:
    repo = plain(tmp_path / "repo", environment)
    for step in range(12):
        commit(
            repo,
            f"{step}",
            {"model.safetensors": trained(step), "other.safetensors": trained(step + 20)},
        )
    refs = repo.git("for-each-ref")
    scratch = repo.common / "theta" / "tmp"
    killed(repo, "git_theta.workflows.maintenance.migrate", function, calls, "migrate", "import")
    assert repo.git("for-each-ref") == refs
    assert repo.status() == ""
    assert len(list(scratch.glob("migrate-*"))) == 1
    for left in scratch.iterdir():  # what is a day old is swept
        os.utime(left, (0, 0))
    import_all(repo)
    assert is_manifest(repo.blob("HEAD~11:other.safetensors"))


@pytest.mark.parametrize(
    "state",
    [
        "dirty",
        "staged",
        "stash",
        "worktree",
        "merge",
        "shallow",
        "lost-head",
        "in-the-way",
        "not-installed",
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, environment: Mapping[str, str], state: str
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": trained(1), "README": b"x"})
    commit(repo, "two", {"model.safetensors": trained(2)})
    words, more = state, dict[str, str]()
    if state == "dirty":
        repo.write("README", b"y")
        words = "not committed (README)"
    elif state == "staged":
        repo.write("README", b"y")
        repo.git("add", "README")
        words = "not committed"
    elif state == "stash":
        repo.write("README", b"y")
        repo.git("stash", "-q")
        words = "git stash pop"
    elif state == "worktree":
        repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
        words = "git worktree remove"
    elif state == "merge":
        (repo.common / "MERGE_HEAD").write_bytes(repo.git("rev-parse", "HEAD"))
        words = "merge is under way"
    elif state == "shallow":
        repo = sharing.clone(repo.path.as_uri(), tmp_path / "clone", environment, "--depth=1")
        words = "git fetch --unshallow"
    elif state == "lost-head":
        repo.git("checkout", "-q", "--detach")
        commit(repo, "three")
        words = "git switch -c"
    elif state == "in-the-way":
        (repo.path / ".git" / "info" / "exclude").write_text(".gitattributes\n")
        repo.write(".gitattributes", b"*.txt text\n")
        words = ".gitattributes is in the way"
    elif state == "not-installed":
        more = {"GIT_CONFIG_GLOBAL": os.devnull}
        words = "git theta install"
    refs, head = repo.git("for-each-ref"), repo.head()
    done = repo.theta_run("migrate", "import", **more)
    assert done.returncode == 1
    assert words in done.stderr.decode()
    assert (repo.git("for-each-ref"), repo.head()) == (refs, head)
    assert repo.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "nothing"], "'nothing' is not a branch or tag"),
        (["import", "--include", "*"], "would take .gitattributes itself"),
        (["import", "HEAD~1"], "is not a branch or tag"),
        (["export", "--include", "*.pt"], "--include goes with import"),
        (["import", "--lfs"], "--lfs goes with export"),
        (["import"], "history holds no checkpoint"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, environment: Mapping[str, str], arguments: list[str], said: str
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"README": b"x", ".gitattributes": b""})
    commit(repo, "two", {"fake.safetensors": b"this is text"})
    done = repo.theta_run("migrate", *arguments)
    assert done.returncode
    assert said in done.stderr.decode()


def test_without_git_filter_repo_it_says_how_to_get_it(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": trained(1)})
    code = (
        "import sys; sys.modules['git_filter_repo'] = None; sys.argv[1:] = ['migrate', 'import'];"
    )
    code += "from git_theta.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo.path,
        env=dict(repo.environment),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"pip install git-filter-repo" in done.stderr


def test_a_broken_checkpoint_of_the_past_is_named(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    broken = commit(repo, "truncated", {"model.safetensors": trained(1)[:-100]})
    commit(repo, "whole", {"model.safetensors": trained(1)})
    refs = repo.git("for-each-ref")
    done = repo.theta_run("migrate", "import")
    assert done.returncode == 1
    assert all(
        word in done.stderr.decode()
        for word in ("model.safetensors", broken[:12], "theta.onInvalid store")
    )
    assert repo.git("for-each-ref") == refs
    repo.git("config", "theta.onInvalid", "store")
    import_all(repo)
    repo.git("checkout", "-q", "HEAD~1")
    assert repo.read("model.safetensors") == trained(1)[:-100]


def test_a_checkout_of_pointers_or_manifests_is_written_out(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    """What lies in the working tree need not be the model; afterwards it is."""
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "one", {"model.safetensors": lfs_store(repo, trained(1))})
    import_all(repo)
    assert repo.read("model.safetensors") == trained(1)
    (repo.path / "model.safetensors").unlink()
    repo.git("checkout", "-q", "--", ".", GIT_THETA_SKIP_SMUDGE="1")
    assert is_manifest(repo.read("model.safetensors"))
    repo.theta("migrate", "export")
    assert repo.read("model.safetensors") == trained(1)
    assert repo.status() == ""


def test_export_fetches_what_is_missing_or_does_nothing(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    world = sharing.World(
        tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False
    )
    one = world.start()
    one.commit("first", model__safetensors=trained(1))
    one.commit("second", model__safetensors=trained(2))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    shutil.rmtree(two.store)
    world.remote.rename(tmp_path / "away")
    refs = two.git("for-each-ref")
    done = two.theta_run("migrate", "export")
    assert done.returncode == 1
    assert b"model.safetensors: tensor " in done.stderr
    assert two.git("for-each-ref") == refs
    (tmp_path / "away").rename(world.remote)
    two.theta("migrate", "export")
    assert [two.blob(f"HEAD~{back}:model.safetensors") for back in (0, 1)] == [
        trained(2),
        trained(1),
    ]
    assert two.git("for-each-ref", "refs/remotes") in refs


def test_metadata_of_git_theta_0_2_is_left_and_explained(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = plain(tmp_path / "repo", environment)
    commit(repo, "old", {"model.safetensors": OLD})
    commit(repo, "new", {"model.safetensors": trained(1)})
    done = repo.theta_run("migrate", "import")
    assert done.returncode == 0
    assert b"left as it is: 1 version with metadata of Git-Theta 0.2" in done.stderr
    assert repo.blob("HEAD~1:model.safetensors") == OLD
    assert is_manifest(repo.blob("HEAD:model.safetensors"))


def test_metadata_of_git_theta_0_2_is_recognised_wherever_a_manifest_is_expected(
    repo: Repo,
) -> None:
    advice = "metadata of Git-Theta 0.2"
    repo.write("model.safetensors", OLD)
    assert advice in repo.run(["git", "add", "model.safetensors"]).stderr.decode()
    repo.git("commit", "-qm", "as 0.2 left it")
    assert repo.blob("HEAD:model.safetensors") == OLD
    (repo.path / "model.safetensors").unlink()
    assert advice in repo.run(["git", "checkout", "--", "model.safetensors"]).stderr.decode()
    assert repo.read("model.safetensors") == OLD
    assert repo.status() == ""
    assert advice in repo.theta("ls-files").decode()
    assert advice in repo.theta_run("show", "HEAD:model.safetensors").stderr.decode()
    repo.write("model.safetensors", trained(1))
    assert advice in repo.theta("diff").decode()
    repo.git("commit", "-qam", "converted")
    assert advice in repo.theta("diff", "HEAD~1").decode()
    repo.git("config", "diff.theta.command", f"{sys.executable} -m git_theta diff-driver")
    repo.write(".gitattributes", b"*.safetensors filter=theta diff=theta -text\n")
    said = repo.run(["git", "diff", "HEAD~1", "HEAD", "--", "model.safetensors"])
    assert advice in (said.stdout + said.stderr).decode()


OLD = b"""{
    "layer": {
        "weight": {
            "tensor_metadata": {
                "shape": "(400,)",
                "dtype": "float32",
                "hash": [1, 2, 3]
            },
            "lfs_metadata": {
                "version": "https://git-lfs.github.com/spec/v1",
                "oid": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "size": "1234"
            },
            "theta_metadata": {
                "update_type": "dense",
                "last_commit": ""
            }
        }
    }
}"""
