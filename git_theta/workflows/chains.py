"""One tensor between memory and the store: through its chain of updates, checked by its digest."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import blake3

from git_theta.core import objects
from git_theta.core.contracts import ExactUpdate
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link, ObjectRef
from git_theta.core.names import display
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import (
    FormatError,
    ObjectDamaged,
    ObjectMissing,
    PayloadError,
    PluginError,
    ThetaError,
)
from git_theta.plugins import registry
from git_theta.store.local import LocalStore

if TYPE_CHECKING:
    from git_theta.core.contracts import Level, Update
    from git_theta.core.resources.memory import Take
from git_theta.core.manifest import Manifest

_POUR = 1 << 20  # bytes from which a tensor is decoded block by block where it can be


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier value that a new one can be stored as a difference from, and the chain that gives
    it.
    """

    tensor: Tensor
    chain: tuple[Link, ...]


def load(store: LocalStore, entry: Entry) -> Buffer:
    """The bytes of ``entry``'s tensor, exactly those of its digest.

    :class:`ObjectMissing` or :class:`ObjectDamaged`, naming tensor and object, otherwise.
    """
    return bases(store, entry)[0].tensor.data if entry.inline is None else entry.inline


def pour(
    store: LocalStore, entry: Entry, put: Callable[[int, Buffer], None], summed: bool
) -> int | None:
    """Hand ``entry``'s tensor to ``put`` piece by piece, each with its offset, and return its
    CRC-32 where it is to be ``summed``.

    Pieces come before the whole is checked: should this raise (as :func:`load` does), they are
    void.
    """
    if not _is_plain(entry) or entry.nbytes < _POUR:
        data = load(store, entry)
        put(0, data)
        return zlib.crc32(data) if summed else None
    from git_theta.updates import dense

    hasher, crc, offset = blake3.blake3(), 0, 0
    with _naming_faults(store, entry):
        for block in dense.blocks(_payload(store, entry), entry.spec):
            hasher.update(block)
            crc = zlib.crc32(block, crc) if summed else 0
            put(offset, block)
            offset += len(block)
        if hasher.hexdigest() != entry.digest:
            raise PayloadError("its bytes have another digest")
    return crc if summed else None


def _is_plain(entry: Entry) -> bool:
    """Whether one object holds all of the tensor."""
    return (
        len(entry.chain) == 1
        and entry.chain[0].update == "dense"
        and len(entry.chain[0].objects) == 1
    )


def _payload(store: LocalStore, entry: Entry) -> memoryview:
    """The payload of such a tensor."""
    spec, payload = read_payload(store, entry.chain[0])
    if spec != entry.spec:
        raise PayloadError(f"its object holds {spec}, the manifest says {entry.spec}")
    return payload


@contextmanager
def _naming_faults(store: LocalStore, entry: Entry) -> Iterator[None]:
    """Errors of a tensor's objects, with the tensor's name; of several possible causes, a damaged
    object is the one to tell.
    """
    try:
        yield
    except (PayloadError, FormatError) as error:
        _blame_object(store, entry)
        raise ObjectDamaged(
            f"tensor {display(entry.name, 200)} cannot be rebuilt: {error}"
        ) from None
    except (ObjectMissing, ObjectDamaged) as error:
        raise type(error)(f"tensor {display(entry.name, 200)}: {error}") from None


def bases(store: LocalStore, entry: Entry, take: Take | None = None) -> list[Base]:
    """What a new value of ``entry`` can build on: its present value, and the value at the root of
    its chain.

    The root's is held in memory that ``take`` gives, where it is given. Errors as of :func:`load`.
    An inline tensor has none.
    """
    if entry.inline is not None:
        return []
    with _naming_faults(store, entry):
        values = _follow(store, entry.chain, take)
        newest = values[-1]
        if newest.spec != entry.spec:
            raise PayloadError(f"its objects hold {newest.spec}, the manifest says {entry.spec}")
        if digest(memoryview(newest.data).cast("B")) != entry.digest:
            raise PayloadError("its bytes have another digest")
    return [Base(newest, entry.chain), *(Base(root, entry.chain[-1:]) for root in values[:-1])]


