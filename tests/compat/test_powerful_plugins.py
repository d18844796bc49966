"""What a built-in can do, a plugin can: example packages with a strategy that sees whole models and
their statistics, a format that contains files, and an update built from parts.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gitrepo import ROOT, Repo
from installing import install, with_site
from small_models import safetensors_file

EXAMPLES = ROOT / "examples"
RANDOM = np.random.default_rng(6)
LAYER = {
    "h.in.weight": RANDOM.standard_normal((40, 30)).astype(np.float32),
    "h.in.bias": RANDOM.standard_normal(40).astype(np.float32),
    "h.out.weight": RANDOM.standard_normal((20, 40)).astype(np.float32),
}
PLUGINS = """
from git_theta.plugin import Extent, FormatError, Layout, hookimpl
class Pair:
    name, suffixes = "pair", (".values",)
    def sniff(self, head): return head.startswith(b"VALUES")
    def scan(self, source): return Layout(self.name, source.size, ())
    def sibling(self, name): return name.replace(".values", ".names")
    def scan_beside(self, source, name, sibling):
        text = sibling.read(0, sibling.size).decode()
        if not text.startswith("NAMES "):
            raise FormatError("it does not begin with NAMES")
        size = source.size - 6
        return Layout(self.name, source.size, (Extent(text[6:], "u8", (size,), 6, size),))
class Odd:
    name, suffixes, inside = "odd", (".odd",), ".odd"
    def sniff(self, head): return head.startswith(b"ODD")
    def scan(self, source): raise KeyError("x")
class Wrong:
    name, needs_base, parts = "wrong", True, ("part",)
    def encode(self, tensor, base, level): return None
    def decode(self, payload, spec, base): return bytes(spec.nbytes)
    def from_parts(self, base, parts):
        from git_theta.plugin import Encoded, Tensor
        if parts["part"].size > 1: raise KeyError("y")
        return Tensor.from_array(base.array() + parts["part"]), Encoded([b"payload"])
@hookimpl
def register_checkpoint_formats():
    return [Pair(), Odd()]
@hookimpl
def register_updates():
    return [Wrong()]
