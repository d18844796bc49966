"""Whatever git starts runs the installation's own code: no variable, folder or file around it
brings in another.
"""

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

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="scripts are programs of another kind on Windows"
)

ATTRIBUTES = b"*.safetensors filter=theta diff=theta merge=theta -text\n"
MODEL = "m.safetensors"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Modules that Git-Theta or Python itself would import, were they found.
FOREIGN = (
    "sitecustomize",
    "usercustomize",
    "git_theta",
    "numpy",
    "zstandard",
    "blake3",
    "click",
    "tensorstore",
    "json",
    "tempfile",
    "re",
)


@dataclass(frozen=True)
class Installation:
    """Git-Theta as a tool installed it: its program, the folder of its modules, and variables that
    were set meanwhile.
    """

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
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: git-theta\nVersion: {__version__}\n"
    )
    if editable:
        (site / "git_theta_editable.pth").write_text(f"{ROOT}\n")
    else:
        (site / "git_theta").symlink_to(ROOT / "git_theta")
    return site


def scripts(folder: Path, python: Path) -> Path:
    """The programs, as pip and uv write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("git-theta", "git-merge-theta"):
        start = (
            f"import sys\nfrom git_theta.start import {name.replace('-', '_')}\nif __name__ =="
            " '__main__':\n    sys.exit("
        )
        # What they write for a folder with a blank
        first = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"
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
    return Installation(
        scripts(folder / "bin", base_python()), site, {"PYTHONUSERBASE": str(folder)}
    )


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
    environment = {
        key: value
        for key, value in isolated_environment(tmp_path / "home").items()
        if not key.startswith("PYTHON")
    }
    config = Path(environment["GIT_CONFIG_GLOBAL"])
    config.write_text(
        config.read_text(encoding="utf-8").partition('[filter "theta"]')[0], encoding="utf-8"
    )
    found = shutil.which("git")
    assert found is not None
    return {
        **environment,
        "PATH": os.pathsep.join(dict.fromkeys([os.path.dirname(found), "/usr/bin", "/bin"])),
    }


def installed(made: Installation, tmp_path: Path, surroundings: Mapping[str, str]) -> Repo:
    """A repository after ``git-theta install`` of this installation; nothing that was set for that
    is set any more.
    """
    subprocess.run(
        [made.program, "install"],
        env={**surroundings, **made.variables},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    path = tmp_path / "repo"
    path.mkdir()
    repo = Repo(path, surroundings)
    repo.git("init", "-q")
    repo.commit("attributes", **{".gitattributes": ATTRIBUTES})
    return repo


def hostile(folder: Path, log: Path) -> dict[str, str]:
    """Fill ``folder`` with modules that note in ``log`` that they were run, and have every variable
    of Python name it.
    """
    for name in FOREIGN:
        (folder / name).with_suffix(".py").write_text(
            f"open({str(log)!r}, 'a').write({name!r} + '\\n')\nraise SystemExit(9)\n"
        )
    base = log.parent / "userbase"
    site = base / "lib" / VERSION / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / "usercustomize.py").write_text(f"open({str(log)!r}, 'a').write('user site\\n')\n")
    (site / "evil.pth").write_text(
        f"import os; open({str(log)!r}, 'a').write('pth\\n')\n{folder}\n"
    )
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
    """Two tensors of floats."""
    random = np.random.default_rng(seed)
    return safetensors_file(
        {name: random.standard_normal(5_000).astype(np.float32) for name in ("a", "b")}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_foreign_runs_in_what_git_starts(
    kind: str, tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    made = KINDS[kind](tmp_path / "in stallation")
    repo = installed(made, tmp_path, surroundings)
    log = tmp_path / "log"
    evil = Repo(repo.path, {**surroundings, **hostile(repo.path, log)})
    (made.site / "usercustomize.py").write_text(
        f"open({str(log)!r}, 'a').write('own user site\\n')\n"
    )
    first, second = model(1), model(2)
    evil.commit("one", **{MODEL: first})
    evil.git("checkout", "-q", "-b", "other")
    evil.commit("two", **{MODEL: second})
    assert b"2 modified of 2 tensors" in evil.git("diff", "HEAD~1", "--", MODEL)
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


def test_the_programs_on_path_start_themselves_again(
    tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    """Python itself reads PYTHONPATH before their first line; nothing after that does."""
    made = virtual(tmp_path / "venv")
    repo = installed(made, tmp_path, surroundings)
    log, folder = tmp_path / "log", tmp_path / "foreign"
    folder.mkdir()
    set_to = {
        **hostile(folder, log),
        "PATH": f"{made.program.parent}{os.pathsep}{surroundings['PATH']}",
    }
    for name in ("sitecustomize", "git_theta"):
        (folder / f"{name}.py").unlink()
    del set_to["PYTHONHOME"], set_to["PYTHONPLATLIBDIR"]
    evil = Repo(
        repo.path, {**surroundings, **set_to, "PYTHONPATH": str(folder), "PYTHONNOUSERSITE": "1"}
    )
    evil.commit("one", **{MODEL: model(1)})
    for name, seed in (("x", 4), ("y", 5)):
        evil.git("checkout", "-q", "-b", name, "main")
        evil.commit(name, **{MODEL: model(seed)})
    evil.git("checkout", "-q", "main")
    assert b"2 modified" in evil.git("theta", "diff", "x", "y")
    evil.git(
        "-c", "theta.merge.strategy=average", "merge", "-q", "-s", "theta", "x", "y", "-m", "both"
    )
    assert not log.exists(), log.read_text()
    repo.assert_clean()


def test_options_that_the_user_gave_python_for_output_still_hold(
    tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    program = virtual(tmp_path / "venv").program
    show = "import sys; from git_theta.start import git_theta; import git_theta.__main__ as m; "
    code = f"{show}sys.argv = ['git-theta', '--version']; sys.exit(git_theta())"
    python = program.with_name("python")
    for variables in ({"PYTHONIOENCODING": "UTF-8"}, {"PYTHONUTF8": "1"}, {}):
        environment = {
            **surroundings,
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            **variables,
        }
        done = subprocess.run(
            [python, "-c", code], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode() == f"git-theta version {__version__}\n"


def test_a_lost_interpreter_is_one_line(tmp_path: Path, surroundings: Mapping[str, str]) -> None:
    made = virtual(tmp_path / "venv")
    repo = installed(made, tmp_path, surroundings)
    repo.commit("one", **{MODEL: model(1)})
    repo.write(MODEL, model(2))
    shutil.rmtree(tmp_path / "venv")
    ours = "git-theta was moved or removed (it was "
    advice = "install it, then run 'git theta install' again"
    for words in (["status"], ["diff"], ["add", MODEL], ["theta", "ls-files"]):
        said = repo.git_fails(*words).splitlines()
        assert said[0].startswith(ours), said
        assert said[0].endswith(advice), said
        assert [line for line in said[1:] if not line.startswith(("fatal: ", "error: "))] == []
    # Another one on PATH that has lost its interpreter: sh would quote the whole line
    (tmp_path / "bin").mkdir()
    broken = scripts(tmp_path / "bin", tmp_path / "gone" / "python")
    path = f"{broken.parent}{os.pathsep}{surroundings['PATH']}"
    said = repo.git_fails("status", PATH=path).splitlines()
    assert said[0].startswith(ours)
    assert [line for line in said[1:] if not line.startswith(("fatal: ", "error: "))] == []
    other = virtual(tmp_path / "other").program.parent
    assert (
        repo.git("status", "--porcelain", PATH=f"{other}{os.pathsep}{surroundings['PATH']}")
        == b" M m.safetensors\n"
    )


@pytest.mark.parametrize("module", ["blake3", "zstandard", "numpy", "click"])
def test_a_lost_module_is_one_line(
    module: str, tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    made = virtual(tmp_path / "venv")
    repo = installed(made, tmp_path, surroundings)
    repo.commit("one", **{MODEL: model(1)})
    repo.write(MODEL, model(2))
    (made.site / module).unlink()
    words = (
        ["theta", "ls-files"]
        if module == "click"
        else ["diff"]
        if module == "numpy"
        else ["add", MODEL]
    )
    done = repo.run(["git", *words])
    python = made.program.with_name("python")
    line = (
        f"this installation of Git-Theta is damaged (module {module} is missing): reinstall it for"
        f" {python}"
    )
    said = (done.stdout + done.stderr).decode()
    assert [
        text.strip().removeprefix("git-theta: ") for text in said.splitlines() if "damaged" in text
    ] == [line], said
    assert "internal error" not in said


def test_what_an_earlier_release_recorded_still_works_and_env_says_so(
    tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    made = virtual(tmp_path / "venv")
    repo = installed(made, tmp_path, surroundings)
    key = "filter.theta.process"
    older = (
        f': written by git theta install; p=\'{made.program}\'; test -x "$p" && exec "$p"'
        " filter-process; exit 127"
    )
    repo.git("config", "--global", key, older)
    repo.git("config", "--local", "lfs.customtransfer.git-theta.args", "transfer-agent")
    repo.commit("one", **{MODEL: model(1)})
    done = repo.run(["git", "theta", "env"])
    assert done.returncode == 1
    said = done.stdout.decode()
    assert f"{key}: written by an earlier release" in said
    assert "run 'git theta install' again" in said
    assert "run 'git theta remote set NAME URL --with-lfs' again" in said
    repo.git("config", "--local", "--unset", "lfs.customtransfer.git-theta.args")
    repo.git("theta", "install")
    assert repo.git("theta", "env").decode().endswith("Missing\n  nothing\n")
