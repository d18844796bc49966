"""Bundles: objects in which the payloads of small tensors lie one behind the other.

A file of its own for each would cost more than coding it: to create, to sync, to send. Which
tensors share an object is decided by the file's layout alone, so that neither threads nor caches
nor machines change anything, and a tensor that is known already leaves the other groups' bundles
as they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from git_theta.core.manifest import INLINE_LIMIT, Link, ObjectRange
from git_theta.core.objects import BUNDLED
from git_theta.store.local import LocalStore

GROUP = 8 << 20
"""Bytes, raw, that the tensors of a group have together at most."""
_SPOOLED = 32 << 20  # bytes of payloads that wait in memory
_SLACK = 1.45  # times the bytes that are needed: so much may be fetched for them


def is_bundled(size: int) -> bool:
    """Whether a tensor of ``size`` bytes is one that shares an object."""
    return INLINE_LIMIT < size < BUNDLED


def groups(sizes: Iterable[int]) -> list[list[int]]:
    """The numbers of the small tensors of a file, given the ``sizes`` of all in bytes, by the
    object that they share: consecutive ones, larger tensors between them left out.
    """
    found: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if is_bundled(size):
            if size > room:
                found.append([])
                room = GROUP
            found[-1].append(number)
            room -= size
    return found


class Spool:
    """Payloads that wait until their bundles are closed: in memory while they are few, then in a
    temporary file. Safe to use from several threads.
    """

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._numbers = count()
        self._held: dict[int, bytes] = {}
        self._size = 0  # bytes in memory
        self._written: dict[int, tuple[int, int]] = {}
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    def put(self, payload: bytes) -> int:
        """Keep a payload; the number by which :meth:`take` gives it back."""
        with self._lock:
            number = next(self._numbers)
            if self._size + len(payload) <= _SPOOLED:
                self._held[number] = payload
                self._size += len(payload)
                return number
            if self._file is None:
                self._path = self._store.temporary_path()
                self._file = self._path.open("x+b")
            self._written[number] = self._file.seek(0, os.SEEK_END), len(payload)
            self._file.write(payload)
            return number

    def take(self, number: int) -> bytes:
        """The payload that was put, which is then forgotten."""
        with self._lock:
            payload = self._held.pop(number, None)
            if payload is not None:
                self._size -= len(payload)
                return payload
            assert self._file is not None
            offset, length = self._written.pop(number)
            self._file.seek(offset)
            return self._file.read(length)

    def close(self) -> None:
        """Forget all payloads."""
        self._held.clear()
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None


class Bundle:
    """The new payloads of one group, which become an object when the bundle is closed.

    Safe to use from several threads.
    """

    def __init__(self, store: LocalStore, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._lock = threading.Lock()
        self._waiting: dict[int, int] = {}
        self._ranges: dict[int, ObjectRange] = {}

    def add(self, number: int, payload: bytes) -> BundledPayload:
        """Take in the payload of the tensor ``number``, header and all, in place of an earlier one
        of that tensor.
        """
        kept = self._spool.put(payload)
        with self._lock:
            before = self._waiting.get(number)
            self._waiting[number] = kept
        if before is not None:
            self._spool.take(before)
        return BundledPayload(self, number, len(payload))

    def close(self) -> None:
        """Store the payloads in the order of their tensors' numbers, equal ones once; without any
        nothing is stored.
        """
        if not self._waiting:
            return
        places: dict[bytes, tuple[int, int]] = {}
        found: dict[int, tuple[int, int]] = {}
        end = 0
        for number in sorted(self._waiting):
            payload = self._spool.take(self._waiting[number])
            if payload not in places:
                places[payload] = end, len(payload)
                end += len(payload)
            found[number] = places[payload]
        oid, size = self._store.put([b"".join(places)])
        self._ranges = {number: ObjectRange(oid, size, *place) for number, place in found.items()}
        self._waiting.clear()

    def range(self, number: int) -> ObjectRange:
        """Where the payload of the tensor ``number`` lies, once the bundle is closed."""
        return self._ranges[number]


@dataclass(frozen=True, slots=True)
class BundledPayload:
    """A payload of ``size`` bytes in a bundle that may still be open."""

    bundle: Bundle
    number: int
    size: int

    def seal(self) -> tuple[ObjectRange, ...]:
        """Where it lies, once the bundle is closed."""
        return (self.bundle.range(self.number),)


class Bundles:
    """The bundles of one file whose tensors are stored one by one, each closed when all of its
    tensors are done with.

    ``sizes`` are those of the file's tensors, in bytes and in order; ``awaited`` are the numbers of
    those that may get a new payload.
    """

    def __init__(self, store: LocalStore, sizes: Sequence[int], awaited: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._bundles: dict[int, Bundle] = {}
        self._left: dict[Bundle, int] = {}
        self._spool = Spool(store)
        wanted = set(awaited)
        for group in groups(sizes):
            members = [number for number in group if number in wanted]
            if members:
                bundle = Bundle(store, self._spool)
                self._bundles.update(dict.fromkeys(members, bundle))
                self._left[bundle] = len(members)

    def get(self, number: int) -> Bundle | None:
        """The bundle of a tensor; None for one that has an object of its own."""
        return self._bundles.get(number)

    def done(self, number: int) -> None:
        """Nothing more comes for the tensor ``number``."""
        bundle = self._bundles.get(number)
        if bundle is None:
            return
        with self._lock:
            self._left[bundle] -= 1
            last = self._left[bundle] == 0
            if last:
                del self._left[bundle]
            end = not self._left
        if last:
            bundle.close()
        if last and end:
            self._spool.close()


def to_store_anew(needed: Mapping[int, Sequence[Link]], new: Mapping[int, int]) -> set[int]:
    """The numbers of the tensors that are better stored anew, given the chains of stored payloads
    that each would need, and the bytes of the ``new`` payloads on top of these.

    To read one range of a bundle, most readers fetch all of it. Over many versions that change a
    few small tensors each, a clone would fetch a multiple of what it needs: before it comes to
    that, bundles are given up whose tensors take least to store anew for the unused bytes in them.
    """
    users: dict[str, set[int]] = {}
    places: dict[str, set[ObjectRange]] = {}
    for number, chain in needed.items():
        for link in chain:
            for place in link.ranges:
                if place.length != place.size:
                    users.setdefault(place.oid, set()).add(number)
                    places.setdefault(place.oid, set()).add(place)
    sizes = {oid: next(iter(found)).size for oid, found in places.items()}
    live = {oid: sum(place.length for place in found) for oid, found in places.items()}
    added = sum(new.values())
    anew: set[int] = set()
    while sizes and sum(sizes.values()) + added > _SLACK * (sum(live.values()) + added):
        gains = {
            oid: (sizes[oid] - live[oid])
            / sum(needed[number][-1].size for number in users[oid] - anew)
            for oid in sizes
        }
        given_up = max(gains, key=lambda oid: (gains[oid], oid))
        for number in users[given_up] - anew:
            anew.add(number)
            added += needed[number][-1].size - new.get(number, 0)
            for place in (place for link in needed[number] for place in link.ranges):
                if place in places.get(place.oid, ()):
                    places[place.oid].discard(place)
                    live[place.oid] -= place.length
        for oid in [oid for oid in sizes if not live[oid]]:
            del sizes[oid], live[oid]
    return anew
