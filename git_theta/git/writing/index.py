"""Telling git's index that a file in the working tree is up to date.

``git update-index --refresh`` would send the whole file through the clean filter to find that out.
Whoever has just written the file knows it, so only the stat data of its entry is set, in place: an
entry's stat fields have a fixed place and size in index versions 2, 3 and 4 (gitformat-index(5)),
everything else stays as it is, and the trailing checksum is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from git_theta.errors import GitError
from git_theta.git.history import listing, revisions
from git_theta.git.repository import Repository

_STAT = struct.Struct(">10I")
_U32 = 0xFFFFFFFF


def refresh(repository: Repository, written: Mapping[str, os.stat_result]) -> bool:
    """Set the stat data of the index entries of ``written`` (path → its stat); False when this
    index must be refreshed by git itself.

    That is so for a split index, an index of another version, or while another git command holds
    the lock.
    """
    index = repository.index
    lock = index.with_name(index.name + ".lock")
    try:
        handle = os.open(
            lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
    except OSError:
        return False
    ours = os.fstat(handle)
    try:
        with os.fdopen(handle, "wb") as target:
            data = bytearray(index.read_bytes())
            done = patch(data, written, repository.hash_length // 2)
            if done:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
        if done and _is(lock, ours):
            with contextlib.suppress(OSError):
                lock.chmod(index.stat().st_mode & 0o777)
            lock.replace(index)  # from here on, a lock of that name is someone else's
            return True
    except OSError:
        pass
    except BaseException:
        _unlock(lock, ours)
        raise
    _unlock(lock, ours)
    return False


def _is(path: Path, status: os.stat_result) -> bool:
    """Whether ``path`` still names the file that had ``status``: somebody may have removed our lock
    and made one of their own.
    """
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False


def _unlock(lock: Path, ours: os.stat_result) -> None:
    if _is(lock, ours):
        with contextlib.suppress(OSError):
            lock.unlink()


def patch(data: bytearray, written: Mapping[str, os.stat_result], hash_size: int) -> bool:
    """Set the stat data of the stage-0 entries of ``written`` in the index ``data``; False, and
    nothing changed, when it cannot be done.
    """
    try:
        places = _places(data, {os.fsencode(path) for path in written}, hash_size)
    except (struct.error, IndexError, ValueError, GitError):
        return False
    if places is None:
        return False
    for path, status in written.items():
        place = places.get(os.fsencode(path))
        if place is not None:
            _STAT.pack_into(data, place, *_fields(status, data, place))
    if any(data[-hash_size:]):  # zeros: index.skipHash
        hasher = hashlib.sha1(usedforsecurity=False) if hash_size == 20 else hashlib.sha256()
        hasher.update(memoryview(data)[:-hash_size])
        data[-hash_size:] = hasher.digest()
    return True


def _fields(status: os.stat_result, data: bytearray, place: int) -> tuple[int, ...]:
    old = _STAT.unpack_from(data, place)
    ctime, mtime = divmod(status.st_ctime_ns, 10**9), divmod(status.st_mtime_ns, 10**9)
    if os.name == "nt":  # git for Windows keeps zeros for device, inode, owner and group
        device = inode = owner = group = 0
    else:
        device, inode, owner, group = status.st_dev, status.st_ino, status.st_uid, status.st_gid
    values = (*ctime, *mtime, device, inode, old[6], owner, group, status.st_size)
    return tuple(value & _U32 for value in values)


def _places(data: bytearray, wanted: set[bytes], hash_size: int) -> dict[bytes, int] | None:
    """Where the stat data of each wanted path stands; None for a kind of index that is not to be
    touched.
    """
    magic, version, count = struct.unpack_from(">4sII", data, 0)
    if magic != b"DIRC" or version not in (2, 3, 4):
        return None
    position, name, places = 12, b"", {}
    end_of_hash = _STAT.size + hash_size
    for _ in range(count):
        start = position
        (flags,) = struct.unpack_from(">H", data, start + end_of_hash)
        position = start + end_of_hash + 2 + (2 if flags & 0x4000 else 0)
        if version == 4:
            strip, position = _offset_number(data, position)
            stop = data.index(0, position)
            name = name[: len(name) - strip] + bytes(data[position:stop])
            position = stop + 1
        else:
            stop = data.index(0, position)
            name = bytes(data[position:stop])
            position = start + (stop - start + 8) // 8 * 8
        if name in wanted and not flags & 0x3000:
            places[name] = start
    while position + 8 <= len(data) - hash_size:
        signature, size = struct.unpack_from(">4sI", data, position)
        if signature == b"link":
            return None  # split index: the entry may lie in the shared file
        position += 8 + size
    return places


def _offset_number(data: bytearray, position: int) -> tuple[int, int]:
    """Git's offset varint."""
    byte = data[position]
    value = byte & 0x7F
    while byte & 0x80:
        position += 1
        byte = data[position]
        value = (value + 1 << 7) | (byte & 0x7F)
    return value, position + 1


def settle(newest_ns: int) -> None:
    """Wait until a file written at ``newest_ns`` is older than an index written now, so that git
    need not look into it again.
    """
    wait = newest_ns + 20_000_000 - time.time_ns()
    if 0 < wait < 1_000_000_000:
        time.sleep(wait / 1e9)


def unfinished(repository: Repository, cwd: Path | None = None) -> str:
    """What to do when nothing is checked out though HEAD has files, as after a clone whose checkout
    failed; empty when that is not so.
    """
    if repository.worktree is None or not listing.is_empty(cwd):
        return ""
    if revisions.find("HEAD", "commit", repository) is None:
        return ""
    if not listing.tree("HEAD", where=repository, recursive=False):
        return ""
    return (
        "nothing is checked out: the index is empty, but HEAD has files, as after a clone whose"
        " checkout failed; 'git reset --hard' goes on with the checkout (files of HEAD that are"
        " there already are written anew)"
    )
