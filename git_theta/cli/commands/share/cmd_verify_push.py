"""``git theta verify-push``: a pre-receive hook, and a check for CI."""

from __future__ import annotations

import sys
from functools import partial
from itertools import chain, islice

import click

from git_theta.cli.output import Command
from git_theta.errors import UsageError
from git_theta.git.config import credentials
from git_theta.git.repository import Repository, discover
from git_theta.workflows.maintenance import verify_push as work

_LINES = 50  # faults that are shown
_INPUT = 64 << 20  # bytes of a hook's standard input


@click.command(
    name="verify-push",
    cls=Command,
    examples="""
git theta verify-push origin/main..HEAD  # in CI: each commit of a branch
git theta verify-push v1.0 --no-objects  # the files of a tag
""",
)
@click.argument("revisions", metavar="[REV]...", nargs=-1)
@click.option(
    "--storage",
    metavar="URL",
    help="Look for objects in a folder or bucket (file:///, s3://, gs://, https://).",
)
@click.option("--lfs", metavar="URL", help="Look for objects at a Git LFS server.")
@click.option("--no-objects", is_flag=True, help="Do not look for objects.")
@click.option(
    "--pointers",
    type=click.Choice(["auto", "require", "off"]),
    default="auto",
    show_default=True,
    help="Require a Git LFS pointer for each object; auto: if the repository has pointers.",
)
@click.option("--no-attributes", is_flag=True, help="Accept files not stored as attributes say.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1),
    default=10_000_000,
    show_default=True,
    help="Refuse commits that change more than N files together.",
)
def verify_push(
    revisions: tuple[str, ...],
    storage: str | None,
    lfs: str | None,
    no_objects: bool,
    pointers: str,
    no_attributes: bool,
    limit: int,
) -> int:
    """Refuse commits with incomplete models, on a server or in CI.

    For teams whose tools skip Git's hooks.

    Each manifest must be well formed and its objects must be there. Each file that an attribute
    gives to Git-Theta must be a manifest, and other files must not be one.

    Without REV, standard input holds the lines 'old new ref' that Git gives to a pre-receive hook,
    and the commits that no ref reaches yet are checked. Of a REV its files are checked, of a range
    A..B each of its commits. Neither a working tree nor 'git theta install' is needed, and nothing
    is written.

    If the repository keeps Git LFS pointers to its objects at the ref theta/objects, each object
    must have one, and commits of that ref must hold pointers alone, to objects that are there.

    Objects are looked for in the repository's own store (theta/objects and lfs/objects), unless an
    option names another place. The exit code is 1 when something is wrong, each fault is a line on
    standard error, and 2 when the command was not called as it should be.
    """
    if sum((storage is not None, lfs is not None, no_objects)) > 1:
        raise click.UsageError("--storage, --lfs and --no-objects exclude each other")
    repository = discover()
    try:
        place = None if no_objects else _place(repository, storage, lfs)
        updates = [] if revisions else work.parse_updates(_updates(), repository.hash_length)
        scope, of_pointers = work.scope_of_updates(repository, updates)
        if revisions:
            scope = work.scope_of_revisions(repository, revisions)
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    required = pointers == "require"
    named = None if pointers == "off" else work.pointed(repository, updates, required)
    checks = work.PushChecks(place, named, not no_attributes, limit)
    faults = chain(
        work.verify_pointers(repository, of_pointers, checks),
        work.verify(repository, scope, checks),
    )
    shown = 0
    for line in islice(faults, _LINES):
        click.echo(f"git-theta: {line}", err=True)
        shown += 1
    if not shown:
        return 0
    if next(faults, None) is not None:
        click.echo(f"git-theta: there are more faults; these are the first {_LINES}", err=True)
    click.echo(
        "git-theta: refused. 'git theta push' in the clone sends objects that are missing; a commit"
        " with another fault must be amended, or left out.",
        err=True,
    )
    return 1


def _updates() -> bytes:
    if sys.stdin.isatty():
        raise UsageError("name revisions, or run this as a pre-receive hook")
    given = sys.stdin.buffer.read(_INPUT + 1)
    if len(given) > _INPUT:
        raise UsageError("standard input is too long for a pre-receive hook's")
    return given


def _place(repository: Repository, storage: str | None, lfs: str | None) -> work.Place:
    if storage is not None:
        return work.storage(storage)
    if lfs is not None:
        from git_theta.store.lfs_server import LfsServer

        return LfsServer(lfs, partial(credentials.headers, cwd=repository.git_dir))
    return work.own_store(repository)
