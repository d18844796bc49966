"""``git theta export`` and ``import``: a model as zarr3 arrays, and back."""

from __future__ import annotations

import os
from pathlib import Path

import click

from git_theta.cli import targets
from git_theta.cli.commands.share.transfers import open_session
from git_theta.cli.output import Command, path, plural, size, warn
from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.terminal.bars import Bars
from git_theta.workflows.comparing import tracked_models

_LISTED = 5


@click.command(
    cls=Command,
    examples="""
git theta export v1.0:model.safetensors /shared/model-v1
git theta export HEAD:model.safetensors s3://my-bucket/runs/7/start
""",
)
@click.argument("source", metavar="REV:PATH")
@click.argument("target", metavar="DEST")
def export(source: str, target: str) -> None:
    """Write a model's tensors as zarr3 arrays.

    Each process of a cluster then reads the slice it needs. DEST is a new folder, or a URL:
    file://, s3:// or gs://, with the credentials of your own environment. Each tensor is an array
    DEST/tensors/NAME, in chunks of about 1 MB and shards of about 64 MB, that zarr and TensorStore
    read; DEST/zarr.json lists them all. Types that zarr has not (GGUF's blocks, fp4, fp6) become
    bytes. 'git theta import' makes the same file of it again.
    """
    from git_theta.store.zarr import ArrayFolder
    from git_theta.workflows.exchange import zarr_export

    targets.check(target, "DEST is a new folder or a URL")
    place = ArrayFolder(target, os.environ)
    with open_session() as session:
        manifest = tracked_models.named(session.repository, source)
        with session.progress.begin("Exporting", manifest.size) as bar:
            done = zarr_export.export(session, manifest, place, source, bar.advance)
    total = sum(item.spec.nbytes for item in done.tensors)
    click.echo(f"Exported {plural(len(done.tensors), 'tensor')}, {size(total)}, to {place.title}.")
    raw = [item for item in done.tensors if item.raw]
    if raw:
        listed = ", ".join(f"{display(item.name, 60)} {item.spec}" for item in raw[:_LISTED])
        more = f" and {len(raw) - _LISTED:,} more" if len(raw) > _LISTED else ""
        warn(f"as bytes, since zarr has no such type: {listed}{more}")


@click.command(
    name="import",
    cls=Command,
    examples="""
git theta import /shared/model-v1 model.safetensors
git theta import s3://my-bucket/runs/7/end model.safetensors --changed --force
""",
)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--changed", is_flag=True, help="Take arrays that hold other values by now, as after training."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def import_(source: str, target: Path, changed: bool, force: bool) -> None:
    """Make a file of what 'git theta export' wrote.

    It is the same to the byte: every tensor is checked against its digest. With --changed, arrays
    that were written to since are taken as they are.
    """
    from git_theta.store.zarr import ArrayFolder
    from git_theta.workflows.exchange import zarr_export

    targets.check(str(target), "FILE is the new file's name")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{path(target)} exists already; --force replaces it")
    place = ArrayFolder(source, os.environ)
    exported = zarr_export.read(place)
    with Bars().begin("Importing", exported.size) as bar:
        others = zarr_export.restore(place, exported, target, changed, bar.advance, force)
    click.echo(
        f"Wrote {path(target)}: {exported.format}, {plural(len(exported.tensors), 'tensor')},"
        f" {size(exported.size)}."
    )
    if others:
        click.echo(f"{plural(len(others), 'tensor')} changed since the export.")
