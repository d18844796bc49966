"""Whatever git starts runs the installation's own code: no variable, folder or file around it brings in another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gitrepo import ROOT, Repo, isolated_environment
from small_models import safetensors_file

from git_theta import __version__

pytestmark = pytest.mark.skipif(os.name == "nt", reason="scripts are programs of another kind on Windows")

ATTRIBUTES = b"*.safetensors filter=theta diff=theta merge=theta -text\n"
MODEL = "m.safetensors"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Modules that Git-Theta or Python itself would import, were they found.
FOREIGN = ("sitecustomize", "usercustomize", "git_theta", "numpy", "zstandard", "blake3", "click", "tensorstore", "json", "tempfile", "re")


@dataclass(frozen=True)
class Installation:
    """Git-Theta as a tool installed it: its program, the folder of its modules, and variables that were set meanwhile."""

    program: Path
    site: Path
    variables: Mapping[str, str]


def packages(site: Path, *, editable: bool = False) -> Path:
    """A site-packages folder with Git-Theta and what it needs."""
    site.mkdir(parents=True, exist_ok=True)
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            ours = entry.name.startswith(("git_theta", "_editable_impl_git_theta", "__editable__"))
            if not ours and entry.suffix != ".pth" and entry.name not in ("__pycache__", "bin"):
                (site / entry.name).symlink_to(entry)
    info = site / f"git_theta-{__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: git-theta\nVersion: {__version__}\n")
    if editable:
        (site / "git_theta_editable.pth").write_text(f"{ROOT}\n")
    else:
        (site / "git_theta").symlink_to(ROOT / "git_theta")
    return site


def scripts(folder: Path, python: Path) -> Path:
    """The programs, as pip and uv write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("git-theta", "git-merge-theta"):
        start = f"import sys\nfrom git_theta.start import {name.replace('-', '_')}\nif __name__ == '__main__':\n    sys.exit("
        first = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"  # what they write for a folder with a blank
        (folder / name).write_text(f"{first}{start}{name.replace('-', '_')}())\n")
        (folder / name).chmod(0o755)
    return folder / "git-theta"


def virtual(folder: Path, *, editable: bool = False) -> Installation:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = packages(folder / "lib" / VERSION / "site-packages", editable=editable)
    return Installation(scripts(folder / "bin", folder / "bin" / "python"), site, {})


def pipx(folder: Path) -> Installation:
    made = virtual(folder / "pipx" / "venvs" / "git-theta")
    linked = folder / "bin" / "git-theta"
    linked.parent.mkdir()
    linked.symlink_to(made.program)
    return Installation(linked, made.site, {})


def base_python() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable))


def user(folder: Path, *, editable: bool = False) -> Installation:
    site = packages(folder / "lib" / VERSION / "site-packages", editable=editable)
    return Installation(scripts(folder / "bin", base_python()), site, {"PYTHONUSERBASE": str(folder)})


def target(folder: Path) -> Installation:
    site = packages(folder / "target")
    return Installation(scripts(site / "bin", base_python()), site, {"PYTHONPATH": str(site)})


