"""The group: lazy commands, help that is true, and errors of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from git_theta import __main__, __version__
from git_theta.cli import main as cli
from git_theta.cli.output import Command
from git_theta.errors import GitError, ManifestError
from git_theta.plugins import registry

COMMANDS = [
    (name, summary) for section in cli.COMMANDS.values() for name, (_, summary) in section.items()
]


def context() -> click.Context:
    return cli.group.make_context("git theta", [], resilient_parsing=True)


def help_of(name: str) -> str:
    command = cli.group.get_command(context(), name)
    assert command is not None
    return command.get_help(click.Context(command, info_name=name, parent=context()))


@pytest.mark.parametrize(("name", "summary"), COMMANDS)
def test_every_command_says_what_it_does(name: str, summary: str) -> None:
    command = cli.group.get_command(context(), name)
    assert isinstance(command, Command)
    assert command.name == name
    text = help_of(name)
    assert summary.endswith(".")
    assert len(summary) <= 65
    assert text.isascii()
    assert f"Usage: git theta {name}" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"
            assert parameter.help.endswith("."), parameter.help
    if name not in cli.COMMANDS["Plumbing"]:
        assert command.examples.strip().startswith(f"git theta {name}")
        assert "Examples:" in text


def test_the_overview_lists_every_command_without_importing_one() -> None:
    code = (
        "import sys; from git_theta.cli.main import run; run(['-h']); print([m for m in sys.modules"
        " if m.startswith('git_theta.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, summary in COMMANDS:
        assert f"  {name} " in done.stdout
        assert summary in done.stdout
    assert done.stdout.splitlines()[-1] == "['git_theta.cli.output', 'git_theta.cli.main']"


HEAVY = (
    "click",
    "numpy",
    "pluggy",
    "importlib.metadata",
    "git",
    "rich",
    "tensorstore",
    "torch",
    "ml_dtypes",
    "zstandard",
    "blake3",
    "asyncio",
)


def test_the_filter_starts_without_anything_heavy() -> None:
    code = (
        "import os, sys; from git_theta.__main__ import main; sys.argv = ['git-theta',"
        " 'filter-process'];os._exit = lambda code: sys.exit(' '.join([str(code), str([m for m in"
        f" {HEAVY} if m in sys.modules])])); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"", capture_output=True, check=False)
    assert done.stderr.decode().splitlines()[-1] == "0 []"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        f"import sys, git_theta, git_theta.__main__; print([m for m in {HEAVY} if m in"
        " sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["git-theta", *arguments])
    return __main__.main()


def test_version_and_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"git-theta version {__version__}\n"
    for words in (["-h"], ["--help"], ["help"]):
        assert started(monkeypatch, *words) == 0
        assert "To start:\n  git theta install" in capsys.readouterr().out
    assert started(monkeypatch, "help", "track") == 0
    assert "Usage: git theta track" in capsys.readouterr().out
    assert started(monkeypatch, "filter-process", "--help") == 0
    assert "Usage: git theta filter-process" in capsys.readouterr().out
    assert started(monkeypatch) == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["trakc"],
            "'trakc' is not a git theta command; did you mean 'track'?\nSee 'git theta -h'.\n",
        ),
        (["\x1b[2J"], "'\\x1b[2J' is not a git theta command\nSee 'git theta -h'.\n"),
        (["track", "--frob"], "No such option '--frob'.\nSee 'git theta track -h'.\n"),
        (["fsck", "--all=3"], "Option '--all' does not take a value.\nSee 'git theta fsck -h'.\n"),
        (["log", "-n"], "Option '-n' requires an argument.\nSee 'git theta log -h'.\n"),
        (["untrack"], "Missing argument 'PATTERN...'.\nSee 'git theta untrack -h'.\n"),
        (
            ["install", "--local", "--system"],
            "choose one of --local, --worktree and --system\nSee 'git theta install -h'.\n",
        ),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started(monkeypatch, *words) == 2
    # Click 8.1 says it so
    shown = capsys.readouterr().err.replace(
        "No such option: --frob\n", "No such option '--frob'.\n"
    )
    assert shown == f"git-theta: {said}"


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("fails")
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli.CommandTable, "get_command", lambda *arguments: fails)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (GitError("no repository"), 1, "git-theta: no repository\n"),
        (ManifestError("line 3: bad\nthing"), 1, "git-theta: line 3: bad thing\n"),
        (
            PermissionError(13, "Permission denied", "a\nb"),
            1,
            "git-theta: Permission denied: 'a\\nb'\n",
        ),
        (MemoryError(), 1, "git-theta: out of memory\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            TypeError("oh\nno"),
            1,
            (
                "git-theta: internal error: TypeError: oh no (please report it; with"
                " GIT_THETA_DEBUG=1 it says where)\n"
            ),
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    monkeypatch.delenv("GIT_THETA_DEBUG", raising=False)
    assert started(monkeypatch, "fails") == code
    assert capsys.readouterr().err.lstrip("\n") == said


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, GitError("x"))
    monkeypatch.setenv("GIT_THETA_DEBUG", "1")
    with pytest.raises(GitError):
        started(monkeypatch, "fails")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = (
        "import sys; from git_theta.__main__ import main; sys.argv = ['git-theta', 'plugins',"
        " '--json']; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert said == b""


def test_commands_of_plugins_are_found_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("weigh")
    def weigh() -> None:
        """Weigh a model."""
        click.echo("7 kg")

    monkeypatch.setattr(registry, "commands", lambda: {"weigh": weigh})
    runner = CliRunner()
    assert "From plugins:\n  weigh  Weigh a model." in runner.invoke(cli.group, ["-h"]).output
    assert runner.invoke(cli.group, ["weigh"]).output == "7 kg\n"


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    modules = {target.partition(":")[0] for target in cli.TARGETS.values()}
    folder = Path(cli.__file__).parent
    commands = {
        "git_theta.cli." + ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.stem != "main" and "\n@click." in path.read_text("utf-8")
    }
    assert modules == commands
