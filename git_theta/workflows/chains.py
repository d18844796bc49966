"""One tensor between memory and the store: through its chain of updates, checked by its digest."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import blake3

from git_theta.core import objects
from git_theta.core.contracts import ExactUpdate
from git_theta.core.digest import digest, object_id
from git_theta.core.manifest import (
    INLINE_LIMIT,
    Entry,
    Link,
    Manifest,
    ObjectRange,
    ObjectRef,
)
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
from git_theta.plugins import registry, tables
from git_theta.store.local import LocalStore
from git_theta.workflows.bundles import Bundle, BundledPayload, is_bundled

if TYPE_CHECKING:
    from git_theta.core.contracts import Level, Update
    from git_theta.core.resources.memory import Take
    from git_theta.settings import Settings

Look = Callable[[ObjectRange], None]

_POUR = 1 << 20  # bytes from which a tensor is decoded block by block where it can be


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier value that a new one can be stored as a difference from, and the chain that gives
    it.
    """

    tensor: Tensor
    chain: tuple[Link, ...]


def load(store: LocalStore, entry: Entry) -> Tensor:
    """The value of ``entry``'s tensor, whose bytes are exactly those of its digest.

    :class:`ObjectMissing` or :class:`ObjectDamaged`, naming tensor and object, otherwise.
    """
    if entry.inline is not None:
        return Tensor(entry.dtype, entry.shape, entry.inline)
    return bases(store, entry)[0].tensor


def pour(
    store: LocalStore, entry: Entry, put: Callable[[int, Buffer], None], summed: bool
) -> int | None:
    """Hand ``entry``'s tensor to ``put`` piece by piece, each with its offset, and return its
    CRC-32 where it is to be ``summed``.

    Pieces come before the whole is checked: should this raise (as :func:`load` does), they are
    void.
    """
    if not _is_plain(entry.chain) or entry.nbytes < _POUR:
        data = load(store, entry).data
        put(0, data)
        return zlib.crc32(data) if summed else None
    from git_theta.updates import dense

    hasher, crc, offset = blake3.blake3(), 0, 0
    with naming_faults(store, entry):
        for block in dense.blocks(_payload(store, entry), entry.spec):
            hasher.update(block)
            crc = zlib.crc32(block, crc) if summed else 0
            put(offset, block)
            offset += len(block)
        if hasher.hexdigest() != entry.digest:
            raise PayloadError("its bytes have another digest")
    return crc if summed else None


def _is_plain(chain: Sequence[Link]) -> bool:
    """Whether one object holds all of the tensor."""
    return _is_dense(chain) and len(chain[0].ranges) == 1


def _is_dense(chain: Sequence[Link]) -> bool:
    """Whether a tensor is stored without reference to any other, the same way by everyone."""
    return len(chain) == 1 and chain[0].update == tables.FALLBACK_UPDATE


def _payload(store: LocalStore, entry: Entry) -> memoryview:
    """The payload of such a tensor."""
    header, payload = read_payload(store, entry.chain[0])
    if header.spec != entry.spec:
        raise PayloadError(f"its object holds {header.spec}, the manifest says {entry.spec}")
    return payload


@contextmanager
def naming_faults(store: LocalStore, entry: Entry) -> Iterator[None]:
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
        raise error.within(f"tensor {display(entry.name, 200)}") from None


def bases(store: LocalStore, entry: Entry, take: Take | None = None) -> list[Base]:
    """What a new value of ``entry`` can build on: its present value, and the value at the root of
    its chain.

    The root's is held in memory that ``take`` gives, where it is given. Errors as of :func:`load`.
    An inline tensor has none.
    """
    if entry.inline is not None:
        return []
    with naming_faults(store, entry):
        root = follow(store, entry.chain[-1:], None, take)
        newest = follow(store, entry.chain[:-1], root, take)
        check(newest, entry)
    found = [Base(newest, entry.chain)]
    return found if len(entry.chain) < 2 else [*found, Base(root, entry.chain[-1:])]


def check(value: Tensor, entry: Entry) -> None:
    """:class:`PayloadError` unless ``value`` is what ``entry`` says: its type, shape, digest."""
    if value.spec != entry.spec:
        raise PayloadError(f"its objects hold {value.spec}, the manifest says {entry.spec}")
    if digest(memoryview(value.data).cast("B")) != entry.digest:
        raise PayloadError("its bytes have another digest")


def follow(
    store: LocalStore, chain: Sequence[Link], value: Tensor | None, take: Take | None = None
) -> Tensor:
    """The value at the top of ``chain``, from the ``value`` that it stands on (None: on nothing).

    Errors as of :func:`decode`.
    """
    for link in reversed(chain):
        value = decode(store, link, value, take)
    if value is None:
        raise PayloadError("it has no objects")
    return value


