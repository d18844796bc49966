"""How a checkpoint file is cut: as a known manifest cut it, else by the companion file that
describes it, else by the first format that recognises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from git_theta.checkpoints import builtin_formats
from git_theta.core.contracts import CheckpointFormat, ReadsSibling, failed
from git_theta.core.layout import Layout, PartlyBrokenError
from git_theta.core.manifest import Manifest
from git_theta.core.source import Source
from git_theta.errors import FormatError, ThetaError
from git_theta.plugins import registry, tables
from git_theta.workflows.session import Session


def find(
    session: Session, path: str, source: Source, head: bytes, known: Sequence[Manifest]
) -> Layout:
    """How to cut ``source``: as one of the ``known`` manifests was cut that describes these very
    bytes, else as its format says.
    """
    problem, layout = None, None
    try:
        layout = scan(session, path, source, head)
    except FormatError as error:
        problem = error
    for manifest in known:
        if manifest.size == source.size and (layout is None or _cut_otherwise(layout, manifest)):
            from git_theta.workflows.storing import recut

            before = recut.describing(session, manifest, source)
            if before is not None:
                return before
    if layout is None:
        assert problem is not None
        raise problem
    if builtin_formats.beside(PurePosixPath(path).name):
        from git_theta.workflows.storing import companions

        return companions.as_before(session, source, layout, known)
    return layout


def _cut_otherwise(layout: Layout, manifest: Manifest) -> bool:
    return (
        layout.format != manifest.format
        or len(layout.extents) != len(manifest.entries)
        or any(a.name != b.name for a, b in zip(layout.extents, manifest.entries, strict=True))
    )


def scan(session: Session, path: str, source: Source, head: bytes) -> Layout:
    """The layout of a checkpoint by the first format that recognises it: with a file beside it, by
    content, then by the path's suffix.
    """
    if builtin_formats.beside(PurePosixPath(path).name):
        from git_theta.workflows.storing import companions

        beside = companions.scan(session, path, source)
        if beside is not None:
            return beside
    for candidate in registry.detect(head, PurePosixPath(path).suffix.lower()):
        try:
            layout = _scan_by(candidate, session, path, source)
        except FormatError as error:
            whole = (
                error.layout
                if isinstance(error, PartlyBrokenError) and error.layout.extents
                else None
            )
            how = (
                f"byte for byte, with its whole tensors ({len(whole.extents)})"
                if whole
                else "as plain bytes"
            )
            if session.settings.on_invalid != "store":
                reason = str(error).partition(" is broken: ")[2] or str(error)
                raise FormatError(
                    f"this looks like {candidate.name}, but is broken: {reason}; "
                    f"save it again, or 'git config theta.onInvalid store' stores it {how}"
                ) from None
            session.warn(f"{path}: broken {candidate.name} ({error}); stored {how}")
            layout = whole or registry.fallback().scan(source)
        except ThetaError:
            raise
        except Exception as error:
            if candidate.name in tables.FORMATS:
                raise
            raise failed("checkpoint format", candidate.name, error) from error
        if layout.size != source.size:
            raise FormatError(
                f"format {candidate.name} describes {layout.size} bytes of a file of {source.size}"
            )
        if (
            layout.format == tables.FALLBACK_FORMAT
            and layout.size
            and not builtin_formats.explains(PurePosixPath(path).name)
        ):
            session.warn(f"{path}: no known checkpoint format; stored as plain bytes")
        for notice in layout.notices:
            session.warn(f"{path}: {notice}")
        return layout
    # The fallback takes everything
    raise FormatError("no checkpoint format is installed")  # pragma: no cover


def _scan_by(form: CheckpointFormat, session: Session, path: str, source: Source) -> Layout:
    """The layout by one format; by a plugin's format with the file's companion, if it has one."""
    if isinstance(form, ReadsSibling) and form.name not in tables.FORMATS:
        from git_theta.workflows.storing import companions

        layout = companions.scan_by(form, session, path, source)
        if layout is not None:
            return layout
    return registry.scan(form, source)
