from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from git_theta.core.manifest import ObjectRef
from git_theta.errors import ObjectDamaged, ObjectMissing, StoreError
from git_theta.store import local
from git_theta.store.local import LocalStore

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX modes")
LARGE = (1 << 20) + 5  # synced in the background


def ref_of(data: bytes) -> ObjectRef:
    return ObjectRef(hashlib.sha256(data).hexdigest(), len(data))


def place(root: Path, ref: ObjectRef) -> Path:
    return root / ref.oid[:2] / ref.oid[2:4] / ref.oid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "theta" / "objects"


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    store = LocalStore(root)
    yield store
    store.close()


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in (root.parent / "tmp").glob("*"))


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(100_000), bytes(LARGE)], ids=len)
def test_an_object_comes_back(store: LocalStore, root: Path, data: bytes) -> None:
    ref = store.put([data[:10], memoryview(data)[10:], b""])
    assert ref == ref_of(data)
    assert store.read(ref) == data, "the writer sees it at once"
    assert LocalStore(root).find(ref.oid) is None, "others do not before it is flushed"
    assert store.missing([ref]) == []
    store.verify(ref)
    store.flush()
    assert store.read(ref) == LocalStore(root).read(ref) == data
    assert store.view(ref.whole) == data
    store.verify(ref)
    assert place(root, ref).read_bytes() == data
    assert list(store) == [ref]
    assert leftovers(root) == []


@posix
@pytest.mark.parametrize("size", [0, 7, LARGE - 1, LARGE + 1])
def test_a_view_of_an_object_of_another_size(store: LocalStore, root: Path, size: int) -> None:
    ref = store.put([bytes(LARGE)])
    store.flush()
    place(root, ref).unlink()
    with pytest.raises(ObjectMissing):
        store.view(ref.whole)
    place(root, ref).write_bytes(bytes(size))
    with pytest.raises(ObjectDamaged, match=f"has {size} bytes instead of {LARGE}"):
        store.view(ref.whole)


