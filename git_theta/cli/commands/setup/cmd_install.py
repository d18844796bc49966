"""``git theta install`` and ``uninstall``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from git_theta.cli.commands.setup import hook_setup
from git_theta.cli.output import Command, path, warn
from git_theta.errors import UsageError
from git_theta.git.command import find
from git_theta.git.config import config_file, programs
from git_theta.git.config.config_file import Scope, Value

_WHERE = {
    "global": "for all your repositories",
    "system": "for every user of this machine",
    "local": "for this repository",
    "worktree": "for this worktree",
}


def _scopes(function: Callable[..., Any]) -> Callable[..., Any]:
    for scope, text in (
        ("worktree", "This worktree only (see 'git help worktree', extensions.worktreeConfig)."),
        ("system", "Every user of this machine."),
        ("local", "This repository only."),
    ):
        function = click.option(f"--{scope}", is_flag=True, help=text)(function)
    return function


def _scope(chosen: dict[str, bool]) -> Scope:
    named = [scope for scope, wanted in chosen.items() if wanted]
    if len(named) > 1:
        raise click.UsageError("choose one of --local, --worktree and --system")
    scopes: dict[str, Scope] = {"local": "local", "worktree": "worktree", "system": "system"}
    return scopes[named[0]] if named else "global"


@click.command(
    cls=Command,
    examples="""
git theta install                # for you, in all repositories
git theta install --local        # for the current repository
git theta install --skip-smudge  # checkouts leave models as manifests
""",
)
@_scopes
@click.option(
    "--skip-smudge",
    is_flag=True,
    help="Leave the small manifests in the working tree at checkout, not the models.",
)
@click.option("--force", is_flag=True, help="Replace values that Git-Theta did not write.")
def install(skip_smudge: bool, force: bool, **chosen: bool) -> None:
    """Configure git to use Git-Theta.

    Writes the filter that 'git add' and 'git checkout' run for tracked files into your git config
    (or that of the repository or machine), and an alias so that 'git theta' works while the virtual
    environment it lives in is not active. Doing it again is harmless, and needed after Git-Theta
    was moved. Values that others wrote are left alone. In a repository, git's pre-push hook is made
    to send models' objects, beside whatever it does already.

    With --skip-smudge, 'git theta checkout PATH' writes a model when you want it.
    """
    scope = _scope(chosen)
    words = programs.program()
    everywhere = config_file.values(programs.PATTERN)
    present = config_file.values(programs.PATTERN, scope)
    taken = any(value.key == programs.ALIAS and not programs.is_ours(value) for value in everywhere)
    change = programs.plan_install(present, words, skip_smudge, taken)
    if change.foreign and not force:
        raise UsageError(
            f"{_described(change.foreign[0])}, which Git-Theta did not write; 'git theta install"
            " --force' replaces it"
        )
    programs.apply(change, scope, force)
    done = "is now set up" if change.write or change.remove else "was already set up"
    click.echo(f"Git-Theta {done} {_WHERE[scope]}.")
    if skip_smudge:
        click.echo(
            "Checkouts leave manifests in place of models; 'git theta checkout PATH' writes a"
            " model."
        )
    now = programs.in_force()
    answer = programs.try_filter(now[programs.PROCESS].text or "")
    if answer:
        warn(f"git cannot use it: {path(answer)}")
    for key, text in programs.wanted(words, skip_smudge).items():
        if now[key].text != text:
            click.echo(f"In the current repository it is overridden: {_described(now[key])}.")
    if taken and find("git-theta") is None:
        click.echo(
            f"Your own {programs.ALIAS} stays; to use Git-Theta, put {path(programs.scripts())} on"
            " PATH or give it another alias."
        )
    hook_setup.put_in(scope)
    click.echo('Next, in a repository: git theta track "*.safetensors"')


@click.command(
    cls=Command,
    examples="""
git theta uninstall
git theta uninstall --local
""",
)
@_scopes
def uninstall(**chosen: bool) -> None:
    """Remove what 'install' configured, and nothing else.

    In a repository, its pre-push hook is put back as it was; other repositories keep theirs until
    this is run in them.

    Tracked files, the models in the repository and .gitattributes stay as they are. Git cannot add
    or check out tracked files properly until Git-Theta is installed again.
    """
    scope = _scope(chosen)
    change = programs.plan_uninstall(config_file.values(programs.PATTERN, scope))
    programs.apply(change, scope)
    hook_setup.take_out()
    if change.remove:
        click.echo(f"Git-Theta is no longer set up {_WHERE[scope]}.")
    else:
        click.echo(f"Git-Theta was not set up {_WHERE[scope]}; nothing to remove.")
    for value in change.foreign:
        click.echo(f"Left alone: {_described(value)}, which Git-Theta did not write.")
    left = [
        value
        for value in config_file.values(programs.PATTERN)
        if programs.is_ours(value) and value.key == programs.PROCESS
    ]
    for scope_name in dict.fromkeys(value.scope for value in left):
        option = "" if scope_name == "global" else f" --{scope_name}"
        click.echo(f"It still is {_WHERE.get(scope_name, scope_name)}: git theta uninstall{option}")


def _described(value: Value) -> str:
    return (
        f"{value.key} in {path(value.place)} is"
        f" {'set' if value.text is None else chr(39) + path(programs.summary(value)) + chr(39)}"
    )
