"""The tracked models of the index or of a revision, and their tensors, as values to print or to
give out as JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from git_theta.cli.commands.setup.patterns import from_here
from git_theta.cli.output import path, size, warn
from git_theta.core import earlier_release, shards
from git_theta.core.manifest import Entry, Manifest, parse
from git_theta.errors import ManifestError, UsageError
from git_theta.git.command import run, run_code
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import contents
from git_theta.git.history.contents import BlobContent
from git_theta.git.repository import Repository
from git_theta.store.local import LocalStore
from git_theta.terminal.bars import Bars
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
    repository: Repository, revision: str | None, paths: Sequence[str]
) -> Iterator[TrackedModel]:
    """The tracked files at ``revision`` (None: in the index) that match the pathspecs ``paths``,
    seen from the current folder.

    So are manifests that no attribute tracks, and tracked links; ``problem`` says what is wrong
    with these.
    """
    with Session(repository, load_settings(repository), warn, progress=Bars()) as session:
        held = mistracked.survey(
            session, revision, paths or ["."] if repository.worktree is not None else paths
        )
        if paths and not held.matched:
            raise UsageError(
                f"nothing in {'the index' if revision is None else path(revision)} matches"
                f" {' '.join(map(path, paths))}"
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
                    _problem(repository, found[name]),
                )
            elif content is None:
                yield TrackedModel(
                    name, entry.blob, BlobContent(0, b""), None, "git has not fetched its manifest"
                )
            else:
                yield _model(repository, entry, content, found.get(name), session.store)


def as_one(paths: Iterable[str]) -> bool:
    """Whether whoever names ``paths`` means sharded models as one: by their index, or by a folder."""
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
    repository: Repository,
    entry: contents.TrackedFile,
    content: BlobContent,
    item: Mistracked | None,
    store: LocalStore,
) -> TrackedModel:
    problem = "" if item is None else _problem(repository, item)
    if not content.is_manifest:
        return TrackedModel(entry.path, entry.blob, content, None, problem or "empty")
    try:
        manifest = parse(content.data)
    except ManifestError as error:
        return TrackedModel(entry.path, entry.blob, content, None, f"broken manifest: {error}")
    return TrackedModel(
        entry.path, entry.blob, content, manifest, problem, len(missing(store, manifest))
    )


def _problem(repository: Repository, item: Mistracked) -> str:
    return f"{mistracked.reason(item)}; {mistracked.remedy(item, partial(from_here, repository))}"


def named(repository: Repository, name: str) -> Manifest:
    """The manifest that git stores as ``name``, ``REV:PATH`` or a path of the index;
    :class:`UsageError` says what there is not.
    """
    found = dict(contents.read(repository, [_resolve(name)]))
    if not found:
        raise UsageError(f"'{path(name)}' is not a file")
    content = next(iter(found.values()))
    if content.is_old_metadata:
        raise UsageError(f"'{path(name)}' is {earlier_release.ADVICE}")
    if not content.is_manifest:
        how = (
            "a Git LFS pointer"
            if content.is_lfs_pointer
            else f"stored in git as it is ({size(content.size)})"
        )
        raise UsageError(
            f"'{path(name)}' is {how}, not a model of Git-Theta's; see 'git theta track -h'"
        )
    try:
        return parse(content.data)
    except ManifestError as error:
        raise ManifestError(f"the manifest of '{path(name)}' is broken: {error}") from None


def before(repository: Repository, name: str) -> set[str]:
    """The objects of the version before the model that git stores as ``name``: in the parents of
    the commit that made it, or in HEAD.

    None if there is no such version, or if ``name`` does not tell.
    """
    revision, _, file = ("", "", f"./{name}") if _plain(name) else name.partition(":")
    prefix = run(["rev-parse", "--show-prefix"]).decode("utf-8", "surrogateescape").rstrip("\n")
    place = (
        os.path.normpath(f"{prefix}{file}").replace(os.sep, "/")
        if file.startswith(("./", "../"))
        else file
    )
    if not revision and _parse(f"HEAD:{place}")[1] != _resolve(name):
        names = [f"HEAD:{place}"]
    else:
        code, out = run_code(
            [
                "rev-list",
                "--parents",
                "--max-count=1",
                "--end-of-options",
                revision or "HEAD",
                "--",
                f":(top,literal){place}",
            ],
            allowed=(0, 128, 129),
        )
        names = (
            [f"{parent}:{place}" for parent in out.decode("ascii", "replace").split()[1:]]
            if code == 0
            else []
        )
    blobs = [found for code, found in map(_parse, names) if code == 0]
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
    code, found = _parse(f":./{name}" if plain else name)
    if code == 0:
        return found
    if plain:
        raise UsageError(
            f"'{path(name)}' is not in the index; name a version as REV:PATH, for example"
            " HEAD:model.safetensors"
        )
    revision, _, file = name.partition(":")
    if revision and _parse(revision)[0]:
        raise UsageError(f"'{path(revision)}' is no revision of this repository")
    raise UsageError(f"there is no '{path(file)}' in {path(revision) if revision else 'the index'}")


def _parse(name: str) -> tuple[int, str]:
    code, found = run_code(
        ["rev-parse", "--verify", "--quiet", "--end-of-options", name], allowed=(0, 1, 128)
    )
    return code, found.decode("ascii", "replace").strip()


def missing(store: LocalStore, manifest: Manifest) -> list[str]:
    """The objects that the manifest needs and the store has not."""
    return [oid for oid, count in manifest.objects().items() if store.find(oid, count) is None]


def model_data(model: TrackedModel, long: bool) -> dict[str, Any]:
    """A model as JSON values, with ``long`` its tensors too."""
    data: dict[str, Any] = {
        "path": model.path,
        "blob": model.blob,
        "tracked": model.manifest is not None and not model.problem,
    }
    if model.files:
        data = {"path": model.path, "files": list(model.files), "tracked": True}
    if model.problem:
        data["problem"] = model.problem
    if model.manifest is None:
        return {**data, "size": model.content.size}
    manifest = model.manifest
    objects = manifest.objects()
    data |= {
        "format": manifest.format,
        "tensors": len(manifest.entries),
        "size": manifest.size,
        "stored": sum(objects.values()),
        "objects": len(objects),
        "missing": model.missing,
    }
    return {**data, "entries": [tensor_data(entry) for entry in manifest.entries]} if long else data


def manifest_data(manifest: Manifest, lacking: Sequence[str]) -> dict[str, Any]:
    """A manifest as JSON values, with the objects that are ``lacking``."""
    objects = manifest.objects()
    return {
        "format": manifest.format,
        "size": manifest.size,
        "stored": sum(objects.values()),
        "objects": len(objects),
        "missing": sorted(lacking),
        "headers": dict(manifest.headers),
        "skeleton": tensor_data(manifest.skeleton),
        "entries": [tensor_data(entry) for entry in manifest.entries],
    }


def tensor_data(entry: Entry) -> dict[str, Any]:
    """A tensor as JSON values."""
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "size": entry.nbytes,
        "digest": entry.digest,
        "inline": entry.inline is not None,
        "chain": [
            {
                "update": link.update,
                "note": link.note,
                "objects": [{"oid": ref.oid, "size": ref.size} for ref in link.objects],
            }
            for link in entry.chain
        ],
    }
