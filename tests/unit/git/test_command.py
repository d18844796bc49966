"""Which program is started, and what is said when it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from git_theta.errors import GitError
from git_theta.git import command
from git_theta.git.repository import discover


@pytest.fixture(autouse=True)
def _forget() -> None:
    command._find.cache_clear()


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("#!/bin/sh\nexit 0\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.mark.parametrize(
    ("system", "separator", "name"), [("nt", ";", "git.exe"), ("posix", ":", "git")]
)
def test_a_program_of_the_current_folder_is_never_found(
    system: str, separator: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    program(here, name)
    program(here / "bin", name)
    monkeypatch.chdir(here)
    for path in ("", ".", "bin", separator.join(["", ".", "bin", ""])):
        assert command._find("git", path, system) is None
    right = program(there, name)
    assert command._find(
        "git", separator.join(["", ".", "bin", str(tmp_path / "none"), str(there)]), system
    ) == str(right)


def test_on_windows_only_a_program_counts_and_quoted_folders_do(tmp_path: Path) -> None:
    for name in ("git", "git.bat", "git.cmd"):
        program(tmp_path / "scripts", name)
    right = program(tmp_path / "Program Files", "git.exe")
    assert command._find("git", f'{tmp_path / "scripts"};"{right.parent}"', "nt") == str(right)


def test_a_file_that_is_no_program_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "one" / "git").mkdir(parents=True)
    program(tmp_path / "two", "git").chmod(0o644)
    right = program(tmp_path / "three", "git")
    assert command._find(
        "git", ":".join(str(tmp_path / name) for name in ("one", "two", "three")), "posix"
    ) == str(right)


def test_every_start_names_the_program_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def note(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        started.append(words)
        return subprocess.CompletedProcess(words, 0, b"", b"")

    name = "git.exe" if os.name == "nt" else "git"
    right = program(tmp_path / "bin", name)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", str(right.parent)]))
    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(subprocess, "Popen", note)
    command.run(["status"])
    command.call(["status"])
    command.launch(["status"])
    assert started == [[str(right), "status"]] * 3


def test_without_git_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for start in (command.run, command.call, command.launch):
        with pytest.raises(GitError, match=r"^git is not installed, or not on PATH$"):
            start(["status"])


def test_a_folder_that_does_not_exist_is_not_taken_for_a_missing_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "git.exe" if os.name == "nt" else "git"
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", name).parent))
    (tmp_path / "file").write_text("")
    for start in (command.run, command.call, command.launch):
        with pytest.raises(GitError, match=r"^there is no folder .*/no\\x0a where$"):
            start(["status"], cwd=tmp_path / "no\n where")
        with pytest.raises(GitError, match=r"^.*/file is not a folder$"):
            start(["status"], cwd=tmp_path / "file")
    with pytest.raises(GitError, match=r"^there is no folder .*/nowhere$"):
        discover(tmp_path / "nowhere")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the current folder of a process")
def test_a_current_folder_that_was_deleted_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(
        "git_theta.git.repository.run_code", lambda *arguments, **options: (128, b"")
    )
    with pytest.raises(GitError, match=r"^the current folder does not exist any more"):
        discover()


SETTING_VARIABLES = """
import os, threading
from git_theta.git import command

done = threading.Event()

def set_variables():
    # As numpy does while it is imported
    while not done.is_set():
        for name in ("GT_TEST_ONE", "GT_TEST_TWO"):
            os.putenv(name, "1")
        for name in ("GT_TEST_ONE", "GT_TEST_TWO"):
            os.unsetenv(name)

thread = threading.Thread(target=set_variables)
thread.start()
try:
    for _ in range(400):
        command.call(["--version"])
        with command.launch(["--version"]) as process:
            pass
        assert process.returncode == 0
finally:
    done.set()
    thread.join()
"""


def test_a_thread_that_sets_variables_disturbs_no_start(tmp_path: Path) -> None:
    """The C library moves its list of variables meanwhile: "Bad address" if a start uses it."""
    program(tmp_path, "git")
    done = subprocess.run(
        [sys.executable, "-c", SETTING_VARIABLES],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.stderr.decode() == ""
    assert done.returncode == 0


def test_a_program_gets_a_copy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GT_TEST_KEPT", "1")
    monkeypatch.setenv("GT_TEST_HIDDEN", "1")
    got = command.inherited_environment(
        {"GT_TEST_MORE": "2", "GT_TEST_KEPT": "3"}, ["GT_TEST_HIDDEN"]
    )
    assert got["GT_TEST_MORE"] == "2"
    assert got["GT_TEST_KEPT"] == "3"
    assert "GT_TEST_HIDDEN" not in got
    assert "GT_TEST_MORE" not in os.environ
