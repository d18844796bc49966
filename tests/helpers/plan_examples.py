"""Manifests for plans of merges, whose tensors are known by words."""

from __future__ import annotations

from git_theta.core import dtypes
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef
from git_theta.merges.items import Item, MergePlan


def tensor(
    name: str,
    value: str,
    dtype: str = "f32",
    shape: tuple[int, ...] = (16, 16),
    also: tuple[str, ...] = (),
) -> Entry:
    """An entry whose content is known by the word ``value``; the chain says who stored it."""
    size = dtypes.nbytes(dtype, shape)
    oid = digest(f"{name}/{value}/{dtype}".encode())
    if size <= 64:
        return Entry.of_inline(name, dtype, shape, value.encode().ljust(size, b".")[:size], also)
    return Entry(
        name,
        dtype,
        shape,
        digest(f"{value}{dtype}{shape}".encode()),
        (Link("dense", (ObjectRef(oid, size).whole,)),),
        None,
        also,
    )


def manifest(*entries: Entry, skeleton: str = "header", form: str = "safetensors") -> Manifest:
    head = Entry(
        "skeleton",
        "u8",
        (100,),
        digest(skeleton.encode()),
        (Link("dense", (ObjectRef(digest(skeleton.encode()), 50).whole,)),),
    )
    return Manifest(form, 100 + sum(entry.nbytes for entry in entries), head, entries, {})


def of(**values: str) -> Manifest:
    """A manifest with one tensor a keyword; underscores in names stand for dots."""
    return manifest(*(tensor(name.replace("_", "."), value) for name, value in values.items()))


def item(decided: MergePlan, name: str) -> Item:
    return next(item for item in decided.items if item.name == name)
