"""``git theta log`` and ``git theta blame``: a model's history, by its manifests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from git_theta.cli import output, targets
from git_theta.cli.output import Command, path, warn
from git_theta.errors import UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import listing
from git_theta.git.history.changes import is_revision
from git_theta.git.repository import discover, prefix
from git_theta.terminal import screen
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session


def _arguments(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    function = click.option(
        "--params",
        "globs",
        multiple=True,
        metavar="GLOB",
        help="Only tensors whose name matches, or that lie in this module.",
    )(function)
    return click.argument("what", nargs=-1, required=True, metavar="[REVISION] PATH")(function)


class _Log(targets.PageCommand):
    page_name = "log.html"


@click.command(
    cls=_Log,
    examples="""
git theta log model.safetensors
git theta log -n 5 main model.safetensors
git theta log v1.0..v2.0 model.safetensors --params 'h.11' --json
git theta log model.safetensors --html=history.html
""",
)
@_arguments
@click.option(
    "-n",
    "--max-count",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    help="At most so many commits.",
)
@click.option(
    "--all", "everything", is_flag=True, help="A line for each tensor, however many there are."
)
@click.option(
    "--html",
    cls=targets.PageOption,
    metavar="[=FILE]",
    type=click.Path(dir_okay=False),
    help="Write a page with a time line of commits and layers to FILE (default: log.html).",
)
def log(
    what: tuple[str, ...],
    globs: tuple[str, ...],
    as_json: bool,
    count: int | None,
    everything: bool,
    html: str | None,
) -> None:
    """Show which commits changed a model, and how.

    For each commit: the tensors that changed, how they are stored (delta, low-rank, sparse, ...),
    the size of the tensors that came in and the bytes that storing them took. All of it comes from
    manifests: no tensor is read.
    """
    from git_theta.reports import history_tables
    from git_theta.workflows.comparing import log as workflow

    if html:
        targets.check_page(
            html, f"'--html {path(html)} {' '.join(map(path, what))}' shows its history"
        )
    revisions, name = _split(what)
    with Session(discover(), load_settings(), warn, progress=Bars()) as session:
        steps = workflow.log(session, name, revisions, globs, count)
    if not steps and not globs:
        raise UsageError(f"no commit changed '{path(name)}'")
    if html:
        from git_theta.reports import page

        targets.write_page(html, page.log(name, steps))
    if as_json:
        from git_theta.reports import records

        click.echo(records.log_as_json(name, steps))
    elif html:
        click.echo(f"Wrote {path(html)}.")
    else:
        output.page(history_tables.log(steps, screen.style("color.diff", folded=not everything)))


@click.command(
    cls=Command,
    examples="""
git theta blame model.safetensors
git theta blame v1.0 model.safetensors --params '*.attn.*'
""",
)
@_arguments
def blame(what: tuple[str, ...], globs: tuple[str, ...], as_json: bool) -> None:
    """Show for each tensor the commit that last changed it.

    With its author, date, and the update by which it was stored. A tensor that only got another
    name is followed. All of it comes from manifests: no tensor is read.
    """
    from git_theta.reports import history_tables
    from git_theta.workflows.comparing import blame as workflow

    revisions, name = _split(what)
    with Session(discover(), load_settings(), warn, progress=Bars()) as session:
        origins = workflow.blame(session, name, revisions, globs)
    if as_json:
        from git_theta.reports import records

        click.echo(records.blame_as_json(name, origins))
    else:
        output.page(history_tables.blame(origins, screen.style("color.blame")))


def _split(words: Sequence[str]) -> tuple[list[str], str]:
    """Revisions, and the path from the top of the working tree."""
    *revisions, file = words
    for word in revisions:
        if not is_revision(word):
            raise UsageError(f"'{path(word)}' is no revision of this repository")
    found = listing.names([f":(literal){file}"])
    if len(found) == 1:
        return revisions, found[0]
    import posixpath

    return revisions, posixpath.normpath(f"{prefix()}{file}")