def decode(
    store: LocalStore,
    link: Link,
    base: Tensor | None,
    take: Take | None = None,
    look: Look | None = None,
) -> Tensor:
    """The value that ``link`` makes of ``base``; a dense one in memory that ``take`` gives, where
    it is given.

    :class:`PayloadError` where its objects hold anything else, :class:`ObjectMissing` where they
    are not here, and what ``look`` raises (see :func:`read_payload`).
    """
    update = registry.update(link.update)
    if update.needs_base and base is None:
        raise PayloadError(f"its chain ends with '{link.update}', which needs a base")
    header, payload = read_payload(store, link, look)
    spec = header.spec
    if link.update == tables.FALLBACK_UPDATE and take is not None:
        from git_theta.updates import dense

        return Tensor(spec.dtype, spec.shape, dense.decode_into(payload, spec, take))
    return Tensor(spec.dtype, spec.shape, update.decode(payload, spec, base))


def read_payload(
    store: LocalStore, link: Link, look: Look | None = None
) -> tuple[objects.Header, memoryview]:
    """What the payload of ``link`` says of itself, and its bytes.

    ``look`` sees each range before anything in it is believed.
    """
    parts: list[memoryview] = []
    first: objects.Header | None = None
    for number, place in enumerate(link.ranges):
        if look is not None:
            look(place)
        data = store.view(place)
        header, start = objects.parse(data)
        first = first or header
        if header != first._replace(update=link.update, part=number):
            raise PayloadError(f"object {place.oid} is not part {number} of this '{link.update}'")
        parts.append(data[start:])
    assert first is not None
    return first, parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def earlier(
    store: LocalStore, chain: Sequence[Link], identity: str, spec: Spec
) -> tuple[Link, ...] | None:
    """The part of ``chain`` that gives the value with the digest ``identity``, if one of those that
    it goes through is that one.

    Each payload says which value it gives; what one says is believed once the value was seen.
    """
    for position in range(1, len(chain)):
        try:
            header, _ = read_payload(store, chain[position])
            if (header.digest, header.spec) != (identity, spec):
                continue
            value = follow(store, chain[position:], None)
            if value.spec == spec and digest(memoryview(value.data).cast("B")) == identity:
                return tuple(chain[position:])
        except ThetaError:
            return None
    return None


def _blame_object(store: LocalStore, entry: Entry) -> None:
    """Find out whether one of the objects is not what its name says: then that is the error."""
    for ref in entry.objects:
        try:
            store.verify(ref)
        except (ObjectMissing, ObjectDamaged) as error:
            raise error.within(f"tensor {display(entry.name, 200)}") from None


# Storing


class Storable(Protocol):
    """A tensor to be stored, which need not be in memory."""

    @property
    def spec(self) -> Spec:
        """Type and shape."""

    def digest(self) -> str:
        """The digest of its bytes."""

    def tensor(self) -> Tensor:
        """All of it, in memory."""

    def blocks(self, step: int) -> Iterator[memoryview]:
        """Its bytes in order, cut at multiples of ``step`` bytes or not at all; each is valid until
        the next is asked for.
        """


@dataclass(frozen=True, slots=True)
class InMemory:
    """A tensor to be stored that is in memory already, with its digest if that is known."""

    held: Tensor
    identity: str = ""

    @property
    def spec(self) -> Spec:
        """As :attr:`Storable.spec`."""
        return self.held.spec

    def digest(self) -> str:
        """As :meth:`Storable.digest`."""
        return self.identity or digest(memoryview(self.held.data).cast("B"))

    def tensor(self) -> Tensor:
        """As :meth:`Storable.tensor`."""
        return self.held

    def blocks(self, step: int) -> Iterator[memoryview]:
        """As :meth:`Storable.blocks`: one, as nothing is saved by more."""
        yield memoryview(self.held.data).cast("B")


@dataclass(frozen=True, slots=True)
class StagedLink:
    """A payload that the store has taken in, and the ``chain`` below it; the names of its objects
    are asked for when all is staged.
    """

    update: str
    note: str
    place: tuple[ObjectRange, ...] | BundledPayload
    chain: tuple[Link, ...] = ()

    def seal(self) -> tuple[Link, ...]:
        """The whole chain, with the objects' names."""
        place = self.place if isinstance(self.place, tuple) else self.place.seal()
        return (Link(self.update, place, self.note), *self.chain)


