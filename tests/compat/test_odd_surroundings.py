"""Locales without Unicode, stores on another file system, repositories that can only be read,
grafts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import numpy as np
import pytest
import sharing
from gitrepo import Repo
from sharing import World, forget, model
from small_models import safetensors_file

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PATH = "modèle Ω/é.safetensors"
NAMES = ("wéight", "層.0.w", "層.1.w")


def tensors(seed: int) -> bytes:
    source = np.random.default_rng(seed)
    return safetensors_file(
        {name: source.standard_normal((40, 30)).astype(np.float32) for name in NAMES}
    )


@pytest.fixture
def ascii_repo(repo: Repo) -> Repo:
    """Two versions of a model whose path and tensors have letters that are not ASCII, committed in
    a locale that has no others.
    """
    plain = Repo(repo.path, {**repo.environment, **ASCII})
    plain.git("config", "core.quotePath", "false")
    plain.git("config", "diff.theta.command", f"{sys.executable} -m git_theta diff-driver")
    (plain.path / PATH).parent.mkdir()
    for seed in (1, 2):
        plain.write(PATH, tensors(seed))
        plain.git("add", "--", PATH)
        plain.git("commit", "-qm", f"vérsion {seed}")
    return plain


COMMANDS = [
    ["ls-files"],
    ["show", f"HEAD:{PATH}"],
    ["log", "--", PATH],
    ["blame", PATH],
    ["diff", "HEAD~1", "HEAD"],
    ["diff", "--markdown", "HEAD~1", "HEAD"],
    ["diff", "--html", "page.html", "HEAD~1", "HEAD"],
    ["fsck"],
    ["env"],
    ["track", "*.bïn"],
    ["prune", "--dry-run"],
    ["checkout", "--", PATH],
    ["convert", f"HEAD~1:{PATH}", "nèw.npz", "--force"],
    ["add", PATH],
    ["show", "nö such révision"],
]


@pytest.mark.parametrize("locale", ["utf8 off", "ascii output"])
def test_commands_in_a_locale_without_unicode(ascii_repo: Repo, locale: str) -> None:
    more = {} if locale == "utf8 off" else {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"}
    for words in COMMANDS:
        done = ascii_repo.theta_run(*words, **more)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert not any(word in said for word in ("Unicode", "codec", "internal error")), said
        assert words == ["env"] or (done.returncode == 0) == ("nö" not in words[-1]), said
        assert done.stdout.isascii() or "--markdown" in words


def test_git_in_a_locale_without_unicode(ascii_repo: Repo) -> None:
    first, second = tensors(1), tensors(2)
    ascii_repo.assert_clean()
    shown = ascii_repo.git("diff", "HEAD~1", "HEAD").decode("utf-8")
    assert "w\\xe9ight" in shown
    ascii_repo.git("checkout", "-q", "HEAD~1")
    assert ascii_repo.read(PATH) == first
    ascii_repo.git("checkout", "-q", "main")
    assert ascii_repo.read(PATH) == second
    (ascii_repo.path / PATH).unlink()
    ascii_repo.theta("checkout", "--", PATH)
    assert ascii_repo.read(PATH) == second
    ascii_repo.assert_clean()
    name = "n\udcffw.npz"  # a path that is no UTF-8 at all
    ascii_repo.theta("convert", PATH, name)
    assert ascii_repo.read(name)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the tests' own."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    folder = Path(mkdtemp(prefix="git-theta-test-", dir=memory))
    yield folder
    rmtree(folder)


def test_a_store_that_is_a_link_to_another_file_system(
    world: World, other_file_system: Path
) -> None:
    repo = world.start()
    objects = repo.common / "theta" / "objects"
    objects.parent.mkdir(exist_ok=True)
    objects.symlink_to(other_file_system)
    repo.commit("one", model__safetensors=model(1))
    assert list(other_file_system.glob("??/??/*"))
    repo.git("push", "-q", "origin", "main")
    two = world.clone("two", "--no-checkout")
    elsewhere = other_file_system / "two"
    elsewhere.mkdir()
    (two.common / "theta").mkdir(exist_ok=True)
    (two.common / "theta" / "objects").symlink_to(elsewhere)
    two.git("checkout", "-q", "-f", "main")
    assert two.read("model.safetensors") == model(1)
    two.commit("two", model__safetensors=model(2))
    two.theta("fsck")
    two.theta("prune", "--now")
    two.assert_clean()
    for folder in (other_file_system, elsewhere):
        assert not [path for path in folder.rglob("*") if path.is_file() and len(path.name) != 64]


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.mark.parametrize("folder", ["with", "without"])
def test_converting_from_a_repository_that_can_only_be_read(
    repo: Repo, tmp_path: Path, folder: str
) -> None:
    """With and without the folder of temporary files."""
    repo.commit("one", model__safetensors=model(1))
    assert (repo.common / "theta" / "tmp").is_dir()
    if folder == "without":
        rmtree(repo.common / "theta" / "tmp")
    out = tmp_path / "out"
    out.mkdir()
    bind = f"mount --bind '{repo.path}' '{repo.path}' && mount -o remount,ro,bind '{repo.path}'"
    if (
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run(
            ["unshare", "-m", "sh", "-c", bind], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no right to mount a file system")
    script = (
        f"{bind} && cd '{repo.path}' && ! touch x 2>&- && exec '{sys.executable}' -m git_theta"
        f" convert HEAD:model.safetensors '{out}/m.npz'"
    )
    done = repo.at(tmp_path).run(["unshare", "-m", "sh", "-c", script])
    assert done.returncode == 0, done.stderr.decode()
    with np.load(out / "m.npz") as arrays:
        assert len(arrays.files) > 1
    assert [path.name for path in out.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("how", ["cut off", "joined"])
def test_prune_looks_behind_grafts(repo: Repo, how: str) -> None:
    first = repo.commit("first", model__safetensors=model(1))
    old = repo.object_ids()
    repo.git("checkout", "-q", "--orphan", "new") if how == "joined" else None
    second = repo.commit("second", model__safetensors=model(2))
    (repo.common / "info").mkdir(exist_ok=True)
    (repo.common / "info" / "grafts").write_text(
        f"{second}\n" if how == "cut off" else f"{second} {first}\n"
    )
    if how == "joined":
        repo.git("branch", "-D", "main")
    forget(repo)
    repo.theta("prune", "--now")
    assert old <= repo.object_ids()
