"""Who asks the filter: which git commands may be given a manifest in place of a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.drivers import asker

SHOWING = [
    ["git", "diff"],
    ["git", "diff", "--cached", "checkout"],
    ["/usr/bin/git", "log", "-p", "--ext-diff"],
    ["/usr/lib/git-core/git-diff", "HEAD"],
    ["git.exe", "show"],
    ["git", "-C", "checkout", "diff"],
    [
        "git",
        "-c",
        "alias.x=checkout",
        "--no-pager",
        "--git-dir=x",
        "--git-dir",
        "checkout",
        "diff-tree",
    ],
    ["git", "--literal-pathspecs", "-p", "whatchanged"],
    ["git", "stash", "show", "-p"],
    ["git", "--config-env=a=B", "diff-files"],
]
WRITING = [
    [],
    [""],
    ["git"],
    ["git", "checkout", "diff"],
    ["git", "checkout-index", "-f", "--", "diff"],
    ["git", "cat-file", "--filters", "HEAD:diff"],
    ["git", "-C", "diff", "checkout"],
    ["git", "-C", "diff"],
    ["git", "-c", "diff", "restore"],
    ["git", "--work-tree", "diff", "reset"],
    ["git", "--unheard-of", "diff"],
    ["git", "--unheard-of=x", "diff"],
    ["git", "--bare=x", "diff"],
    ["git", "stash"],
    ["git", "stash", "pop"],
    ["git", "stash", "push", "show"],
    ["git", "difftool"],
    ["git", "merge"],
    ["git", "archive", "HEAD"],
    ["git-checkout", "diff"],
    ["git-checkout-index", "-a"],
    ["bash", "diff"],
    ["gitk", "diff"],
    ["diff", "git"],
    ["git", "DIFF"],
    ["git", "diffx"],
]


@pytest.mark.parametrize("arguments", SHOWING)
def test_commands_that_only_show(arguments: list[str]) -> None:
    assert asker.only_shows(tuple(arguments))


@pytest.mark.parametrize("arguments", WRITING)
def test_commands_that_write_or_are_not_known(arguments: list[str]) -> None:
    assert not asker.only_shows(tuple(arguments))


def test_git_diff_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, wanted in (
        (("git", "-C", "x", "diff"), True),
        (("git", "diff-files"), False),
        (("git", "log"), False),
        ((), False),
    ):
        monkeypatch.setattr(asker, "asker", lambda arguments=arguments: arguments)
        assert asker.is_diff() is wanted
        assert asker.shows_working_tree() is (arguments != ())
    monkeypatch.setattr(asker, "asker", lambda: ("git", "diff", "--no-index", "a", "b"))
    assert not asker.shows_working_tree()


@given(
    st.lists(
        st.sampled_from(
            [
                "-C",
                "-c",
                "-p",
                "--git-dir",
                "--bare",
                "diff",
                "show",
                "x",
                "--",
                "--no-pager",
                "--git-dir=diff",
            ]
        ),
        max_size=6,
    ),
    st.sampled_from(
        [
            "checkout",
            "checkout-index",
            "cat-file",
            "restore",
            "reset",
            "merge",
            "read-tree",
            "worktree",
            "am",
            "rebase",
        ]
    ),
)
def test_a_writing_command_is_never_taken_for_another(before: list[str], command: str) -> None:
    """Whatever stands before it: where git would run ``command``, only_shows is false."""
    options, rest = [], list(before)
    while rest and rest[0].startswith("-"):
        options.append(rest.pop(0))
        if options[-1] in ("-C", "-c", "--git-dir"):
            options.append(rest.pop(0) if rest else "value")
    assert not asker.only_shows(("git", *options, command, *rest))


@pytest.mark.parametrize(
    "request_",
    [
        {"command": "smudge", "pathname": "x"},
        {"pathname": "x", "blob": ""},
        {"pathname": "x", "blob": "1" * 40, "can-delay": "1"},
        {"pathname": "x", "blob": "1" * 40, "ref": "refs/heads/main"},
        {"pathname": "x", "blob": "1" * 40, "treeish": "2" * 40},
    ],
)
def test_a_checkout_is_told_by_its_request(
    request_: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "asker", lambda: ("git", "diff"))
    monkeypatch.setattr(asker, "_driver_is_ours", lambda: True)
    monkeypatch.setattr(asker, "_diffed_by_us", lambda path: True)
    assert asker.wants_manifest({"pathname": "x", "blob": "1" * 40})
    assert not asker.wants_manifest(request_)


def test_only_our_driver_gets_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    request_ = {"pathname": "x", "blob": "1" * 40}
    monkeypatch.setattr(asker, "asker", lambda: ("git", "diff"))
    for ours, attribute in ((False, True), (True, False)):
        monkeypatch.setattr(asker, "_driver_is_ours", lambda ours=ours: ours)
        monkeypatch.setattr(asker, "_diffed_by_us", lambda path, attribute=attribute: attribute)
        assert not asker.wants_manifest(request_)


SCRIPT = """
import sys
from git_theta.drivers import asker
print(asker.asker(), flush=True)
sys.stdin.buffer.read()
"""


def ask(tmp_path: Path, name: str, words: list[str]) -> str:
    """What a filter says of a program called ``name`` that holds the other end of its standard
    input.
    """
    program = tmp_path / name
    program.write_text(
        f"#!{sys.executable}\n"
        "import subprocess, sys\n"
        f"words = [{sys.executable!r}, '-c', {SCRIPT!r}]\n"
        "filter_ = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "print(filter_.stdout.readline().decode(), end='')\n"
        "filter_.stdin.close(); filter_.wait(); filter_.stdout.close()\n"
    )
    program.chmod(0o755)
    root = str(Path(asker.__file__).parents[2])
    done = subprocess.run(
        [str(program), *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_asker_is_the_one_at_the_other_end_of_the_pipe(tmp_path: Path) -> None:
    said = ask(tmp_path, "git", ["diff", "a b"])
    assert said.endswith("'diff', 'a b')"), said
    assert "/git'" in said


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_nobody_is_asked_without_a_pipe() -> None:
    root = str(Path(asker.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.strip() == "()"


def test_the_parents_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ps`` joins arguments with blanks; where that leaves a doubt, nobody is named."""
    lines = {
        10: "9 sh -c git-theta filter-process",
        9: "8 /usr/bin/git diff HEAD",
        8: "1 git checkout",
    }

    def ps(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(words, 0, lines[int(words[-1])].encode() + b"\n", b"")

    monkeypatch.setattr(os, "getppid", lambda: 10)
    monkeypatch.setattr(subprocess, "run", ps)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert asker._by_parents() == ("/usr/bin/git", "diff", "HEAD")
    lines[9] = "8 git --no-pager -p diff"
    assert asker.only_shows(asker._by_parents())
    for doubtful in (
        "8 git -c alias.x= diff checkout",
        "8 git -C a diff",
        "8 git --git-dir=x diff",
        "8 git",
        "8 /opt/my git/git diff",
    ):
        lines[9] = doubtful
        assert not asker.only_shows(asker._by_parents()), doubtful
    lines[9] = "8 python wrapper.py"
    assert not asker.only_shows(asker._by_parents())
    lines.update({number: f"{number - 1} sh x" for number in range(2, 11)})
    assert asker._by_parents() == ()


def test_whatever_goes_wrong_the_content_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        OSError("gone"),
        ValueError("odd"),
        subprocess.TimeoutExpired("ps", 5),
        PermissionError("hidepid"),
    ):

        def fail(error: Exception = error) -> tuple[str, ...]:
            raise error

        for name in ("_by_pipe", "_by_parents"):
            monkeypatch.setattr(asker, name, fail)
        asker.asker.cache_clear()
        assert asker.asker() == ()
    asker.asker.cache_clear()