@dataclass(frozen=True, slots=True)
class StagedEntry:
    """A manifest line: whole but for its chain where a new payload is ``staged``."""

    entry: Entry
    staged: StagedLink | None = None

    @property
    def chain_below(self) -> tuple[Link, ...]:
        """What of its chain was stored before."""
        return self.entry.chain if self.staged is None else self.staged.chain

    @property
    def new_bytes(self) -> int:
        """Bytes of the new payload, header and all, in a bundle."""
        place = self.staged.place if self.staged is not None else ()
        return place.size if isinstance(place, BundledPayload) else 0

    def seal(self) -> Entry:
        """The line, with the names of all objects."""
        return self.entry if self.staged is None else self.entry._replace(chain=self.staged.seal())


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload that is still to be stored: ``chunks``, one behind the other, of an ``update`` on
    top of ``chain``.
    """

    update: str
    chunks: Iterable[Buffer]
    note: str = ""
    chain: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class PayloadTarget:
    """Where new payloads go, and by which settings: each into objects of its own, or as that of
    tensor ``number`` into a ``bundle``.
    """

    store: LocalStore
    settings: Settings
    bundle: Bundle | None = None
    number: int = 0


def keep(
    to: PayloadTarget,
    line: tuple[str, tuple[str, ...]],
    value: Storable,
    equal: Callable[[str], Sequence[Link] | None],
    bases: Callable[[], Sequence[Base]],
    warn: Callable[[str], None],
    given: Callable[[], Payload | None] = lambda: None,
) -> StagedEntry:
    """Store ``value`` under the name and aliases of ``line``: in the line itself if it is small
    enough, else as what is ``equal`` to its digest is stored, else by the payload that is
    ``given``, else the smallest way on one of ``bases``.

    An object of an equal tensor that is gone from the store is written again if that gives the same
    object; if not, ``warn`` gets a line that says so.
    """
    (name, aliases), spec, identity = line, value.spec, value.digest()
    if spec.nbytes <= INLINE_LIMIT:
        data = bytes(value.tensor().data)
        return StagedEntry(Entry(name, spec.dtype, spec.shape, identity, (), data, aliases))
    chain = tuple(equal(identity) or ())
    entry = Entry(name, spec.dtype, spec.shape, identity, chain, None, aliases)
    level = to.settings.compression
    if not chain:
        payload = given() or encode(value, bases(), level, to.settings.max_chain)
        return StagedEntry(entry, stage(to, spec, identity, payload))
    if to.store.rely_on(ref for link in chain for ref in link.objects):
        if _is_dense(chain):  # with the value at hand the store is mended
            again = Payload(tables.FALLBACK_UPDATE, _dense(value, level))
            put_again(to.store, chain[0], spec, identity, again)
        else:
            warn(
                f"objects of {display(name, 80)} are not here; 'git theta fsck --repair' makes or"
                " fetches them"
            )
    return StagedEntry(entry)


def put_again(store: LocalStore, link: Link, spec: Spec, identity: str, payload: Payload) -> bool:
    """Store the payload of ``link`` once more, whose object is gone: the object, where it held
    nothing else, or that part of it; False where these are other bytes than its.
    """
    if is_bundled(spec.nbytes) and len(link.ranges) == 1:
        data, place = whole_payload(payload.update, spec, identity, payload.chunks), link.ranges[0]
        if place.length != len(data) or (
            place.length == place.size and object_id(data) != place.oid
        ):
            return False
        store.put_part(place, data)
        return True
    header = objects.Header(payload.update, spec, identity)
    return tuple(_write_parts(store, header, payload.chunks)) == link.objects


def equal_among(entries: Iterable[Entry | None], spec: Spec) -> Callable[[str], Sequence[Link]]:
    """For :func:`keep`: the chain of the first of ``entries`` with that digest and ``spec``."""
    found = [entry for entry in entries if entry is not None and entry.spec == spec]

    def equal(identity: str) -> Sequence[Link]:
        return next((entry.chain for entry in found if entry.digest == identity), ())

    return equal


def stage(to: PayloadTarget, spec: Spec, identity: str, payload: Payload) -> StagedLink:
    """Store the payload of the value with that type, shape and digest: in a bundle if it is small
    enough for one, in parts if it is longer than a Git LFS server would take.
    """
    place: tuple[ObjectRange, ...] | BundledPayload
    if is_bundled(spec.nbytes):
        data = whole_payload(payload.update, spec, identity, payload.chunks)
        place = (
            (to.store.put([data]).whole,) if to.bundle is None else to.bundle.add(to.number, data)
        )
    else:
        header = objects.Header(payload.update, spec, identity)
        place = tuple(ref.whole for ref in _write_parts(to.store, header, payload.chunks))
    return StagedLink(payload.update, payload.note, place, payload.chain)


def whole_payload(update: str, spec: Spec, identity: str, chunks: Iterable[Buffer]) -> bytes:
    """The payload of a small tensor's value, with its header."""
    data = b"".join(chunks)
    return objects.dump(objects.Header(update, spec, identity, 0, len(data))) + data


