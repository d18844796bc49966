"""Finding the plugins that installed packages offer through the entry-point group ``git_theta``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "git_theta"
_SECTION = b"[git_theta]"


class OfferedPlugin(NamedTuple):
    """A plugin that a package offers but that is not imported yet.

    ``provider`` is the distribution and its version.
    """

    provider: str
    entry_point: EntryPoint


def find() -> list[OfferedPlugin]:
    """The offers of all installed packages, in the order of the distributions' names."""
    if not _any_offered(sys.path):
        return []
    from importlib.metadata import entry_points

    offers = []
    for entry_point in entry_points(group=GROUP):
        dist = entry_point.dist
        offers.append(
            OfferedPlugin(
                f"{dist.name} {dist.version}" if dist else "an unknown package", entry_point
            )
        )
    return sorted(offers, key=lambda offer: (offer.provider, offer.entry_point.name))


def _any_offered(path: Sequence[str]) -> bool:
    """Whether it is worth importing ``importlib.metadata``: that costs several times as much as
    this look at the files.
    """
    own_finders = any(
        hasattr(finder, "find_distributions") for finder in sys.meta_path if not _standard(finder)
    )
    return own_finders or any(
        _SECTION in text for folder in path for text in _declarations(folder or os.curdir)
    )


def _standard(finder: object) -> bool:
    return getattr(finder, "__module__", "").startswith("_frozen_importlib")


def _declarations(folder: str) -> Iterator[bytes]:
    try:
        names = os.listdir(folder)
    except NotADirectoryError:  # a zip archive: let importlib.metadata look inside
        yield _SECTION
        return
    except OSError:
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    yield file.read()
            except OSError:
                continue
        elif name.endswith(".egg"):
            yield _SECTION
