"""One side of a diff: a model's manifest, and where its tensors are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from git_theta.core.manifest import Manifest, parse
from git_theta.git.history.changes import FileChange
from git_theta.workflows.comparing.values import Absent, Values

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Version:
    """One side of a diff: the manifest, as text where git stores it (None: there is no model), and
    where its tensors are read.
    """

    text: bytes | None
    values: Values
    manifest: Manifest | None = None

    @property
    def parsed(self) -> Manifest | None:
        """The manifest; :class:`~git_theta.errors.ManifestError` where it is damaged."""
        return self.manifest if self.manifest is not None or self.text is None else parse(self.text)

    @property
    def is_model(self) -> bool:
        """Whether there is a model."""
        return self.text is not None or self.manifest is not None


NOTHING = Version(None, Absent())


Side = tuple[FileChange, Version, Version, str]
