"""``git theta log`` and ``git theta blame`` against a slow, obvious reading of history."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from gitrepo import Repo
from seeing import MODEL, Tensors, base, data, file, hide_objects, install, story, track, tuned

from git_theta.core.manifest import Manifest, parse


@pytest.fixture
def seen(repo: Repo) -> Repo:
    return track(repo)


def text(output: bytes) -> str:
    return output.decode("utf-8")


def versions(repo: Repo, commit: str, path: str) -> Manifest | None:
    done = repo.run(["git", "cat-file", "blob", f"{commit}:{path}"])
    return parse(done.stdout) if done.returncode == 0 else None


def slow_blame(repo: Repo, path: str, start: str = "HEAD") -> dict[str, str]:
    """For each tensor the commit none of whose parents has its bytes, found commit by commit."""
    parents = {
        line.split()[0]: line.split()[1:]
        for line in text(repo.git("rev-list", "--parents", start)).splitlines()
    }
    head = text(repo.git("rev-parse", start)).strip()
    now = versions(repo, head, path)
    assert now is not None
    owners = {}
    for entry in now.entries:
        commit = head
        while True:
            older = [
                p
                for p in parents[commit]
                if (m := versions(repo, p, path))
                and any((e.digest, e.spec) == (entry.digest, entry.spec) for e in m.entries)
            ]
            if not older:
                break
            commit = older[0]
        owners[entry.name] = commit
    return owners


def blamed(repo: Repo, *arguments: str) -> dict[str, str]:
    return {
        tensor["name"]: tensor["commit"] for tensor in data(repo, "blame", *arguments)["tensors"]
    }


def test_log_of_a_straight_history(seen: Repo) -> None:
    first, second, third = story(seen)
    hide_objects(seen)
    found = data(seen, "log", MODEL)
    assert [commit["commit"] for commit in found["commits"]] == [third, second, first]
    assert [commit["counts"]["modified"] for commit in found["commits"]] == [2, 4, 0]
    assert found["commits"][2]["counts"]["added"] == 14
    assert [commit["subject"] for commit in found["commits"]] == [
        "Tune head and embedding",
        "Tune the attention",
        "Base model",
    ]
    assert found["commits"][0]["author"] == "A U Thor"
    assert found["commits"][1]["tensor_bytes"] == 4 * 64 * 64 * 4
    assert sum(commit["stored_bytes"] for commit in found["commits"]) == sum(
        path.stat().st_size for path in seen.store.with_name("objects-away").glob("*/*/*")
    )
    assert {change["name"] for change in found["commits"][0]["changes"]} == {
        "embed.weight",
        "head.weight",
    }
    shown = text(seen.theta("log", MODEL))
    assert f"commit {second}\n  A U Thor, " in shown
    assert "4 modified of 14 tensors; 65.5 kB stored as " in shown
    assert text(seen.theta("log", "-n", "1", MODEL)).count("commit ") == 1
    assert [c["commit"] for c in data(seen, "log", f"{first}..{second}", MODEL)["commits"]] == [
        second
    ]
    assert [c["commit"] for c in data(seen, "log", second, MODEL)["commits"]] == [second, first]
    assert [c["commit"] for c in data(seen, "log", MODEL, "--params", "head")["commits"]] == [
        third,
        first,
    ]
    assert data(seen, "log", MODEL, "--params", "head")["commits"][0]["tensor_bytes"] == 64 * 64 * 4


def test_blame_of_a_straight_history(seen: Repo) -> None:
    first, second, third = story(seen)
    hide_objects(seen)
    found = blamed(seen, MODEL)
    assert found == slow_blame(seen, MODEL)
    assert found["layers.2.attn.q.weight"] == second
    assert found["head.weight"] == third
    assert found["layers.2.mlp.up.weight"] == first
    shown = text(seen.theta("blame", MODEL)).splitlines()
    assert len(shown) == 14
    assert any(
        line.startswith(f"{second[:8]} (A U Thor  20") and line.endswith("layers.0.attn.q.weight")
        for line in shown
    )
    assert set(blamed(seen, MODEL, "--params", "layers.1")) == {
        f"layers.1.{part}.weight" for part in ("attn.q", "attn.v", "mlp.up")
    }
    assert set(blamed(seen, second, MODEL).values()) == {first, second}


def test_merges_cost_and_own_nothing_they_only_joined(seen: Repo) -> None:
    install(seen)
    start = seen.commit("base", model__safetensors=file(base()))
    seen.git("checkout", "-qb", "side")
    side = seen.commit("side", model__safetensors=file(tuned(base(), "layers.1", seed=11)))
    seen.git("checkout", "-q", "main")
    main = seen.commit("main", model__safetensors=file(tuned(base(), "layers.2", seed=12)))
    seen.git("merge", "-qm", "merged", "side")
    merge = seen.head()
    found = {commit["commit"]: commit for commit in data(seen, "log", MODEL)["commits"]}
    assert set(found) == {start, side, main, merge}
    assert found[merge]["parents"] == [main, side]
    assert found[merge]["counts"]["modified"] == 3, "beside the first parent"
    assert found[merge]["stored_bytes"] == 0
    owners = blamed(seen, MODEL)
    assert owners == slow_blame(seen, MODEL)
    assert merge not in owners.values()
    assert owners["layers.1.attn.q.weight"] == side
    assert owners["layers.2.attn.q.weight"] == main


def test_renames_of_the_file_are_followed(seen: Repo) -> None:
    story(seen)
    seen.git("mv", MODEL, "new name.safetensors")
    seen.git("commit", "-qm", "move")
    last = seen.commit("more", **{"new name__safetensors": file(tuned(base(), "mlp", seed=9))})
    found = data(seen, "log", "new name.safetensors")["commits"]
    assert [commit["subject"] for commit in found] == [
        "more",
        "move",
        "Tune head and embedding",
        "Tune the attention",
        "Base model",
    ]
    assert found[1]["changes"] == []
    assert [commit["path"] for commit in found][1:3] == ["new name.safetensors", MODEL]
    owners = blamed(seen, "new name.safetensors")
    assert owners["layers.0.mlp.up.weight"] == last
    assert len(set(owners.values())) >= 2
    seen.git("mv", "new name.safetensors", MODEL)
    seen.git("commit", "-qm", "and back")
    assert [commit["subject"] for commit in data(seen, "log", MODEL)["commits"]][:3] == [
        "and back",
        "more",
        "move",
    ]
    assert len(data(seen, "log", MODEL)["commits"]) == 6
    assert len(data(seen, "log", "-n", "3", MODEL)["commits"]) == 3
    assert blamed(seen, MODEL) == owners


def test_renamed_tensors_keep_their_commit(seen: Repo) -> None:
    first, *_ = story(seen)
    tensors = {f"model.{name}": value for name, value in tuned(base(), "attn.q", seed=2).items()}
    seen.commit("prefix", model__safetensors=file(tensors))
    owners = {tensor["name"]: tensor for tensor in data(seen, "blame", MODEL)["tensors"]}
    assert owners["model.layers.0.mlp.up.weight"]["commit"] == first
    assert owners["model.layers.0.mlp.up.weight"]["name_then"] == "layers.0.mlp.up.weight"


def test_deleted_and_added_again(seen: Repo) -> None:
    first, *_ = story(seen)
    seen.git("rm", "-q", MODEL)
    seen.git("commit", "-qm", "gone")
    assert b"is not a model of Git-Theta" in seen.theta_run("blame", MODEL).stderr
    assert "model deleted (14 tensors)" in text(seen.theta("log", MODEL))
    again = seen.commit("again", model__safetensors=file(base()))
    found = data(seen, "log", MODEL)["commits"]
    assert [commit["subject"] for commit in found[:2]] == ["again", "gone"]
    assert found[0]["stored_bytes"] == 0, "its objects are there from the first commit"
    assert set(blamed(seen, MODEL).values()) == {again}
    assert first


def test_committed_otherwise_for_a_while(seen: Repo) -> None:
    story(seen)
    for message, content in (
        ("raw", file(base())),
        (
            "lfs",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
        ),
    ):
        blob = text(seen.git("hash-object", "-w", "--stdin", "--no-filters", stdin=content)).strip()
        seen.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
        seen.git("commit", "-qm", message)
    last = seen.commit("back", model__safetensors=file(base()))
    found = data(seen, "log", MODEL)["commits"]
    assert [commit["problem"] is None for commit in found] == [True, False, False, True, True, True]
    assert "not stored by Git-Theta here" in text(seen.theta("log", MODEL))
    assert set(blamed(seen, MODEL).values()) == {last}


def test_a_damaged_manifest_in_the_history(seen: Repo) -> None:
    story(seen)
    blob = text(
        seen.git(
            "hash-object", "-w", "--stdin", "--no-filters", stdin=seen.blob(f"HEAD:{MODEL}")[:-9]
        )
    ).strip()
    seen.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
    seen.git("commit", "-qm", "damaged")
    last = seen.commit("good", model__safetensors=file(base()))
    found = data(seen, "log", MODEL)["commits"]
    assert "cannot be read" in found[1]["problem"]
    assert len(found) == 5
    owners = blamed(seen, MODEL)
    assert owners["head.weight"] == last


def test_words_that_are_no_revision_or_path(seen: Repo) -> None:
    story(seen)
    assert b"is no revision" in seen.theta_run("log", "nonsense", MODEL).stderr
    assert b"no commit changed" in seen.theta_run("log", "absent.safetensors").stderr
    assert b"is not a model" in seen.theta_run("blame", ".gitattributes").stderr
    assert b"is not a model" in seen.theta_run("blame", "absent").stderr
    inside = seen.at(seen.path / "folder")
    inside.path.mkdir()
    assert len(data(inside, "log", f"..{os.sep}{MODEL}")["commits"]) == 3


def test_a_page_of_the_history(seen: Repo, tmp_path: Path) -> None:
    story(seen)
    seen.theta("log", MODEL, "--html", str(tmp_path / "log.html"))
    assert "Tune the attention" in (tmp_path / "log.html").read_text("utf-8")


@pytest.mark.parametrize("seed", range(3))
def test_blame_of_a_tangled_history(seen: Repo, seed: int) -> None:
    """Branches and merges at random, against the slow reading."""
    pick = random.Random(seed)
    names = [f"layers.{layer}.w" for layer in range(6)]
    state: dict[str, Tensors] = {"main": {name: np.full((8, 8), 1.0, np.float32) for name in names}}
    seen.commit("base", model__safetensors=file(state["main"]))
    for step in range(14):
        branch = pick.choice(list(state))
        seen.git("checkout", "-q", branch)
        other = pick.choice(list(state))
        if other != branch and pick.random() < 0.5:
            merged = {
                name: pick.choice([state[branch][name], state[other][name]]) for name in names
            }
            seen.run(["git", "merge", "-q", "--no-commit", "--no-ff", "-s", "ours", other])
            seen.write(MODEL, file(merged))
            seen.git("add", MODEL)
            seen.git("commit", "-qm", f"merge {step}", "--allow-empty")
            state[branch] = merged
        elif len(state) < 4 and pick.random() < 0.4:
            seen.git("checkout", "-qb", f"b{step}")
            state[f"b{step}"] = dict(state[branch])
        else:
            chosen = pick.sample(names, pick.randint(1, 3))
            state[branch] = {
                n: np.full((8, 8), pick.random(), np.float32) if n in chosen else v
                for n, v in state[branch].items()
            }
            seen.commit(f"change {step}", model__safetensors=file(state[branch]))
    for branch in state:
        now = versions(seen, branch, MODEL)
        assert now is not None
        quick = blamed(seen, branch, MODEL)
        parents = {
            line.split()[0]: line.split()[1:]
            for line in text(seen.git("rev-list", "--parents", branch)).splitlines()
        }
        for entry in now.entries:
            commit = quick[entry.name]
            here = versions(seen, commit, MODEL)
            assert here is not None
            assert here.by_name[entry.name].digest == entry.digest
            for parent in parents[commit]:
                before = versions(seen, parent, MODEL)
                assert before is None or all(e.digest != entry.digest for e in before.entries), (
                    "no parent has it"
                )
