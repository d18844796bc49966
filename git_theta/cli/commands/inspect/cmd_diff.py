"""``git theta diff``: how two versions of models differ, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import click

from git_theta.cli import output, targets
from git_theta.cli.output import path, plural, warn
from git_theta.core import shards
from git_theta.core.manifest import Entry
from git_theta.drivers import blas
from git_theta.errors import GitError, UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import listing, revisions
from git_theta.git.history.changes import FileChange, Range, is_revision, resolve
from git_theta.git.repository import discover, is_inside
from git_theta.git.writing import index
from git_theta.reports import health, table
from git_theta.reports.report import ModelReport, Report, ordered
from git_theta.terminal import screen
from git_theta.terminal.bars import Bars
from git_theta.workflows.comparing import versions
from git_theta.workflows.comparing.compare import select
from git_theta.workflows.comparing.statistics import Options, Result, measure_all, read_size
from git_theta.workflows.comparing.tracked_models import as_one
from git_theta.workflows.comparing.versions import ModelDiff
from git_theta.workflows.session import Session

_NAMED = 20  # tensors of a model that --check names


class _Diff(targets.PageCommand):
    """Keeps what stands behind ``--``: these are paths, whatever they look like."""

    page_name = "diff.html"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split off the paths."""
        if "--" in args:
            place = args.index("--")
            ctx.meta["git_theta.paths"] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What to compare: revisions and pathspecs, or two files."""

    range: Range | None
    paths: tuple[str, ...]
    files: tuple[Path, Path] | None
    names: tuple[str, str]


@click.command(
    cls=_Diff,
    examples="""
