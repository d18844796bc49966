"""Tracked models and their tensors as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from git_theta.core.manifest import Entry, Manifest
from git_theta.workflows.comparing.tracked_models import TrackedModel


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
                "objects": [place._asdict() for place in link.ranges],
            }
            for link in entry.chain
        ],
    }
