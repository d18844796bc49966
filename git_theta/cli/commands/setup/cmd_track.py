"""``git theta track`` and ``untrack``: which files git hands to Git-Theta, as ``.gitattributes``
says it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import click

from git_theta.cli.mistracked_notes import warn_of_links
from git_theta.cli.output import Command, bold, from_here, page, path, plural, size, table, warn
from git_theta.cli.patterns import PatternPlace, inside, matched, resolve
from git_theta.core.names import meant, shell_word
from git_theta.errors import UsageError
from git_theta.git.config import attributes, programs, push_hook
from git_theta.git.config.attributes import BASE, TRACKING, AttributeRule
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import contents
from git_theta.git.history import listing as listed
from git_theta.git.repository import Repository, discover
from git_theta.plugins import registry
from git_theta.store.guard import turn
from git_theta.workflows.restoring import mistracked

_SHOWN = 5


@click.command(
    cls=Command,
    examples="""
git theta track "*.safetensors" "*.pt"   # quotes: git is to see the pattern
git theta track models/                  # everything below a folder
git theta track "my model.pt"            # one file
git theta track tuned.safetensors --base base.safetensors
git theta track                          # list what is tracked
""",
)
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--base",
    metavar="PATH",
    help="A tracked checkpoint that new versions of these files are stored as differences from.",
)
def track(patterns: tuple[str, ...], base: str | None) -> int:
    """Have files that match PATTERN stored by Git-Theta; without PATTERN list what is tracked.

    A pattern means what it means in .gitignore, from the current folder: '*.pt' matches in every
    folder below it, 'models/*.pt' in that folder only. It is written into the .gitattributes of the
    current folder, to be committed with the models. If 'git theta install' was forgotten, this
    repository is configured as well.

    --base names a checkpoint in this repository, for files that descend from it under another name.
    It is kept in .gitattributes (as theta-base=PATH, from the top of the repository, with %
    escapes), so it holds in every clone.
    """
    repository, top = _with_worktree()
    if not patterns:
        if base is not None:
            raise click.UsageError("--base needs the patterns it is for")
        page(listing(repository))
        return 0
    places = [resolve(pattern, Path.cwd(), top) for pattern in patterns]
    base_path = None if base is None else _base(base, top)
    present = working_tree(top)
    found = matched(repository, places, present)
    _configure()
    hook = push_hook.look(repository)
    if hook.needs_consent and load_settings(repository).hook == "auto":
        warn(push_hook.silence(hook))
    before = _attributes(repository, found)
    changed = dict[str, None]()
    for place, paths in zip(places, found, strict=True):
        if paths and all(_as_wanted(before[name], base_path) for name in paths):
            click.echo(f"{place} is already tracked.")
            continue
        with turn(repository.common_dir):
            file = attributes.read(top / place.file)
            longer = file.having(place.pattern, base_path)
            if longer != file:
                attributes.write(longer)
        if longer != file:
            changed[place.file] = None
            click.echo(f"Tracking {place} ({path(from_here(repository, place.file))}).")
    after = _attributes(repository, found)
    effective = [
        _report(repository, place, paths, present, after)
        for place, paths in zip(places, found, strict=True)
    ]
    for place in (
        place for place, paths in zip(places, found, strict=True) if present.isdisjoint(paths)
    ):
        _warn_slip(place)
    if changed and base_path is None:
        _note_files(patterns, top, present)
    tracked = {name for paths in found for name in paths if attributes.is_tracked(after[name])}
    if base_path is not None and not attributes.is_tracked(
        attributes.check(repository, [base_path], ["filter"])[base_path]
    ):
        warn(
            f"the base {path(base_path)} is not tracked itself, so nothing can be stored as a"
            " difference from it yet"
        )
    odd = mistracked.not_models(repository, tracked & present)
    warn_of_links(repository, odd.links)
    _warn_pointers(repository, odd.pointers)
    _warn_raw(repository, tracked.difference(odd.pointers))
    _advise(repository, changed, (tracked & present).difference(odd.links, odd.pointers))
    return 0 if all(effective) else 1


@click.command(
    cls=Command,
    examples="""
