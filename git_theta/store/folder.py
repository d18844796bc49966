"""Objects in a folder, another repository's or storage of its own: read and written directly, with
no server, often without a copy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from git_theta.core.manifest import ObjectRange, ObjectRef
from git_theta.errors import ObjectDamaged, ObjectMissing, StoreError, TransferError
from git_theta.store.local import LocalStore

# Objects that become durable together, so that an interrupted transfer need not start again
_GROUP = 4096
_GROUP_BYTES = 1 << 30
_CHUNK = 1 << 20
_TOGETHER = 32  # objects that a thread takes at a time


class FolderPlace:
    """The objects in ``folders`` (laid out as Git LFS lays out its own); new ones go into
    ``target``.
    """

    verifies = True  # every object is hashed on arrival

    def __init__(self, folders: Sequence[Path], target: LocalStore, title: str) -> None:
        self._folders = folders
        self._target = target
        self.title = title

    def apart_from(self, folder: Path) -> FolderPlace:
        """The place without ``folder``, should it be one of its own: what is there is no second
        copy.
        """
        return FolderPlace(
            [own for own in self._folders if not _same(own, folder)], self._target, self.title
        )

    def target(self) -> LocalStore:
        """The store that new objects go into: while it is held, nobody deletes objects there.

        The caller closes it.
        """
        return self._target.again()

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are in none of the folders, by name and size.

        The others are young again, for whoever prunes there.
        """
        absent = []
        for ref in refs:
            path = self.find(ref)
            try:
                if path is not None:
                    os.utime(path)
            except FileNotFoundError:  # deleted meanwhile
                path = None
            except OSError:  # someone else's
                pass
            if path is None:
                absent.append(ref)
        return absent

    def find(self, ref: ObjectRef) -> Path | None:
        """The file that claims to be an object."""
        for folder in self._folders:
            path = _place(folder, ref.oid)
            try:
                if os.stat(path).st_size == ref.size:
                    return Path(path)
            except OSError:
                continue
        return None

    def bring(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Take objects over into ``store``: by hard link where possible.

        :class:`TransferError` if any of them is damaged there.
        """
        damaged = []
        found = [(ref, path) for ref in refs if (path := self.find(ref)) is not None]
        for ref, problem in _each(store, found, advance, store.adopt):
            if isinstance(problem, ObjectDamaged):
                damaged.append(ref)
            elif problem is not None and not isinstance(problem, ObjectMissing):
                # What was deleted there meanwhile stays missing
                raise problem
        if damaged:
            many = f", and {len(damaged) - 1} others" if len(damaged) > 1 else ""
            raise TransferError(f"{self.title}: object {damaged[0].oid}{many} is damaged there")

    def bring_ranges(
        self, store: LocalStore, places: Sequence[ObjectRange], advance: Callable[[int], None]
    ) -> None:
        """Copy ranges of objects into ``store``, unless the objects themselves can be linked there
        (see :meth:`bring`), which takes less.
        """
        for place in places:
            path = self.find(place.object)
            if path is None or _is_beside(path, store.root):
                continue
            try:
                with path.open("rb") as file:
                    file.seek(place.offset)
                    data = file.read(place.length)
            except OSError:
                continue
            if len(data) == place.length:
                store.put_part(place, data)
                advance(place.length)
        store.flush()

    def audit(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Read objects there; return those that are missing or damaged, with the reason."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "git-theta-audit") as pool:
            for ref, problem in zip(refs, pool.map(self._audit_one, refs), strict=True):
                if problem:
                    yield ref, problem

    def _audit_one(self, ref: ObjectRef) -> str:
        path = self.find(ref)
        if path is None:
            return "missing"
        try:
            with path.open("rb") as file:
                right = hashlib.file_digest(file, "sha256").hexdigest() == ref.oid
        except OSError as error:
            return f"unreadable: {error.strerror or error}"
        return "" if right else "damaged"

    def send(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Put objects of ``store`` there, by hard link where possible.

        :class:`ObjectMissing`, :class:`ObjectDamaged` or :class:`TransferError` unless every one
        has arrived, durable and as its name says.
        """
        found = []
        for ref in refs:
            path = store.find(ref.oid, ref.size)
            if path is None:
                raise ObjectMissing(f"object {ref.oid} ({ref.size} bytes) is not in the store")
            found.append((ref, path))
        try:
            self._target.hold()
            for _, problem in _each(self._target, found, advance, self._target.link):
                if problem is not None:
                    raise problem
        except StoreError as error:
            raise TransferError(f"could not deliver to {self.title}: {error}") from None
        finally:
            self._target.close()

    def upload(self, path: Path, ref: ObjectRef) -> None:
        """Deliver a file, if it is not there already.

        A copy: the file is someone else's and may not be durable yet.
        """
        if self.find(ref) is not None:
            return
        try:
            with path.open("rb") as file:
                stored = self._target.put(iter(lambda: file.read(_CHUNK), b""))
            if stored != ref:
                raise ObjectDamaged(
                    f"object {ref.oid} is damaged: its bytes have another SHA-256 or size"
                )
            self._target.flush()
        except StoreError as error:
            raise TransferError(f"could not deliver to {self.title}: {error}") from None
        finally:
            self._target.close()

    def download(self, ref: ObjectRef, path: Path) -> None:
        """Fetch an object into a new file; :class:`TransferError` if it cannot be had as its name
        says.
        """
        found, hasher = self.find(ref), hashlib.sha256()
        if found is None:
            raise TransferError(f"{self.title}: object {ref.oid}: missing")
        with found.open("rb") as source, path.open("xb") as target:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                target.write(chunk)
        if hasher.hexdigest() != ref.oid:
            raise TransferError(
                f"{self.title}: object {ref.oid}: damaged there: its bytes have another SHA-256"
            )


Take = Callable[[Path, ObjectRef], None]


def _each(
    store: LocalStore,
    found: Sequence[tuple[ObjectRef, Path]],
    advance: Callable[[int], None],
    take: Take,
) -> Iterator[tuple[ObjectRef, Exception | None]]:
    """Let ``store`` take files over, several at a time, and tell of each how it went once it is
    durable.
    """

    def some(items: Sequence[tuple[ObjectRef, Path]]) -> list[Exception | None]:
        return [one(ref, path) for ref, path in items]

    def one(ref: ObjectRef, path: Path) -> Exception | None:
        try:
            take(path, ref)
        except (ObjectDamaged, ObjectMissing, StoreError) as error:
            return error
        advance(ref.size)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "git-theta-adopt") as pool:
        for group in _groups(found):
            parts = [group[start : start + _TOGETHER] for start in range(0, len(group), _TOGETHER)]
            outcomes = [outcome for part in pool.map(some, parts) for outcome in part]
            store.flush()
            yield from ((ref, outcome) for (ref, _), outcome in zip(group, outcomes, strict=True))


def _groups(found: Sequence[tuple[ObjectRef, Path]]) -> Iterator[list[tuple[ObjectRef, Path]]]:
    group: list[tuple[ObjectRef, Path]] = []
    size = 0
    for item in found:
        if group and (len(group) >= _GROUP or size + item[0].size > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += item[0].size
    if group:
        yield group


def _is_beside(path: Path, folder: Path) -> bool:
    """Whether both are in one file system."""
    try:
        return path.stat().st_dev == folder.stat().st_dev
    except OSError:
        return False


def _same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:
        return False


def _place(folder: Path, oid: str) -> str:
    return f"{folder}{os.sep}{oid[:2]}{os.sep}{oid[2:4]}{os.sep}{oid}"
