"""TensorFlow's and torch's distributed checkpoints in real repositories: cut by tensor where the
file beside them is at hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from gitrepo import Repo

DATA = Path(__file__).parents[1] / "data"
VALUES, INDEX = "model.data-00000-of-00001", "model.index"


@pytest.fixture
def tf(repo: Repo) -> Repo:
    repo.write(
        ".gitattributes",
        b"*.data-* filter=theta -text\n*.index filter=theta -text\n*.distcp filter=theta -text\n",
    )
    for name in (VALUES, INDEX):
        repo.write(name, (DATA / "tensorflow" / name.replace("model", "small")).read_bytes())
    return repo


def commit(repo: Repo, *names: str) -> None:
    repo.git("add", "--", *names)
    repo.git("commit", "-qm", "more")


def test_what_explains_other_files_is_not_warned_of(tf: Repo) -> None:
    tf.write(
        ".gitattributes",
        tf.read(".gitattributes") + b".metadata filter=theta -text\n*.txt filter=theta -text\n",
    )
    tf.write(".metadata", (DATA / "dcp" / ".metadata").read_bytes())
    tf.write("notes.txt", b"text")
    done = tf.run(["git", "add", "."])
    assert (
        done.stderr == b"git-theta: notes.txt: no known checkpoint format; stored as plain bytes\n"
    )


def test_tensorflow(tf: Repo, tmp_path: Path) -> None:
    commit(tf, ".gitattributes", VALUES, INDEX)
    manifest = tf.manifest(f"HEAD:{VALUES}")
    assert manifest.format == "tf-checkpoint"
    assert manifest.by_name["model/layers/1"].shape == (3, 4)
    clone = tf.at(tmp_path / "clone")
    tf.git("clone", "-q", "--shared", str(tf.path), str(clone.path))
    assert clone.read(VALUES) == tf.read(VALUES)
    clone.assert_clean()
    shown = tf.theta("ls-files", "-l", INDEX).decode()
    assert "model/layers/1" in shown
    changed = bytearray(tf.read(VALUES))
    changed[45] ^= 1
    tf.write(VALUES, bytes(changed))
    assert b"1 modified of 11 tensors" in tf.theta("diff", "--", INDEX)


@pytest.mark.parametrize("loss", ["removed", "broken", "another", "link", "manifest"])
def test_what_was_committed_stays_as_it_is_whatever_becomes_of_the_index(
    tf: Repo, loss: str
) -> None:
    commit(tf, ".gitattributes", VALUES, INDEX)
    before = tf.blob(f"HEAD:{VALUES}")
    (tf.path / INDEX).unlink()
    if loss == "broken":
        tf.write(INDEX, b"x" * 200)
    elif loss == "another":
        data = (DATA / "tensorflow" / "small.index").read_bytes()
        tf.write(INDEX, data.replace(b"layers", b"LAYERS"))
    elif loss == "link":
        (tf.path / INDEX).symlink_to("/dev/zero")
    elif loss == "manifest":
        tf.write(INDEX, tf.blob(f"HEAD:{INDEX}"))
    (tf.path / VALUES).touch()
    for cache in (tf.common / "theta" / "cache").rglob("*"):
        if cache.is_file():
            cache.unlink()
    tf.git("add", "--renormalize", VALUES)
    assert tf.blob(f":{VALUES}") == before
    tf.git("checkout", "-q", "--force", "HEAD", "--", VALUES)


def test_without_the_index_a_new_version_is_cut_as_the_old_one(tf: Repo) -> None:
    commit(tf, ".gitattributes", VALUES, INDEX)
    (tf.path / INDEX).unlink()
    changed = bytearray(tf.read(VALUES))
    changed[45] ^= 1
    tf.write(VALUES, bytes(changed))
    commit(tf, VALUES)
    assert b"1 modified of 10 tensors" in tf.theta("diff", "HEAD~1", "HEAD", "--", VALUES)
    tf.write(VALUES, bytes(changed) + b"longer")
    commit(tf, VALUES)
    assert tf.manifest(f"HEAD:{VALUES}").format == "opaque"


def test_lost_objects_are_stored_again(tf: Repo) -> None:
    index = tf.read(INDEX)
    (tf.path / INDEX).unlink()
    commit(tf, ".gitattributes", VALUES)
    before, held = tf.blob(f"HEAD:{VALUES}"), tf.object_ids()
    assert held
    for path in tf.store.glob("*/*/*"):
        path.unlink()
    tf.write(INDEX, index)
    (tf.path / VALUES).touch()
    tf.git("add", "--renormalize", VALUES)
    assert tf.blob(f":{VALUES}") == before
    assert tf.object_ids() >= held


def test_without_the_index_it_is_plain_bytes_and_stays_so(tf: Repo) -> None:
    index = tf.read(INDEX)
    (tf.path / INDEX).unlink()
    commit(tf, ".gitattributes", VALUES)
    before = tf.blob(f"HEAD:{VALUES}")
    assert tf.manifest(f"HEAD:{VALUES}").format == "opaque"
    tf.write(INDEX, index)
    (tf.path / VALUES).touch()
    tf.git("add", "--renormalize", VALUES)
    assert tf.blob(f":{VALUES}") == before
    changed = bytearray(tf.read(VALUES))
    changed[45] ^= 1
    tf.write(VALUES, bytes(changed))
    commit(tf, VALUES)
    assert tf.manifest(f"HEAD:{VALUES}").format == "tf-checkpoint"


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_what_torch_distributed_writes(tf: Repo) -> None:
    torch = pytest.importorskip("torch")
    dcp = pytest.importorskip("torch.distributed.checkpoint")

    def save(value: float) -> None:
        state = {"model": {"w": torch.full((40, 30), value), "b": torch.ones(50)}, "step": value}
        dcp.save(state, checkpoint_id=str(tf.path / "run"), no_dist=True)

    save(1.0)
    commit(tf, ".gitattributes", "run")
    manifest = tf.manifest("HEAD:run/__0_0.distcp")
    assert {name: str(entry.spec) for name, entry in manifest.by_name.items()} == {
        "model.w": "f32[40,30]",
        "model.b": "f32[50]",
    }
    assert tf.blob("HEAD:run/.metadata") == tf.read("run/.metadata")
    save(2.0)
    commit(tf, "run")
    shown = tf.theta("diff", "HEAD~1", "HEAD", "--", "run").decode()
    assert shown.startswith("run/.metadata\n  1 modified of 2 tensors, 1 unchanged\n")
    assert "model.w" in shown
    tf.git("checkout", "-q", "HEAD~1")
    assert tf.git("status", "--porcelain", "--untracked-files=no") == b""
    loaded = {"model": {"w": torch.zeros(40, 30), "b": torch.zeros(50)}}
    dcp.load(loaded, checkpoint_id=str(tf.path / "run"), no_dist=True)
    assert loaded["model"]["w"].unique().tolist() == [1.0]
