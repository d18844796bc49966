"""``git theta show``: one version of a model, described."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator

import click

from git_theta.cli import models
from git_theta.cli.output import Command, bold, detail, details, page, path, plural, size, table
from git_theta.core import dtypes
from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.git.repository import discover
from git_theta.store.local import LocalStore
from git_theta.workflows.comparing import tracked_models

_HEADER = 400  # characters


@click.command(
    cls=Command,
    examples="""
git theta show HEAD:model.safetensors     # as committed
git theta show :model.safetensors         # as staged
git theta show v1.0:./model.safetensors   # ./ counts from the current folder
git theta show model.safetensors          # a plain path: as staged, from the current folder
""",
)
@click.argument("name", metavar="REV:PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Describe one version of a model: its header, then a line per tensor.

    REV:PATH names it as for 'git show'. Objects that the version before needs too are counted as
    shared, all others as new. For each tensor it tells type and shape, the bytes stored for it, and
    the updates they are, from the newest to the one that needs no other. Nothing is decoded; 'git
    show REV:PATH' prints the manifest itself.
    """
    repository = discover()
    manifest = tracked_models.named(repository, name)
    lacking = tracked_models.missing(
        LocalStore(repository.objects, repository.alternates()), manifest
    )
    if as_json:
        earlier = tracked_models.before(repository, name)
        new = sum(count for oid, count in manifest.objects().items() if oid not in earlier)
        click.echo(json.dumps({**models.manifest_data(manifest, lacking), "new": new}, indent=2))
    else:
        page(list(text(manifest, name, len(lacking), tracked_models.before(repository, name))))


def text(
    manifest: Manifest, name: str, lacking: int, earlier: Collection[str] = ()
) -> Iterator[str]:
    """The description, line by line.

    ``lacking`` objects are not in the local store; the version before needs the objects
    ``earlier``.
    """
    objects = manifest.objects()
    stored = sum(objects.values())
    new = {oid: count for oid, count in objects.items() if oid not in earlier}
    added, share = (
        sum(new.values()),
        f" ({100 * sum(new.values()) / manifest.size:.1f} %)" if new else "",
    )
    yield bold(path(name))
    yield f"format    {manifest.format}"
    yield f"size      {size(manifest.size)} ({manifest.size:,} bytes)"
    if len(new) == len(objects):
        yield f"stored    {size(stored)} in {plural(len(objects), 'object')}{share}"
    else:
        yield f"new       {size(added)} in {plural(len(new), 'object')}{share}"
        yield (
            f"shared    {size(stored - added)} in {plural(len(objects) - len(new), 'object')}, with"
            " the version before"
        )
    if lacking:
        yield f"missing   {plural(lacking, 'object')} not in the local store"
    kinds = Counter[str]()
    for entry in manifest.entries:
        kinds[entry.dtype] += dtypes.count(entry.shape)
    each = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    yield f"tensors   {len(manifest.entries):,}" + (f" with {each} elements" if each else "")
    updates = Counter(
        entry.chain[0].update if entry.chain else "inline" for entry in manifest.entries
    )
    if updates:
        yield (
            "updates  "
            f" {', '.join(f'{count:,} {update}' for update, count in updates.most_common())}"
        )
    _, _, share, how = detail(manifest.skeleton)
    yield f"skeleton  {size(manifest.skeleton.nbytes)}, {how}" + (
        f" in {share}" if manifest.skeleton.chain else ""
    )
    for key, value in manifest.headers.items():
        told = path(json.dumps(value, sort_keys=True))
        yield f"{display(key):<8}  {told if len(told) <= _HEADER else told[: _HEADER - 1] + '~'}"
    if manifest.entries:
        yield ""
        yield from table(
            details(manifest.entries),
            ("tensor", "type and shape", "stored", "as"),
            right=(2,),
        )