def _follow(store: LocalStore, chain: Sequence[Link], take: Take | None) -> list[Tensor]:
    """The values that a chain gives: the root's, where it has more than one link, and the
    newest.
    """
    value: Tensor | None = None
    root: list[Tensor] = []
    for link in reversed(chain):
        if value is not None and not root:
            root.append(value)
        value = decode(store, link, value, take)
    if value is None:
        raise PayloadError("it has no objects")
    return [*root, value]


def decode(store: LocalStore, link: Link, base: Tensor | None, take: Take | None = None) -> Tensor:
    """The value that ``link`` makes of ``base``; a dense one in memory that ``take`` gives, where
    it is given.

    :class:`PayloadError` where its objects hold anything else, :class:`ObjectMissing` where they
    are not here.
    """
    update = registry.update(link.update)
    if update.needs_base and base is None:
        raise PayloadError(f"its chain ends with '{link.update}', which needs a base")
    spec, payload = read_payload(store, link)
    if link.update == "dense" and take is not None:
        from git_theta.updates import dense

        return Tensor(spec.dtype, spec.shape, dense.decode_into(payload, spec, take))
    return Tensor(spec.dtype, spec.shape, update.decode(payload, spec, base))


def read_payload(store: LocalStore, link: Link) -> tuple[Spec, memoryview]:
    """What the object or objects of ``link`` say they hold, and their joined payload."""
    parts, spec = [], None
    for number, ref in enumerate(link.objects):
        data = store.view(ref)
        header, start = objects.parse(data)
        if (
            header.update != link.update
            or header.part != number
            or (spec or header.spec) != header.spec
        ):
            raise PayloadError(f"object {ref.oid} is not part {number} of this '{link.update}'")
        spec = header.spec
        parts.append(data[start:])
    assert spec is not None
    return spec, parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _blame_object(store: LocalStore, entry: Entry) -> None:
    """Find out whether one of the objects is not what its name says: then that is the error."""
    for ref in entry.objects:
        try:
            store.verify(ref)
        except (ObjectMissing, ObjectDamaged) as error:
            raise type(error)(f"tensor {display(entry.name, 200)}: {error}") from None


def save(
    store: LocalStore, update: str, spec: Spec, chunks: Iterable[Buffer], note: str = ""
) -> Link:
    """Store a payload, in parts where it is longer than a Git LFS server would take."""
    refs: list[ObjectRef] = []
    writer = store.writer()
    try:
        writer.write(objects.dump(objects.Header(update, spec, 0)))
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            while writer.size + len(view) > objects.PART_SIZE:
                room = objects.PART_SIZE - writer.size
                writer.write(view[:room])
                view = view[room:]
                refs.append(writer.close())
                writer = store.writer()
                writer.write(objects.dump(objects.Header(update, spec, len(refs))))
            writer.write(view)
        refs.append(writer.close())
    except BaseException:
        writer.abort()
        raise
    return Link(update, tuple(refs), note)


def load_bases(
    store: LocalStore, entries: Iterable[Entry], warn: list[str], take: Take | None = None
) -> list[Base]:
    """What the first of ``entries`` that can be rebuilt here offers (see :func:`bases`); why the
    others could not is added to ``warn``.
    """
    for entry in entries:
        try:
            return bases(store, entry, take)
        except ObjectMissing:
            warn.append(
                f"the earlier value of {display(entry.name, 80)} is not here; its new value is"
                " stored whole"
            )
        except ThetaError as error:
            warn.append(f"{error}; the new value is stored whole")
    return []


