"""Side-loaded updates: the user hands over how tensors change (factors, sparse values, an adapter)
instead of the changed checkpoint.

The new values are computed as every machine computes them, and what is stored are the factors
themselves.
"""

from __future__ import annotations

import tokenize
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from git_theta.core import dtypes
from git_theta.core.contracts import FromParts, ReadsContents, cuts_bytes, failed
from git_theta.core.manifest import Entry, Manifest, is_manifest, parse
from git_theta.core.names import display
from git_theta.core.source import FileSource, head_of, stamp
from git_theta.core.tensors import Encoded, Spec, Tensor
from git_theta.errors import FileChanged, FormatError, PluginError, ThetaError, UsageError
from git_theta.git.history import listing
from git_theta.plugins import registry, tables
from git_theta.workflows import chains
from git_theta.workflows.bundles import Bundles
from git_theta.workflows.restoring.checkout import Target, stage
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing
from git_theta.workflows.storing import clean

if TYPE_CHECKING:
    import numpy as np


# Bytes that an .npz may always unpack to; beyond that, as many times its own size:
_UNPACKED = 1 << 30
_EXPANSION = 100
_ROUNDING = 0.02  # of the change: as far as a merge by other arithmetic may be from ours
# Or of the tensor: some last digits
_DIGITS = {"f64": 1e-12, "f32": 1e-6, "f16": 2e-3, "bf16": 2e-2}


