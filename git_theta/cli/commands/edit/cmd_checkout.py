"""``git theta checkout``: write models into the working tree, faster and with less memory than git
can.
"""

from __future__ import annotations

import click

from git_theta.cli import mistracked_notes
from git_theta.cli.output import Command, plural, size, warn
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover
from git_theta.workflows.restoring import checkout as work
from git_theta.workflows.session import Session


@click.command(
    cls=Command,
    examples="""
git theta checkout                     # every model that is not written yet
git theta checkout model.safetensors   # restore one, as 'git checkout -- PATH' does
GIT_THETA_SKIP_SMUDGE=1 git clone URL  # a clone with manifests only, to check out from
""",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of files that were written.")
def checkout(paths: tuple[str, ...], quiet: bool) -> int:
    """Write models from the index into the working tree.

    With PATH, what matches is restored, and changes to it are lost. Without, only models that are
    absent, or still in the form of their manifests, are written. Git itself holds a whole model in
    memory while it checks it out; this writes the file directly, from all processors. Each file
    appears complete and verified, or stays as it was.

    A model at a path that no .gitattributes tracks is not written. The exit code is 1 if a model is
    not in place.
    """
    from git_theta.terminal.bars import Bars

    repository = discover()
    with Session(repository, load_settings(repository), warn, progress=Bars()) as session:
        plan = work.plan(session, paths)
        outcome = work.checkout(session, plan.targets)
    failed = mistracked_notes.report_outcome(repository, plan, outcome)
    if outcome.written and not quiet:
        total = sum(target.manifest.size for target in outcome.written)
        click.echo(f"Wrote {plural(len(outcome.written), 'model')}, {size(total)}.")
    elif not failed and not quiet:
        click.echo(
            "Nothing to write:"
            f" {'no model in the index matches' if paths else mistracked_notes.in_place(plan)}."
        )
    return 1 if failed else 0
