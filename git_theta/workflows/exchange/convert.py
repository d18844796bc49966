"""convert: the tensors of a checkpoint as a file of another format. Nothing in it is executed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from git_theta.core.contracts import (
    BuildsFiles,
    BuildsPieces,
    CheckpointFormat,
    NotesTies,
    ReadsContents,
    WritesFiles,
    cuts_bytes,
)
from git_theta.core.names import did_you_mean, display
from git_theta.core.source import PiecesSource, Source, head_of
from git_theta.core.tensors import Buffer, Tensor
from git_theta.errors import FormatError, StoreError, UsageError
from git_theta.plugins import registry

_PIECE = 16 << 20
_SHOWN = 5  # tensors that an error names


@dataclass(frozen=True, slots=True)
class Conversion:
    """A file of the new format with ``tensors`` tensors, and what became of the rest.

    ``save`` writes the file to a path, from the memory that the tensors lie in. ``tied`` names are
    left out beside the name that is kept; ``dropped`` tensors do not fit the new format (with their
    types); ``others`` is what the old file holds besides tensors. ``form`` is the old format.
    """

    save: Callable[[Path], None]
    form: str
    tensors: int
    tied: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def target_format(name: str | None, suffix: str) -> str:
    """The format to write: the one called ``name``, or the one that ``suffix`` is usual for;
    :class:`UsageError` if there is none.
    """
    formats = {
        item.name: item for item in registry.checkpoint_formats() if isinstance(item, BuildsFiles)
    }
    if name is not None:
        if name not in formats:
            hint = did_you_mean(name, formats) or f"; these can: {', '.join(formats)}"
            raise UsageError(f"{display(name, 40)} files cannot be written{hint}")
        return name
    found = next((item.name for item in formats.values() if suffix.lower() in item.suffixes), None)
    if found is None:
        endings = ", ".join(ending for item in formats.values() for ending in item.suffixes)
        raise UsageError(
            f"the new file's name does not say its format: give it one of {endings}, or say --to"
        )
    return found


def convert(source: Source, suffix: str, target: str, drop: bool = False) -> Conversion:
    """What ``source``, a file whose name ends in ``suffix``, holds as a ``target`` file.

    :class:`FormatError` when it is broken, or a tensor does not fit the new format (with ``drop``
    these are left out); :class:`UsageError` when its format cannot be converted.
    """
    if suffix.lower() == ".distcp":
        raise UsageError(
            "this is one file of a distributed checkpoint and may hold slices of tensors only;"
            " first make one file of its folder: python -m"
            " torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"
        )
    found = next(registry.detect(head_of(source), suffix.lower()))
    if found.name == target:
        count = len(registry.scan(found, source).extents)
        return Conversion(partial(_save_pieces, _copied(source)), target, count)
    if cuts_bytes(found):
        raise UsageError("this is no checkpoint of a known format, so there is nothing to convert")
    if not isinstance(found, ReadsContents):
        raise UsageError(f"{found.name} files cannot be converted into others")
    held = found.contents(source)
    builder = registry.checkpoint_format(target)
    tensors, tied, like = dict(held.tensors), dict[str, str](), None
    if isinstance(builder, NotesTies):
        tensors, tied = _untied(held.tensors)
        like = builder.noting(tied, held.framework)
    dropped: dict[str, str] = {}
    try:
        pieces = _built(builder, tensors, like)
    except FormatError:
        dropped = {
            name: str(tensor.spec)
            for name, tensor in tensors.items()
            if not _fits(builder, name, tensor)
        }
        if not dropped:
            raise
        if not drop:
            raise _does_not_fit(target, dropped) from None
        tensors = {name: tensor for name, tensor in tensors.items() if name not in dropped}
        pieces = _built(builder, tensors, like)

    def save(path: Path) -> None:
        if not (isinstance(builder, WritesFiles) and builder.write(tensors, like, path)):
            _save_pieces(pieces, path)

    left = tuple(f"{name} ({what})" for name, what in dropped.items())
    return Conversion(save, found.name, len(tensors), tuple(tied.items()), left, held.others)


def _untied(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, under its first name; and the other names, with that one."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        kept = first.setdefault(id(tensor), name)
        if kept != name:
            tied[name] = kept
    return {name: tensors[name] for name in first.values()}, tied


def _built(
    builder: CheckpointFormat, tensors: Mapping[str, Tensor], like: Source | None
) -> Sequence[Buffer]:
    """The pieces of the file; :class:`FormatError` also if a tensor would be read back as another
    type.
    """
    assert isinstance(builder, BuildsFiles)
    if isinstance(builder, BuildsPieces):
        pieces = builder.pieces(tensors, like)
    else:
        pieces = [builder.build(tensors, like)]
    for extent in registry.scan(builder, PiecesSource(pieces)).extents:
        for name in (extent.name, *extent.aliases):
            if name in tensors and tensors[name].dtype != extent.dtype:
                raise FormatError(
                    f"tensor {display(name, 80)} would be read back as {extent.dtype}"
                )
    return pieces


def _fits(builder: CheckpointFormat, name: str, tensor: Tensor) -> bool:
    """Whether the new format can hold a tensor of this name, type and number of dimensions."""
    shape = (0,) * len(tensor.shape)
    try:
        _built(builder, {name: Tensor(tensor.dtype, shape, b"") if shape else tensor}, None)
    except FormatError:
        return False
    return True


def _does_not_fit(form: str, dropped: Mapping[str, str]) -> FormatError:
    names = [f"{display(name, 80)} ({what})" for name, what in list(dropped.items())[:_SHOWN]]
    more = f" and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
    return FormatError(
        f"a {form} file cannot hold {', '.join(names)}{more}; --drop leaves them out"
    )


def _copied(source: Source) -> Iterator[Buffer]:
    for start in range(0, source.size, _PIECE):
        yield source.read(start, min(_PIECE, source.size - start))


def _save_pieces(pieces: Iterable[Buffer], path: Path) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def write(path: Path, save: Callable[[Path], None], force: bool = False) -> int:
    """Have ``save`` write the new file ``path``, whole or not at all, and return its size; without
    ``force`` nothing is replaced (:class:`UsageError`).
    """
    exists = UsageError(f"{display(str(path))} exists already; --force replaces it")
    if path.is_dir():
        raise UsageError(f"{display(str(path))} is a folder")
    if not force and os.path.lexists(path):
        raise exists
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        save(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        if force:
            temporary.replace(path)
            temporary = None
        else:
            os.link(temporary, path)  # unlike a rename it never replaces a file that came meanwhile
    except FileExistsError:
        raise exists from None
    except OSError as error:
        raise StoreError(
            f"{display(str(path))} cannot be written: {error.strerror or error}"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink()
    return size
