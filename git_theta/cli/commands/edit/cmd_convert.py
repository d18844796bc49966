"""``git theta convert``: a checkpoint as a file of another format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import click

from git_theta.cli import targets
from git_theta.cli.output import Command, path, plural, size, warn
from git_theta.core.manifest import is_manifest, parse
from git_theta.core.names import display
from git_theta.core.source import FileSource
from git_theta.errors import StoreError, UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover
from git_theta.workflows import chains
from git_theta.workflows.comparing import tracked_models
from git_theta.workflows.exchange import convert as conversion
from git_theta.workflows.session import Session

_LISTED = 20


@click.command(
    cls=Command,
    examples="""
git theta convert HEAD~1:model.pt model.safetensors     # as it was committed
git theta convert model.safetensors model.gguf --force  # a plain file, in git or not
git theta convert weights.npz weights.bin --to torch-zip
""",
)
@click.argument("source", metavar="[REV:]FILE")
@click.argument("target", metavar="NEW", type=click.Path(path_type=Path))
@click.option(
    "--to", "form", metavar="FORMAT", help="The new file's format. Else its ending says it."
)
@click.option(
    "--drop",
    is_flag=True,
    help="Leave out tensors that the new format cannot hold, instead of refusing.",
)
@click.option("--force", is_flag=True, help="Replace NEW where it exists.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List all that is not carried over, however much it is.",
)
def convert(
    source: str, target: Path, form: str | None, drop: bool, force: bool, everything: bool
) -> None:
    """Write a checkpoint's tensors as a file of another format: safetensors, torch, NumPy, Flax or
    GGUF.

    Names, types, shapes and values stay as they are; what the new format cannot hold is listed.
    Nothing in the file is executed, so this also makes a safetensors file of a torch checkpoint
    that one would not dare to load. Of tied weights safetensors files hold one, and torch files
    all; other formats hold them as often as they have names.

    The tensors must fit into memory once for a safetensors file, twice for others.
    """
    targets.check(str(target), "the second name is the new file's")
    name = conversion.target_format(form, target.suffix)
    if os.path.lexists(target) and not force:
        raise UsageError(f"{path(target)} exists already; --force replaces it")
    with ExitStack() as stack:
        opened = _open(source, target, stack)
        done = conversion.convert(opened, PurePosixPath(source).suffix, name, drop)
        written = conversion.write(target, done.save, force)
    click.echo(f"Wrote {path(target)}: {name}, {plural(done.tensors, 'tensor')}, {size(written)}.")
    for line in _report(done, everything):
        click.echo(line)


def _report(done: conversion.Conversion, everything: bool) -> Iterator[str]:
    tied = [f"{display(name)} = {display(kept)}" for name, kept in done.tied]
    yield from _listed(
        "Tied weights, kept once (the names are in the file's metadata):", tied, everything
    )
    yield from _listed(
        "Left out, since the new format cannot hold them:",
        [*map(display, done.dropped)],
        everything,
    )
    yield from _listed(
        f"Not carried over from the {done.form} file:", [*map(display, done.others)], everything
    )


def _listed(title: str, lines: Sequence[str], everything: bool) -> Iterator[str]:
    if lines:
        yield title
        count = len(lines) if everything or len(lines) <= _LISTED + 1 else _LISTED
        yield from (f"  {line}" for line in lines[:count])
        if count < len(lines):
            yield f"  ... and {len(lines) - count:,} more (--all lists them)"


def _open(name: str, beside: Path, stack: ExitStack) -> FileSource:
    """The checkpoint's bytes: of a file that exists, else of what git stores as ``REV:PATH``, put
    together in the store or ``beside``.
    """
    if os.path.isfile(name):
        found = stack.enter_context(FileSource(name))
        head = found.read(0, min(32, found.size))
        if not is_manifest(head):
            return found
        text = found.read(0, found.size)
    elif os.path.isdir(name):
        raise UsageError(f"{path(name)} is a folder; name one file of it")
    elif ":" not in name:
        raise UsageError(f"there is no file {path(name)}; name a version in git as REV:PATH")
    else:
        text = b""
    from git_theta.terminal.bars import Bars
    from git_theta.workflows.restoring import smudge
    from git_theta.workflows.sharing.fetch import fetch_missing

    repository = discover()
    session = stack.enter_context(
        Session(repository, load_settings(repository), warn, progress=Bars())
    )
    manifest = parse(text) if text else tracked_models.named(repository, name)
    if chains.missing(session.store, manifest):
        fetch_missing(session, [manifest])
    chains.require(session.store, manifest)
    try:
        file = session.store.temporary_path()
    except StoreError:
        # A repository that is only read; there must be room for the new file where it goes
        file = beside.with_name(f".{beside.name[:40]}.{os.urandom(6).hex()}.git-theta")
    stack.callback(file.unlink, missing_ok=True)
    smudge.write(session.store, manifest, file, session.pool())
    return stack.enter_context(FileSource(file))