git theta untrack "*.pt"
git add --renormalize .    # afterwards: have git store such files by itself again
""",
)
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
def untrack(patterns: tuple[str, ...]) -> int:
    """Take PATTERN out of the .gitattributes of the current folder.

    What was committed stays as it is. Matching files are stored by git itself from their next 'git
    add' on.
    """
    repository, top = _with_worktree()
    places = [resolve(pattern, Path.cwd(), top) for pattern in patterns]
    present = working_tree(top)
    rules = attributes.rules(repository, present)
    changed, failed = dict[str, None](), False
    for place in places:
        with turn(repository.common_dir):
            file = attributes.read(top / place.file)
            shorter = file.lacking(place.pattern)
            if shorter != file:
                attributes.write(shorter)
        if shorter == file:
            failed = True
            warn(_not_there(repository, place, rules))
            continue
        changed[place.file] = None
        click.echo(f"No longer tracking {place} ({path(from_here(repository, place.file))}).")
    found = matched(repository, places, present)
    after = _attributes(repository, found)
    still = {
        name
        for paths in found
        for name in paths
        if name in present and attributes.is_tracked(after[name])
    }
    if still and changed:
        verb = "is" if len(still) == 1 else "are"
        click.echo(
            f"{plural(len(still), 'matching file')} {verb} still tracked by other patterns; 'git"
            " theta track' lists them."
        )
    _advise(repository, changed, set())
    return 1 if failed else 0


def listing(repository: Repository) -> list[str]:
    """What is tracked: the patterns with the number of their files, then the files."""
    assert repository.worktree is not None
    present = working_tree(repository.worktree)
    values = attributes.check(repository, present, ["filter", BASE])
    tracked = sorted(name for name in present if attributes.is_tracked(values[name]))
    rules = attributes.rules(repository, present)
    if not rules and not tracked:
        return ['Nothing is tracked yet. Start with: git theta track "*.safetensors"']
    by_rule = attributes.matches(
        repository, [(rule.folder, rule.pattern) for rule in rules], tracked
    )
    ruled = {name for paths in by_rule for name in paths}
    patterns = [
        (path(attributes.written(rule.pattern)), _at(repository, rule), plural(len(paths), "file"))
        for rule, paths in zip(rules, by_rule, strict=True)
    ]
    files = [
        (path(from_here(repository, name)), _note(values[name], name in ruled)) for name in tracked
    ]
    lines = [bold("Patterns"), *table(patterns, indent="    ")] if patterns else []
    return [*lines, bold("Files"), *table(files, indent="    ")] if files else lines


def working_tree(top: Path) -> set[str]:
    """The files of the working tree that git knows or could add, from its top."""
    return set(listed.names((), top, others=True))


def _with_worktree() -> tuple[Repository, Path]:
    repository = discover()
    if repository.worktree is None:
        raise UsageError(
            "there is no working tree here whose .gitattributes could be read; run this in one"
        )
    return repository, repository.worktree


def _base(given: str, top: Path) -> str:
    """The base's path from the top; :class:`UsageError` unless it is a file of this repository."""
    absolute = Path(os.path.realpath(Path.cwd())) / given
    where = inside(absolute.parent, top, given)
    name = f"{where}/{absolute.name}" if where else absolute.name
    if not absolute.is_file() and not listed.names([listed.literal(name)], top):
        raise UsageError(f"the base '{path(given)}' is no file of this repository")
    return name


def _attributes(
    repository: Repository, found: Sequence[Sequence[str]]
) -> dict[str, dict[str, str]]:
    return attributes.check(
        repository, sorted({name for paths in found for name in paths}), [*TRACKING, BASE]
    )


def _as_wanted(values: dict[str, str], base: str | None) -> bool:
    return all(values[name] == value for name, value in TRACKING.items()) and (
        base is None or attributes.base_in(values) == base
    )


# Telling the user


def _report(
    repository: Repository,
    place: PatternPlace,
    paths: Sequence[str],
    present: set[str],
    after: dict[str, dict[str, str]],
) -> bool:
    """Say where a pattern does not have its effect; whether it has it for anything."""
    untracked = [name for name in paths if not attributes.is_tracked(after[name])]
    real = [name for name in untracked if name in present]
    for name in real[:_SHOWN] or untracked[:1]:
        _explain(repository, place, name, "filter", after[name]["filter"], present)
    if len(real) > _SHOWN:
        warn(f"... and {plural(len(real) - _SHOWN, 'file')} likewise")
    if not untracked:
        odd = [
            (name, attribute)
            for name in paths
            for attribute, value in TRACKING.items()
            if after[name][attribute] != value
        ]
        for name, attribute in odd[:1]:
            _explain(repository, place, name, attribute, after[name][attribute], present)
    return not paths or len(untracked) < len(paths)


