"""The complete example plugin in real repositories, and plugins that are in each other's way,
broken, or missing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import ROOT, Repo
from installing import install, with_site
from small_models import safetensors_file

EXAMPLE = ROOT / "examples" / "plugin-json-weights"
WEIGHTS = np.random.default_rng(4).standard_normal((60, 50)).astype(np.float32)


@pytest.fixture
def full(repo: Repo, tmp_path: Path) -> Repo:
    """The repository where the plugin is installed, and its files are tracked."""
    install(EXAMPLE, tmp_path / "site")
    repo.write(
        ".gitattributes",
        repo.read(".gitattributes")
        + b"*.jw filter=theta merge=theta -text\n*.safetensors merge=theta\n",
    )
    repo.git(
        "config", "merge.theta.driver", f"{sys.executable} -m git_theta merge-driver %O %A %B %P"
    )
    repo.git("commit", "-qam", "track")
    return with_site(repo, tmp_path / "site")


def other_plugin(site: Path, name: str, body: str) -> None:
    """A second plugin, ``NAME 2.0``."""
    info = site / f"{name}-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[git_theta]\n{name} = {name}\n")
    (site / f"{name}.py").write_text(body)


def written(repo: Repo, name: str, **arrays: Any) -> bytes:
    """The file that the plugin's own command writes."""
    np.savez(repo.path / "in.npz", **arrays)
    repo.theta("json-weights", "in.npz", name)
    (repo.path / "in.npz").unlink()
    return repo.read(name)


def test_it_adds_something_of_every_kind(full: Repo, repo: Repo) -> None:
    listed = full.theta("plugins").decode()
    for kind, name in (
        ("format", "json-weights"),
        ("update", "scaled"),
        ("strategy", "largest"),
        ("unit kind", "codebook"),
        ("command", "json-weights"),
    ):
        assert any(
            kind in line and name in line and "git-theta-json-weights 1.0" in line
            for line in listed.splitlines()
        ), (kind, name)
    assert b"json-weights" not in repo.theta("plugins")
    assert b"at_least" in full.theta("strategies", "largest")


