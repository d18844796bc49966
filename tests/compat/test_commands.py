"""The commands, as a user meets them, with real git."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from gitrepo import ROOT, Repo

from git_theta.git.config import attributes, config_file, programs
from git_theta.git.repository import discover

USER = "# mine\n[user]\n\tname = A U Thor\n\temail = author@example.com\n[alias]\n\tst = status\n"
LINE = "filter=theta diff=theta merge=theta -text"
posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")
MakeRepo = Callable[..., Repo]


def model(seed: int = 1, **more: np.ndarray) -> bytes:
    values = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    return safetensors.numpy.save(
        {"layer.weight": values, "step": np.array(seed, np.int64), **more}
    )


@pytest.fixture
def home(tmp_path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which git is not configured for Git-Theta, and where its program is on PATH
    only if a test puts it there.
    """
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "gitconfig").write_text(USER)
    git = os.path.dirname(shutil.which("git") or "")
    clean = [
        part
        for part in os.environ["PATH"].split(os.pathsep)
        if not shutil.which("git-theta", path=part)
    ]
    return {
        **environment,
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        "PATH": os.pathsep.join(dict.fromkeys([*clean, git])),
    }


@pytest.fixture
def fresh(tmp_path: Path, home: dict[str, str]) -> Repo:
    """An empty repository in that environment."""
    return new(tmp_path / "fresh", home)


def new(path: Path, environment: Mapping[str, str], *options: str) -> Repo:
    path.mkdir(parents=True)
    repo = Repo(path, environment)
    repo.git("init", "-q", *options, ".")
    return repo


def said(repo: Repo, *arguments: str, code: int = 0) -> str:
    """Standard output and error of a command of ours."""
    done = repo.theta_run(*arguments)
    text = (done.stdout + done.stderr).decode("utf-8", "replace").replace("\r\n", "\n")
    assert done.returncode == code, text
    return text


def configured(repo: Repo) -> dict[str, str]:
    raw = repo.run(["git", "config", "--null", "--list"]).stdout.decode()
    pairs = [record.partition("\n") for record in raw.split("\0")]
    return {key: value for key, _, value in pairs if "theta" in key}


