"""``git diff`` with the driver, ``git theta diff``, and plain git on manifests."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import Repo
from seeing import MODEL, Tensors, base, data, file, hide_objects, install, story, tuned

from git_theta.core.manifest import is_manifest

linux = pytest.mark.skipif(sys.platform != "linux", reason="the asker is found in /proc")
NOTHING = "-c", "filter.theta.process=false"  # git may not ask the filter for anything


@pytest.fixture
def seen(repo: Repo) -> Repo:
    return install(repo)


def text(output: bytes) -> str:
    return output.decode("utf-8")


def reference(old: Tensors, new: Tensors) -> dict[str, tuple[float, float, float, float]]:
    """For each tensor that changed: fraction, relative change, cosine and largest change, by numpy
    in float64.
    """
    found = {}
    for name in old:
        w, v = old[name].astype(np.float64).reshape(-1), new[name].astype(np.float64).reshape(-1)
        if old[name].tobytes() != new[name].tobytes():
            d = v - w
            found[name] = (
                float(np.mean(w != v)),
                float(np.linalg.norm(d) / np.linalg.norm(w)),
                float(w @ v / np.linalg.norm(w) / np.linalg.norm(v)),
                float(np.abs(d).max()),
            )
    return found


# git diff


def test_git_diff_between_commits(seen: Repo) -> None:
    first, second, third = story(seen)
    shown = text(seen.git("diff", first, second))
    assert shown.startswith(
        f"diff --theta a/{MODEL} b/{MODEL}\n  4 modified of 14 tensors, 10 unchanged\n"
    )
    assert "attn.q.weight" in shown
    assert "f32[64,64]" in shown
    assert "layers.0.attn.v" not in shown
    assert "2 modified of 14 tensors" in text(seen.git("diff", second, third))
    assert "6 modified of 14 tensors" in text(seen.git("diff", first, third))
    assert text(seen.git("diff", f"{first}..{second}")) == shown
    assert text(seen.git("diff", "HEAD", "HEAD")) == ""
    assert text(seen.git("diff", first, second, "--", "*.txt")) == ""


def test_git_diff_of_the_working_tree_and_the_index(seen: Repo) -> None:
    versions = list(story(seen).values())
    edited = tuned(versions[-1], "layers.1", seed=9)
    seen.write(MODEL, file(edited))
    shown = text(seen.git("diff"))
    assert "3 modified of 14 tensors" in shown
    assert "attn.v" in shown
    assert "3 modified" in text(seen.git("diff", "HEAD"))
    assert text(seen.git("diff", "--cached")) == ""
    seen.git("add", MODEL)
    assert text(seen.git("diff")) == ""
    assert "3 modified" in text(seen.git("diff", "--cached"))
    assert "3 modified" in text(seen.git("diff", "--staged", "HEAD", "--", MODEL))
    seen.write(MODEL, file(versions[-1]))
    assert "3 modified" in text(seen.git("diff"))
    assert text(seen.git("diff", "HEAD")) in (
        "",
        f"diff --theta a/{MODEL} b/{MODEL}\n  no tensor changed (14)\n",
    )


def test_git_diff_of_files_that_come_go_and_move(seen: Repo) -> None:
    story(seen)
    seen.write("new.safetensors", file({"w": np.ones((8, 8), np.float32)}))
    seen.git("add", "-N", "new.safetensors")
    assert "new file mode 100644\n  1 added of 1 tensor, 0 unchanged" in text(seen.git("diff"))
    seen.git("add", "new.safetensors")
    assert "new file mode 100644\n  1 added" in text(seen.git("diff", "--cached"))
    seen.git("rm", "-q", "--cached", "new.safetensors")
    seen.git("rm", "-q", "--cached", MODEL)
    gone = text(seen.git("diff", "--cached"))
    assert "deleted file mode 100644\n  14 removed of 14 tensors" in gone
    seen.git("reset", "-q")
    (seen.path / MODEL).unlink()
    assert "deleted file mode 100644\n  14 removed" in text(seen.git("diff"))
    seen.git("checkout", "--", MODEL)
    seen.git("mv", MODEL, "moved.safetensors")
    shown = text(seen.git("diff", "--cached", "-M"))
    assert (
        f"similarity index 100%\nrename from {MODEL}\nrename to moved.safetensors\n  no tensor"
        " changed (14)" in shown
    )
    assert shown.startswith(f"diff --theta a/{MODEL} b/moved.safetensors\n")
    seen.write("moved.safetensors", file(tuned(base(), "head", seed=5)))
    seen.git("add", "moved.safetensors")
    assert "rename from" in text(seen.git("diff", "--cached", "-M10%"))


@pytest.mark.skipif(os.name == "nt", reason="there is no executable bit")
def test_git_diff_of_a_changed_mode(seen: Repo) -> None:
    versions = list(story(seen).values())
    (seen.path / MODEL).chmod(0o755)
    assert "old mode 100644\nnew mode 100755\n  no tensor changed (14)" in text(seen.git("diff"))
    seen.write(MODEL, file(tuned(versions[-1], "head", seed=4)))
    assert "old mode 100644\nnew mode 100755\n  1 modified of 14" in text(seen.git("diff"))
    seen.git("add", MODEL)
    assert "new mode 100755" in text(seen.git("diff", "--cached"))


def conflict(repo: Repo) -> None:
    """A merge that stops: both sides moved layers.0."""
    repo.git("checkout", "-qb", "theirs", "HEAD")
    repo.commit("theirs", model__safetensors=file(tuned(base(), "layers.0", "layers.1", seed=11)))
    repo.git("checkout", "-q", "main")
    repo.commit("ours", model__safetensors=file(tuned(base(), "layers.0", "layers.2", seed=12)))
    assert repo.run(["git", "merge", "theirs"]).returncode == 1


def test_git_diff_while_a_merge_is_unresolved(seen: Repo) -> None:
    seen.commit("base", model__safetensors=file(base()))
    conflict(seen)
    for arguments in (
        (),
        ("--ours",),
        ("--theirs",),
        ("--base",),
        ("--cached",),
        ("HEAD~1",),
        ("--cc",),
    ):
        shown = text(seen.git("diff", *arguments))
        assert shown, arguments
    shown = text(seen.git("diff", "--cached"))
    assert f"* Unmerged path {MODEL}" in shown
    assert "ours changed 6, theirs 6; 3 in different ways on both sides" in shown
    assert "layers.0.attn.q.weight" in shown


def test_git_diff_of_a_merge_commit(seen: Repo) -> None:
    seen.commit("base", model__safetensors=file(base()))
    seen.git("checkout", "-qb", "side")
    seen.commit("side", model__safetensors=file(tuned(base(), "layers.1", seed=11)))
    seen.git("checkout", "-q", "main")
    seen.commit("main", model__safetensors=file(tuned(base(), "layers.2", seed=12)))
    seen.git("merge", "-qm", "merged", "side")
    hide_objects(seen)
    assert "3 modified of 14 tensors" in text(seen.git("diff", "HEAD^1", "HEAD"))
    assert "3 modified of 14 tensors" in text(seen.git("diff", "HEAD^2", "HEAD"))
    combined = text(seen.git(*NOTHING, "show", "HEAD"))
    assert "diff --cc model.safetensors" in combined
    assert re.search(r"^- layers\.1\.attn\.q\.weight f32\[64,64\]", combined, re.MULTILINE)
    assert re.search(r"^ -layers\.2\.attn\.q\.weight f32\[64,64\]", combined, re.MULTILINE)


def test_stat_and_names_stay_gits(seen: Repo) -> None:
    first, _, third = story(seen)
    for options in (
        ["--stat"],
        ["--name-only"],
        ["--name-status"],
        ["--numstat"],
        ["--shortstat"],
        ["--raw"],
        ["--summary"],
        ["--no-ext-diff"],
    ):
        plain = seen.git(*NOTHING, "-c", "diff.theta.command=false", "diff", *options, first, third)
        assert seen.git("diff", *options, first, third) == plain
        assert plain or options == ["--summary"]
    assert text(seen.git("diff", "--stat", first, third)).startswith(f" {MODEL} | 12 ")


@linux
def test_git_diff_rebuilds_nothing(seen: Repo) -> None:
    """With all objects gone git diff still works: neither side was asked for."""
    first, second, _ = story(seen)
    hide_objects(seen)
    shown = text(seen.git("diff", first, second))
    assert "4 modified of 14 tensors, 10 unchanged" in shown
    assert (
        "4 tensors not measured: objects are not here ('git theta fetch' may bring them)" in shown
    )
    for arguments in (
        ("-c", f"alias.d=diff {first}", "d"),
        ("--no-pager", "-C", ".", "diff", first),
        ("log", "-p", "--ext-diff"),
        ("show", "--ext-diff"),
    ):
        assert "diff --theta" in text(seen.git(*arguments))


@linux
def test_what_is_not_a_diff_gets_the_model(seen: Repo) -> None:
    versions = story(seen)
    first, _, third = versions
    files = [file(tensors) for tensors in versions.values()]
    seen.git("diff", first, third)
    assert seen.git("cat-file", "--filters", f"{first}:{MODEL}") == files[0]
    assert is_manifest(seen.git("show", f"{first}:{MODEL}"))
    (seen.path / MODEL).unlink()
    seen.git("checkout-index", "-f", "--", MODEL)
    assert seen.read(MODEL) == files[2]
    for arguments in (
        ("checkout", first, "--", MODEL),
        ("restore", f"--source={first}", "--", MODEL),
        ("-c", "alias.diff-like=checkout", "diff-like", "-q", first, "--", MODEL),
        ("read-tree", "-mu", "HEAD", first),
        ("worktree", "add", "-q", "diff", first),
    ):
        seen.git("reset", "-q", "--hard", third)
        seen.git(*arguments)
        where = "diff/model.safetensors" if arguments[0] == "worktree" else MODEL
        assert seen.read(where) == files[0], arguments
    seen.git("reset", "-q", "--hard", third)
    seen.write(MODEL, files[1])
    seen.git("stash", "-q")
    assert seen.read(MODEL) == files[2]
    assert "diff --theta" in text(seen.git("stash", "show", "-p", "--ext-diff"))
    seen.git("stash", "pop", "-q")
    assert seen.read(MODEL) == files[1]
    seen.git("reset", "-q", "--hard")
    archive = seen.git("archive", first, MODEL)
    assert files[0] in archive


@linux
def test_a_driver_of_the_users_own_gets_the_models(seen: Repo, tmp_path: Path) -> None:
    first, second, _ = versions = story(seen)
    driver = tmp_path / "driver"
    driver.write_text(f'#!/bin/sh\ncp "$2" "{tmp_path}/old"; cp "$5" "{tmp_path}/new"\n')
    driver.chmod(0o755)
    seen.git("-c", f"diff.theta.command={driver.as_posix()}", "diff", first, second)
    assert (tmp_path / "old").read_bytes() == file(versions[first])
    assert (tmp_path / "new").read_bytes() == file(versions[second])
    count = "-c", "diff.theta.textconv=wc -c <"
    assert str(len(file(versions[first]))) in text(
        seen.git(*count, "-c", "diff.theta.command=", "show", "--textconv", f"{first}:{MODEL}")
    )
    seen.write(".git/info/attributes", b"*.safetensors diff=mine\n")
    seen.git("-c", f"diff.mine.command={driver.as_posix()}", "diff", second, first)
    assert (tmp_path / "new").read_bytes() == file(versions[first])


def test_a_patch_can_be_made_and_applied(seen: Repo) -> None:
    first, _, third = versions = story(seen)
    patch = seen.git("diff", "--no-ext-diff", first, third)
    seen.git("checkout", "-q", first)
    seen.git("apply", "--index", stdin=patch)
    assert seen.read(MODEL) == file(versions[third])
    assert seen.git("diff", "--cached", third) == b""


# What goes wrong


def test_a_broken_file_does_not_stop_git_diff(seen: Repo) -> None:
    story(seen)
    seen.write("other.txt", b"one\n")
    seen.git("add", "other.txt")
    seen.write("other.txt", b"two\n")
    whole = seen.read(MODEL)
    for broken in (
        whole[:-5],
        whole[:300],
        b"\xff" * 100,
        b"git-theta manifest 99\n",
        b"git-theta manifest 1\nrubbish\n",
    ):
        seen.write(MODEL, broken)
        shown = text(seen.git("diff"))
        assert f"diff --theta a/{MODEL} b/{MODEL}\n" in shown
        assert "-layers.0.attn.q.weight f32[64,64] " in shown, "the manifest's text"
        assert "+two" in shown, "other files are shown too"
        assert "this file cannot be read" in text(seen.git("diff", "--no-ext-diff"))
    assert seen.run(["git", "add", MODEL]).returncode != 0, "adding it is still refused"


def test_a_broken_manifest_in_a_commit_is_shown_as_text(seen: Repo) -> None:
    story(seen)
    good = seen.blob(f"HEAD:{MODEL}")
    for bad in (
        good[:-3],
        good.replace(b"manifest 1", b"manifest 7"),
        good.replace(b"f32[", b"f33["),
    ):
        blob = seen.git("hash-object", "-w", "--stdin", stdin=bad).decode().strip()
        seen.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
        shown = text(seen.git("diff", "--cached"))
        assert f"--- a/{MODEL}\n+++ b/{MODEL}\n@@" in shown
        assert shown.count("\n") > 5
        assert seen.theta_run("diff", "--cached").returncode == 0


def test_missing_and_damaged_objects(seen: Repo) -> None:
    first, second, _ = story(seen)
    victim = seen.manifest(f"{second}:{MODEL}").by_name["layers.2.attn.q.weight"].ranges[0]
    path = seen.objects()[victim.oid]
    data_ = bytearray(path.read_bytes())
    data_[victim.offset + victim.length - 1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data_)
    shown = text(seen.git("diff", first, second))
    assert "4 modified of 14 tensors" in shown
    assert "not measured: tensor layers.2.attn.q.weight" in shown
    path.unlink()
    shown = text(seen.git("diff", first, second))
    lost = "4 tensors not measured: objects are not here ('git theta fetch' may bring them)"
    assert lost in shown, "they were one object"
    result = data(seen, "diff", first, second)
    unknown = [change["name"] for change in result["models"][0]["changes"] if change["unknown"]]
    assert len(unknown) == 4
    assert "layers.2.attn.q.weight" in unknown


def test_committed_without_the_filter(seen: Repo) -> None:
    raw = file(base())
    blob = seen.git("hash-object", "-w", "--stdin", "--no-filters", stdin=raw).decode().strip()
    seen.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{MODEL}")
    seen.git("commit", "-qm", "raw")
    seen.write(MODEL, file(tuned(base(), "head")))
    seen.git("add", MODEL)
    shown = text(seen.git("diff", "--cached"))
    assert "1 modified of 14 tensors" in shown, "a plain checkpoint is read as one"
    report = text(seen.theta("diff", "--cached"))
    assert "the old version is not stored by Git-Theta" in report


def test_names_in_paths_and_tensors_are_escaped(seen: Repo) -> None:
    hostile = (
        "\u202e\x1b[31m<b>.safetensors"
        if os.name != "nt"
        else "<b>.safetensors".replace("<", "").replace(">", "")
    )
    name = "a\x1b]0;title\x07\u202eb\nc"
    seen.write(hostile, file({name: np.zeros((4, 8), np.float32)}))
    seen.git("add", "-A")
    seen.git("commit", "-qm", "x\x1b[2J")
    seen.write(hostile, file({name: np.ones((4, 8), np.float32)}))
    for output in (
        seen.git("diff"),
        seen.theta("diff"),
        seen.theta("diff", "--markdown"),
        seen.theta("diff", "--csv"),
        seen.theta("log", hostile),
    ):
        assert not {"\x1b", "\u202e", "\x07"}.intersection(text(output))
    assert "a\\x1b]0;title\\x07\\u{202e}b\\x0ac" in text(seen.git("diff"))


def test_paths_with_blanks_and_folders(seen: Repo) -> None:
    seen.write("some dir/ä model.safetensors", file(base()))
    seen.git("add", "-A")
    seen.git("commit", "-qm", "one")
    seen.write("some dir/ä model.safetensors", file(tuned(base(), "head")))
    assert "1 modified of 14" in text(seen.git("diff"))
    inside = seen.at(seen.path / "some dir")
    assert "1 modified of 14" in text(inside.git("diff"))
    assert "1 modified of 14" in text(inside.theta("diff"))
    assert "1 modified of 14" in text(inside.theta("diff", "--", "ä model.safetensors"))
    assert "1 modified of 14" in text(inside.git("theta", "diff", "HEAD", "ä model.safetensors"))
    seen.git("commit", "-qam", "two")
    assert "Two".lower() in text(inside.theta("log", "ä model.safetensors"))


def test_git_diff_no_index(seen: Repo, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(file(base()))
    (tmp_path / "b.safetensors").write_bytes(file(tuned(base(), "head")))
    done = seen.run(
        [
            "git",
            "diff",
            "--no-index",
            str(tmp_path / "a.safetensors"),
            str(tmp_path / "b.safetensors"),
        ]
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)])
def test_other_kinds_of_repositories(
    tmp_path: Path, environment: dict[str, str], options: tuple[str, ...]
) -> None:
    repo = install(Repo.create(tmp_path / "one", environment, *options))
    first, second, third = story(repo)
    assert "4 modified" in text(repo.git("diff", first, second))
    assert "6 modified" in text(repo.theta("diff", first, third))
    bare = repo.at(tmp_path / "bare.git")
    repo.git("clone", "-q", "--bare", ".", str(bare.path))
    shutil.copytree(repo.store, bare.path / "theta" / "objects")
    assert "6 modified" in text(bare.theta("diff", first, third))
    assert len(data(bare, "log", MODEL)["commits"]) == 3
    linked = repo.at(tmp_path / "linked")
    repo.git("worktree", "add", "-q", str(linked.path), second)
    linked.write(MODEL, file(tuned(base(), "mlp")))
    assert "8 modified" in text(linked.git("diff"))
    assert "8 modified" in text(linked.theta("diff"))
    shallow = repo.at(tmp_path / "shallow")
    repo.git(
        "clone",
        "-q",
        "--depth=1",
        f"file://{repo.path}",
        str(shallow.path),
        GIT_THETA_SKIP_SMUDGE="1",
    )
    assert len(data(shallow, "log", MODEL)["commits"]) == 1
    assert len(data(shallow, "blame", MODEL)["tensors"]) == 14


def test_before_the_first_commit(tmp_path: Path, environment: dict[str, str]) -> None:
    repo = Repo(tmp_path / "unborn", environment)
    repo.path.mkdir()
    repo.git("init", "-q", ".")
    repo.write(".gitattributes", b"*.safetensors filter=theta diff=theta\n")
    repo.write(MODEL, file(base()))
    repo.git("add", "-A")
    assert "14 added of 14" in text(repo.theta("diff", "--cached"))
    assert text(repo.theta("diff")) == ""
    assert b"neither a revision nor a file" in repo.theta_run("diff", "HEAD", "--").stderr


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_in_place_of_a_model(seen: Repo) -> None:
    story(seen)
    (seen.path / MODEL).rename(seen.path / "elsewhere")
    (seen.path / MODEL).symlink_to("elsewhere")
    shown = text(seen.git("diff"))
    assert "deleted file mode 100644\n  14 removed of 14 tensors" in shown
    assert f"new file mode 120000\n--- /dev/null\n+++ b/{MODEL}\n@@ -0,0 +1 @@\n+elsewhere" in shown
    (seen.path / MODEL).unlink()
    (seen.path / MODEL).mkdir()
    assert "14 removed" in text(seen.git("diff"))
    assert "14 removed" in text(seen.theta("diff")) or seen.theta_run("diff").returncode == 0


# Plain git: manifests are made for reading, and nothing is smudged for it


def test_plain_git_speaks_per_tensor(seen: Repo) -> None:
    first, second, third = story(seen)
    hide_objects(seen)
    log = text(seen.git(*NOTHING, "log", "-p", "--", MODEL))
    assert len(re.findall(r"^\+layers\.\d\.attn\.q\.weight f32\[64,64\] ", log, re.MULTILINE)) == 8
    shown = text(seen.git(*NOTHING, "show", second))
    assert (
        len(re.findall(r"^-layers", shown, re.MULTILINE))
        == len(re.findall(r"^\+layers", shown, re.MULTILINE))
        == 4
    )
    plain = text(seen.git(*NOTHING, "diff", "--no-ext-diff", second, third))
    assert re.findall(r"^\+(\S+\.weight)", plain, re.MULTILINE) == ["embed.weight", "head.weight"]
    words = text(seen.git(*NOTHING, "diff", "--no-ext-diff", "--word-diff", second, third))
    assert re.search(
        r"^embed\.weight f32\[100,64\] \[-[0-9a-f]{64}-\]\{\+[0-9a-f]{64} ", words, re.MULTILINE
    )
    blamed = text(seen.git(*NOTHING, "blame", "-s", "-l", "HEAD", "--", MODEL))
    owners = {
        line.split(") ")[1].split(" ")[0]: line[:40]
        for line in blamed.splitlines()
        if ".weight " in line
    }
    assert owners["layers.0.attn.q.weight"] == second
    assert owners["head.weight"] == third
    assert owners["layers.0.mlp.up.weight"].lstrip("^") in first
    followed = text(
        seen.git(
            *NOTHING, "log", "-s", "--format=%H", "-L", "/^layers.3.attn.q.weight /,+1:" + MODEL
        )
    )
    assert followed.split() == [second, first]
    named = text(
        seen.git(*NOTHING, "log", "-s", "--format=%H", "-L", f":layers.3.attn.q.weight:{MODEL}")
    )
    assert named.split() == [second, first]


# git theta diff


def test_the_numbers_are_numpys(seen: Repo) -> None:
    (first, old), (second, new), _ = story(seen).items()
    found = data(seen, "diff", first, second)
    (model,) = found["models"]
    assert model["counts"]["modified"] == 4
    wanted = reference(old, new)
    assert {change["name"] for change in model["changes"]} == set(wanted)
    for change in model["changes"]:
        fraction, relative, cosine, largest = wanted[change["name"]]
        numbers = change["statistics"]
        assert numbers["fraction"] == fraction
        assert numbers["relative_change"] == pytest.approx(relative, rel=1e-12)
        assert numbers["cosine"] == pytest.approx(cosine, abs=1e-14)
        assert numbers["max_change"] == largest
    together = model["together"]
    w = np.concatenate([old[name].reshape(-1) for name in wanted]).astype(np.float64)
    v = np.concatenate([new[name].reshape(-1) for name in wanted]).astype(np.float64)
    assert together["relative_change"] == pytest.approx(
        np.linalg.norm(v - w) / np.linalg.norm(w), rel=1e-12
    )
    assert together["cosine"] == pytest.approx(
        w @ v / np.linalg.norm(w) / np.linalg.norm(v), abs=1e-14
    )


def test_a_diff_both_ways_and_of_siblings(seen: Repo) -> None:
    """Chains that share objects are decoded once; the numbers are the same as for files."""
    versions = story(seen)
    commits = list(versions)
    seen.git("checkout", "-qb", "side", commits[0])
    sibling = tuned(versions[commits[0]], "attn.q", "head", seed=33)
    commits.append(seen.commit("sibling", model__safetensors=file(sibling)))
    every = [*versions.values(), sibling]
    for i, old in enumerate(commits):
        for j, new in enumerate(commits):
            found = data(seen, "diff", old, new)["models"]
            changes = found[0]["changes"] if found else []
            wanted = reference(every[i], every[j])
            assert {
                c["name"]: pytest.approx(c["statistics"]["relative_change"], rel=1e-12)
                for c in changes
            } == {n: w[1] for n, w in wanted.items()}


def test_ranges_words_and_paths(seen: Repo) -> None:
    first, second, third = story(seen)
    seen.git("tag", "v1", first)

    def counted(*arguments: str) -> list[Any]:
        return [model["counts"]["modified"] for model in data(seen, "diff", *arguments)["models"]]

    assert counted("v1", "HEAD") == counted("v1..HEAD") == counted("v1..") == counted("v1") == [6]
    assert counted("v1...HEAD") == [6]
    assert counted("HEAD", "v1") == [6]
    assert counted("HEAD...v1") == []
    assert counted(second, third, "--", MODEL) == counted(second, third, MODEL) == [2]
    assert counted(second, third, "--", "*.txt") == []
    assert counted("HEAD") == counted() == []
    assert data(seen, "diff", "HEAD~1")["old"] == "HEAD~1"
    seen.git("branch", MODEL)
    assert b"both a revision and a file" in seen.theta_run("diff", MODEL).stderr
    assert counted("HEAD~1", "--", MODEL) == [2]
    for wrong in (
        ("nonsense",),
        ("HEAD", "HEAD", "HEAD"),
        ("--cached", "HEAD", "HEAD"),
        ("HEAD..nonsense",),
        ("-x",),
    ):
        done = seen.theta_run("diff", *wrong)
        assert done.returncode not in (0, 1) or done.stderr
        assert done.stdout == b""


def test_only_some_tensors(seen: Repo) -> None:
    first, _, third = story(seen)

    def names(*arguments: str) -> list[Any]:
        return [
            change["name"]
            for change in data(seen, "diff", first, third, *arguments)["models"][0]["changes"]
        ]

    assert names("--params", "layers.2") == ["layers.2.attn.q.weight"]
    assert names("--params", "*attn*") == [f"layers.{layer}.attn.q.weight" for layer in range(4)]
    assert names("--params", "head*", "--params", "embed*") == ["embed.weight", "head.weight"]
    assert data(seen, "diff", first, third, "--params", "nothing")["models"] == []
    by_change = [
        change["statistics"]["relative_change"]
        for change in data(seen, "diff", first, third, "--sort", "change")["models"][0]["changes"]
    ]
    assert by_change == sorted(by_change, reverse=True)
    assert names("--sort", "name") == sorted(names())
    assert names("--sort", "size")[0] == "embed.weight"


def test_forms(seen: Repo, tmp_path: Path) -> None:
    first, _, third = story(seen)
    rows = list(csv.DictReader(io.StringIO(text(seen.theta("diff", "--csv", first, third)))))
    assert [row["tensor"] for row in rows] == [
        c["name"] for c in data(seen, "diff", first, third)["models"][0]["changes"]
    ]
    assert {row["kind"] for row in rows} == {"modified"}
    assert all(0 < float(row["relative_change"]) < 1 for row in rows)
    markdown = text(seen.theta("diff", "--markdown", first, third))
    assert markdown.startswith("<!-- git-theta diff -->\n### Models: ")
    assert "| `layers.0.attn.q.weight` | `f32[64,64]` | 100 % |" in markdown
    assert text(seen.theta("diff", "--stat", first, third)).startswith(
        f" {MODEL} | 6 modified of 14, "
    )
    seen.theta("diff", "--html", str(tmp_path / "page.html"), first, third)
    assert "layers.0.attn.q.weight" in (tmp_path / "page.html").read_text("utf-8")
    unread = data(seen, "diff", "--manifest-only", first, third)["models"][0]
    assert unread["measured"] is False
    assert all(change["statistics"] is None for change in unread["changes"])
    hide_objects(seen)
    assert " 6 modified of 14" in text(seen.theta("diff", "--stat", first, third))
    assert seen.theta_run("diff", "--exit-code", "--stat", first, third).returncode == 1
    assert seen.theta_run("diff", "--exit-code", "--stat", first, first).returncode == 0


def test_check_fails_for_what_is_harm(seen: Repo) -> None:
    old = base()
    seen.commit("old", model__safetensors=file(old))
    tuned_ = tuned(old, "layers.1", seed=3)
    seen.commit("fine", model__safetensors=file(tuned_))
    done = seen.theta_run("diff", "--check", "HEAD~1", "HEAD")
    assert (done.returncode, done.stderr) == (0, b"")
    new = {name: value.copy() for name, value in tuned_.items()}
    new["layers.0.attn.q.weight"][3, 5] = np.nan
    new["layers.2.attn.q.weight"][[1, 4]] = 0
    new["layers.3.mlp.up.weight"][:, 2] = 0
    new["embed.weight"] = new["embed.weight"][:-10]
    new["head.weight"] = new["head.weight"].astype(np.float16)
    new["layers.1.mlp.up.weight"] *= np.float32(40)
    new["fresh.weight"] = np.full((4, 4), np.inf, np.float32)
    seen.commit("harm", model__safetensors=file(new))
    wanted = {
        "layers.0.attn.q.weight": "1 new NaN", "layers.2.attn.q.weight": "2 rows zeroed",
        "layers.3.mlp.up.weight": "1 dead channel",
        "embed.weight": "10 rows lost", "head.weight": "f32 -> f16",
        "layers.1.mlp.up.weight": "norm x40", "fresh.weight": "16 new Inf",
    }  # fmt: skip
    done = seen.theta_run("diff", "--check", "HEAD~1", "HEAD")
    assert done.returncode == 1
    assert set(text(done.stderr).splitlines()) == {
        f"git-theta: {MODEL}: {name}: {what}" for name, what in wanted.items()
    }
    (model,) = data(seen, "diff", "HEAD~1", "HEAD")["models"]
    found = {
        change["name"]: ", ".join(item["text"] for item in change["findings"])
        for change in model["changes"]
        if change["findings"]
    }
    assert found == wanted
    for shown in (
        text(seen.theta("diff", "HEAD~1", "HEAD")),
        text(seen.git("diff", "HEAD~1", "HEAD")),
    ):
        assert "findings in 7 tensors:" in shown
        assert "layers.0.attn.q.weight: 1 new NaN" in shown
    assert "**⚠️ Findings in 7 tensors:**" in text(
        seen.theta("diff", "--markdown", "HEAD~1", "HEAD")
    )
    assert (
        seen.theta_run("diff", "--check", "HEAD~1", "HEAD", "--params", "layers.1.attn").returncode
        == 0
    )
    first = seen.theta_run("diff", "--check", "--no-index", os.devnull, MODEL)
    assert first.returncode >= 2, "no file is an error, not a finding"
    assert seen.theta_run("diff", "--check", "nonsense").returncode == 2
    assert seen.theta_run("diff", "--check", "--stat", "HEAD~1", "HEAD").returncode == 2
    assert seen.theta_run("diff", "--exit-code", "nonsense").returncode == 2
    hide_objects(seen)
    done = seen.theta_run("diff", "--check", "HEAD~2", "HEAD~1")
    assert done.returncode == 2, "what cannot be read is not well"
    assert b"could not be checked; 'git theta fetch' may bring its objects" in done.stderr


def test_a_new_model_is_read_for_a_check_only(seen: Repo) -> None:
    seen.commit("nothing", notes__txt=b"x")
    seen.commit(
        "new",
        model__safetensors=file({**base(), "head.weight": np.full((4, 4), np.nan, np.float32)}),
    )
    assert seen.theta_run("diff", "HEAD~1", "HEAD").returncode == 0
    done = seen.theta_run("diff", "--check", "HEAD~1", "HEAD")
    assert (done.returncode, done.stderr) == (
        1,
        f"git-theta: {MODEL}: head.weight: 16 new NaN\n".encode(),
    )


def test_the_name_of_a_page(seen: Repo) -> None:
    story(seen)
    assert text(seen.theta("diff", "--html", "HEAD~1", "HEAD")) == "Wrote diff.html.\n"
    ids = [text(seen.git("rev-parse", "--short=12", rev)).strip() for rev in ("HEAD~1", "HEAD")]
    for words in (("HEAD~1", "HEAD"), ("HEAD~1..",), ("HEAD~1...HEAD",)):
        seen.theta("diff", "--html", *words)
        written = (seen.path / "diff.html").read_text("utf-8")
        assert all(oid in written.partition("</title>")[0] for oid in ids)
    assert text(seen.theta("diff", "--html", "HEAD~2", "HEAD")) == "Wrote diff.html.\n", (
        "a page of ours is replaced"
    )
    assert text(seen.theta("log", "--html", MODEL)) == "Wrote log.html.\n"
    assert text(seen.theta("diff", "--html=a.html", "HEAD~1")) == "Wrote a.html.\n"
    assert text(seen.theta("diff", "HEAD~1", "--html", "b.html")) == "Wrote b.html.\n"
    assert text(seen.theta("diff", "HEAD~1", "--html", "--", MODEL)) == "Wrote diff.html.\n"
    before = seen.read(MODEL)
    refused: tuple[tuple[tuple[str, ...], str], ...] = (
        (
            ("diff", "--html=HEAD~1", "HEAD"),
            "'HEAD~1' is a revision, not a file to write; '--html HEAD~1 HEAD' compares it",
        ),
        (("diff", f"--html={MODEL}", "HEAD~1"), f"{MODEL} exists and is not a page of Git-Theta"),
        (("log", "--html=main", MODEL), "'main' is a revision, not a file to write"),
        (
            ("convert", MODEL, "HEAD:x.npz"),
            "'HEAD:x.npz' is a file of a revision, not a file to write",
        ),
        (("convert", MODEL, "main", "--to", "npz"), "'main' is a revision"),
        (("export", f"HEAD:{MODEL}", "main"), "'main' is a revision"),
        (("import", "somewhere", "HEAD"), "'HEAD' is a revision"),
        (("merge", "main", "--write-models", "HEAD"), "'HEAD' is a revision"),
    )
    for refused_words, said in refused:
        done = seen.theta_run(*refused_words)
        assert done.returncode == 1, refused_words
        assert said in text(done.stderr), refused_words
    assert seen.read(MODEL) == before
    assert not any((seen.path / name).exists() for name in ("HEAD~1", "HEAD:x.npz", "main", "HEAD"))
    assert text(seen.theta("diff", "--html=./main", "HEAD~1")) == "Wrote ./main.\n"


def test_every_kind_of_change(seen: Repo) -> None:
    old = base()
    seen.commit("old", model__safetensors=file(old))
    new = dict(old)
    new["layers.0.attn.q.weight"] = old["layers.0.attn.q.weight"].astype(np.float16)
    new["embed.weight"] = np.concatenate(
        [old["embed.weight"] * np.float32(1.5), np.ones((4, 64), np.float32)]
    )
    new["lm_head.weight"] = new.pop("head.weight")
    new["fresh.weight"] = np.ones((3, 3), np.float32)
    del new["layers.3.mlp.up.weight"]
    seen.commit("new", model__safetensors=file(new))
    (model,) = data(seen, "diff", "HEAD~1", "HEAD")["models"]
    assert model["counts"] == {
        "added": 1,
        "removed": 1,
        "modified": 0,
        "renamed": 1,
        "reshaped": 1,
        "retyped": 1,
    }
    kinds = {change["name"]: change for change in model["changes"]}
    assert kinds["lm_head.weight"]["former_name"] == "head.weight"
    assert kinds["embed.weight"]["statistics"]["partial"] is True
    assert kinds["embed.weight"]["statistics"]["relative_change"] == pytest.approx(0.5)
    assert 0 < kinds["layers.0.attn.q.weight"]["statistics"]["relative_change"] < 1e-3
    shown = text(seen.git("diff", "HEAD~1", "HEAD"))
    for part in (
        "1 added",
        "1 removed",
        "1 renamed",
        "1 reshaped",
        "1 retyped",
        "lm_head.weight ← head.weight",
        "f32 → f16[64,64]",
        "f32[100,64] → [104,64]",
    ):
        assert part in shown
    assert "* only the rows that both versions have are compared" in shown


def test_two_files_outside_of_git(tmp_path: Path, environment: dict[str, str]) -> None:
    here = Repo(tmp_path / "plain", {**environment, "GIT_CEILING_DIRECTORIES": str(tmp_path)})
    here.path.mkdir()
    here.write("a.safetensors", file(base()))
    here.write("b.safetensors", file(tuned(base(), "head")))
    assert "1 modified of 14 tensors" in text(here.theta("diff", "a.safetensors", "b.safetensors"))
    found = data(here, "diff", "a.safetensors", "b.safetensors")
    assert found["models"][0]["changes"][0]["statistics"]["elements"] == 4096
    assert b"name two files" in here.theta_run("diff").stderr
    assert b"is no file" in here.theta_run("diff", "a.safetensors", "absent").stderr
    here.write("b.safetensors", b"\x10")
    assert here.theta_run("diff", "a.safetensors", "b.safetensors").returncode == 1
    assert not (here.path / ".git").exists()


def test_two_files_inside_of_git(seen: Repo) -> None:
    story(seen)
    seen.write("other.safetensors", file(tuned(base(), "mlp")))
    found = data(seen, "diff", MODEL, "other.safetensors")["models"][0]
    assert found["counts"]["modified"] == 10
    assert found["former_path"] == MODEL
    seen.git("add", "other.safetensors")
    assert data(seen, "diff", MODEL, "other.safetensors")["models"] == [], (
        "both are git's: these are paths"
    )
    assert (
        data(seen, "diff", "--no-index", MODEL, "other.safetensors")["models"][0]["counts"][
            "modified"
        ]
        == 10
    )
    seen.write("as-manifest.safetensors", seen.blob(f"HEAD~1:{MODEL}"))
    assert data(seen, "diff", "--no-index", "as-manifest.safetensors", MODEL)["models"][0][
        "changes"
    ][0]["statistics"]


def test_the_working_tree_as_it_is(seen: Repo) -> None:
    versions = list(story(seen).values())
    objects = seen.object_ids()
    seen.write(MODEL, file(tuned(versions[-1], "mlp", seed=21)))
    # What is changed in the second of the checkout, git itself has cleaned to see it
    os.utime(seen.path / MODEL, (1e9, 1e9))
    for _ in range(2):
        (model,) = data(seen, "diff")["models"]
        assert model["counts"]["modified"] == 4
        assert {c["statistics"]["elements"] for c in model["changes"]} == {12288}
    assert seen.object_ids() == objects, "git theta diff stores nothing"
    shown = text(seen.theta("diff"))
    assert "not stored yet" in shown
    seen.write(MODEL, seen.blob(f"HEAD~1:{MODEL}"))
    (model,) = data(seen, "diff")["models"]
    assert {c["name"] for c in model["changes"]} == {"embed.weight", "head.weight"}
    seen.write(MODEL, b"")
    assert data(seen, "diff")["models"][0]["problem"]
    (seen.path / MODEL).unlink()
    assert data(seen, "diff")["models"][0]["counts"]["removed"] == 14
    if os.name != "nt":
        (seen.path / MODEL).symlink_to("/etc/hostname")
        assert seen.theta_run("diff").returncode == 0


def test_renamed_models_are_found_by_their_tensors(seen: Repo) -> None:
    versions = story(seen)
    third = list(versions)[-1]
    seen.git("mv", MODEL, "better.safetensors")
    seen.git("commit", "-qm", "rename")
    (model,) = data(seen, "diff", third, "HEAD")["models"]
    assert (model["former_path"], model["path"], model["changes"]) == (
        MODEL,
        "better.safetensors",
        [],
    )
    seen.commit("tune", better__safetensors=file(tuned(versions[third], "layers.0", seed=41)))
    (model,) = data(seen, "diff", third, "HEAD")["models"]
    assert (model["former_path"], model["path"], model["counts"]["modified"]) == (
        MODEL,
        "better.safetensors",
        3,
    )
    assert (
        data(seen, "diff", third, "HEAD", "--", "better.safetensors")["models"][0]["counts"][
            "added"
        ]
        == 14
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("columns", "lines"), [(60, 20), (80, 24), (120, 40), (200, 60)])
def test_a_large_model_fits_the_screen(seen: Repo, columns: int, lines: int) -> None:
    """300 tensors that all changed, in colour, on a screen of any size."""
    import fcntl
    import pty
    import struct
    import subprocess
    import termios

    old = {
        f"model.layers.{n}.{part}.weight": np.full((8, 8), n + 1.0, np.float32)
        for n in range(30)
        for part in "abcdefghij"
    }
    seen.commit("old", model__safetensors=file(old))
    seen.commit("new", model__safetensors=file(tuned(old, "model", seed=3)))
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {
        k: v for k, v in seen.environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")
    } | {
        "TERM": "xterm",
        "GIT_PAGER": "cat",
        "LC_ALL": "C.UTF-8",
    }
    process = subprocess.Popen(
        ["git", "diff", "HEAD~1", "HEAD"],
        cwd=seen.path,
        env=environment,
        stdin=side,
        stdout=side,
        stderr=subprocess.DEVNULL,  # a bar would be drawn there on a busy machine
    )
    os.close(side)
    output = b""
    try:
        while part := os.read(main, 65536):
            output += part
    except OSError:
        pass
    os.close(main)
    assert process.wait() == 0
    shown = text(output)
    assert "\x1b[" in shown
    # A machine that is slow shows a bar first, and erases it
    shown = re.sub(r"[^\n]*\x1b\[2K", "", re.sub(r"\x1b\[\?25[hl]", "", shown))
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", shown).replace("\r", "").split("\n")
    assert max(map(len, plain)) <= columns
    assert len(plain) <= lines
    assert any("…" in line for line in plain)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_piped_it_is_plain(seen: Repo, locale: str) -> None:
    first, second, _ = story(seen)
    # Python's own variables have no effect on programs that git starts.
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    output = seen.under(ascii_only).git("diff", first, second, LC_ALL=locale)
    assert b"\x1b" not in output
    assert "‖Δ‖/‖W‖" in output.decode("utf-8")
    assert b"\x1b[" in seen.git("-c", "color.ui=always", "diff", first, second)
    assert b"\x1b[" not in seen.git("-c", "color.ui=always", "diff", first, second, NO_COLOR="1")


def test_hashing_alone_finds_what_adding_found(seen: Repo) -> None:
    """Without the stat cache a file is hashed anew: its tensors and its other bytes, checksums of a
    zip included.
    """
    from small_models import torch_file

    seen.write(".gitattributes", b"* filter=theta diff=theta -text\n.gitattributes -filter -diff\n")
    files = {
        "a.safetensors": file(base()),
        "b.pt": torch_file({"model": base(), "step": 3, "tied": [np.ones(3, np.float32)] * 2}),
        "c.bin": np.random.default_rng(0).bytes(3_000_000),
        "d.pt": torch_file({}),
    }
    for name, content in files.items():
        seen.write(name, content)
    seen.git("add", "-A")
    seen.git("commit", "-qm", "all")
    shutil.rmtree(seen.common / "theta" / "cache", ignore_errors=True)
    for name in files:
        os.utime(seen.path / name, (1, 1))
    assert seen.git("diff-files", "--name-only").decode().split() == list(files), (
        "git itself cannot tell that they are unchanged"
    )
    assert data(seen, "diff")["models"] == []
