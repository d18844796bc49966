"""The tensors of a torch file that are views of their storage: transposed ones and slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

from git_theta.checkpoints.containers.zip_container import read_archives
from git_theta.checkpoints.torch import storage_values
from git_theta.checkpoints.torch.loaded import SHOWN_LIMIT
from git_theta.checkpoints.torch.zip_archive import understand
from git_theta.core.contracts import StoredView
from git_theta.core.source import Source
from git_theta.core.tensors import Spec


def find(source: Source, known: Mapping[str, Spec]) -> dict[str, StoredView]:
    """The tensors by name whose values are not the bytes of the extent that ``known`` names so.

    None of a distributed checkpoint's, whose slices have their names from another file, and none
    if they hold more than :data:`SHOWN_LIMIT` times the bytes of the file.
    """
    archives = read_archives(source)
    if len(archives) != 1:
        return {}  # a distributed checkpoint
    archive = understand(source, archives[0])
    places = {} if archive.big_endian else archive.entries
    views = [(places.get(key), view) for key, views in archive.views.items() for view in views]
    names = Counter(view.name for _, view in views)
    if (
        len(views) == 1
        and views[0][1].name not in known
        and len(known) == 1
        and views[0][1].contiguous
    ):
        return {}  # the one slice of a distributed checkpoint
    found: dict[str, StoredView] = {}
    for place, view in views:
        if names[view.name] > 1:
            continue  # which of them is known by that name cannot be decided
        spec = Spec(view.storage.dtype, view.shape)
        plain = view.contiguous and known.get(view.name) == spec
        if place is not None and place.plain and not plain:
            read = partial(storage_values.array, view)
            found[view.name] = StoredView(spec, place.offset, place.length, read)
    if sum(seen.spec.nbytes for seen in found.values()) > SHOWN_LIMIT * source.size:
        return {}  # a small file could ask for any amount of memory; its storages can be read
    return found