def test_its_units_are_merged_as_a_whole(full: Repo) -> None:
    def file(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        return safetensors_file(
            {
                "x.codes": random.integers(0, 255, (8, 8), np.uint8),
                "x.book": random.random(256).astype(np.float32),
            }
        )

    full.commit("base", m__safetensors=file(1))
    full.git("switch", "-q", "-c", "side")
    full.commit("theirs", m__safetensors=file(2))
    full.git("switch", "-q", "main")
    full.commit("ours", m__safetensors=file(3))
    done = full.theta_run("merge", "side", "-s", "average")
    assert done.returncode == 1
    assert (
        b"unit x: codebook (book, codes) changed on 2 sides; 'average' would merge its parts one"
        b" by one" in done.stderr
    )
    full.theta("resolve", "--params", "x.book", "--theirs")
    assert full.read("m.safetensors") == file(2)


def test_its_files_are_stored_merged_and_read_by_tensor(full: Repo, repo: Repo) -> None:
    first = written(full, "m.jw", weight=WEIGHTS, bias=WEIGHTS[0])
    full.commit("one", m__jw=first)
    manifest = full.manifest("HEAD:m.jw")
    assert manifest.format == "json-weights"
    assert {name: str(entry.spec) for name, entry in manifest.by_name.items()} == {
        "weight": "f32[60,50]",
        "bias": "f32[50]",
    }

    # Its update is chosen where it is smallest.
    halved = written(full, "m.jw", weight=WEIGHTS * np.float32(0.3), bias=WEIGHTS[0])
    full.commit("two", m__jw=halved)
    chain = full.manifest("HEAD:m.jw").by_name["weight"].chain
    assert [(link.update, link.note) for link in chain] == [("scaled", "factor=0.3"), ("dense", "")]

    # Its strategy merges, with its option.
    full.git("switch", "-q", "-c", "side", "HEAD~1")
    theirs = WEIGHTS.copy()
    theirs[0], theirs[1] = 9, theirs[1] + 0.01
    full.commit("side", m__jw=written(full, "m.jw", weight=theirs, bias=WEIGHTS[0]))
    full.git("switch", "-q", "main")
    full.theta("merge", "side", "-s", "largest", "-o", "at_least=0.02", "-m", "both")
    read = "git_theta.load('HEAD', 'm.jw', repo=sys.argv[1])['weight']"
    code = f"import sys, git_theta, numpy as np; np.save(sys.argv[2], {read})"
    full.run([sys.executable, "-c", code, str(full.path), str(full.path / "out.npy")])
    merged = np.load(full.path / "out.npy")
    (full.path / "out.npy").unlink()
    ours = (WEIGHTS.astype(np.float64) * 0.3).astype(np.float32)
    assert np.abs(merged[0] - 9).max() == 0
    rest = np.where(np.abs(ours - WEIGHTS) > 0.02, ours, WEIGHTS)[2:]
    assert np.abs(merged[2:] - rest).max() < 1e-6
    assert full.theta("verify-merge", "HEAD")
    full.assert_clean()

    # Where it is not installed, all that it did not store is there; the rest is named.
    (full.path / "m.jw").unlink()
    repo.git("checkout", "-q", "HEAD~2", "--", "m.jw")
    assert repo.read("m.jw") == first  # putting a file together needs no format
    assert "'scaled'" in repo.git_fails("checkout", "HEAD~1", "--", "m.jw")
    assert repo.read("m.jw") == first
    said = repo.theta_run("merge", "side", "-s", "largest").stderr.decode()
    assert "there is no merge strategy 'largest'; there are: " in said
    repo.write("n.jw", written(full, "n.jw", weight=WEIGHTS))
    assert (
        b"no known checkpoint format; stored as plain bytes"
        in repo.run(["git", "add", "n.jw"]).stderr
    )
    assert repo.manifest(":n.jw").format == "opaque"


def test_its_files_stay_as_they_are_where_it_is_not_installed(full: Repo, repo: Repo) -> None:
    full.commit("one", m__jw=written(full, "m.jw", weight=WEIGHTS, bias=WEIGHTS[0]))
    before = full.blob("HEAD:m.jw")
    os.utime(repo.path / "m.jw", (0, 0))
    assert repo.status() == ""
    repo.git("add", "--renormalize", "m.jw")
    assert repo.blob(":m.jw") == before
    repo.write("m.jw", repo.read("m.jw").replace(b"1", b"2"))
    repo.git("add", "m.jw")
    assert repo.manifest(":m.jw").format == "opaque"


CLASH = """
from git_theta.plugin import hookimpl
class Scaled:
    name, needs_base = "scaled", True
    def encode(self, tensor, base, level): return None
    def decode(self, payload, spec, base): raise NotImplementedError
@hookimpl
def register_updates():
    return [Scaled()]
"""


def test_two_plugins_with_one_name(full: Repo, tmp_path: Path) -> None:
    contents = [written(full, "m.jw", weight=WEIGHTS * np.float32(factor)) for factor in (1, 0.3)]
    for number, content in enumerate(contents):
        full.commit(str(number), m__jw=content)
    other_plugin(tmp_path / "site", "other", CLASH)
    listed = full.theta_run("plugins")
    clash = "two plugins provide an update called scaled: git-theta-json-weights 1.0 and other 2.0"
    assert listed.returncode == 1
    assert clash in listed.stderr.decode()
    # Everything else works: other files, and this one where it needs neither.
    done = full.run(["git", "checkout", "HEAD~1", "--", "m.jw"])
    assert done.returncode == 0
    assert full.read("m.jw") == contents[0]
    full.write("n.safetensors", safetensors_file({"w": WEIGHTS}))
    done = full.run(["git", "add", "n.safetensors"])
    assert done.returncode == 0
    assert "git-theta-json-weights 1.0 and other 2.0; neither is used" in done.stderr.decode()
    said = full.git_fails("checkout", "HEAD", "--", "m.jw")
    assert "git-theta-json-weights 1.0 and other 2.0" in said
    assert full.read("m.jw") == contents[0]


def test_a_plugin_that_cannot_be_imported(full: Repo, tmp_path: Path) -> None:
    other_plugin(tmp_path / "site", "broken", "import no_such_module\n")
    listed = full.theta_run("plugins")
    assert listed.returncode == 0
    assert (
        b"plugin broken 2.0 cannot be imported and is ignored: ModuleNotFoundError" in listed.stderr
    )
    assert b"largest" in listed.stdout
    content = written(full, "m.jw", weight=WEIGHTS)
    full.commit("one", m__jw=content)
    assert full.manifest("HEAD:m.jw").format == "json-weights"
    (full.path / "m.jw").unlink()
    full.git("checkout", "-q", "--", "m.jw")
    assert full.read("m.jw") == content
    full.assert_clean()


FAILING = """
from git_theta.plugin import hookimpl
class Odd:
    name, suffixes = "odd", (".odd",)
    def sniff(self, head): return head.startswith(b"ODD")
    def scan(self, source): raise KeyError("x\\x1b[31m")
@hookimpl
def register_checkpoint_formats():
    return [Odd()]
"""


def test_a_plugin_that_fails(full: Repo, tmp_path: Path) -> None:
    other_plugin(tmp_path / "site", "failing", FAILING)
    other_plugin(tmp_path / "site", "leaving", "raise SystemExit(3)\n")
    full.write(".gitattributes", full.read(".gitattributes") + b"*.odd filter=theta -text\n")
    full.write("m.odd", b"ODD" * 100)
    said = full.git_fails("add", "m.odd")
    assert "checkpoint format 'odd', which a plugin provides, failed: KeyError: " in said
    assert "\x1b" not in said
    full.write("m.jw", written(full, "m.jw", weight=WEIGHTS))
    done = full.run(["git", "add", "m.jw"])
    assert done.returncode == 0
    assert b"plugin leaving 2.0 cannot be imported and is ignored: SystemExit: 3" in done.stderr
    assert full.manifest(":m.jw").format == "json-weights"
