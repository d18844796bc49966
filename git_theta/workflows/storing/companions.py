"""Checkpoint files that tell what they hold only together with another file beside them:
TensorFlow's, and torch's distributed ones.

That file is looked for under the name that the checkpoint's own name gives it, in the same folder
of the working tree; a link is not followed. It may be absent, or already be another one: then the
checkpoint is cut without it, and comes back byte for byte all the same.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from git_theta.checkpoints import builtin_formats
from git_theta.core.contracts import ReadsSibling
from git_theta.core.manifest import is_manifest
from git_theta.core.source import FileSource
from git_theta.errors import FormatError, ThetaError
from git_theta.plugins import registry, tables
from git_theta.workflows.storing import recut

if TYPE_CHECKING:
    from git_theta.core.layout import Layout
    from git_theta.core.manifest import Manifest
    from git_theta.core.source import Source
    from git_theta.workflows.session import Session


def scan(session: Session, path: str, source: Source) -> Layout | None:
    """The layout of the file that git calls ``path``, by a built-in format and the file's
    companion; None without a companion that fits.
    """
    for form in builtin_formats.beside(PurePosixPath(path).name):
        found = registry.checkpoint_format(form)
        layout = scan_by(found, session, path, source) if isinstance(found, ReadsSibling) else None
        if layout is not None:
            return layout
    return None


def scan_by(form: ReadsSibling, session: Session, path: str, source: Source) -> Layout | None:
    """As :func:`scan`, by the format ``form``."""
    if session.repository.worktree is None:
        return None
    name = PurePosixPath(path).name
    other = form.sibling(name)
    if not other:
        return None
    file = session.full_path(path).with_name(other)
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return None
        with FileSource(file) as sibling:
            if not is_manifest(sibling.read(0, min(32, sibling.size))):
                return form.scan_beside(source, name, sibling)
    except FormatError as error:
        session.warn(f"{path}: {other}, which lies beside it, is of no use: {error}")
    except OSError:
        return None
    return None


def as_before(
    session: Session, source: Source, layout: Layout, known: Sequence[Manifest]
) -> Layout:
    """The layout to cut ``source`` by where ``layout`` says nothing of it: that of an earlier
    version of as many bytes, if there is one.

    So it is when the file beside it is gone.
    """
    for manifest in known if layout.format == tables.FALLBACK_FORMAT else ():
        if manifest.size == source.size:
            with suppress(ThetaError):
                return recut.layout_of(session, manifest)[0]
    return layout