KINDS = {
    "venv": virtual,
    "editable": lambda folder: virtual(folder, editable=True),
    "pipx": pipx,
    "user": user,
    "user-editable": lambda folder: user(folder, editable=True),
    "target": target,
}


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment in which no program of ours is on PATH, and Python has nothing set."""
    environment = {key: value for key, value in isolated_environment(tmp_path / "home").items() if not key.startswith("PYTHON")}
    config = Path(environment["GIT_CONFIG_GLOBAL"])
    config.write_text(config.read_text(encoding="utf-8").partition('[filter "theta"]')[0], encoding="utf-8")
    found = shutil.which("git")
    assert found is not None
    return {**environment, "PATH": os.pathsep.join(dict.fromkeys([os.path.dirname(found), "/usr/bin", "/bin"]))}


def installed(made: Installation, tmp_path: Path, surroundings: Mapping[str, str]) -> Repo:
    """A repository after ``git-theta install`` of this installation; nothing that was set for that is set any more."""
    subprocess.run([made.program, "install"], env={**surroundings, **made.variables}, cwd=tmp_path, check=True, capture_output=True)
    path = tmp_path / "repo"
    path.mkdir()
    repo = Repo(path, surroundings)
    repo.git("init", "-q")
    repo.commit("attributes", **{".gitattributes": ATTRIBUTES})
    return repo


def hostile(folder: Path, log: Path) -> dict[str, str]:
    """Fill ``folder`` with modules that note in ``log`` that they were run, and have every variable of Python name it."""
    for name in FOREIGN:
        (folder / name).with_suffix(".py").write_text(f"open({str(log)!r}, 'a').write({name!r} + '\\n')\nraise SystemExit(9)\n")
    base = log.parent / "userbase"
    site = base / "lib" / VERSION / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / "usercustomize.py").write_text(f"open({str(log)!r}, 'a').write('user site\\n')\n")
    (site / "evil.pth").write_text(f"import os; open({str(log)!r}, 'a').write('pth\\n')\n{folder}\n")
    return {
        "PYTHONPATH": os.pathsep.join(["", str(folder)]),
        "PYTHONHOME": str(folder),
        "PYTHONPLATLIBDIR": "elsewhere",
        "PYTHONSTARTUP": str(folder / "numpy.py"),
        "PYTHONUSERBASE": str(base),
        "PYTHONWARNINGS": "error",
        "PYTHONINSPECT": "1",
        "PYTHONVERBOSE": "",
        "PYTHONSAFEPATH": "",
        "PYTHON_ZSTANDARD_IMPORT_POLICY": "nonsense",
    }


def model(seed: int) -> bytes:
    """Large enough for arrays to be computed with."""
    random = np.random.default_rng(seed)
    return safetensors_file({name: random.standard_normal(500_000).astype(np.float32) for name in ("a", "b")})


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_foreign_runs_in_what_git_starts(kind: str, tmp_path: Path, surroundings: Mapping[str, str]) -> None:
    made = KINDS[kind](tmp_path / "in stallation")
    repo = installed(made, tmp_path, surroundings)
    log = tmp_path / "log"
    evil = Repo(repo.path, {**surroundings, **hostile(repo.path, log)})
    (made.site / "usercustomize.py").write_text(f"open({str(log)!r}, 'a').write('own user site\\n')\n")
    first, second = model(1), model(2)
    evil.commit("one", **{MODEL: first})
    evil.git("checkout", "-q", "-b", "other")
    evil.commit("two", **{MODEL: second})
    assert b"2 of 2" in evil.git("diff", "HEAD~1", "--", MODEL) or b"changed" in evil.git("diff", "HEAD~1", "--", MODEL)
    evil.git("checkout", "-q", "main")
    assert evil.read(MODEL) == first
    evil.commit("three", **{MODEL: model(3)})
    assert "cannot be merged" not in evil.git_fails("merge", "other")
    evil.git("merge", "--abort")
    evil.git("theta", "merge", "other", "-s", "average", "-m", "merged")  # by the alias
    for name, seed in (("x", 4), ("y", 5)):
        evil.git("checkout", "-q", "-b", name, "main~1")
        evil.commit(name, **{MODEL: model(seed)})
    evil.git("checkout", "-q", "main")
    evil.git("theta", "merge", "x", "y", "-s", "average", "-m", "three at once")
    assert len(evil.git("rev-list", "--parents", "-1", "HEAD").split()) == 4
    Repo(tmp_path, surroundings).git("init", "-q", "--bare", "remote")
    evil.git("remote", "add", "origin", str(tmp_path / "remote"))
    evil.git("push", "-q", "origin", "--all")
    assert list((tmp_path / "remote" / "theta" / "objects").glob("*/*/*"))
    assert MODEL.encode() in evil.git("theta", "ls-files")
    assert not log.exists(), log.read_text()
    assert [path.name for path in repo.common.glob("git-theta-*")] == []
