"""Repositories in which git shows models: installed filter, diff and merge drivers, and small
histories to look at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from gitrepo import Repo

MODEL = "model.safetensors"
Tensors = dict[str, np.ndarray]


def base() -> Tensors:
    """Four layers of three matrices, an embedding and a head: 14 tensors, 139,776 elements."""
    random = np.random.default_rng(7)

    def matrix(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    tensors = {"embed.weight": matrix(100, 64)}
    for layer in range(4):
        for part in ("attn.q", "attn.v", "mlp.up"):
            tensors[f"layers.{layer}.{part}.weight"] = (
                matrix(64, 64) if part != "mlp.up" else matrix(192, 64)
            )
    tensors["head.weight"] = matrix(64, 64)
    return tensors


def tuned(tensors: Tensors, *parts: str, seed: int = 1, size: float = 1e-3) -> Tensors:
    """The tensors whose name has one of ``parts`` in it moved a little."""
    random = np.random.default_rng(seed)
    moved = {}
    for name, value in tensors.items():
        wanted = any(part in name for part in parts)
        moved[name] = (
            value + (random.standard_normal(value.shape) * size).astype(np.float32)
            if wanted
            else value
        )
    return moved


def file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A .safetensors file."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"format": "pt"}
    )


def install(repo: Repo) -> Repo:
    """Configure ``repo`` as ``git theta install`` and ``track`` do."""
    repo.theta("install", "--local")
    return track(repo)


def track(repo: Repo) -> Repo:
    """Commit the attributes of models in ``repo``."""
    repo.write(".gitattributes", b"*.safetensors filter=theta diff=theta merge=theta -text\n")
    repo.git("add", ".gitattributes")
    repo.git("commit", "-qm", "track", "--allow-empty")
    return repo


_told: dict[tuple[str, bytes, bytes], tuple[Repo, dict[str, Tensors]]] = {}


def story(repo: Repo) -> dict[str, Tensors]:
    """Three commits: the base, its attention tuned, and its head and embedding tuned.

    ``repo`` is as :func:`install` or :func:`track` leaves it. Versions by commit id, oldest first.
    """
    home = repo.environment["HOME"]
    # Another kind of repository gets commits of its own
    kind = home, (repo.common / "config").read_bytes(), repo.git("rev-parse", "HEAD^{tree}")
    if kind not in _told:
        versions = _tell(repo)
        _told[kind] = repo.copy(Path(home) / "stories" / str(len(_told))), versions
        return versions
    template, versions = _told[kind]
    template.copy(repo.path)
    return {commit: dict(tensors) for commit, tensors in versions.items()}


def _tell(repo: Repo) -> dict[str, Tensors]:
    first = base()
    second = tuned(first, "attn.q", seed=2)
    third = tuned(second, "head", "embed", seed=3)
    found = {}
    for message, tensors in (
        ("Base model", first),
        ("Tune the attention", second),
        ("Tune head and embedding", third),
    ):
        found[repo.commit(message, **{MODEL.replace(".", "__"): file(tensors)})] = tensors
    return found


def hide_objects(repo: Repo) -> Path:
    """Move the object store away: from now on nothing can be rebuilt."""
    away = repo.store.with_name("objects-away")
    repo.store.rename(away)
    return away


def data(repo: Repo, *arguments: str) -> Any:
    """What ``git theta ... --json`` prints."""
    return json.loads(repo.theta(arguments[0], "--json", *arguments[1:]))