def encode(
    store: LocalStore, tensor: Tensor, candidates: Sequence[Base], level: Level, max_chain: int
) -> tuple[Link, ...]:
    """Store ``tensor`` the smallest exact way and return its chain.

    Of the ``candidates`` with room for one more update, samples tell which is closest. Where the
    updates of a chain would together be larger than a dense copy, the next is tried; if none is
    left, the tensor is stored dense, or by a plugin's update that needs no base.
    """
    usable = [base for base in candidates if len(base.chain) < max_chain]
    for base in _closest_first(tensor, usable):
        from git_theta.updates.choose import choose

        update, encoded = choose(tensor, base.tensor, registry.updates(), level)
        if not update.needs_base:
            return (save(store, update.name, tensor.spec, encoded.chunks, encoded.note),)
        if _updates_size(base) + encoded.size <= _dense_size(tensor, base):
            if not (isinstance(update, ExactUpdate) and update.exact_by_construction):
                _check_exact(update, encoded, tensor, base.tensor)
            return (
                save(store, update.name, tensor.spec, encoded.chunks, encoded.note),
                *base.chain,
            )
    from git_theta.updates import dense

    added = baseless()
    if added:
        from git_theta.updates.choose import choose

        update, encoded = choose(tensor, None, [registry.update("dense"), *added], level)
        return (save(store, update.name, tensor.spec, encoded.chunks, encoded.note),)
    chunks = dense.chunks(tensor.dtype, memoryview(tensor.data).cast("B"), level)
    return (save(store, "dense", tensor.spec, chunks),)


def baseless() -> list[Update]:
    """The updates of plugins that can store a tensor without a base, as dense can."""
    return [update for update in registry.added_updates() if not update.needs_base]


def has_room(base: Base, size: int, max_chain: int) -> bool:
    """Whether an update of ``size`` bytes that keeps type and shape may follow ``base``: in the
    chain's length and in its bytes.
    """
    return len(base.chain) < max_chain and _updates_size(base) + size <= base.chain[-1].size


def _closest_first(tensor: Tensor, candidates: Sequence[Base]) -> list[Base]:
    """The candidates by how small a delta they promise; those left out whose chain would surely
    grow too large.

    Where nothing is promised (other rows, another type), the order stays: newest first.
    """
    if len(candidates) < 2 or tensor.dtype == "u8":
        return list(candidates)
    from git_theta.updates.choose import estimates

    promised = estimates(tensor, [base.tensor for base in candidates])
    ranked = sorted(zip(promised, range(len(candidates)), candidates, strict=True))
    unknown = float("inf")
    fitting = [
        base
        for size, _, base in ranked
        if size == unknown or _updates_size(base) + 0.8 * size <= _dense_size(tensor, base)
    ]
    return fitting or [base for _, _, base in ranked[-1:]]


def _updates_size(base: Base) -> int:
    """Stored bytes of a chain's updates, its root left out."""
    return sum(link.size for link in base.chain[:-1])


def _dense_size(tensor: Tensor, base: Base) -> int:
    """About what a dense copy takes: as much as the one at the chain's end, where that is of the
    same kind.
    """
    return base.chain[-1].size if base.tensor.spec == tensor.spec else tensor.spec.nbytes


def _check_exact(update: Update, encoded: Encoded, tensor: Tensor, base: Tensor) -> None:
    """Decode what is about to be stored: a tensor is accepted only once it has come back."""
    payload = encoded.chunks[0] if len(encoded.chunks) == 1 else b"".join(encoded.chunks)
    decoded = update.decode(memoryview(payload).cast("B"), tensor.spec, base)
    if memoryview(decoded).cast("B") != memoryview(tensor.data).cast("B"):
        raise PluginError(
            f"the update {update.name!r} does not give back what it stored; please report it"
        )


def missing(store: LocalStore, manifest: Manifest) -> list[ObjectRef]:
    """The objects that ``manifest`` needs and that are not in the store."""
    return store.missing(ObjectRef(oid, size) for oid, size in manifest.objects().items())


def require(store: LocalStore, manifest: Manifest) -> None:
    """:class:`ObjectMissing`, naming a tensor and its object, unless everything that ``manifest``
    needs is here.
    """
    absent = {ref.oid for ref in missing(store, manifest)}
    for entry in (manifest.skeleton, *manifest.entries) if absent else ():
        for ref in entry.objects:
            if ref.oid in absent:
                more = f", nor are {len(absent) - 1} others" if len(absent) > 1 else ""
                what = (
                    display(entry.name, 200)
                    if entry is not manifest.skeleton
                    else "(the file's skeleton)"
                )
                raise ObjectMissing(
                    f"tensor {what}: object {ref.oid} ({ref.size} bytes) is not in the store{more};"
                    " 'git theta fetch' may bring it"
                )
