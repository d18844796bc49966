"""``git theta ls-files``: the tracked models of the index or of a revision."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import click

from git_theta.cli import models
from git_theta.cli.output import (
    Command,
    bold,
    details,
    from_here,
    page,
    path,
    plural,
    size,
    table,
    warn,
)
from git_theta.errors import GitError, UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import changes
from git_theta.git.repository import Repository, discover
from git_theta.git.writing import index
from git_theta.workflows.comparing import tracked_models
from git_theta.workflows.comparing.tracked_models import TrackedModel
from git_theta.workflows.session import Session

_PATHS = "git_theta.paths"


class _LsFiles(Command):
    """Keeps what follows ``--``, which click forgets: it tells paths from revisions, as for git."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_PATHS] = args[cut + 1 :]
            args = args[:cut]
        return super().parse_args(ctx, args)


@click.command(
    name="ls-files",
    cls=_LsFiles,
    examples="""
git theta ls-files                        # what the next commit holds
git theta ls-files -l model.safetensors   # its tensors
git theta ls-files v1.0 -- models/        # as of a tag
""",
)
@click.argument("arguments", metavar="[REV] [--] [PATH]...", nargs=-1)
@click.option(
    "-l",
    "--long",
    "long",
    is_flag=True,
    help="List each model's tensors: name, type and shape, stored size, updates.",
)
@click.option(
    "--group",
    is_flag=True,
    help="List the files of a sharded model as one. So it is where PATH is its index or a folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def ls_files(
    context: click.Context, arguments: tuple[str, ...], long: bool, group: bool, as_json: bool
) -> None:
    """List the tracked models: format, number of tensors, size, and what is stored for them.

    Without REV, those in the index. The stored size counts each object once; models that share
    tensors share objects, so the total may be less than the sum. PATHs are as for 'git ls-files'.
    Files that git does not store the way .gitattributes says are listed with the command that mends
    them.
    """
    repository = discover()
    revision, paths = _split(arguments, context.meta.get(_PATHS))
    if revision is None and repository.worktree is None:
        revision = "HEAD"
    if revision is None:
        unfinished = index.unfinished(repository)
        if unfinished:
            raise GitError(unfinished)
    here = partial(from_here, repository)
    with Session(repository, load_settings(repository), warn) as session:
        found = list(tracked_models.find(session, revision, paths, here))
    if group or tracked_models.as_one(paths):
        found = tracked_models.grouped(found)
    if as_json:
        import json

        click.echo(json.dumps([models.model_data(model, long) for model in found], indent=2))
    elif found:
        page(list(_long(repository, found) if long else _short(repository, found)))
    else:
        click.echo(
            f"No tracked models {'match' if paths else 'are'} in"
            f" {'the index' if revision is None else path(revision)}."
        )


def _split(
    arguments: Sequence[str], after_dashes: Sequence[str] | None
) -> tuple[str | None, list[str]]:
    """The revision and the paths.

    As for git, what is both a file and a revision is neither without ``--``.
    """
    if after_dashes is not None:
        if len(arguments) > 1:
            raise UsageError("only one revision may stand before '--'")
        if arguments and not _is_revision(arguments[0]):
            raise UsageError(f"'{path(arguments[0])}' is no revision of this repository")
        return (arguments[0] if arguments else None), list(after_dashes)
    if arguments and _is_revision(arguments[0]):
        if os.path.lexists(arguments[0]):
            raise UsageError(
                f"'{path(arguments[0])}' is both a revision and a file; put '--' behind a revision,"
                " before a file"
            )
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def _is_revision(text: str) -> bool:
    return changes.commit(text) is not None


def _short(repository: Repository, found: Sequence[TrackedModel]) -> Iterator[str]:
    rows = []
    for model in found:
        name = path(from_here(repository, model.path))
        if model.manifest is None:
            rows.append((name, "-", "-", "-", "-", model.problem))
        else:
            stored = sum(model.manifest.objects().values())
            rows.append(
                (
                    name,
                    model.manifest.format,
                    f"{len(model.manifest.entries):,}",
                    size(model.manifest.size),
                    size(stored),
                    _notes(model),
                )
            )
    yield from table(rows, ("path", "format", "tensors", "size", "stored", ""), right=(2, 3, 4))
    manifests = [model.manifest for model in found if model.manifest]
    if len(manifests) > 1:
        objects = {
            oid: count for manifest in manifests for oid, count in manifest.objects().items()
        }
        total = sum(manifest.size for manifest in manifests)
        yield (
            f"{len(manifests):,} models of {size(total)}, stored in"
            f" {plural(len(objects), 'object')} of {size(sum(objects.values()))}"
        )


def _long(repository: Repository, found: Sequence[TrackedModel]) -> Iterator[str]:
    for model in found:
        name = bold(path(from_here(repository, model.path)))
        if model.manifest is None:
            yield f"{name}: {model.problem}"
            continue
        held = model.manifest
        facts = [
            held.format,
            plural(len(held.entries), "tensor"),
            size(held.size),
            f"{size(sum(held.objects().values()))} stored",
            _notes(model),
        ]
        yield f"{name}: {', '.join(fact for fact in facts if fact)}"
        yield from table(details(held.entries), right=(2,), indent="    ")


def _notes(model: TrackedModel) -> str:
    absent = f"{plural(model.missing, 'object')} not in the local store" if model.missing else ""
    return "; ".join(filter(None, (absent, model.problem)))