def _write_parts(
    store: LocalStore, header: objects.Header, chunks: Iterable[Buffer]
) -> list[ObjectRef]:
    refs: list[ObjectRef] = []
    writer = store.writer()
    try:
        writer.write(objects.dump(header))
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            while writer.size + len(view) > objects.PART_SIZE:
                room = objects.PART_SIZE - writer.size
                writer.write(view[:room])
                view = view[room:]
                refs.append(writer.close())
                writer = store.writer()
                writer.write(objects.dump(header._replace(part=len(refs))))
            writer.write(view)
        refs.append(writer.close())
    except BaseException:
        writer.abort()
        raise
    return refs


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


def encode(value: Storable, candidates: Sequence[Base], level: Level, max_chain: int) -> Payload:
    """The payload by which ``value`` is stored the smallest exact way.

    Of the ``candidates`` with room for one more update, samples tell which is closest. Where the
    updates of a chain would together be larger than a dense copy, the next is tried; if none is
    left, the tensor is stored dense, or by a plugin's update that needs no base.
    """
    usable = [base for base in candidates if len(base.chain) < max_chain]
    added = baseless() if registry.added_updates() else []
    if not usable and not added:
        return Payload(tables.FALLBACK_UPDATE, _dense(value, level))
    from git_theta.updates.choose import choose

    tensor = value.tensor()
    for base in _closest_first(tensor, usable):
        update, encoded = choose(tensor, base.tensor, registry.updates(), level)
        if not update.needs_base:
            return _accepted(update, encoded, tensor, None)
        if _updates_size(base) + encoded.size <= _dense_size(tensor, base):
            return _accepted(update, encoded, tensor, base)
    if not added:
        return Payload(tables.FALLBACK_UPDATE, _dense(value, level))
    update, encoded = choose(tensor, None, added, level)
    return _accepted(update, encoded, tensor, None)


def _dense(value: Storable, level: Level) -> Iterator[Buffer]:
    """The dense payload of a tensor, which need not be held for it."""
    from git_theta.updates import dense, frames

    return dense.chunks(value.spec, value.blocks(frames.step(value.spec)), level)


def _accepted(update: Update, encoded: Encoded, tensor: Tensor, base: Base | None) -> Payload:
    """What was chosen, once it has come back: here every encoding is verified."""
    exact = isinstance(update, ExactUpdate) and update.exact_by_construction
    if not exact and not round_trips(
        update, encoded, tensor, None if base is None else base.tensor
    ):
        raise PluginError(
            f"the update {update.name!r} does not give back what it stored; if a plugin"
            " provides it, remove that plugin; else please report it"
        )
    chain = () if base is None else base.chain
    return Payload(update.name, encoded.chunks, encoded.note, chain)


def round_trips(update: Update, encoded: Encoded, tensor: Tensor, base: Tensor | None) -> bool:
    """Whether ``update`` decodes a payload on ``base`` to exactly the bytes of ``tensor``."""
    payload = encoded.chunks[0] if len(encoded.chunks) == 1 else b"".join(encoded.chunks)
    decoded = update.decode(memoryview(payload).cast("B"), tensor.spec, base)
    return memoryview(decoded).cast("B") == memoryview(tensor.data).cast("B")


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


def missing(store: LocalStore, manifest: Manifest) -> list[ObjectRef]:
    """The objects that ``manifest`` needs of which the store lacks what it needs."""
    return sorted({place.object for place in _lacking(store, manifest)})


def _lacking(store: LocalStore, manifest: Manifest) -> list[ObjectRange]:
    entries = (manifest.skeleton, *manifest.entries)
    return store.lacking(dict.fromkeys(place for entry in entries for place in entry.ranges))


def require(store: LocalStore, manifest: Manifest) -> None:
    """:class:`ObjectMissing`, naming a tensor and its object, unless everything that ``manifest``
    needs is here.

    :class:`~git_theta.errors.PluginError` if an update is not known: then no object helps.
    """
    registry.require_updates(manifest.updates)
    absent = set(_lacking(store, manifest))
    for entry in (*manifest.entries, manifest.skeleton) if absent else ():
        for place in entry.ranges:
            if place in absent:
                others = len({each.oid for each in absent}) - 1
                more = f", nor are {others} others" if others else ""
                what = (
                    display(entry.name, 200)
                    if entry is not manifest.skeleton
                    else "(the file's skeleton)"
                )
                raise ObjectMissing(
                    f"tensor {what}: object {place.oid} ({place.size} bytes) is not in the"
                    f" store{more}; 'git theta fetch' may bring it"
                )