def _warn_slip(place: PatternPlace) -> None:
    """Say what a pattern that matches no file was probably meant to be: ``safetensors`` or
    ``*.safetensor`` for ``*.safetensors``.
    """
    known = {suffix for form in registry.checkpoint_formats() for suffix in form.suffixes}
    folder, slash, name = place.pattern.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    if f".{suffix}" in known and stem:
        return
    near = meant(f".{suffix}", known) if stem or f".{suffix}".lower() in known else ""
    if near:
        wanted = shell_word(f"{folder}{slash}{stem or '*'}{near}")
        warn(
            f"{place} matches no file; did you mean {wanted}? To take it out again: git theta"
            f" untrack {shell_word(place.pattern)}"
        )


def _note_files(patterns: Sequence[str], top: Path, present: set[str]) -> None:
    """Say that quotes keep a pattern, if the shell may have expanded one: all files of one suffix
    in a folder were given.
    """
    here = os.path.relpath(os.path.realpath(Path.cwd()), os.path.realpath(top)).replace(os.sep, "/")
    prefix = "" if here == "." else f"{here}/"
    given = [PurePosixPath(f"{prefix}{pattern}") for pattern in patterns]
    suffixes = {file.suffix for file in given}
    if (
        len(suffixes) != 1
        or suffixes == {""}
        or not all(file.as_posix() in present for file in given)
    ):
        return
    folders, suffix = {file.parent for file in given}, suffixes.pop()
    every = {
        file
        for file in map(PurePosixPath, present)
        if file.parent in folders and file.suffix == suffix
    }
    if every == set(given):
        pattern = shell_word(
            f"{patterns[0].rpartition('/')[0]}/*{suffix}" if "/" in patterns[0] else f"*{suffix}"
        )
        files = "this file alone is" if len(given) == 1 else "these files alone are"
        click.echo(
            f"Note: {files} tracked, no new ones. Quotes keep a pattern from the shell: git theta"
            f" track {pattern}"
        )


def _explain(
    repository: Repository,
    place: PatternPlace,
    name: str,
    attribute: str,
    value: str,
    present: set[str],
) -> None:
    where = attributes.settings_of(repository, present, name, attribute, value)
    stated = {"unset": f"-{attribute}", "unspecified": f"!{attribute}", "set": attribute}.get(
        value, f"{attribute}={path(value)}"
    )
    origin = f" (see {', '.join(where[-3:])})" if where else ""
    subject = path(name) if name in present else "a file it matches"
    if attribute == "filter":
        warn(
            f"{place} does not take effect: {subject} gets {stated}{origin}; remove that, or put it"
            " before the pattern"
        )
    else:
        wanted = "-text" if attribute == "text" else f"{attribute}=theta"
        warn(
            f"{place}: {subject} gets {stated}{origin} instead of {wanted}; remove that, or put it"
            " before the pattern"
        )


def _configure() -> None:
    """Do what ``git theta install --local`` does, if nobody has installed."""
    now = programs.in_force()
    process = now.get(programs.PROCESS)
    if process is not None and process.text:
        where = path(process.place)
        if not programs.is_ours(process):
            warn(
                f"filter.theta.process in {where} is not Git-Theta's; 'git theta install --local"
                " --force' would replace it"
            )
        elif programs.is_lost(process.text):
            program = path(programs.summary(process))
            warn(
                f"the program that {where} names is gone ({program}); run 'git theta install' again"
            )
        elif not programs.is_set_up(now):
            warn(
                "filter.theta.required is not true: git would commit whole models if the filter"
                " failed; run 'git theta install' again"
            )
        return
    taken = programs.ALIAS in now and not programs.is_ours(now[programs.ALIAS])
    change = programs.plan_install(list(now.values()), programs.program(), False, taken)
    if change.foreign:
        value = change.foreign[0]
        raise UsageError(
            f"{value.key} in {path(value.place)} is not Git-Theta's; 'git theta install --local"
            " --force' overrides it"
        )
    programs.apply(change, "local")
    click.echo(
        "Git was not configured for Git-Theta; now it is, in this repository ('git theta install'"
        " configures it for all of yours)."
    )


