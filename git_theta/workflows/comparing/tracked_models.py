"""The tracked models of the index or of a revision: found by the attributes, and by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from git_theta.core import earlier_release, shards
from git_theta.core.manifest import Manifest, parse
from git_theta.core.names import display
from git_theta.core.readable.numbers import size
from git_theta.errors import ManifestError, UsageError
from git_theta.git.history import contents, revisions
from git_theta.git.history.contents import BlobContent
from git_theta.git.history.listing import TrackedFile
from git_theta.git.repository import Repository, prefix
from git_theta.store.local import LocalStore
from git_theta.workflows.comparing.sharded import joined
from git_theta.workflows.restoring import mistracked
from git_theta.workflows.restoring.mistracked import Mistracked
from git_theta.workflows.session import Session


@dataclass(frozen=True, slots=True)
class TrackedModel:
    """A tracked file: its path from the top, and what git holds for it.

    ``problem`` says in what way it is stored otherwise than the attributes say, without
    ``manifest`` or with one. ``missing`` objects are not in the local store. Where ``files`` are
    named, it is a sharded model: these are its files, and ``path`` is that of its index.
    """

    path: str
    blob: str
    content: BlobContent
    manifest: Manifest | None
    problem: str = ""
    missing: int = 0
    files: tuple[str, ...] = ()


def find(
    session: Session,
    revision: str | None,
    paths: Sequence[str],
    here: Callable[[str], str] = str,
) -> Iterator[TrackedModel]:
    """The tracked files at ``revision`` (None: in the index) that match the pathspecs ``paths``,
    seen from the current folder; for the index of a sharded model, its parts too.

    So are manifests that no attribute tracks, and tracked links; ``problem`` says what is wrong
    with these, and ``here`` how a person in the current folder calls a path.
    """
    bare = session.repository.worktree is None
    specs = shards.pathspecs(paths)
    held = mistracked.survey(session, revision, specs if bare else specs or ["."])
    unmatched = [path for path in paths if {*shards.pathspecs([path])} <= {*held.unmatched}]
    if unmatched:
        raise UsageError(
            f"nothing in {'the index' if revision is None else display(revision)} matches"
            f" {' '.join(map(display, unmatched))}"
        )
    found = held.by_path
    for name in sorted({*held.tracked, *held.manifests, *found}):
        entry, content = held.tracked.get(name) or held.manifests.get(name) or (None, None)
        if entry is None:  # a link
            yield TrackedModel(
                name,
                found[name].blob,
                BlobContent(found[name].size, b""),
                None,
                _problem(found[name], here),
            )
        elif content is None:
            yield TrackedModel(
                name, entry.blob, BlobContent(0, b""), None, "git has not fetched its manifest"
            )
        else:
            yield _model(entry, content, found.get(name), session.store, here)


def as_one(paths: Iterable[str]) -> bool:
    """Whether ``paths`` name sharded models as one: by their index or by a folder."""
    return any(shards.is_index(name) or os.path.isdir(name) for name in paths)


def grouped(found: Sequence[TrackedModel]) -> list[TrackedModel]:
    """``found`` with the files of each sharded model as one."""
    by_path = {
        model.path: model for model in found if model.manifest is not None and not model.problem
    }
    whole: dict[str, TrackedModel] = {}  # by the path of each file
    for index, paths in shards.groups(list(by_path)).items():
        parts = [by_path[name] for name in paths]
        manifest = joined([part.manifest for part in parts if part.manifest is not None])
        model = TrackedModel(
            index,
            "",
            parts[0].content,
            manifest,
            "",
            sum(part.missing for part in parts),
            tuple(paths),
        )
        whole.update(dict.fromkeys(paths, model))
    return list(
        {model.path: model for model in (whole.get(each.path, each) for each in found)}.values()
    )


def _model(
    entry: TrackedFile,
    content: BlobContent,
    item: Mistracked | None,
    store: LocalStore,
    here: Callable[[str], str],
) -> TrackedModel:
    problem = "" if item is None else _problem(item, here)
    if not content.is_manifest:
        return TrackedModel(entry.path, entry.blob, content, None, problem or "empty")
    try:
        manifest = parse(content.data)
    except ManifestError as error:
        return TrackedModel(entry.path, entry.blob, content, None, f"broken manifest: {error}")
    return TrackedModel(
        entry.path, entry.blob, content, manifest, problem, len(missing(store, manifest))
    )


def _problem(item: Mistracked, here: Callable[[str], str]) -> str:
    return f"{mistracked.reason(item)}; {mistracked.remedy(item, here)}"


def named(repository: Repository, name: str) -> Manifest:
    """The manifest that git stores as ``name``, ``REV:PATH`` or a path of the index;
    :class:`UsageError` says what there is not.
    """
    found = dict(contents.read(repository, [_resolve(name)]))
    if not found:
        raise UsageError(f"'{display(name)}' is not a file")
    content = next(iter(found.values()))
    if content.is_old_metadata:
        raise UsageError(f"'{display(name)}' is {earlier_release.ADVICE}")
    if not content.is_manifest:
        how = (
            "a Git LFS pointer"
            if content.is_lfs_pointer
            else f"stored in git as it is ({size(content.size)})"
        )
        raise UsageError(
            f"'{display(name)}' is {how}, not a model of Git-Theta's; see 'git theta track -h'"
        )
    try:
        return parse(content.data)
    except ManifestError as error:
        raise ManifestError(f"the manifest of '{display(name)}' is broken: {error}") from None


def before(repository: Repository, name: str) -> set[str]:
    """The objects of the version before the model that git stores as ``name``: in the parents of
    the commit that made it, or in HEAD.

    None if there is no such version, or if ``name`` does not tell.
    """
    revision, _, file = ("", "", f"./{name}") if _plain(name) else name.partition(":")
    place = (
        os.path.normpath(f"{prefix()}{file}").replace(os.sep, "/")
        if file.startswith(("./", "../"))
        else file
    )
    if not revision and revisions.find(f"HEAD:{place}") != _resolve(name):
        names = [f"HEAD:{place}"]
    else:
        parents = revisions.parents_of_change(revision or "HEAD", place)
        names = [f"{parent}:{place}" for parent in parents]
    blobs = [blob for blob in map(revisions.find, names) if blob is not None]
    held = dict(contents.read(repository, blobs))
    found = set[str]()
    for content in held.values():
        if content.is_manifest:
            with suppress(ManifestError):
                found.update(parse(content.data).objects())
    return found


def _plain(name: str) -> bool:
    """Whether ``name`` is a path of the index, not ``REV:PATH``."""
    return ":" not in name or os.path.lexists(name)


def _resolve(name: str) -> str:
    """The object that ``name`` means; :class:`UsageError` says what there is not."""
    plain = _plain(name)
    found = revisions.find(f":./{name}" if plain else name)
    if found is not None:
        return found
    if plain:
        raise UsageError(
            f"'{display(name)}' is not in the index; name a version as REV:PATH, for example"
            " HEAD:model.safetensors"
        )
    revision, _, file = name.partition(":")
    if revision and revisions.find(revision) is None:
        raise UsageError(f"'{display(revision)}' is no revision of this repository")
    raise UsageError(
        f"there is no '{display(file)}' in {display(revision) if revision else 'the index'}"
    )


def missing(store: LocalStore, manifest: Manifest) -> list[str]:
    """The objects that the manifest needs and the store has not."""
    return [oid for oid, count in manifest.objects().items() if store.find(oid, count) is None]