git theta diff                                   # the working tree with the index
git theta diff HEAD~3 HEAD -- model.safetensors
git theta diff main... --params '*.attn.*' --sort change
git theta diff --html=change.html v1.0 v1.1
git theta diff --check main    # fails for a new NaN, zeroed rows, ...
git theta diff HEAD~1 -- model.safetensors.index.json   # a sharded model as one
git theta diff a.safetensors b.safetensors       # two files that are not in git
""",
)
@click.argument("what", nargs=-1, metavar="[A [B]] [-- PATH]...")
@click.option("--cached", "--staged", is_flag=True, help="Compare the index, not the working tree.")
@click.option("--no-index", is_flag=True, help="Compare two files, in git or not.")
@click.option(
    "--params",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Only tensors whose name matches, or that lie in this module.",
)
@click.option(
    "--sort",
    type=click.Choice(["file", "name", "size", "change"]),
    default="file",
    show_default=True,
    help="The order of the tensors.",
)
@click.option(
    "--all", "everything", is_flag=True, help="A line for each tensor, however many there are."
)
@click.option("--stat", is_flag=True, help="One line for each model. No tensor is read.")
@click.option(
    "--manifest-only", is_flag=True, help="Tell what changed but not how far. No tensor is read."
)
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, one row for each tensor.")
@click.option(
    "--markdown", "form", flag_value="markdown", help="Print Markdown, for a comment in a review."
)
@click.option(
    "--html",
    cls=targets.PageOption,
    metavar="[=FILE]",
    type=click.Path(dir_okay=False),
    help="Write a page with figures to FILE (default: diff.html); it needs nothing but a browser.",
)
@click.option(
    "--group",
    is_flag=True,
    help=(
        "Compare the files of a sharded model as one. So it is where PATH is its index or a folder."
    ),
)
@click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if there are differences, with 2 after an error."
)
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 if there are findings, with 2 after an error. Added tensors are read too.",
)
@click.pass_context
def diff(ctx: click.Context, /, what: tuple[str, ...], exit_code: bool, **chosen: Any) -> int:
    """Show how models changed, tensor by tensor.

    Without revisions, the working tree is compared with the index; with one, with that revision;
    with two (or A..B, A...B), the one with the other. PATHs are pathspecs, as for 'git diff'.

    For each tensor that changed: the share of its elements that did, the size of the change
    relative to the tensor (Frobenius norms), the cosine between old and new, the largest change of
    an element, and the rank of the change where it is low. Only changed tensors are read.

    Findings are changes that are rarely meant: elements that became NaN or infinite, rows or
    channels that became zero, rows that were lost, another element type, a norm more than 10 times
    larger or smaller. They are shown in red, and --check fails for them.
    """
    blas.keep_to_one_thread()
    try:
        if chosen["check"] and (chosen["stat"] or chosen["manifest_only"]):
            raise UsageError("--check reads tensors; leave out --stat and --manifest-only")
        if chosen["html"]:
            words = " ".join(map(path, (chosen["html"], *what)))
            targets.check_page(chosen["html"], f"'--html {words}' compares it")
        with ExitStack() as stack:
            report = _report(_asked(what, ctx.meta.get("git_theta.paths"), chosen), chosen, stack)
        _print(report, chosen)
    except Exception as error:
        if exit_code or chosen["check"]:
            # For the command's caller: 1 is an answer
            error.exit_code = 2  # type: ignore[attr-defined]  # the program's end reads it
        raise
    found = _checked(report) if chosen["check"] else 0
    return found or int(exit_code and bool(report.models))


def _checked(report: Report) -> int:
    """Name what --check fails for on standard error; the exit code: 1 for findings, 2 for what
    could not be checked.
    """
    code = 0
    for model in report.models:
        unread = [result for result in model.unknown if not result.read]
        if model.comparison is None or (model.problem and model.comparison.new is None):
            click.echo(
                f"git-theta: {path(model.path)} could not be checked: {path(model.problem)}",
                err=True,
            )
            code = code or 2
        elif unread:
            advice = (
                "; 'git theta fetch' may bring its objects"
                if any(result.missing for result in unread)
                else ""
            )
            click.echo(
                f"git-theta: {path(model.path)}: {plural(len(unread), 'tensor')} could not be"
                f" checked{advice}",
                err=True,
            )
            code = code or 2
        for line in health.lines(model.changes, model.results, _NAMED) if model.alarming else ():
            click.echo(f"git-theta: {path(model.path)}: {line}", err=True)
            code = 1
    return code


def _asked(words: Sequence[str], paths: Sequence[str] | None, chosen: dict[str, Any]) -> _Asked:
    """What the command line means.

    Words that are revisions come first; the first that is a file instead, and all behind it, are
    paths.
    """
    inside = is_inside()
    if paths is None:
        count = 0
        while inside and count < len(words) and _revision(words[count]):
            count += 1
        words, paths = words[:count], words[count:]
        absent = next(
            (word for word in paths if not os.path.lexists(word) and not word.startswith(":")), None
        )
        if (
            absent is not None
            and inside
            and not chosen["no_index"]
            and not any(c in absent for c in "*?[")
        ):
            raise UsageError(
                f"'{path(absent)}' is neither a revision nor a file; paths that are gone come"
                " behind '--'"
            )
    if chosen["no_index"] or not inside or _are_plain_files(words, paths):
        every = [*words, *paths]
        if len(every) != 2:
            raise UsageError(
                "this is no git repository: name two files to compare"
                if not inside
                else "--no-index compares two files"
            )
        return _Asked(None, (), (Path(every[0]), Path(every[1])), (every[0], every[1]))
    asked = resolve(words, chosen["cached"])
    if asked.old is None and not asked.cached:
        unfinished = index.unfinished(discover())
        if unfinished:
            raise GitError(unfinished)
    return _Asked(asked, tuple(paths), None, _names(asked, words))


def _names(asked: Range, words: Sequence[str]) -> tuple[str, str]:
    if asked.new is not None and len(words) == 1:
        left, _, right = (
            words[0].partition("...") if "..." in words[0] else words[0].partition("..")
        )
        return (
            (left or "HEAD") if "..." not in words[0] else (asked.old or "")[:12]
        ), right or "HEAD"
    new = asked.new or ("index" if asked.cached else "working tree")
    return asked.old or ("index" if not asked.cached else "nothing"), new


def _revision(word: str) -> bool:
    if not is_revision(word):
        return False
    if os.path.lexists(word):
        raise UsageError(
            f"'{path(word)}' is both a revision and a file; put '--' behind revisions and before"
            " paths"
        )
    return True


def _are_plain_files(words: Sequence[str], paths: Sequence[str]) -> bool:
    """Two files of which git does not know one."""
    if words or len(paths) != 2 or not all(os.path.isfile(name) for name in paths):
        return False
    try:
        known = listing.names([f":(literal){name}" for name in paths])
    except GitError:  # outside of the working tree
        return True
    return len(known) < 2


def _report(asked: _Asked, chosen: dict[str, Any], stack: ExitStack) -> Report:
    measuring = not (chosen["stat"] or chosen["manifest_only"])
    if measuring:
        Thread(
            target=import_module, args=("git_theta.workflows.comparing.measure",), daemon=True
        ).start()  # numpy is read while git answers
    if asked.files is not None:
        found: Iterator[ModelDiff] = iter([_files(asked.files, stack)])
        pool = stack.enter_context(ThreadPoolExecutor(max(1, os.cpu_count() or 1)))
    else:
        session = stack.enter_context(Session(discover(), load_settings(), warn, progress=Bars()))
        pool = session.pool()  # type: ignore[assignment]  # an executor of any kind
        assert asked.range is not None
        grouped = chosen["group"] or as_one(asked.paths)
        found = versions.diff(
            session, asked.range, shards.pathspecs(asked.paths), stack, grouped=grouped
        )
    options = Options(histogram=bool(chosen["html"] or chosen["form"] == "json"))

    def wanted(item: ModelDiff) -> Options:
        """Of a new model nothing is read, unless it is to be checked."""
        assert item.comparison is not None
        return replace(options, added=chosen["check"] or item.comparison.old is not None)

    compared = [
        (item, select(item.comparison.changes, chosen["globs"]) if item.comparison else [])
        for item in found
    ]
    compared = [
        (item, changes) for item, changes in compared if _counts(item, changes, chosen["globs"])
    ]
    total = sum(
        read_size(change, wanted(item).added) for item, changes in compared for change in changes
    )
    bar = stack.enter_context(Bars().begin("Comparing", total if measuring else 0))
    models = []
    for item, changes in compared:
        results: list[Result] = [None] * len(changes)
        if measuring and changes:
            results = list(measure_all(changes, item.reader, pool, wanted(item), bar.advance))
        entries = _entries(item) if chosen["html"] else ()
        models.append(
            replace(
                model_report(item, changes, results, chosen["sort"], measuring), entries=entries
            )
        )
    return Report(*asked.names, tuple(models), _ids(asked.range))


def _ids(asked: Range | None) -> tuple[str, str]:
    if asked is None:
        return "", ""
    old, new = (
        (revisions.find(end, "commit") or revisions.find(end) or "") if end else ""
        for end in (asked.old, asked.new)
    )
    return old, new


def _entries(item: ModelDiff) -> tuple[Entry, ...]:
    """All tensors, for a figure of the whole model."""
    manifest = item.new.parsed or item.old.parsed if item.comparison else None
    return manifest.entries if manifest else ()


def _counts(item: ModelDiff, changes: Sequence[object], globs: Sequence[str]) -> bool:
    if globs:
        return bool(changes)
    change = item.change
    moved = (change.old_path, change.old_mode) != (change.new_path, change.new_mode)
    return bool(item.problem) or item.comparison is None or not item.comparison.same or moved


def model_report(
    item: ModelDiff,
    changes: Sequence[Any],
    results: Sequence[Result],
    sort: str = "file",
    measured: bool = True,
) -> ModelReport:
    """The report of one model."""
    in_order, in_order_results = ordered(changes, results, sort)
    change = item.change
    return ModelReport(
        path=change.new_path,
        comparison=item.comparison,
        changes=in_order,
        results=in_order_results,
        former_path=change.old_path if change.old_path != change.new_path else None,
        modes=(_mode(change.old_mode), _mode(change.new_mode)),
        problem=item.problem,
        measured=measured,
    )


def _mode(mode: str) -> str | None:
    return None if mode.strip("0") == "" else mode


def _files(files: tuple[Path, Path], stack: ExitStack) -> ModelDiff:
    session = None
    if is_inside():
        session = stack.enter_context(Session(discover(), load_settings(), warn, progress=Bars()))
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        old, new = (versions.file(name, session, pool, stack) for name in files)
    change = FileChange(str(files[0]), str(files[1]), "100644", "100644", "", "", "M")
    return versions.model_diff(change, old, new)


def _print(report: Report, chosen: dict[str, Any]) -> None:
    if chosen["html"]:
        from git_theta.reports import page

        targets.write_page(chosen["html"], page.diff(report))
        if not chosen["form"]:
            click.echo(f"Wrote {path(chosen['html'])}.")
            return
    if chosen["form"] == "json":
        from git_theta.reports import records

        click.echo(records.as_json(report))
    elif chosen["form"] == "csv":
        from git_theta.reports import records

        click.echo(records.as_csv(report), nl=False)
    elif chosen["form"] == "markdown":
        from git_theta.reports import markdown

        click.echo(markdown.diff(report))
    else:
        _show(report, chosen)


def _show(report: Report, chosen: dict[str, Any]) -> None:
    style = screen.style("color.diff", folded=not chosen["everything"])
    if chosen["stat"]:
        lines = table.stat(report.models, style)
    else:
        lines = []
        for model in report.models:
            lines += [
                *([""] if lines else []),
                *table.model(model, style, in_order=chosen["sort"] != "file"),
            ]
    output.page(lines)