def test_a_view_where_nothing_can_be_mapped(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    data = os.urandom(LARGE)
    ref = store.put([data])
    monkeypatch.setattr("mmap.mmap", refuse)
    assert store.view(ref.whole) == data


@posix
def test_a_view_outlives_its_object(store: LocalStore, root: Path) -> None:
    """As a merge reads one that a 'prune' beside it deletes, or 'fsck --repair' replaces."""
    data = os.urandom(LARGE)
    ref = store.put([data])
    store.flush()
    view = store.view(ref.whole)
    store.remove(ref.oid)
    assert view == data


@posix
def test_objects_are_read_only(store: LocalStore, root: Path) -> None:
    ref = store.put([b"data"])
    store.flush()
    assert not stat.S_IMODE(place(root, ref).stat().st_mode) & 0o222


def test_equal_objects_are_stored_once(store: LocalStore, root: Path) -> None:
    first = store.put([b"data"])
    assert store.put([b"da", b"ta"]) == first
    store.flush()
    inode = place(root, first).stat().st_ino
    store.put([b"data"])
    other = LocalStore(root)
    other.put([b"data"])
    other.flush()
    store.flush()
    assert place(root, first).stat().st_ino == inode, "what is there and right is left alone"
    assert leftovers(root) == []


def test_missing(store: LocalStore) -> None:
    known, unknown = store.put([b"known"]), ref_of(b"unknown")
    store.flush()
    cut = ObjectRef(known.oid, known.size + 1)
    assert store.missing([known, unknown, cut]) == [unknown, cut]
    for call in (store.read, store.verify):
        with pytest.raises(ObjectMissing, match=unknown.oid):
            call(unknown)
        with pytest.raises(ObjectDamaged, match=f"{known.oid} has 5 bytes instead of 6"):
            call(cut)


def test_damage_is_found_and_healed(store: LocalStore, root: Path) -> None:
    for damaged in (b"dat4", b"dat", b""):
        ref = store.put([b"data"])
        store.flush()
        path = place(root, ref)
        path.chmod(0o644)
        path.write_bytes(damaged)
        with pytest.raises(ObjectDamaged, match=ref.oid):
            store.verify(ref)
        store.put([b"data"])
        store.flush()
        store.verify(ref)
        assert path.read_bytes() == b"data"


def test_alternates(store: LocalStore, root: Path, tmp_path: Path) -> None:
    ref = store.put([b"data"])
    own = store.put([b"own"])
    store.flush()
    borrower = LocalStore(tmp_path / "b" / "objects", [tmp_path / "nowhere", root])
    assert borrower.missing([ref, own]) == []
    assert borrower.read(ref) == b"data"
    assert list(borrower) == []
    borrower.remove(ref.oid)
    assert borrower.read(ref) == b"data", "what is another's is never deleted"
    place(borrower.root, ref).parent.mkdir(parents=True)
    place(borrower.root, ref).write_bytes(b"cut")
    assert borrower.missing([ref]) == []
    assert borrower.read(ref) == b"data", "the alternate's object has the right size"
    borrower.verify(ref)


def test_iteration_passes_over_what_is_no_object(store: LocalStore, root: Path) -> None:
    ref = store.put([b"data"])
    store.flush()
    (root / "README").write_text("hello")
    (root / "zz").mkdir()
    (place(root, ref).parent / "short").write_bytes(b"")
    (place(root, ref).parent / ("0" * 64)).write_bytes(b"in the wrong folder")
    assert list(store) == [ref]
    assert list(LocalStore(root / "nowhere")) == []


def test_a_folder_is_no_object(store: LocalStore, root: Path) -> None:
    ref = ref_of(b"data")
    place(root, ref).mkdir(parents=True)
    assert store.find(ref.oid) is None
    store.put([b"data"])
    with pytest.raises(StoreError, match="cannot be written"):
        store.flush()


def test_remove(store: LocalStore, root: Path) -> None:
    ref = store.put([b"data"])
    store.flush()
    store.remove(ref.oid)
    store.remove(ref.oid)
    assert store.missing([ref]) == [ref]


@pytest.mark.parametrize("linked", [True, False])
def test_adopt(
    store: LocalStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    if not linked:
        monkeypatch.setattr(local, "_link", lambda path, other: False)
    data = os.urandom(2 << 20)
    path = tmp_path / "arrived"
    path.write_bytes(data)
    store.adopt(path, ref_of(data))
    assert store.missing([ref_of(data)]) == []
    store.flush()
    assert LocalStore(root).read(ref_of(data)) == data
    assert path.read_bytes() == data
    assert path.samefile(place(root, ref_of(data))) == linked
    store.adopt(path, ref_of(data))  # again, now that it is here
    store.flush()
    assert leftovers(root) == []


@posix
def test_what_others_may_read_is_not_taken_from_them(root: Path, tmp_path: Path) -> None:
    """A link shares its mode with the file it was made of; where ours must differ, it is a copy."""
    path = tmp_path / "arrived"
    path.write_bytes(b"data")
    path.chmod(0o444)
    store = LocalStore(root, shared=-0o640)
    store.adopt(path, ref_of(b"data"))
    store.flush()
    store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(place(root, ref_of(b"data")).stat().st_mode) == 0o440


@pytest.mark.parametrize("linked", [True, False])
def test_what_arrives_damaged_is_not_adopted(
    store: LocalStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    if not linked:
        monkeypatch.setattr(local, "_link", lambda path, other: False)
    path = tmp_path / "arrived"
    path.write_bytes(b"dat4")
    for ref in (ref_of(b"data"), ObjectRef(ref_of(b"dat4").oid, 5)):
        with pytest.raises(ObjectDamaged, match=ref.oid):
            store.adopt(path, ref)
    with pytest.raises(ObjectMissing, match="was deleted while"):
        store.adopt(tmp_path / "nowhere", ref_of(b"data"))
    store.flush()
    assert list(store) == []
    assert leftovers(root) == []
    assert path.read_bytes() == b"dat4"


def test_discard(store: LocalStore, root: Path) -> None:
    kept = store.put([b"kept"])
    store.flush()
    for size in (3, LARGE):
        ref = store.put([bytes(size)])
        store.discard()
        assert store.missing([ref]) == [ref]
        assert leftovers(root) == []
    store.flush()
    assert list(store) == [kept]


def test_close_discards(root: Path) -> None:
    store = LocalStore(root)
    ref = store.put([bytes(LARGE)])
    store.close()
    assert LocalStore(root).missing([ref]) == [ref]
    assert leftovers(root) == []


def test_a_producer_that_fails_leaves_nothing(store: LocalStore, root: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"begun"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put(chunks())
    store.flush()
    assert list(store) == []
    assert leftovers(root) == []


@posix
@pytest.mark.parametrize(
    ("shared", "mask", "file", "folder"),
    [
        (0, 0o022, 0o444, 0o755),
        (0, 0o077, 0o400, 0o700),
        (0o660, 0o077, 0o440, 0o770),
        (0o664, 0o077, 0o444, 0o775),
        (0o660, 0o002, 0o444, 0o775),
        (-0o660, 0o022, 0o440, 0o770),
        (-0o640, 0o000, 0o440, 0o750),
        (-0o664, 0o077, 0o444, 0o775),
    ],
)
def test_permissions(root: Path, shared: int, mask: int, file: int, folder: int) -> None:
    before = os.umask(mask)
    try:
        store = LocalStore(root, shared=shared)
        ref = store.put([b"data"])
        store.flush()
        store.close()
    finally:
        os.umask(before)
    path = place(root, ref)
    assert stat.S_IMODE(path.stat().st_mode) == file
    for parent in (path.parent, path.parent.parent, root, root.parent):
        mode = stat.S_IMODE(parent.stat().st_mode)
        assert mode & 0o777 == folder
        assert bool(mode & stat.S_ISGID) == bool(shared)


def test_stale_temporary_files_are_swept(root: Path) -> None:
    folder = root.parent / "tmp"
    folder.mkdir(parents=True)
    for name, age in (("dead", 100_000), ("alive", 10)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    store = LocalStore(root)
    store.put([b"data"])
    store.close()
    assert leftovers(root) == ["alive"]


def test_nothing_is_swept_while_anyone_uses_the_store(root: Path) -> None:
    """A file may be old because the machine slept, or because it is a link to an old one."""
    folder = root.parent / "tmp"
    folder.mkdir(parents=True)
    for name in ("file", "folder/inside"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"half")
    user = LocalStore(root)
    user.hold()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    for held in (True, False):
        if not held:
            user.close()
        other = LocalStore(root)
        other.hold()
        other.close()
        assert bool(leftovers(root)) == held


def test_what_is_relied_on_is_young_again(store: LocalStore, root: Path) -> None:
    old, new, gone = (ref_of(data) for data in (b"old", b"new", b"gone"))
    for data in (b"old", b"new"):
        store.put([data])
    store.flush()
    times = {}
    for ref in (old, new):
        os.utime(place(root, ref), (1, 1))
        times[ref] = local.touched(place(root, ref).stat())
    assert all(time.time() - when < 3600 for when in times.values()), (
        "a change of its times is a touch, too"
    )
    assert store.rely_on([old, new, gone]) == [gone]
    assert place(root, old).stat().st_mtime == 1, "it is young enough"
    for limit, mtime in ((0.0, 1), (time.time() + 60, time.time())):
        assert local._freshen(str(place(root, old)), place(root, old).stat(), limit)
        assert abs(place(root, old).stat().st_mtime - mtime) < 60
    assert not local._freshen(str(place(root, gone)), place(root, old).stat(), time.time() + 60)


# Trouble


OPERATIONS = ["_sync_file", "os.replace", "Path.chmod", "Path.mkdir"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [10, LARGE])
def test_whatever_fails_no_half_object_becomes_visible(
    root: Path, monkeypatch: pytest.MonkeyPatch, operation: str, size: int
) -> None:
    """The disk refuses the n-th call of something: one error of ours, every visible object whole,
    and a later attempt succeeds.
    """
    contents = [bytes([number]) * (size + number) for number in range(4)]
    for refuse in range(1, 12):
        calls = 0

        def broken(original: Callable[..., object], refuse: int = refuse) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal calls
                calls += 1
                if calls == refuse:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return original(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            holder, _, name = operation.rpartition(".")
            target: object = {"": local, "os": os, "Path": Path}[holder]
            patch.setattr(target, name, broken(getattr(target, name)))
            store = LocalStore(root)
            failed = False
            try:
                for data in contents:
                    store.put([data])
                store.flush()
            except StoreError as error:
                failed = "No space left on device" in str(error)
            store.close()
        assert failed == (calls >= refuse)
        for path in root.glob("*/*/*"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert leftovers(root) == []
        after = LocalStore(root)
        for data in contents:
            after.put([data])
        after.flush()
        for data in contents:
            after.verify(ref_of(data))
            after.remove(ref_of(data).oid)
        after.close()
        for folder in sorted(root.rglob("*"), reverse=True):
            folder.rmdir()


def test_full_disk_while_writing(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store.writer()
    writer.write(b"begun")
    writer._file.close()

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(StoreError, match="No space left on device"):
        writer.write(b"more")
    writer.abort()
    assert leftovers(root) == []


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "theta").write_bytes(b"a file")
    store = LocalStore(tmp_path / "theta" / "objects")
    assert store.missing([ref_of(b"x")]) == [ref_of(b"x")]
    with pytest.raises(StoreError, match="cannot be written"):
        store.put([b"x"])


# Several at once


def test_threads_of_one_store(store: LocalStore, root: Path) -> None:
    """Many threads write the same and different objects, read them before they are flushed and
    while they are.
    """
    contents = [bytes([number]) * (number * 1000 + 1) for number in range(60)]
    done = threading.Event()

    def write(start: int) -> None:
        for number in range(len(contents)):
            data = contents[(start + number) % len(contents)]
            ref = store.put([data])
            assert store.read(ref) == data
            assert store.missing([ref]) == []

    def read() -> None:
        while not done.is_set():
            for data in contents:
                ref = ref_of(data)
                # It may be removed between the question and the read
                with contextlib.suppress(ObjectMissing):
                    if not store.missing([ref]):
                        assert store.read(ref) == data

    with ThreadPoolExecutor(7) as pool:
        reader = pool.submit(read)
        try:
            for _ in range(3):
                list(pool.map(write, range(0, 42, 7)))
                store.flush()
                for ref in list(store):
                    if ref.size > 30_000:
                        store.remove(ref.oid)
        finally:
            done.set()
        reader.result()
    assert leftovers(root) == []


def test_reading_while_another_thread_flushes(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the rename and the end of the flush an object has left its temporary place, but still
    counts as pending.
    """
    ref = store.put([b"data"])
    read: list[bytes] = []
    original = store._sync_folders

    def late(folders: set[Path]) -> None:
        read.append(store.read(ref))
        store.verify(ref)
        original(folders)

    monkeypatch.setattr(store, "_sync_folders", late)
    store.flush()
    assert read == [b"data"]


def test_two_stores_write_the_same(root: Path) -> None:
    contents = [bytes([number]) * 5000 for number in range(50)]
    problems: list[BaseException] = []

    def work() -> None:
        try:
            store = LocalStore(root)
            for data in contents:
                store.put([data])
                if data[0] % 7 == 0:
                    store.flush()
            store.flush()
            store.close()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = LocalStore(root)
    assert {ref.oid for ref in found} == {ref_of(data).oid for data in contents}
    for data in contents:
        found.verify(ref_of(data))
    assert leftovers(root) == []


class StoreMachine(RuleBasedStateMachine):
    """A store, and a dictionary that says what must be in it."""

    written = Bundle("written")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="git-theta-store-")
        self.root = Path(self.folder.name) / "theta" / "objects"
        self.store = LocalStore(self.root)
        self.visible: dict[str, bytes] = {}
        self.pending: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(target=written, data=st.binary(max_size=3), repeat=st.sampled_from([1, 1000, 600_000]))
    def put(self, data: bytes, repeat: int) -> ObjectRef:
        content = data * repeat
        ref = self.store.put([content])
        assert ref == ref_of(content)
        self.pending[ref.oid] = content
        return ref

    @rule()
    def flush(self) -> None:
        self.store.flush()
        self.visible |= self.pending
        self.pending = {}

    @rule()
    def discard(self) -> None:
        self.store.discard()
        self.pending = {}

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.pending = {}
        self.store = LocalStore(self.root)

    @rule(ref=written)
    def remove(self, ref: ObjectRef) -> None:
        self.store.remove(ref.oid)
        self.visible.pop(ref.oid, None)

    @rule(ref=written)
    def read(self, ref: ObjectRef) -> None:
        expected = self.pending.get(ref.oid, self.visible.get(ref.oid))
        if expected is None:
            assert self.store.missing([ref]) == [ref]
            with pytest.raises(ObjectMissing):
                self.store.read(ref)
        else:
            assert self.store.missing([ref]) == []
            assert self.store.read(ref) == expected
            self.store.verify(ref)

    @precondition(lambda self: self.visible)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        oid = data.draw(st.sampled_from(sorted(self.visible)))
        path = self.root / oid[:2] / oid[2:4] / oid
        path.chmod(0o644)
        path.write_bytes(self.visible[oid] + b"?")
        path.chmod(0o444)
        assert self.store.missing([ObjectRef(oid, len(self.visible[oid]))]) or oid in self.pending
        self.store.put([self.visible[oid]])
        self.pending[oid] = self.visible[oid]
        self.flush()

    @invariant()
    def everything_visible_is_whole(self) -> None:
        found = {path.name: path.read_bytes() for path in self.root.glob("*/*/*")}
        assert found == self.visible
        assert len(leftovers(self.root)) == len(self.pending)


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, suppress_health_check=list(HealthCheck)
)
TestStoreMachine = StoreMachine.TestCase


@given(st.lists(st.binary(max_size=20), max_size=5))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_do_not_matter(tmp_path: Path, chunks: list[bytes]) -> None:
    store = LocalStore(tmp_path / "objects")
    assert store.put(chunks) == ref_of(b"".join(chunks))
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_linked_object_of_someone_elses_keeps_its_mode(
    store: LocalStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arrived"
    path.write_bytes(b"data")

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    store.adopt(path, ref_of(b"data"))
    store.flush()
    assert store.read(ref_of(b"data")) == b"data"