"""


@pytest.fixture
def full(repo: Repo, tmp_path: Path) -> Repo:
    """The repository with the example packages, and a module of small plugins."""
    site = tmp_path / "site"
    for name in ("tanh-average", "model-bundle", "json-weights"):
        install(EXAMPLES / f"plugin-{name}", site)
    info = site / "small-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[git_theta]\nsmall = small\n")
    (site / "small.py").write_text(PLUGINS)
    lines = [f"*{suffix} filter=theta -text\n" for suffix in (".bundle", ".zip", ".jw", ".values")]
    lines.append("*.safetensors merge=theta\n")
    repo.write(".gitattributes", repo.read(".gitattributes") + "".join(lines).encode())
    driver = f"{sys.executable} -m git_theta merge-driver %O %A %B %P"
    repo.git("config", "merge.theta.driver", driver)
    repo.git("commit", "-qam", "track")
    return with_site(repo, site)


def loaded(repo: Repo, path: str) -> dict[str, np.ndarray]:
    """The tensors in HEAD, as the Python API loads them."""
    code = (
        "import sys, git_theta, numpy as np\n"
        "np.savez(sys.argv[3], **git_theta.load('HEAD', sys.argv[2], repo=sys.argv[1]))"
    )
    out = repo.path.parent / "loaded.npz"
    done = repo.run([sys.executable, "-c", code, str(repo.path), path, str(out)])
    assert done.returncode == 0, done.stderr.decode()
    with np.load(out) as archive:
        return {name: archive[name] for name in archive.files}


def saved(repo: Repo, path: str, tensors: dict[str, np.ndarray]) -> None:
    """``tensors`` committed by the Python API, straight from memory."""
    code = (
        "import sys, git_theta, numpy as np\n"
        "git_theta.save(dict(np.load(sys.argv[3])), sys.argv[2], repo=sys.argv[1])"
    )
    given = repo.path.parent / "given.npz"
    np.savez(given, **tensors)  # type: ignore[arg-type]  # numpy's stub has allow_pickle first
    done = repo.run([sys.executable, "-c", code, str(repo.path), path, str(given)])
    assert done.returncode == 0, done.stderr.decode()


def test_a_strategy_sees_whole_models_and_statistics(full: Repo) -> None:
    signs = np.where(np.arange(40) % 2, -1, 1).astype(np.float32)
    flipped = {
        "h.in.weight": (LAYER["h.in.weight"] + np.float32(0.125)) * signs[:, None],
        "h.in.bias": LAYER["h.in.bias"] * signs,
        "h.out.weight": LAYER["h.out.weight"] * signs,
    }
    ours, theirs = ({n: np.full(a.shape, v, np.float32) for n, a in LAYER.items()} for v in (1, 3))
    first = {name: value + np.float32(0.5) for name, value in LAYER.items()}
    full.commit("base", m__safetensors=safetensors_file(first))
    full.git("switch", "-q", "-c", "side")
    full.write("m.variance.safetensors", safetensors_file(theirs))
    full.git("add", "m.variance.safetensors")
    full.commit("theirs", m__safetensors=safetensors_file(flipped))
    full.git("switch", "-q", "main")
    full.write("m.variance.safetensors", safetensors_file(ours))
    full.git("add", "m.variance.safetensors")
    full.commit("ours", m__safetensors=safetensors_file(LAYER))
    assert b"least" in full.theta("strategies", "tanh-average")
    full.theta("merge", "side", "-s", "tanh-average", "-m", "both")
    merged = loaded(full, "m.safetensors")
    # Variances 1 and 3: three parts of ours, one of theirs, whose signs agree with ours by then
    expected = LAYER["h.in.weight"].astype(np.float64) + 0.125 / 4
    assert np.abs(merged["h.in.weight"] - expected).max() < 1e-6
    assert merged["h.out.weight"].tobytes() == LAYER["h.out.weight"].tobytes()
    full.theta("verify-merge", "HEAD")


def test_a_format_contains_files_of_any_format(full: Repo, repo: Repo) -> None:
    np.savez(full.path / "in.npz", scale=np.arange(20.0))
    full.theta("json-weights", "in.npz", "m.jw")
    inner, jw = safetensors_file({"w": LAYER["h.in.weight"]}), full.read("m.jw")
    for name in ("in.npz", "m.jw"):
        (full.path / name).unlink()
    saved(full, "deep.bundle", {"own": LAYER["h.in.bias"]})
    full.git("checkout", "-q", "--", "deep.bundle")
    deep = full.read("deep.bundle")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {"a.safetensors": inner, "b.jw": jw, "c.bundle": deep}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    full.commit("archive", m__zip=target.getvalue())
    manifest = full.manifest("HEAD:m.zip")
    assert list(manifest.by_name) == ["a.safetensors/w", "b.jw/scale", "c.bundle/own"]
    loads = loaded(full, "m.zip")
    assert loads["c.bundle/own"].tobytes() == LAYER["h.in.bias"].tobytes()
    assert loads["b.jw/scale"].tolist() == list(range(20))
    full.assert_clean()

    # Without the plugins the file comes back, and stays as it is
    (repo.path / "m.zip").unlink()
    repo.git("checkout", "-q", "--", "m.zip")
    assert repo.read("m.zip") == target.getvalue()
    repo.git("add", "--renormalize", "m.zip")
    assert repo.status() == ""


def test_an_update_is_built_from_parts(full: Repo) -> None:
    full.commit("one", m__safetensors=safetensors_file(LAYER))
    factor = {"h.in.weight/factor": np.float32(0.3)}
    np.savez(full.path.parent / "u.npz", **factor)  # type: ignore[arg-type]  # as above
    words = ("m.safetensors", "--update-data", str(full.path.parent / "u.npz"))
    full.theta("add", *words, "--update-type", "scaled")
    chain = full.manifest(":m.safetensors").by_name["h.in.weight"].chain
    assert [(link.update, link.note) for link in chain] == [("scaled", "factor=0.3"), ("dense", "")]
    full.git("commit", "-qm", "two")
    expected = LAYER["h.in.weight"].astype(np.float64) * np.float64(np.float32(0.3))
    assert loaded(full, "m.safetensors")["h.in.weight"].tolist() == expected.astype("f4").tolist()
    full.assert_clean()
    for name in ("scale", "dense"):
        done = full.theta_run("add", *words, "--update-type", name)
        assert done.returncode == 2
        said = done.stderr.decode()
        assert f"no update called '{name}' is built from parts" in said
    assert "low-rank, ia3" in said or "low-rank, sparse, ia3" in said or "sparse, low-rank" in said
    assert "scaled" in said


def test_an_update_that_is_not_exact_stores_nothing(full: Repo) -> None:
    full.commit("one", m__safetensors=safetensors_file(LAYER))
    before = full.blob(":m.safetensors"), full.object_ids()
    for value, message in (([1.0], "does not round-trip"), ([1.0, 2.0], "failed: KeyError")):
        file = full.path.parent / "u.npz"
        part = {"h.in.bias/part": np.array(value, np.float32)}
        np.savez(file, **part)  # type: ignore[arg-type]  # as above
        words = ("--update-type", "wrong", "--update-data", str(file))
        done = full.theta_run("add", "m.safetensors", *words)
        assert done.returncode != 0
        assert message in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
        assert (full.blob(":m.safetensors"), full.object_ids()) == before


def test_a_companion_file_says_what_a_file_holds(full: Repo) -> None:
    full.write("m.names", b"NAMES weight")
    full.git("add", "m.names")
    full.commit("one", m__values=b"VALUES" + bytes(range(200)))
    assert list(full.manifest("HEAD:m.values").by_name) == ["weight"]
    full.assert_clean()
    full.write("n.names", b"other")
    full.write("n.values", b"VALUES" + bytes(100))
    done = full.run(["git", "add", "n.values"])
    assert done.returncode == 0
    assert b"n.names" in done.stderr
    assert b"NAMES" in done.stderr
    assert list(full.manifest(":n.values").by_name) == []


def test_a_format_that_fails_inside_a_container_is_named(full: Repo) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x.odd"), b"ODD" * 100)
    full.write("m.zip", target.getvalue())
    said = full.git_fails("add", "m.zip")
    assert "checkpoint format 'odd', which a plugin provides, failed: KeyError" in said