def _warn_pointers(repository: Repository, pointers: Sequence[str]) -> None:
    """Tell which of the tracked files are Git LFS pointers, and how they become models."""
    if not pointers:
        return
    names = [from_here(repository, name) for name in pointers]
    shown = ", ".join(map(path, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    )
    verb, what = (
        ("is", "a Git LFS pointer, not the model")
        if len(names) == 1
        else ("are", "Git LFS pointers, not the models")
    )
    warn(f"{shown} {verb} {what}: run 'git lfs pull' first")
    again = _shell(names) if len(names) <= _SHOWN else "--renormalize ."
    click.echo(f"To store them with Git-Theta: git lfs pull && git add {again}", err=True)


def _warn_raw(repository: Repository, tracked: set[str]) -> None:
    """Tell which of the files that are tracked now are in the index as they are."""
    if not tracked:
        return
    entries = listed.one_each(listed.index((), repository.worktree))
    entries = [entry for entry in entries if entry.path in tracked and not entry.is_link]
    held = dict(contents.read(repository, (entry.blob for entry in entries)))
    raw = [
        (entry.path, held[entry.blob])
        for entry in entries
        if entry.blob in held and not held[entry.blob].is_manifest
    ]
    raw = [(name, content) for name, content in raw if content.size]
    if not raw:
        return
    verb = "is" if len(raw) == 1 else "are"
    warn(f"{plural(len(raw), 'matching file')} {verb} in git already, stored without Git-Theta:")
    for name, content in raw[:_SHOWN]:
        click.echo(
            f"    {path(name)}"
            f" ({'a Git LFS pointer' if content.is_lfs_pointer else size(content.size)})",
            err=True,
        )
    if len(raw) > _SHOWN:
        click.echo(f"    ... and {len(raw) - _SHOWN:,} more", err=True)
    names = _shell(from_here(repository, name) for name, _ in raw) if len(raw) <= _SHOWN else "."
    click.echo(
        f"To store them with Git-Theta from the next commit on: git add --renormalize {names}",
        err=True,
    )


def _advise(repository: Repository, changed: Iterable[str], tracked: set[str]) -> None:
    new = sorted(tracked.difference(listed.names((), repository.worktree)))
    words = [from_here(repository, name) for name in (*changed, *new[:_SHOWN])]
    if words:
        click.echo(f"Now: git add {_shell(words)}{' ...' if len(new) > _SHOWN else ''}")


def _not_there(repository: Repository, place: PatternPlace, rules: Sequence[AttributeRule]) -> str:
    """Why a pattern cannot be taken out, and where to look."""
    said = f"{place} is not in {path(from_here(repository, place.file))}"
    same = [rule for rule in rules if rule.pattern == place.pattern]
    if any(rule.folder == place.folder for rule in same):
        return f"{place} is tracked through a macro in {_at(repository, same[-1])}; edit that line"
    if same:
        return f"{said}; it is in {_at(repository, same[-1])}"
    there = [
        path(attributes.written(rule.pattern)) for rule in rules if rule.folder == place.folder
    ]
    return (
        f"{said}; there {'is' if len(there) == 1 else 'are'}: {', '.join(there[:_SHOWN])}"
        if there
        else said
    )


def _note(values: dict[str, str], ruled: bool) -> str:
    base = attributes.base_in(values)
    notes = [f"base: {path(base)}"] if base else []
    return ", ".join(notes if ruled else [*notes, "by an attributes file outside the repository"])


def _at(repository: Repository, rule: AttributeRule) -> str:
    assert repository.worktree is not None
    if rule.file.is_relative_to(repository.worktree):
        inside = rule.file.relative_to(repository.worktree).as_posix()
        return f"{path(from_here(repository, inside))}:{rule.number}"
    return f"{path(rule.file)}:{rule.number}"


def _shell(words: Iterable[str]) -> str:
    """``words`` to be pasted into a shell, in printable ASCII whatever they hold."""
    safe = (f"./{word}" if word.startswith("-") else word for word in words)
    return " ".join(map(shell_word, safe))
