"""The local object store: files named by the SHA-256 of their bytes, laid out as Git LFS lays out
its own.

An object becomes visible complete, durable and read-only, or not at all: it is written to a
temporary file in the same file system, synced, and renamed. :meth:`LocalStore.flush` is the point
after which everything written before survives a power cut; nothing may tell git of an object before
it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

from git_theta.core.manifest import ObjectRange, ObjectRef
from git_theta.core.tensors import Buffer
from git_theta.errors import ObjectDamaged, ObjectMissing, StoreError
from git_theta.store.guard import exclusive, hold, if_alone, keep
from git_theta.store.partial import PartialObject

if TYPE_CHECKING:
    from concurrent.futures import Future

    from git_theta.core.resources.threads import Threads

Held = TypeVar("Held", bytes, memoryview)

_SYNC_THREADS = 8
_SYNC_EARLY = 1 << 20  # files from this size are synced while others are still coded
_STALE = 24 * 3600  # seconds after which a temporary file belongs to nobody
# Seconds for which an object counts as just stored; a small part of what prune spares
_FRESH = 6 * 3600
_CHUNK = 1 << 20
_MAPPED = 1 << 20  # bytes from which mapping a file beats reading it
_KEPT_OPEN = 64  # objects of which parts are read that stay mapped


class _Pending(NamedTuple):
    """A finished object that has no name yet, and the sync that is under way for it."""

    temporary: Path
    ref: ObjectRef
    synced: Future[None] | None


class LocalStore:
    """Objects under ``root`` (``<git common dir>/theta/objects``); those of ``alternates`` are read
    as well.

    ``shared`` holds the permission bits that ``core.sharedRepository`` adds to files (negative: the
    only ones they have). ``beside`` is the folder for temporary files and the lock, in the same
    file system; without it, the one that ``root`` is in. Safe to use from several threads, and
    beside other processes.
    """

    def __init__(
        self,
        root: Path,
        alternates: Sequence[Path] = (),
        shared: int = 0,
        beside: Path | None = None,
    ) -> None:
        self.root = root
        self._beside = beside or root.parent
        self.alternates = tuple(alternates)
        self._shared = shared
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._syncer: Threads | None = None
        self._temporary: Path | None = None
        self._held: int | None = None
        self._alone = False
        # Objects that nobody deletes while the store is held, young already
        self._relied: set[str] = set()
        # Folders with a new subfolder, to be synced with the next flush
        self._grown: set[Path] = set()
        self._linked: set[Path] = set()  # folders with a new link, likewise
        self._open: dict[str, memoryview] = {}  # objects of which parts were read, oldest first
        self._partial: dict[str, PartialObject] = {}  # with parts that are not yet durable

    def again(self) -> LocalStore:
        """The same store, to be held and closed by itself."""
        return LocalStore(self.root, self.alternates, self._shared, self._beside)

    # Reading

    def find(self, oid: str, size: int | None = None) -> Path | None:
        """The file that holds an object (of ``size`` bytes, where given), here or in an alternate;
        None if there is none.
        """
        found = self._look(oid, size)
        return None if found is None else Path(found[0])

    def _look(self, oid: str, size: int | None) -> tuple[str, os.stat_result] | None:
        for root in (self.root, *self.alternates):
            # Joining paths would cost more than looking
            path = f"{root}{os.sep}{oid[:2]}{os.sep}{oid[2:4]}{os.sep}{oid}"
            try:
                status = os.stat(path)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(status.st_mode) and (size is None or status.st_size == size):
                return path, status
        return None

    def missing(self, refs: Iterable[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are not here with their right size (one that is written but not
        flushed counts as here).
        """
        return [
            ref
            for ref in refs
            if ref.oid not in self._pending and self.find(ref.oid, ref.size) is None
        ]

    def rely_on(self, refs: Iterable[ObjectRef]) -> list[ObjectRef]:
        """As :meth:`missing`; the objects that are here become as young as new ones, so that prune
        spares them.

        Whatever a manifest needs goes through here before anyone gets that manifest. The caller
        holds the store.
        """
        absent, limit = [], time.time() - _FRESH
        for ref in refs:
            if ref.oid in self._relied or ref.oid in self._pending:
                continue
            found = self._look(ref.oid, ref.size)
            if found is None or not _freshen(*found, limit):
                absent.append(ref)
            elif self._held is not None:
                self._relied.add(ref.oid)
        return absent

    def read(self, ref: ObjectRef) -> bytes:
        """An object's bytes.

        Their hash is not checked here (see :meth:`verify`), only their number.

        :class:`ObjectMissing`, or :class:`ObjectDamaged` when the file has another size.
        """
        return self._load(ref, Path.read_bytes)

    def view(self, place: ObjectRange) -> memoryview:
        """The bytes of a range, of an object that is here or whose range is (see
        :meth:`put_part`); errors as of :meth:`read`.

        A large object is mapped into memory, as git maps its packs, which saves a copy and fresh
        memory for it.
        """
        oid, size, offset, length = place
        if length == size:
            return self._whole(place.object)
        with self._lock:
            data = self._open.pop(oid, None)
        if data is None or len(data) != size:
            try:
                data = self._whole(place.object)
            except ObjectMissing:
                part = self._part(place)
                if part is None:
                    raise
                return part
        with self._lock:
            self._open[oid] = data
            if len(self._open) > _KEPT_OPEN:
                del self._open[next(iter(self._open))]
        return data[offset : offset + length]

    def _whole(self, ref: ObjectRef) -> memoryview:
        return self._load(ref, _map if ref.size >= _MAPPED and os.name == "posix" else _view)

    def _part(self, place: ObjectRange) -> memoryview | None:
        """A range of an object that is here in part."""
        for root in (self.root, *self.alternates):
            found = self._partial.get(place.oid) if root == self.root else None
            data = (found or PartialObject(_path(root, place.oid), place.size)).read(place)
            if data is not None:
                return data
        return None

    def lacking(self, places: Iterable[ObjectRange]) -> list[ObjectRange]:
        """Those ranges that are not here: neither their object (see :meth:`missing`) nor they
        alone.
        """
        wanted: dict[ObjectRef, list[ObjectRange]] = {}
        for place in places:
            wanted.setdefault(place.object, []).append(place)
        return [
            place
            for ref in self.missing(wanted)
            for place in wanted[ref]
            if place.length == place.size or self._part(place) is None
        ]

    def _load(self, ref: ObjectRef, take: Callable[[Path], Held]) -> Held:
        for path in self._places(ref):
            try:
                data = take(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(
                    f"object {ref.oid} cannot be read: {error.strerror or error}"
                ) from None
            if len(data) != ref.size:
                raise _of_other_size(ref, len(data))
            return data
        raise _not_here(ref)

    def verify(self, ref: ObjectRef) -> None:
        """Read an object and check its hash: :class:`ObjectMissing` or :class:`ObjectDamaged`."""
        with self._lock:
            self._open.pop(ref.oid, None)
        for path in self._places(ref):
            hasher = hashlib.sha256()
            try:
                size = _feed(path, hasher)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(
                    f"object {ref.oid} cannot be read: {error.strerror or error}"
                ) from None
            if size != ref.size:
                raise _of_other_size(ref, size)
            if hasher.hexdigest() != ref.oid:
                raise of_other_bytes(ref)
            return
        raise _not_here(ref)

    def _places(self, ref: ObjectRef) -> Iterator[Path]:
        """Where to read an object: where it waits for its flush, then (that may happen meanwhile)
        in the store, the right size first.
        """
        pending = self._pending.get(ref.oid)
        if pending is not None:
            yield pending.temporary
        found = self.find(ref.oid, ref.size) or self.find(ref.oid)
        if found is not None:
            yield found

    def __iter__(self) -> Iterator[ObjectRef]:
        """Every object of this store's own (alternates left out)."""
        for first in sorted(_names(self.root)):
            for second in sorted(_names(self.root / first)):
                for oid in sorted(_names(self.root / first / second)):
                    if len(oid) == 64 and oid.startswith(first + second):
                        with contextlib.suppress(OSError):
                            yield ObjectRef(oid, (self.root / first / second / oid).stat().st_size)

    # Writing

    def writer(self) -> ObjectWriter:
        """A new object, to be written chunk by chunk."""
        return ObjectWriter(self)

    def put(self, chunks: Iterable[Buffer]) -> ObjectRef:
        """Store the object made of ``chunks``; visible to others after :meth:`flush`."""
        writer = self.writer()
        try:
            for chunk in chunks:
                writer.write(chunk)
            return writer.close()
        except BaseException:
            writer.abort()
            raise

    def put_part(self, place: ObjectRange, data: Buffer) -> None:
        """Store one range of an object that is not here; it becomes durable and visible with the
        next :meth:`flush`, and the object itself, once all of its ranges are here.

        The hash of a part cannot be checked: a reader checks what it decodes to.
        """
        self.hold()
        with self._lock:
            partial = self._partial.get(place.oid)
            if partial is None:
                partial = PartialObject(self._path(place.oid), place.size)
                self._partial[place.oid] = partial
        try:
            self._make_folder(partial.path.parent)
            partial.write(place, data)
        except OSError as error:
            raise _store_error(error, self.root) from None

    def adopt(self, path: Path, ref: ObjectRef) -> None:
        """Take over the file at ``path`` as an object: by hard link where possible, else as a copy.

        Its hash is checked first.

        :class:`ObjectMissing` if the file is gone, :class:`ObjectDamaged` if it is not what it
        should be.
        """
        hasher = hashlib.sha256()
        temporary = self.temporary_path()
        try:
            mode = path.stat().st_mode
            # A link's mode is the other's too
            if self._granted(mode) & 0o444 == mode & 0o444 and _link(path, temporary):
                size = _feed(temporary, hasher)
            else:
                with temporary.open("xb") as target:
                    size = _feed(path, hasher, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError) and not path.exists():
                raise ObjectMissing(
                    f"object {ref.oid} ({ref.size} bytes) was deleted while it was being fetched"
                ) from None
            raise _store_error(error, self.root) from None
        if hasher.hexdigest() != ref.oid or size != ref.size:
            temporary.unlink(missing_ok=True)
            raise ObjectDamaged(
                f"object {ref.oid} arrived damaged: its bytes have another SHA-256 or size"
            )
        self._add(temporary, ref)

    def link(self, path: Path, ref: ObjectRef) -> None:
        """Take over an object of another store, as :meth:`adopt`.

        It is durable and final there, so a link is made in place at once.
        """
        target = self._path(ref.oid)
        hasher = hashlib.sha256()
        try:
            size, mode = _feed(path, hasher), path.stat().st_mode
            if hasher.hexdigest() != ref.oid or size != ref.size:
                raise ObjectDamaged(
                    f"object {ref.oid} is damaged: its bytes have another SHA-256 or size"
                )
            if self._granted(mode) & 0o444 != mode & 0o444:
                raise PermissionError
            try:
                os.link(path, target)
            except FileNotFoundError:
                self._make_folder(target.parent)
                os.link(path, target)
        except ObjectDamaged:
            raise
        except OSError:
            # Another file system, links that are not allowed, a damaged object in the way
            self.adopt(path, ref)
        else:
            with self._lock:
                self._linked.add(target.parent)

    def remove(self, oid: str) -> None:
        """Delete an object of this store's own, or what is here of it; the caller has made sure
        that nothing needs it.
        """
        path = self._path(oid)
        with self._lock:
            self._open.pop(oid, None)
        PartialObject(path, 0).remove()
        try:
            if sys.platform == "win32":
                path.chmod(0o666)
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"object {oid} cannot be deleted: {error.strerror or error}") from None

    def touched(self, oid: str) -> float | None:
        """When an object of this store's own, or a part of it, was last written, linked or relied
        on; None if it is not there.
        """
        for path in (self._path(oid), PartialObject(self._path(oid), 0).path):
            try:
                return touched(os.stat(path, follow_symlinks=False))
            except OSError:
                continue
        return None

    def flush(self) -> None:
        """Make every object written so far durable and visible.

        :class:`StoreError` when the disk refuses.
        """
        self._complete_parts()
        with self._lock:
            pending = list(self._pending.values())
            linked, self._linked = self._linked, set()
        if not pending and not linked:
            return
        try:
            _sync_files([item.temporary for item in pending if item.synced is None])
            for item in pending:
                if item.synced is not None:
                    item.synced.result()
            folders = {self._publish(item) for item in pending}
            self._sync_folders(folders | linked)
        except OSError as error:
            raise _store_error(error, self.root) from None
        with self._lock:
            for item in pending:
                self._pending.pop(item.ref.oid, None)

    def _complete_parts(self) -> None:
        """Make the parts that were put durable; those that are complete become objects."""
        with self._lock:
            partial, self._partial = self._partial, {}
        for oid, item in partial.items():
            whole = self.temporary_path()
            try:
                item.flush()
                if item.is_whole():
                    self.adopt(item.copy(whole), ObjectRef(oid, item.size))
                    item.remove()
            except ObjectDamaged:  # of its parts one is not as it was: each is checked when read
                continue
            except OSError as error:
                raise _store_error(error, self.root) from None
            finally:
                whole.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget everything that was written since the last :meth:`flush`."""
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
            self._partial = {}
        for item in pending:
            if item.synced is not None:
                item.synced.cancel()
            item.temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Discard what was not flushed and stop the background thread."""
        self.discard()
        self._open.clear()
        if self._syncer is not None:
            self._syncer.shutdown(wait=True)
            self._syncer = None
        if self._held is not None:
            os.close(self._held)
            self._held = None
            self._relied.clear()

    def temporary_path(self) -> Path:
        """A fresh path in the store's file system, for a file that is to become an object or to be
        spooled. :class:`StoreError` if none can be written there.
        """
        if self._temporary is None:
            folder = self._folder_beside() / "tmp"
            try:
                self._make_folder(folder)
            except OSError as error:
                raise _store_error(error, self.root) from None
            if not os.access(folder, os.W_OK):
                raise _store_error(OSError(errno.EROFS, f"{folder} is read-only"), self.root)
            self.hold()
            self._temporary = folder
        return self._temporary / f"{os.getpid()}-{os.urandom(12).hex()}"

    def _folder_beside(self) -> Path:
        """Where temporary files go: no rename from there to ``root``, which may be a link, must
        cross file systems.
        """
        try:
            apart = self.root.stat().st_dev != self._beside.stat().st_dev
        except OSError:  # one of them is still to be made
            apart = False
        return self.root / ".git-theta" if apart else self._beside

    def hold(self) -> None:
        """Let nobody delete objects until :meth:`close`.

        Whoever relies on an object that no commit names yet calls this first.
        """
        with self._lock:
            if self._held is None and not self._alone:
                # A store that cannot be written: there is nothing to rely on but what others keep
                with contextlib.suppress(OSError):
                    self._make_folder(self._beside)
                _sweep(self._beside)
                self._held = hold(self._beside)

    def keep_for(self, process: int) -> None:
        """Let nobody delete objects before ``process`` has ended either, should this store be
        closed before.
        """
        if self._held is not None:
            keep([self._held], process)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the store alone, to delete from it; it need not exist yet, and this object must not
        hold it before.

        :class:`StoreError` when others use it for longer than a few seconds.
        """
        try:
            self._make_folder(self._beside)
        except OSError as error:
            raise _store_error(error, self.root) from None
        with exclusive(self._beside):
            self._alone = True
            self._open.clear()
            try:
                yield
            finally:
                self._alone = False

    def _path(self, oid: str) -> Path:
        return _path(self.root, oid)

    def _add(self, temporary: Path, ref: ObjectRef) -> None:
        """Queue a finished temporary file; it is renamed when it is flushed."""
        with self._lock:
            known = ref.oid in self._pending
            if not known:
                synced = None
                if ref.size >= _SYNC_EARLY:
                    if self._syncer is None:
                        from git_theta.core.resources.threads import Threads

                        self._syncer = Threads(1, "git-theta-sync")
                    synced = self._syncer.submit(_sync_file, temporary)
                self._pending[ref.oid] = _Pending(temporary, ref, synced)
        if known:
            temporary.unlink()
        else:
            # Now, while other threads work: hundreds of new folders in a row would keep the end
            # waiting
            try:
                self._make_folder(self._path(ref.oid).parent)
            except OSError as error:
                raise _store_error(error, self.root) from None

    def _publish(self, item: _Pending) -> Path:
        path = self._path(item.ref.oid)
        if not path.parent.is_dir():
            self._make_folder(path.parent)
        if _same_bytes(item.temporary, path):
            item.temporary.unlink()
            with contextlib.suppress(OSError):  # someone else's
                os.utime(path)  # it is about to be needed, for all its age
            return path.parent
        mode = stat.S_IMODE(item.temporary.stat().st_mode)
        with contextlib.suppress(PermissionError):  # a link to a file of someone else's
            item.temporary.chmod(self._granted(mode) & 0o444)
        if sys.platform == "win32" and path.exists():  # damaged, or it would be the same
            path.chmod(0o666)
        item.temporary.replace(path)
        PartialObject(path, 0).remove()
        return path.parent

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            self._grown.add(folder.parent)
            if self._shared:
                bits = self._granted(stat.S_IMODE(folder.stat().st_mode) & 0o666)
                folder.chmod(0o700 | bits | (bits & 0o444) >> 2 | stat.S_ISGID)

    def _granted(self, mode: int) -> int:
        """The permission bits of a file that would have ``mode``, as git works them out."""
        return -self._shared if self._shared < 0 else mode | self._shared

    def _sync_folders(self, folders: set[Path]) -> None:
        # Folders cannot be opened there; the file system's journal orders the rename
        if os.name != "nt":
            grown, self._grown = self._grown, set()
            _sync_files(
                sorted(folders | {folder.parent for folder in folders} | {self.root} | grown)
            )


class ObjectWriter:
    """One object being written; it has no name before :meth:`close`."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._path = store.temporary_path()
        self._hasher = hashlib.sha256()
        self.size = 0
        try:
            self._file = self._path.open("xb", buffering=0)
        except OSError as error:
            raise _store_error(error, store.root) from None

    def write(self, chunk: Buffer) -> None:
        """Append ``chunk``; :class:`StoreError` when the disk is full."""
        view = memoryview(chunk).cast("B")
        self._hasher.update(view)
        self.size += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _store_error(error, self._store.root) from None

    def close(self) -> ObjectRef:
        """Finish the object and hand it to the store."""
        try:
            self._file.close()
        except OSError as error:  # some file systems find out as late as this that there is no room
            raise _store_error(error, self._store.root) from None
        ref = ObjectRef(self._hasher.hexdigest(), self.size)
        self._store._add(self._path, ref)
        return ref

    def abort(self) -> None:
        """Drop the object."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _link(path: Path, other: Path) -> bool:
    """Give a file a second name, where the file systems and rights allow it."""
    try:
        os.link(path, other)
    except OSError:
        return False
    return True


def _path(root: Path, oid: str) -> Path:
    return root / oid[:2] / oid[2:4] / oid


def _view(path: Path) -> memoryview:
    return memoryview(path.read_bytes())


def _map(path: Path) -> memoryview:
    import mmap

    with path.open("rb", buffering=0) as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a file system that cannot, or an empty file
            return memoryview(file.read())


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _feed(path: Path, hasher: hashlib._Hash, target: BinaryIO | None = None) -> int:
    """Hash a file, and copy it into ``target`` where that is given; its size."""
    size = 0
    with path.open("rb", buffering=0) as source:
        # Memory for a small file should be small
        room = min(_CHUNK, os.fstat(source.fileno()).st_size + 1)
        while chunk := source.read(room):
            hasher.update(chunk)
            size += len(chunk)
            if target is not None:
                target.write(chunk)
    return size


def _same_bytes(a: Path, b: Path) -> bool:
    try:
        if a.stat().st_size != b.stat().st_size:
            return False
        if a.samefile(b):
            return True
        with a.open("rb") as left, b.open("rb") as right:
            while True:
                one, two = left.read(_CHUNK), right.read(_CHUNK)
                if one != two:
                    return False
                if not one:
                    return True
    except FileNotFoundError:
        return False


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_files(paths: Sequence[Path]) -> None:
    """Sync many files or folders.

    Side by side, since a journal commits for all who wait: 2,000 take 0.3 s instead of 4.
    """
    left, failed = iter(paths), list[OSError]()
    lock = threading.Lock()

    def work() -> None:
        while not failed:
            with lock:
                path = next(left, None)
            if path is None:
                return
            try:
                _sync_file(path)
            except OSError as error:
                failed.append(error)

    helpers = [
        threading.Thread(target=work, name="git-theta-sync")
        for _ in range(min(_SYNC_THREADS, len(paths)) - 1)
    ]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failed:
        raise failed[0]


def touched(status: os.stat_result) -> float:
    """When an object was last written, linked or relied on (seconds since the epoch)."""
    return max(status.st_mtime, status.st_ctime)


def _freshen(path: str, status: os.stat_result, limit: float) -> bool:
    """Make an object young again that was last touched before ``limit``; False if it is gone."""
    try:
        if touched(status) < limit:
            os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # someone else's: the lock must do
        pass
    return True


def _sweep(beside: Path) -> None:
    """Remove what processes that were killed left behind: old files, while nobody uses the store.

    Age alone proves nothing: a machine may have slept, and a link is as old as the file that it was
    made of.
    """
    limit, folder = time.time() - _STALE, beside / "tmp"
    if not _older(folder, limit, linked=False):
        return
    with if_alone(beside) as alone:
        for path in _older(folder, limit, linked=alone is None) if alone is not False else ():
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    import shutil

                    shutil.rmtree(path)
                else:
                    path.unlink()


def _older(folder: Path, limit: float, linked: bool) -> list[Path]:
    """Files in ``folder`` that were not written (or ``linked``, if that counts) since ``limit``."""
    found = []
    for name in _names(folder):
        with contextlib.suppress(OSError):
            status = os.lstat(folder / name)
            if max(status.st_mtime, status.st_ctime if linked else 0) < limit:
                found.append(folder / name)
    return found


def of_other_bytes(ref: ObjectRef) -> ObjectDamaged:
    """The error for an object of the right size whose bytes are others."""
    reason = "its bytes have another SHA-256"
    return ObjectDamaged(f"object {ref.oid} is damaged: {reason}", ref.oid, reason)


def _of_other_size(ref: ObjectRef, size: int) -> ObjectDamaged:
    reason = f"has {size} bytes instead of {ref.size}"
    return ObjectDamaged(f"object {ref.oid} {reason}", ref.oid, f"it {reason}")


def _not_here(ref: ObjectRef) -> ObjectMissing:
    return ObjectMissing(
        f"object {ref.oid} ({ref.size} bytes) is not in the store; 'git theta fetch' may bring it",
        ref.oid,
    )


def _store_error(error: OSError, root: Path) -> StoreError:
    return StoreError(f"the object store {root} cannot be written: {error.strerror or error}")