def script(path: Path) -> Path:
    """An installed ``git-theta``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom"
        " git_theta.__main__ import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


# install, uninstall


def test_install_is_idempotent_and_uninstall_leaves_the_file_as_it_was(fresh: Repo) -> None:
    file = Path(fresh.environment["GIT_CONFIG_GLOBAL"])
    assert "is now set up for all your repositories" in said(fresh, "install")
    first = file.read_bytes()
    assert set(configured(fresh)) == {*programs.wanted(programs.program(), False), programs.ALIAS}
    assert "was already set up" in said(fresh, "install")
    assert file.read_bytes() == first
    assert "no longer set up for all your repositories" in said(fresh, "uninstall")
    assert file.read_text() == USER
    assert "nothing to remove" in said(fresh, "uninstall")


def test_each_scope_has_its_own_file(fresh: Repo, tmp_path: Path) -> None:
    system = {**fresh.environment, "GIT_CONFIG_SYSTEM": str(tmp_path / "system")}
    del system["GIT_CONFIG_NOSYSTEM"]
    everywhere = Repo(fresh.path, system)
    for scope, file in (
        ("--local", fresh.path / ".git" / "config"),
        ("--system", tmp_path / "system"),
    ):
        said(everywhere, "install", scope)
        assert '[filter "theta"]' in file.read_text()
    text = said(everywhere, "uninstall", "--local")
    assert "It still is for every user of this machine: git theta uninstall --system" in text
    said(everywhere, "uninstall", "--system")
    assert configured(everywhere) == {}
    fresh.git("config", "extensions.worktreeConfig", "true")
    said(fresh, "install", "--worktree")
    assert "theta" in (fresh.path / ".git" / "config.worktree").read_text()
    assert "theta" not in (fresh.path / ".git" / "config").read_text()


def test_values_of_others_are_not_replaced_unless_forced(fresh: Repo) -> None:
    fresh.git("config", "filter.theta.process", "other --tool")
    fresh.git("config", "alias.theta", "log --oneline")
    text = said(fresh, "install", "--local", code=1)
    assert (
        text
        == "git-theta: filter.theta.process in .git/config is 'other --tool', which Git-Theta did"
        " not write; 'git theta install --force' replaces it\n"
    )
    assert configured(fresh) == {
        "filter.theta.process": "other --tool",
        "alias.theta": "log --oneline",
    }
    assert "Your own alias.theta stays" in said(fresh, "install", "--local", "--force")
    assert configured(fresh)["alias.theta"] == "log --oneline"
    assert "Left alone: alias.theta in .git/config is 'log --oneline'" in said(
        fresh, "uninstall", "--local"
    )
    assert configured(fresh) == {"alias.theta": "log --oneline"}


def test_install_says_what_overrides_it(fresh: Repo) -> None:
    fresh.git("config", "filter.theta.required", "false")
    assert (
        "In the current repository it is overridden: filter.theta.required in .git/config is"
        " 'false'." in said(fresh, "install")
    )


def test_settings_of_the_first_git_theta_are_replaced(fresh: Repo) -> None:
    old = {
        "filter.theta.clean": "git-theta-filter clean %f",
        "filter.theta.smudge": "git-theta-filter smudge %f",
        "filter.theta.required": "true",
        "merge.theta.driver": "git-theta-merge %O %A %B %P",
        "diff.theta.command": "git-theta-diff",
    }
    for key, value in old.items():
        fresh.git("config", "--global", key, value)
    said(fresh, "install")
    assert set(configured(fresh)) == {*programs.wanted(programs.program(), False), programs.ALIAS}


@posix
@pytest.mark.parametrize("folder", ["venv", "my venv", 'it\'s "here" $x `y` ; &'])
def test_git_finds_the_program_while_its_environment_is_not_active(
    folder: str, fresh: Repo, tmp_path: Path
) -> None:
    program = script(tmp_path / folder / "bin" / "git-theta")
    fresh.run([str(program), "install"])
    fresh.git("theta", "track", "*.safetensors")
    fresh.git("add", ".gitattributes")
    fresh.commit("one", model__safetensors=model())
    assert fresh.manifest("HEAD:model.safetensors").format == "safetensors"
    (fresh.path / "model.safetensors").unlink()
    fresh.git("checkout", "--", "model.safetensors")
    assert fresh.read("model.safetensors") == model()
    assert fresh.status() == ""


@posix
def test_a_program_that_was_moved(fresh: Repo, tmp_path: Path) -> None:
    python, *_, start = programs.program()
    said(fresh, "install")
    fresh.git("theta", "track", "*.safetensors")
    fresh.git("add", ".gitattributes")
    elsewhere = script(tmp_path / "elsewhere" / "git-theta")
    gone = str(tmp_path / "gone" / "start.py")
    for key, text in configured(fresh).items():
        fresh.git("config", "--global", key, text.replace(start, gone))
    fresh.write("model.safetensors", model())
    text = fresh.git_fails("add", "model.safetensors")
    assert (
        f"git-theta was moved or removed (it was {gone}, run by {python}); install it, then run"
        " 'git theta install' again\n" in text
    )
    assert fresh.git("ls-files", "model.safetensors") == b""
    assert "git-theta was moved" in fresh.git_fails("theta", "ls-files")
    assert f"is gone ({python} {gone}); run 'git theta install' again" in said(
        fresh, "track", "*.pt"
    )
    report = json.loads(said(fresh, "env", "--json", code=1))
    assert report["Filter"]["it answers"] == "no"
    assert "git-theta was moved or removed" in report["problems"][0]
    on_path = {"PATH": f"{elsewhere.parent}{os.pathsep}{fresh.environment['PATH']}"}
    fresh.under(on_path).git("add", "model.safetensors")
    assert fresh.blob(":model.safetensors").startswith(b"git-theta manifest")
    assert fresh.run([str(elsewhere), "install"]).returncode == 0
    fresh.git("theta", "ls-files")


def test_without_smudging_a_clone_holds_manifests(fresh: Repo, tmp_path: Path) -> None:
    said(fresh, "install", "--skip-smudge")
    said(fresh, "track", "*.safetensors")
    fresh.git("add", ".gitattributes")
    fresh.commit("one", model__safetensors=model())
    fresh.git("clone", "-q", str(fresh.path), str(tmp_path / "clone"))
    clone = fresh.at(tmp_path / "clone")
    assert clone.read("model.safetensors").startswith(b"git-theta manifest")
    assert clone.status() == ""
    assert "Wrote 1 model" in said(clone, "checkout", "model.safetensors")
    assert clone.read("model.safetensors") == model()
    assert clone.status() == ""
    assert said(clone, "checkout") == "Nothing to write: every model is in place.\n"
    assert "matches nosuch" in said(clone, "checkout", "nosuch", code=1)
    said(fresh, "install")
    assert "--skip" not in configured(fresh)["filter.theta.process"]


def test_checkout_names_the_file_it_cannot_write(fresh: Repo) -> None:
    said(fresh, "track", "*.safetensors")
    fresh.git("add", ".gitattributes")
    fresh.commit("one", model__safetensors=model(1), other__safetensors=model(2))
    victim = next(
        ref.oid
        for entry in fresh.manifest("HEAD:other.safetensors").entries
        for ref in entry.objects
    )
    next(fresh.store.glob(f"*/*/{victim}")).unlink()
    (fresh.path / "model.safetensors").unlink()
    fresh.write("other.safetensors", b"mine")
    text = said(fresh, "checkout", ".", code=1)
    assert "Wrote 1 model" in text
    assert "git-theta: other.safetensors: " in text
    assert victim in text
    assert fresh.read("model.safetensors") == model(1)
    assert fresh.read("other.safetensors") == b"mine"


# git theta through the alias


@posix
def test_the_alias_works_everywhere_in_a_repository(fresh: Repo, tmp_path: Path) -> None:
    fresh.run([str(script(tmp_path / "venv" / "git-theta")), "install"])
    fresh.git("theta", "track", "*.safetensors")
    fresh.write("sub/inner.safetensors", model(2))
    fresh.git("add", ".")
    fresh.commit("one", model__safetensors=model())
    fresh.git("worktree", "add", "-q", str(tmp_path / "tree"))
    fresh.git("clone", "-q", "--bare", str(fresh.path), str(tmp_path / "bare.git"))
    for top in (fresh, fresh.at(tmp_path / "tree")):
        both = top.git("theta", "ls-files").decode()
        assert "model.safetensors" in both
        assert "sub/inner.safetensors" in both
        assert "inner.safetensors" in top.at(top.path / "sub").git("theta", "ls-files").decode()
        assert "model" not in top.at(top.path / "sub").git("theta", "ls-files").decode()
        top.at(top.path / "sub").git("theta", "track", "*.odd")
        assert (top.path / "sub" / ".gitattributes").read_text() == f"*.odd {LINE}\n"
    assert b"sub/inner.safetensors" in fresh.at(tmp_path / "bare.git").git("theta", "ls-files")
    outside = fresh.at(tmp_path).git_fails("theta", "ls-files")
    assert outside.startswith("git-theta: not inside a git repository")


# track, untrack

NASTY = [
    "my models/a b.pt",
    "#hash.pt",
    "!bang.pt",
    "[ab].pt",
    "star*.pt",
    "what?.pt",
    'quote".pt',
    "back\\slash.pt",
    "tab\tx.pt",
    "new\nline.pt",
    "déjà vu.pt",
    "[attr]x.pt",
    " lead.pt",
    "trail.pt ",
    "-dash.pt",
    "\\",
    "a\u202eb.pt",
]


@posix
@pytest.mark.parametrize("name", NASTY)
def test_a_file_of_any_name_can_be_tracked_alone(name: str, fresh: Repo) -> None:
    fresh.write(name, b"x")
    decoys = [
        "other.pt",
        "a.pt",
        "starx.pt",
        "whatx.pt",
        "backslash.pt",
        "bang.pt",
        "ax.pt",
        "my models/ab.pt",
    ]
    for decoy in decoys:
        fresh.write(decoy, b"x")
    text = said(fresh, "track", "--", name)
    assert all(line.isprintable() for line in text.splitlines())
    asked = "\0".join([name, *decoys, ""]).encode()
    answers = fresh.git("check-attr", "-z", "--stdin", "filter", stdin=asked).split(b"\0")
    assert [
        os.fsdecode(path)
        for path, value in zip(answers[::3], answers[2::3], strict=False)
        if value == b"theta"
    ] == [name]
    before = fresh.read(".gitattributes")
    said(fresh, "track", "--", name)
    assert fresh.read(".gitattributes") == before
    command = next(line for line in text.splitlines() if line.startswith("Now: "))
    fresh.run(["bash", "-c", command.removeprefix("Now: ")])
    assert os.fsencode(name) in fresh.git("ls-files", "-z").split(b"\0")
    assert said(fresh, "track").isascii()
    said(fresh, "untrack", "--", name)
    assert fresh.read(".gitattributes") == b""


@posix
def test_literal_and_written_patterns_mean_to_git_what_they_mean_to_us(fresh: Repo) -> None:
    """Random names from the characters that matter: git agrees that each one's pattern matches it,
    and no other name.
    """
    chance = random.Random(7)
    names = {
        "".join(chance.choice(' \t\n"\\#!*?[]-^ab:é\x01') for _ in range(chance.randint(1, 6)))
        for _ in range(300)
    }
    names -= {name for name in names if name.startswith("[attr]")}
    every = sorted(names)
    repository = discover(fresh.path)
    found = attributes.matches(
        repository, [("", f"/{attributes.literal(name)}") for name in every], every
    )
    assert found == [[name] for name in every]
    found = attributes.matches(
        repository,
        [("f [x]", attributes.literal(name)) for name in every],
        [f"f [x]/{name}" for name in every],
    )
    assert found == [[f"f [x]/{name}"] for name in every]


@pytest.mark.parametrize(
    "pattern",
    [
        "*.pt",
        "a/**/b?.pt",
        "models/**",
        "**/x",
        "[abc]*.pt",
        "[!x]y",
        "[^a-z]",
        "[[:digit:]][[:upper:]]",
        "[]x]",
        "[\\]]",
        "/top.pt",
        "a\\*b",
        "x[!]]",
    ],
)
def test_the_made_up_path_matches_its_pattern(pattern: str, fresh: Repo) -> None:
    path = attributes.sample(pattern)
    assert path is not None
    assert attributes.matches(discover(fresh.path), [("", pattern)], [path]) == [[path]]


def test_track_configures_says_so_and_is_idempotent(fresh: Repo) -> None:
    fresh.write("model.safetensors", model())
    assert (
        said(fresh, "track")
        == 'Nothing is tracked yet. Start with: git theta track "*.safetensors"\n'
    )
    assert (
        said(fresh, "track", "*.safetensors", "*.pt")
        == "Git was not configured for Git-Theta; now it is, in this repository ('git theta"
        ' install\' configures it for all of yours).\nTracking "*.safetensors"'
        ' (.gitattributes).\nTracking "*.pt" (.gitattributes).\nNow: git add .gitattributes'
        " model.safetensors\n"
    )
    assert fresh.read(".gitattributes").decode() == f"*.safetensors {LINE}\n*.pt {LINE}\n"
    fresh.git("add", ".")
    assert (
        said(fresh, "track", "*.pt", "*.safetensors", "model.safetensors")
        == '"*.pt" is already tracked.\n"*.safetensors" is already tracked.\n"model.safetensors" is'
        " already tracked.\n"
    )
    assert (
        said(fresh, "track")
        == "Patterns\n    *.safetensors  .gitattributes:1  1 file\n    *.pt          "
        " .gitattributes:2  0 files\nFiles\n    model.safetensors\n"
    )
    assert fresh.status() == "A  .gitattributes\nA  model.safetensors\n"


def test_other_lines_comments_and_line_ends_stay(fresh: Repo) -> None:
    before = b"# mine\r\n*.txt text\r\n*.pt  binary foo=bar"
    fresh.write(".gitattributes", before)
    said(fresh, "track", "*.pt")
    assert fresh.read(".gitattributes") == before + b"\r\n*.pt " + LINE.encode() + b"\r\n"
    assert (
        fresh.git("check-attr", "foo", "filter", "--", "x.pt")
        == b"x.pt: foo: bar\nx.pt: filter: theta\n"
    )
    said(fresh, "untrack", "*.pt")
    assert fresh.read(".gitattributes") == before + b"\r\n"


def test_git_lfs_lines_are_overridden(fresh: Repo) -> None:
    fresh.write(".gitattributes", b"*.pt filter=lfs diff=lfs merge=lfs -text\n")
    said(fresh, "track", "*.pt")
    assert fresh.git("check-attr", "filter", "--", "x.pt") == b"x.pt: filter: theta\n"


def test_macros_count(fresh: Repo) -> None:
    macro = f"[attr]model {LINE}\n*.pt model\n".encode()
    fresh.write(".gitattributes", macro)
    assert '"*.pt" is already tracked.' in said(fresh, "track", "*.pt")
    assert fresh.read(".gitattributes") == macro
    assert "*.pt  .gitattributes:2  0 files" in said(fresh, "track")
    assert '"*.pt" is tracked through a macro in .gitattributes:2; edit that line' in said(
        fresh, "untrack", "*.pt", code=1
    )


def test_what_overrides_a_pattern_is_named(fresh: Repo) -> None:
    fresh.write("models/.gitattributes", b"# far away\n*.pt filter=lfs\n")
    fresh.write("models/a.pt", b"x")
    fresh.write("b.pt", b"x")
    text = said(fresh, "track", "*.pt")
    assert (
        '"*.pt" does not take effect: models/a.pt gets filter=lfs (see models/.gitattributes:2)'
        in text
    )
    assert '"models/*.pt" does not take effect: models/a.pt gets filter=lfs' in said(
        fresh, "track", "models/*.pt", code=1
    )
    info = fresh.path / ".git" / "info" / "attributes"
    info.parent.mkdir(exist_ok=True)
    info.write_text("*.bin !filter\n*.x -diff\n")
    text = said(fresh, "track", "*.bin", "*.x", code=1)
    assert (
        '"*.bin" does not take effect: a file it matches gets !filter (see .git/info/attributes:1)'
        in text
    )
    assert (
        '"*.x": a file it matches gets -diff (see .git/info/attributes:2) instead of diff=theta'
        in text
    )


def test_a_folder_has_its_own_file(fresh: Repo) -> None:
    fresh.write("sub/deep/x.pt", b"x")
    sub = fresh.at(fresh.path / "sub")
    said(sub, "track", "*.pt", "../*.bin", "deep/")
    assert fresh.read("sub/.gitattributes").decode() == f"*.pt {LINE}\ndeep/** {LINE}\n"
    assert fresh.read(".gitattributes").decode() == f"*.bin {LINE}\n"
    listing = said(sub, "track")
    assert "../.gitattributes:1" in listing
    assert "deep/x.pt" in listing
    text = said(fresh, "untrack", "*.pt", code=1)
    assert '"*.pt" is not in .gitattributes; it is in sub/.gitattributes:1' in text
    assert "still tracked by other patterns" in said(sub, "untrack", "*.pt")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("*", "would also take .gitattributes"),
        (".", "would also take .gitattributes"),
        (".git*", "would also take .gitattributes"),
        ("", "must not be empty"),
        ("../x.pt", "lies outside the repository"),
        ("!*.pt", "git knows no negative patterns"),
        ("models/", "would also take models/.gitattributes"),
    ],
)
def test_patterns_that_would_do_harm_are_refused(pattern: str, reason: str, fresh: Repo) -> None:
    fresh.write("models/.gitattributes", b"# here\n")
    text = said(fresh, "track", "--", pattern, code=1)
    assert reason in text
    assert text.count("\n") == 1
    assert not (fresh.path / ".gitattributes").exists()


def test_files_that_are_in_git_already_are_named(fresh: Repo) -> None:
    fresh.commit("raw", model__safetensors=model(), small__pt=b"x" * 1500)
    fresh.write(
        "pointer.bin",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
    )
    fresh.git("add", ".")
    text = said(fresh, "track", "*.safetensors", "*.pt", "*.bin")
    assert "2 matching files are in git already, stored without Git-Theta:\n" in text
    assert "    small.pt (1.5 kB)\n" in text
    assert "next commit on: git add --renormalize model.safetensors small.pt\n" in text
    assert "pointer.bin is a Git LFS pointer, not the model: run 'git lfs pull' first\n" in text
    assert "To store them with Git-Theta: git lfs pull && git add pointer.bin\n" in text
    listing = said(fresh, "ls-files")
    assert "committed without Git-Theta (as it is, 1.5 kB)" in listing
    assert "committed without Git-Theta (a Git LFS pointer)" in listing
    fresh.git("add", "--renormalize", "model.safetensors")
    assert fresh.manifest(":model.safetensors").size == len(model())
    assert "1 matching file is" in said(fresh, "track", "*.safetensors", "*.pt", "*.bin")


def test_a_base(fresh: Repo) -> None:
    fresh.write("my base.safetensors", model())
    fresh.write("sub/tuned.safetensors", model(2))
    assert "the base my base.safetensors is not tracked itself" in said(
        fresh, "track", "--base", "my base.safetensors", "sub/*.safetensors"
    )
    said(
        fresh.at(fresh.path / "sub"),
        "track",
        "--base",
        "../my base.safetensors",
        "tuned.safetensors",
    )
    said(fresh, "track", "my base.safetensors")
    assert (
        fresh.read(".gitattributes")
        .splitlines()[0]
        .endswith(b"merge=theta -text theta-base=my%20base.safetensors")
    )
    assert not (fresh.path / "sub" / ".gitattributes").exists()
    values = attributes.check(
        discover(fresh.path), ["sub/tuned.safetensors", "my base.safetensors"], [attributes.BASE]
    )
    assert {path: attributes.base_in(value) for path, value in values.items()} == {
        "sub/tuned.safetensors": "my base.safetensors",
        "my base.safetensors": None,
    }
    assert (
        attributes.base_of(discover(fresh.path), "sub/tuned.safetensors") == "my base.safetensors"
    )
    assert "sub/tuned.safetensors  base: my base.safetensors" in said(fresh, "track")
    assert "is no file of this repository" in said(
        fresh, "track", "--base", "nosuch", "*.pt", code=1
    )
    assert "lies outside" in said(fresh, "track", "--base", "../x", "*.pt", code=1)
    assert "needs the patterns" in said(fresh, "track", "--base", "x", code=2)
    assert '"sub/*.safetensors" is already tracked' in said(
        fresh, "track", "--base", "my base.safetensors", "sub/*.safetensors"
    )


def test_tracking_needs_a_working_tree(fresh: Repo, tmp_path: Path) -> None:
    bare = new(tmp_path / "bare.git", fresh.environment, "--bare")
    for words in (["track", "*.pt"], ["track"], ["untrack", "*.pt"]):
        assert "no working tree" in said(bare, *words, code=1)
        assert said(fresh.at(tmp_path), *words, code=1).startswith(
            "git-theta: not inside a git repository"
        )


# ls-files, show


@pytest.fixture
def history(fresh: Repo) -> Repo:
    """Two commits: one model; then that one trained, and a copy of it in a file stored by git."""
    said(fresh, "track", "*.safetensors", "*.raw")
    fresh.git("add", ".gitattributes")
    fresh.commit("one", model__safetensors=model(1))
    fresh.git("tag", "v1")
    fresh.write("sub/copy.safetensors", model(2))
    fresh.git("add", "sub")
    fresh.commit("two", model__safetensors=model(2, extra=np.zeros(3, np.float16)))
    blob = fresh.git("hash-object", "-w", "--stdin", stdin=b"x" * 2000).decode().strip()
    fresh.git("update-index", "--add", "--cacheinfo", f"100644,{blob},old.raw")
    return fresh


def rows(text: str) -> dict[str, list[str]]:
    return {line.split("  ")[0].strip(): line.split() for line in text.splitlines()}


def test_models_of_the_index(history: Repo) -> None:
    text = said(history, "ls-files")
    found = rows(text)
    assert found["path"] == ["path", "format", "tensors", "size", "stored"]
    assert found["model.safetensors"][1:3] == ["safetensors", "3"]
    assert found["sub/copy.safetensors"][1:3] == ["safetensors", "2"]
    assert (
        "committed without Git-Theta (as it is, 2.0 kB); run 'git add --renormalize old.raw' and"
        " commit it" in text
    )
    manifests = [
        history.manifest(f":{name}") for name in ("model.safetensors", "sub/copy.safetensors")
    ]
    shared = set(manifests[0].objects()) & set(manifests[1].objects())
    assert shared
    count = len(set(manifests[0].objects()) | set(manifests[1].objects()))
    assert text.splitlines()[-1].startswith("2 models of ")
    assert f"stored in {count} objects" in text


def test_models_of_a_revision(history: Repo) -> None:
    assert list(rows(said(history, "ls-files", "v1"))) == ["path", "model.safetensors"]
    assert list(rows(said(history, "ls-files", "HEAD", "--", "sub"))) == [
        "path",
        "sub/copy.safetensors",
    ]
    assert list(rows(said(history, "ls-files", "HEAD", "*.safetensors")))[1:3] == [
        "model.safetensors",
        "sub/copy.safetensors",
    ]
    assert list(rows(said(history.at(history.path / "sub"), "ls-files", "HEAD"))) == [
        "path",
        "copy.safetensors",
    ]
    assert "'nosuch' is no revision" in said(history, "ls-files", "nosuch", "--", code=1)
    assert "nothing in the index matches nosuch" in said(history, "ls-files", "nosuch", code=1)
    assert "nothing in v1 matches sub" in said(history, "ls-files", "v1", "--", "sub", code=1)
    history.write("v1", b"")
    assert "both a revision and a file" in said(history, "ls-files", "v1", code=1)
    assert "model.safetensors" in said(history, "ls-files", "v1", "--")


def test_attributes_of_a_revision_are_its_own(history: Repo) -> None:
    history.git("rm", "-q", "--cached", ".gitattributes")
    (history.path / ".gitattributes").unlink()
    text = said(history, "ls-files")
    assert list(rows(text))[:3] == ["path", "model.safetensors", "sub/copy.safetensors"]
    assert text.count("no .gitattributes tracks the file") == 2
    assert "no .gitattributes" not in said(history, "ls-files", "v1")


def test_tensors_and_json(history: Repo) -> None:
    text = said(history, "ls-files", "-l", "model.safetensors")
    assert "layer.weight  f32[64,64]" in text
    assert ["step", "i64[]", "-", "inline"] in [line.split() for line in text.splitlines()]
    data = json.loads(said(history, "ls-files", "--json", "-l"))
    assert [item["path"] for item in data] == [
        "model.safetensors",
        "old.raw",
        "sub/copy.safetensors",
    ]
    assert [item["tracked"] for item in data] == [True, False, True]
    assert data[0]["entries"][0].keys() == {
        "name",
        "aliases",
        "dtype",
        "shape",
        "size",
        "digest",
        "inline",
        "chain",
    }
    assert "entries" not in json.loads(said(history, "ls-files", "--json"))[0]


def test_missing_objects_are_counted(history: Repo) -> None:
    victim = history.manifest("v1:model.safetensors").entries
    for ref in [ref for entry in victim for ref in entry.objects]:
        next(history.store.glob(f"*/*/{ref.oid}")).unlink()
    assert "1 object not in the local store" in said(history, "ls-files", "v1")
    assert "missing   1 object" in said(history, "show", "v1:model.safetensors")


def test_bare_unborn_and_sha256_repositories(history: Repo, tmp_path: Path) -> None:
    history.git("clone", "-q", "--bare", str(history.path), str(tmp_path / "bare.git"))
    assert "model.safetensors" in said(history.at(tmp_path / "bare.git"), "ls-files")
    assert "format    safetensors" in said(
        history.at(tmp_path / "bare.git"), "show", "v1:model.safetensors"
    )
    unborn = new(tmp_path / "unborn", history.environment)
    assert said(unborn, "ls-files") == "No tracked models are in the index.\n"
    wide = new(tmp_path / "wide", history.environment, "--object-format=sha256")
    said(wide, "track", "*.safetensors")
    wide.git("add", ".gitattributes")
    wide.commit("one", model__safetensors=model())
    assert "model.safetensors" in said(wide, "ls-files", "HEAD")
    assert "tensors   2 with 4,096 f32, 1 i64 elements\n" in said(
        wide, "show", "HEAD:model.safetensors"
    )


def test_hundreds_of_models_and_large_raw_files(fresh: Repo) -> None:
    for number in range(60):
        fresh.write(f"m{number}.safetensors", model(number % 3))
    fresh.write("large.safetensors", model(1, noise=np.frombuffer(os.urandom(20 << 20), np.uint8)))
    fresh.git("add", "large.safetensors")
    text = said(fresh, "track", "*.safetensors")
    assert "large.safetensors (21.0 MB)" in text
    fresh.git("add", *(f"m{number}.safetensors" for number in range(60)))
    assert "60 models of " in said(fresh, "ls-files")


def test_a_broken_manifest_is_listed_as_such(fresh: Repo) -> None:
    fresh.write("bad.safetensors", b"git-theta manifest 1\nformat \x1b[2J\n")
    fresh.write("new.safetensors", b"git-theta manifest 99\n")
    fresh.git("add", ".")
    said(fresh, "track", "*.safetensors")
    text = said(fresh, "ls-files")
    assert "broken manifest: line" in text
    assert "upgrade git-theta" in text
    assert "\x1b" not in text
    assert "the manifest of ':bad.safetensors' is broken: " in said(
        fresh, "show", ":bad.safetensors", code=1
    )


def test_show(history: Repo) -> None:
    text = said(history, "show", "v1:model.safetensors")
    assert text.splitlines()[:2] == ["v1:model.safetensors", "format    safetensors"]
    assert "layer.weight  f32[64,64]" in text
    assert "3 with " in said(history, "show", "model.safetensors")
    sub = history.at(history.path / "sub")
    assert (
        said(sub, "show", "copy.safetensors").splitlines()[1:]
        == said(sub, "show", "HEAD:./copy.safetensors").splitlines()[1:]
    )
    data = json.loads(said(history, "show", "HEAD:model.safetensors", "--json"))
    assert [entry["name"] for entry in data["entries"]] == [
        entry.name for entry in history.manifest("HEAD:model.safetensors").entries
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("HEAD:nosuch", "there is no 'nosuch' in HEAD"),
        (":nosuch", "there is no 'nosuch' in the index"),
        ("nosuch:model.safetensors", "'nosuch' is no revision of this repository"),
        ("-x", "'-x' is not in the index"),
        ("nosuch", "'nosuch' is not in the index"),
        ("HEAD", "'HEAD' is not in the index"),
        ("HEAD:", "'HEAD:' is not a file"),
        (":old.raw", "':old.raw' is stored in git as it is (2.0 kB), not a model of Git-Theta's"),
        ("HEAD:\x1b[2J", "there is no '\\x1b[2J' in HEAD"),
        ("a\nb:c", "'a\\x0ab' is no revision"),
    ],
)
def test_show_says_why_it_cannot(name: str, reason: str, history: Repo) -> None:
    text = said(history, "show", "--", name, code=1)
    assert reason in text
    assert text.count("\n") == 1
    assert text.strip().isprintable()


# env, plugins


def test_env_of_a_configured_repository(history: Repo) -> None:
    history.git("rm", "-q", "--cached", "old.raw")  # committed without Git-Theta, as env would say
    history.git("config", "theta.threads", "2")
    text = said(history, "env")
    lines = [line.split() for line in text.splitlines()]
    assert ["theta.threads", "2", "(.git/config)"] in lines
    assert ["it", "answers", "yes"] in lines
    assert text.endswith("Missing\n  nothing\n")


def test_env_tells_what_is_wrong_and_never_fails(fresh: Repo, tmp_path: Path) -> None:
    text = said(fresh, "env", code=1)
    assert "git is not configured to use Git-Theta; run 'git theta install'" in text
    said(fresh, "install")
    fresh.git("config", "theta.threads", "many")
    fresh.git("config", "theta.frob", "\x1b[2J")
    fresh.git("config", "filter.theta.required", "false")
    text = said(fresh, "env", code=1)
    assert "theta.threads must be a whole number from 0 to 1024, not 'many'" in text
    assert "filter.theta.required is not true" in text
    assert "not a setting of this release" in text
    assert "\x1b" not in text
    assert "in no git repository" in said(fresh.at(tmp_path), "env")
    (fresh.path / ".git" / "config").write_text("[broken\n")
    assert "bad config" in said(fresh, "env", code=1)
    nothing = Repo(tmp_path, {**fresh.environment, "PATH": str(tmp_path / "empty")})
    text = said(nothing, "env", code=1)
    assert "git is not installed, or not on PATH" in text
    assert "not installed: it is needed only to push" in text


def test_env_names_what_an_older_install_did_not_write(fresh: Repo) -> None:
    said(fresh, "install")
    fresh.git("config", "--global", "--unset", "filter.theta.required")
    assert "git's config lacks filter.theta.required; run 'git theta install' again" in said(
        fresh, "env", code=1
    )
    said(fresh, "install")
    assert said(fresh, "env").endswith("Missing\n  nothing\n")


def test_a_bad_setting_is_one_clear_line_at_git_add(history: Repo) -> None:
    history.git("config", "theta.maxChain", "100")
    history.write("model.safetensors", model(5))
    assert (
        "git-theta: theta.maxChain must be a whole number from 1 to 64, not '100'"
        in history.git_fails("add", "model.safetensors")
    )


PLUGIN = '''
from git_theta.plugin import hookimpl
import click

@hookimpl
def register_commands():
    @click.command("weigh")
    def weigh():
        """Weigh a model."""
        click.echo("7 kg")
    return [weigh]
'''


def with_package(repo: Repo, folder: Path, name: str, source: str) -> Repo:
    """The repository with one more package that offers a plugin."""
    module = name.replace("-", "_")
    info = folder / f"{module}-2.5.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[git_theta]\nplugin = {module}\n")
    return replace(
        repo,
        environment={
            **repo.environment,
            "PYTHONPATH": os.pathsep.join([str(folder), repo.environment["PYTHONPATH"]]),
        },
    )


def test_a_real_plugin_adds_a_command(history: Repo, tmp_path: Path) -> None:
    repo = with_package(history, tmp_path / "one", "theta-scales", PLUGIN)
    assert ["command", "weigh", "theta-scales", "2.5", "theta_scales"] in [
        line.split() for line in said(repo, "plugins").splitlines()
    ]
    assert said(repo, "weigh") == "7 kg\n"
    assert "From plugins:\n  weigh  Weigh a model.\n" in said(repo, "-h")
    greedy = with_package(
        history, tmp_path / "three", "greedy", PLUGIN.replace('"weigh"', '"track"')
    )
    assert (
        "two plugins provide a command called track: greedy 2.5 and built in; uninstall one"
        in said(greedy, "plugins", code=1)
    )
    assert "Patterns" in said(greedy, "track")
    second = with_package(repo, tmp_path / "two", "other-scales", PLUGIN)
    text = said(second, "plugins", code=1)
    assert (
        "two plugins provide a command called weigh: other-scales 2.5 and theta-scales 2.5;"
        " uninstall one of them" in text
    )
    assert "other-scales 2.5 and theta-scales 2.5" in said(second, "weigh", code=2)
    assert "model.safetensors" in said(second, "ls-files")
    second.commit("three", model__safetensors=model(9))


def test_a_plugin_that_does_not_import_is_in_nobodys_way(history: Repo, tmp_path: Path) -> None:
    repo = with_package(history, tmp_path / "one", "broken-plugin", "import nosuchmodule\n")
    reason = "ModuleNotFoundError: No module named 'nosuchmodule'"
    warning = (
        "git-theta: warning: plugin broken-plugin 2.5 cannot be imported and is ignored:"
        f" {reason}\n"
    )
    assert said(repo, "plugins").count(warning) == 1
    repo.commit("three", model__safetensors=model(9), other__safetensors=model(10))
    data = json.loads(repo.theta("plugins", "--json"))
    assert {
        "kind": "update",
        "name": "dense",
        "provider": "built in",
        "module": "git_theta.updates.dense",
    } in data


def test_a_manifest_that_needs_a_plugin_names_it(history: Repo) -> None:
    text = (
        history.blob("v1:model.safetensors")
        .replace(b" dense:", b" weaving:", 1)
        .replace(b"skeleton u8", b"skeleton u8")
    )
    assert b"weaving" in text
    blob = history.git("hash-object", "-w", "--stdin", "--no-filters", stdin=text).decode().strip()
    history.git("update-index", "--cacheinfo", f"100644,{blob},model.safetensors")
    (history.path / "model.safetensors").unlink()
    complaint = history.git_fails("checkout", "--", "model.safetensors")
    assert "tensors are stored as 'weaving', unknown to Git-Theta" in complaint
    assert "git theta plugins" in complaint


# Config values, by git itself


def test_values_of_all_scopes(fresh: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in fresh.environment.items():
        monkeypatch.setenv(key, value)
    fresh.git("config", "--global", "theta.x", "a\nb")
    fresh.git("config", "--add", "theta.x", "c")
    fresh.git("config", "--add", "theta.x", "d*")
    found = config_file.values(r"^theta\.x$", where=fresh.path)
    assert [(value.text, value.scope) for value in found] == [
        ("a\nb", "global"),
        ("c", "local"),
        ("d*", "local"),
    ]
    for _ in range(2):
        config_file.unset("local", found[2].key, found[2].text, fresh.path)
    assert [value.text for value in config_file.values(r"^theta\.x$", "local", fresh.path)] == ["c"]
    config_file.set_value("local", "theta.x", "e", fresh.path)
    assert [value.text for value in config_file.values(r"^theta\.x$", "local", fresh.path)] == ["e"]


def test_output_to_a_closed_pipe_is_quiet(history: Repo) -> None:
    words = [sys.executable, "-m", "git_theta", "ls-files", "-l"]
    process = subprocess.Popen(
        words,
        cwd=history.path,
        env=dict(history.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141
