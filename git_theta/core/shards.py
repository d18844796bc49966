"""Which files are parts of one model, by their names alone: shards with numbers, and the folders of
torch's distributed checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SHARD = re.compile(r"(?P<stem>[^/]+)-\d{5}-of-\d{5}(?P<suffix>\.[A-Za-z0-9]+)\Z")
_DATA = re.compile(r"(?P<stem>[^/]+)\.data-\d{5}-of-\d{5}\Z")
_SPECIAL = re.compile(r"([*?\[\]\\])")
_JSON, _INDEX, _METADATA, _PART = ".index.json", ".index", ".metadata", ".distcp"


def groups(paths: Sequence[str]) -> dict[str, list[str]]:
    """The models that consist of several of ``paths``: the path of each one's index → its parts,
    sorted.

    ``model-00001-of-00003.safetensors`` belongs to ``model.safetensors.index.json`` (and so does
    ``model.safetensors``, beside such), ``x.data-00000-of-00001`` to ``x.index``, ``__0_0.distcp``
    to ``.metadata`` in its folder. The index itself is a part where it is among the paths.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        key = _index_of(path)
        if key is not None:
            found.setdefault(key, []).append(path)
    for path in paths:
        key = path if path in found else path + _JSON
        if key in found:
            found[key].append(path)
    return {key: sorted(set(parts)) for key, parts in found.items()}


def _index_of(path: str) -> str | None:
    folder, slash, name = path.rpartition("/")
    if shard := _SHARD.match(name):
        return folder + slash + shard["stem"] + shard["suffix"] + _JSON
    if data := _DATA.match(name):
        return folder + slash + data["stem"] + _INDEX
    return folder + slash + _METADATA if name.endswith(_PART) else None


def is_index(path: str) -> bool:
    """Whether a file called so is the index of a model of several files."""
    name = path.rpartition("/")[2]
    return name == _METADATA or name.endswith((_JSON, _INDEX))


def pathspecs(paths: Iterable[str]) -> list[str]:
    """``paths`` as git's pathspecs, with the parts of each index among them."""
    found: list[str] = []
    for path in paths:
        found.append(path)
        if path.startswith(":") or not is_index(path):
            continue
        folder, slash, name = path.rpartition("/")
        start = ":(glob)" + _literal(folder) + slash
        if name == _METADATA:
            found.append(f"{start}*{_PART}")
        elif name.endswith(_JSON):
            stem, dot, suffix = name.removesuffix(_JSON).rpartition(".")
            found.append(f"{start}{_literal(stem)}-[0-9]*-of-[0-9]*{dot}{_literal(suffix)}")
            found.append(":(literal)" + path.removesuffix(_JSON))
        else:
            found.append(f"{start}{_literal(name.removesuffix(_INDEX))}.data-[0-9]*-of-[0-9]*")
    return found


def _literal(text: str) -> str:
    """``text`` as it stands in a glob."""
    return _SPECIAL.sub(r"\\\1", text)
