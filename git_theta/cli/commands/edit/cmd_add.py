"""``git theta add``: ``git add``, and changes given as factors, sparse values or an adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from git_theta.cli.mistracked_notes import warn_of_links
from git_theta.cli.output import Command, path, plural, size, warn
from git_theta.core.names import did_you_mean, display
from git_theta.errors import GitError, UsageError
from git_theta.git.config import attributes
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import listing
from git_theta.git.repository import discover
from git_theta.git.writing import index, staging
from git_theta.workflows.restoring import mistracked
from git_theta.workflows.session import Session


@click.command(
    cls=Command,
    examples="""
git theta add model.safetensors                                    # the same as git add
git theta add model.safetensors --update-data path/to/adapter      # a PEFT adapter (LoRA, IA3)
git theta add model.safetensors --update-type low-rank --update-data factors.safetensors
git theta add model.pt --update-type sparse --update-data mask.npz
""",
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--update-type",
    metavar="NAME",
    help="What the update's file holds: low-rank, sparse, ia3, or an update that a plugin adds.",
)
@click.option(
    "--update-data",
    "--update-path",
    "data",
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="The update: a .safetensors, .pt or .npz, or a PEFT adapter's folder.",
)
def add(paths: tuple[str, ...], update_type: str | None, data: Path | None) -> int:
    """Stage files, or a change to one model that is given as an update.

    The update's file names the tensors it changes: <tensor>/R and <tensor>/C for low-rank (R is
    rows x rank, C rank x columns, and R C is added), <tensor>/data, /indices, /indptr and /shape
    for sparse (compressed rows, added), <tensor>/ia3 for ia3 (multiplied). An update of a plugin
    has its own parts. The new weights are
    computed the same way on every machine, staged, and written to the working file; what is stored
    is the update. Tensors that the update does not name are staged from the working file, as by
    'git add'.
    """
    if data is None:
        if update_type is not None:
            raise click.UsageError("--update-type needs --update-data")
        sys.stdout.flush()
        return staging.add(paths) or _check_links(paths)
    if len(paths) != 1:
        raise click.UsageError("an update changes one model: name just that")
    from git_theta.terminal.bars import Bars
    from git_theta.workflows.exchange import peft_adapters, supplied

    repository = discover()
    if repository.worktree is None:
        raise UsageError("this repository has no working tree")
    name = _from_top(paths[0], repository.worktree)
    with Session(repository, load_settings(repository), warn, progress=Bars()) as session:
        before = session.manifest(f":{name}")
        if before is None:
            unfinished = index.unfinished(repository)
            if unfinished:
                raise GitError(unfinished)
            raise UsageError(
                f"{path(name)} is not a model in the index; 'git theta track' and 'git add' it"
                " first"
            )
        if update_type is None:
            if not peft_adapters.is_adapter(data):
                names = ", ".join(supplied.updates_from_parts())
                raise click.UsageError(
                    f"say what the update's file holds: --update-type with one of {names}"
                    " (adapters need none)"
                )
            changes = peft_adapters.read(
                data, {name: entry.shape for name, entry in before.by_name.items()}
            )
        else:
            if data.is_dir():
                raise click.UsageError(
                    "--update-data must be a file; a PEFT adapter's folder needs no --update-type"
                )
            if update_type not in (known := supplied.updates_from_parts()):
                hint = did_you_mean(update_type, known) or f"; there are: {', '.join(known)}"
                raise click.UsageError(
                    f"no update called '{display(update_type, 40)}' is built from parts{hint}"
                )
            changes = supplied.from_file(update_type, supplied.read_tensors(data))
        after = supplied.apply(session, name, changes)
    old = before.objects()
    stored = sum(count for oid, count in after.objects().items() if oid not in old)
    held = {entry.name: entry.digest for entry in before.entries}
    changed = sum(held.get(entry.name) != entry.digest for entry in after.entries)
    click.echo(
        f"Staged {path(name)}: {plural(changed, 'tensor')} changed, {size(stored)} to store."
    )
    return 0


def _check_links(paths: tuple[str, ...]) -> int:
    """1, with a warning, when symbolic links were staged that stand where models should; else 0."""
    repository = discover()
    listed = listing.one_each(listing.index(paths))
    names = [entry.path for entry in listed if entry.is_link]
    values = attributes.check(repository, names, ["filter"])
    tracked = [name for name in names if attributes.is_tracked(values[name])]
    links = mistracked.not_models(repository, tracked).links if tracked else ()
    warn_of_links(repository, links)
    return 1 if links else 0


def _from_top(given: str, worktree: Path) -> str:
    """A path as git names it, from the top of the working tree."""
    full = Path(given).parent.resolve() / Path(given).name
    try:
        return full.relative_to(worktree.resolve()).as_posix()
    except ValueError:
        raise UsageError(
            f"{path(given)} lies outside of the working tree {path(worktree)}"
        ) from None