@dataclass(frozen=True, slots=True)
class SuppliedChange:
    """How one tensor changes: ``encode(base)`` gives its new value and, where the update itself can
    be stored, its payload.
    """

    name: str
    update: str
    encode: Callable[[Tensor], tuple[Tensor, Encoded | None]]


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The named arrays of numbers in a checkpoint of any known format, or in an .npz; nothing in it
    is executed.

    :class:`FormatError` when there are none, or others; :class:`UsageError` when the file cannot be
    read.
    """
    found = _read_npz(file) if file.suffix == ".npz" else _read_checkpoint(file)
    for name, array in found.items():
        if dtypes.get(dtypes.from_numpy(array.dtype)).kind not in "biuf":
            raise FormatError(
                f"'{display(name, 80)}' in {display(str(file))} holds {array.dtype}; an update is"
                " made of real numbers"
            )
    return found


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    import zipfile

    import numpy as np

    found = {}
    try:
        with file.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as archive:
            unpacked = (
                sum(member.file_size for member in archive.zip.infolist()) if archive.zip else 0
            )
            if unpacked > max(_UNPACKED, _EXPANSION * file.stat().st_size):
                raise ValueError(f"it would unpack to {unpacked} bytes")
            for name in archive.files:
                found[name] = archive[name]
                if not isinstance(found[name], np.ndarray):
                    raise TypeError(f"{name!a} in it is no array")
                dtypes.from_numpy(found[name].dtype)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise FormatError(
            f"{display(str(file))} cannot be read as npz: {display(str(error), 120)}"
        ) from None
    except (MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error):
        raise FormatError(f"{display(str(file))} cannot be read as npz: it is damaged") from None
    return found


def _read_checkpoint(file: Path) -> dict[str, np.ndarray]:
    try:
        with FileSource(file) as source:
            form = next(iter(registry.detect(head_of(source), file.suffix.lower())))
            if cuts_bytes(form):
                raise FormatError("it holds no named tensors")
            if isinstance(form, ReadsContents):
                return {k: tensor.array() for k, tensor in form.contents(source).tensors.items()}
            layout = registry.scan(form, source)
            found = {}
            for extent in layout.extents:
                array = Tensor(
                    extent.dtype, extent.shape, source.read(extent.offset, extent.length)
                ).array()
                found.update(dict.fromkeys((extent.name, *extent.aliases), array))
            return found
    except FormatError as error:
        raise FormatError(f"{display(str(file))}: {error}") from None
    except OSError as error:
        if isinstance(error, ThetaError):
            raise
        raise UsageError(
            f"{display(str(file))} cannot be read: {error.strerror or error}"
        ) from None


def updates_from_parts() -> dict[str, FromParts]:
    """The updates by name that are built from parts, built in or of a plugin."""
    return {found.name: found for found in registry.updates() if isinstance(found, FromParts)}


def from_file(update: str, arrays: Mapping[str, np.ndarray]) -> list[SuppliedChange]:
    """The changes in a file that has the parts of the update called ``update``, each as
    ``<tensor>/<part>``. :class:`UsageError` for any other name, and for parts that are missing;
    :class:`KeyError` for an update that :func:`updates_from_parts` does not name.
    """
    parts = updates_from_parts()[update].parts
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        name, _, part = key.rpartition("/")
        if part not in parts or not name:
            raise UsageError(
                f"'{display(key, 80)}' is no part of a {update} update; its parts are"
                f" <tensor>/{', <tensor>/'.join(parts)}"
            )
        grouped.setdefault(name, {})[part] = array
    changes = []
    for name, found in grouped.items():
        lacking = [part for part in parts if part not in found]
        if lacking:
            raise UsageError(
                f"'{display(name, 80)}' has no {', '.join(lacking)}; a {update} update needs all of"
                f" {', '.join(parts)}"
            )
        changes.append(SuppliedChange(name, update, partial(_built, update, found)))
    if not changes:
        raise UsageError("the update's file holds no tensors")
    return changes


def _built(
    name: str, parts: Mapping[str, np.ndarray], base: Tensor
) -> tuple[Tensor, Encoded | None]:
    """The new value that the update called ``name`` makes of ``base``, and its payload, which is
    decoded once before it is accepted.
    """
    update = registry.update(name)
    assert isinstance(update, FromParts)
    try:
        new, encoded = update.from_parts(base, parts)
        exact = new.spec == base.spec
        if encoded is not None and exact:
            exact = chains.round_trips(update, encoded, new, base if update.needs_base else None)
    except ThetaError:
        raise
    except Exception as error:
        if name in tables.UPDATES:
            raise
        raise failed("update", name, error) from error
    if not exact:
        raise PluginError(f"the update {name!r} does not round-trip; please report it")
    return new, encoded


def low_rank(name: str, left: np.ndarray, right: np.ndarray, scale: float = 1.0) -> SuppliedChange:
    """``name`` += ``scale`` * ``left`` (rows x rank) @ ``right`` (rank x columns)."""
    from git_theta.updates import low_rank as update

    return SuppliedChange(
        name, update.LowRank.name, lambda base: update.encode_given(None, base, left, right, scale)
    )


def ia3(name: str, factors: np.ndarray) -> SuppliedChange:
    """``name`` *= ``factors``, broadcast."""
    from git_theta.updates import ia3 as update

    return SuppliedChange(
        name, update.IA3.name, lambda base: update.encode_given(None, base, factors)
    )


def value(name: str, array: np.ndarray) -> SuppliedChange:
    """``name`` becomes ``array`` (rounded to the tensor's own type where both are floats)."""
    return SuppliedChange(name, "", lambda base: (_replaced(base, array), None))


def on_top(array: np.ndarray, change: SuppliedChange) -> SuppliedChange:
    """``change``, made to a tensor that became ``array`` before."""

    def encode(base: Tensor) -> tuple[Tensor, Encoded | None]:
        before = _replaced(base, array)
        if memoryview(before.data).cast("B") == memoryview(base.data).cast("B"):
            return change.encode(base)
        return change.encode(before)[0], None

    return SuppliedChange(change.name, change.update, encode)


def _replaced(base: Tensor, array: np.ndarray) -> Tensor:
    import numpy as np

    given, kept = dtypes.from_numpy(array.dtype), dtypes.get(base.dtype)
    if array.shape != base.shape:
        raise UsageError(f"its new value is {Spec(given, array.shape)}, the tensor {base.spec}")
    floats = kept.kind == dtypes.get(given).kind == "f"
    if given != base.dtype and not (floats or {kept.kind, dtypes.get(given).kind} <= set("biu")):
        raise UsageError(f"its new value is {Spec(given, array.shape)}, the tensor {base.spec}")
    with np.errstate(all="ignore"):
        new = array.astype(dtypes.numpy_dtype(base.dtype))
        if floats and not np.isfinite(new.astype(np.float64)).all():
            raise UsageError(f"its new value holds NaN, infinity, or what {base.dtype} cannot hold")
    if not floats and not np.array_equal(new, array):
        raise UsageError(f"its new value holds what {base.dtype} cannot hold")
    return Tensor.from_array(new)


def apply(session: Session, path: str, changes: Sequence[SuppliedChange]) -> Manifest:
    """Change tensors of the model that the index holds at ``path``, stage the result, and rewrite
    the working file to match.

    All other tensors, and what the file holds besides, are staged from the working file. Of the
    tensors that change, it may hold the values in the index or, but for rounding, the new ones.
    :class:`UsageError` for other values, when the model is not tracked or its file is gone, or when
    a change does not fit; nothing is staged then.
    """
    session.store.hold()
    mode, manifest, source = _staged(session, path)
    try:
        return _apply(session, path, changes, mode, manifest, source)
    finally:
        if source is not None:
            source.close()


def _apply(
    session: Session,
    path: str,
    changes: Sequence[SuppliedChange],
    mode: str,
    manifest: Manifest,
    source: FileSource | None,
) -> Manifest:
    by_name: dict[str, SuppliedChange] = {}
    for change in changes:
        entry = _find(manifest, change.name)
        if entry.name in by_name:
            raise UsageError(f"tensor '{display(entry.name, 80)}' is changed twice")
        by_name[entry.name] = change
    if session.store.missing(
        ref for entry in manifest.entries if entry.name in by_name for ref in entry.objects
    ):
        fetch_missing(session, [manifest])
    chosen = [
        (number, entry) for number, entry in enumerate(manifest.entries) if entry.name in by_name
    ]
    entries = list(manifest.entries)
    numbers = [number for number, _ in chosen]
    bundles = Bundles(session.store, [entry.nbytes for entry in entries], numbers)

    def change_one(number: int) -> chains.StagedEntry:
        entry, bundle = entries[number], bundles.get(number)
        to = chains.PayloadTarget(session.store, session.settings, bundle, number)
        try:
            return _changed(session, entry, by_name[entry.name], to)
        finally:
            bundles.done(number)

    futures = [session.pool().submit(change_one, number) for number in numbers]
    changed = [future.result() for future in futures]
    for number, staged in zip(numbers, changed, strict=True):
        entries[number] = staged.seal()
    if source is not None:
        found = parse(clean.clean(session, path, source, [manifest]))
        new = {entries[number].name: (entry, entries[number]) for number, entry in chosen}
        manifest, entries = found, _with_updates(session, found, new)
    result = replace(
        manifest,
        entries=tuple(entries),
        headers={k: v for k, v in manifest.headers.items() if k != "merge"},
    )
    session.store.flush()
    if source is not None and stamp(session.full_path(path).stat()) != stamp(source.stat):
        raise FileChanged(
            f"{display(path)}: the file was written while it was read; add the update again"
        )
    stage(session, Target(path, result, mode == "100755"), mode)
    return result


def _with_updates(
    session: Session, found: Manifest, new: Mapping[str, tuple[Entry, Entry]]
) -> list[Entry]:
    """The entries of the working file, with the updated tensors (name → before and after) in place
    of what it has of these.
    """
    lacking = [name for name in new if name not in found.by_name]
    if lacking:
        raise UsageError(
            f"the working file has no tensor '{display(lacking[0], 80)}', which the update changes"
        )
    entries = []
    for entry in found.entries:
        named = next((name for name in (entry.name, *entry.aliases) if name in new), None)
        if named is None:
            entries.append(entry)
            continue
        before, after = new[named]
        if entry.spec != after.spec:
            raise UsageError(
                f"tensor '{display(entry.name, 80)}' is {entry.spec} in the working file and"
                f" {after.spec} in the index"
            )
        if entry.digest not in (before.digest, after.digest) and not _is_meant(
            session, entry, before, after
        ):
            raise UsageError(
                f"tensor '{display(entry.name, 80)}' has changes that are not staged and not those"
                " of the update; 'git add' or 'git restore' the file first"
            )
        entries.append(
            Entry(
                entry.name,
                after.dtype,
                after.shape,
                after.digest,
                after.chain,
                after.inline,
                entry.aliases,
            )
        )
    return entries


def _is_meant(session: Session, file: Entry, before: Entry, after: Entry) -> bool:
    """Whether the file's value is the new one but for rounding, as if the update had been applied
    to it by somebody else.
    """
    from git_theta.workflows.comparing.measure import measure

    old, meant, found = (chains.load(session.store, each) for each in (before, after, file))
    moved, left = measure(old, meant, rank=False), measure(meant, found, rank=False)
    if moved is None or left is None or left.new_nan or left.new_inf:
        return False
    return (
        left.moved <= _ROUNDING * moved.moved
        or left.moved <= _DIGITS.get(file.dtype, 0.0) * moved.norm_new
    )


def _staged(session: Session, path: str) -> tuple[str, Manifest, FileSource | None]:
    """Mode and manifest in the index, and the working file if it holds something else."""
    cwd = session.repository.worktree
    entry = listing.staged(path, cwd)
    if entry is None:
        raise UsageError(f"{display(path)} is not in the index; 'git add' it first")
    mode, manifest = entry.mode, session.manifest(entry.blob)
    if manifest is None:
        raise UsageError(
            f"{display(path)} is not stored by Git-Theta; 'git theta track' it and 'git add"
            " --renormalize' it first"
        )
    letters = [item.worktree for item in listing.status([listing.literal(path)], cwd)]
    if letters in ([], [" "]):
        return mode, manifest, None
    if letters != ["M"]:
        raise UsageError(
            f"{display(path)} has changes that are not staged; 'git add' or 'git restore' it first"
        )
    source = FileSource(session.full_path(path))
    if is_manifest(head_of(source)):
        source.close()
        raise UsageError(
            f"{display(path)} is a manifest in the working tree; 'git theta checkout' it first"
        )
    return mode, manifest, source


def _find(manifest: Manifest, name: str) -> Entry:
    for candidate in (name, name.replace("/", ".")):
        if candidate in manifest.by_name:
            return manifest.by_name[candidate]
    raise UsageError(
        f"the model has no tensor '{display(name, 80)}'; 'git theta ls-files -l' lists what it has"
    )


def _changed(
    session: Session, entry: Entry, change: SuppliedChange, to: chains.PayloadTarget
) -> chains.StagedEntry:
    """The entry of a changed tensor: the given update on the old chain, or any update where that
    cannot be stored or is no smaller.
    """
    store = session.store
    bases = chains.bases(store, entry)
    base = bases[0].tensor if bases else chains.load(store, entry)
    try:
        new, encoded = change.encode(base)
    except (UsageError, FormatError) as error:
        raise UsageError(f"tensor '{display(entry.name, 80)}': {error}") from None
    if _leaves_range(base, new):
        raise UsageError(
            f"tensor '{display(entry.name, 80)}': its new value would be infinite in places:"
            f" {entry.dtype} cannot hold it"
        )

    def given() -> chains.Payload | None:
        if (
            encoded is None
            or not bases
            or not chains.has_room(bases[0], encoded.size, to.settings.max_chain)
        ):
            return None
        return chains.Payload(change.update, encoded.chunks, encoded.note, entry.chain)

    return chains.keep(
        to,
        (entry.name, entry.aliases),
        chains.InMemory(new),
        chains.equal_among([entry], new.spec),
        lambda: bases,
        session.warn,
        given,
    )


def _leaves_range(base: Tensor, new: Tensor) -> bool:
    """Whether elements that were finite are not any more: no update is meant to do that."""
    from git_theta.merges.check import count_special

    return dtypes.get(base.dtype).kind == "f" and sum(count_special(new.array())) > sum(
        count_special(base.array())
    )
