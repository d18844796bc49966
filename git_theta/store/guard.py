"""Keeping a deletion and the commands that store objects apart.

Who stores objects holds the store for as long as its command runs, together with all others who do;
who deletes needs it alone. POSIX systems lock the folder itself (``flock``), Windows bytes of the
file :data:`LOCK_FILE` in it. If the file system has no such locks, only the age of objects protects
them (see ``workflows/maintenance/prune.py``).
"""

from __future__ import annotations

import errno
import importlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from git_theta.errors import StoreError

_PATIENCE = 10.0  # seconds
_WAIT = (
    'cd /; n=0; while kill -0 "$1" 2>/dev/null && [ $n -lt 36000 ]; do n=$((n + 1)); sleep 0.1;'
    " done"
)


LOCK_FILE = "git-theta.lock"  # on Windows, where a folder cannot be locked
# Windows locks a byte for one holder only: who shares takes any free byte of these, who wants to be
# alone takes all.
_BYTES = 256
_PAUSE = 0.05  # seconds between two attempts


def hold(folder: Path) -> int | None:
    """Hold the store in ``folder`` until the returned descriptor is closed.

    None if that is not possible: then nobody is kept out.
    """
    return _locked(folder, alone=False)


def _locked(folder: Path, alone: bool) -> int | None:
    """A descriptor that holds ``folder``, together with others or ``alone``.

    None if the folder is missing, or its file system has no locks.
    """
    try:
        descriptor = _opened(folder)
    except OSError:  # not there, or not readable
        return None
    try:
        _wait(descriptor, alone)
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _opened(folder: Path) -> int:
    """A descriptor to lock: of the folder, or on Windows of a file in it."""
    try:
        import fcntl  # noqa: F401 - is it there?
    except ImportError:
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    return os.open(folder, os.O_RDONLY)


def _wait(descriptor: int, alone: bool) -> None:
    """Lock what :func:`_opened` returned as soon as nobody else's lock is in the way.

    POSIX systems wake the next one who waits; Windows has to be asked again and again.
    """
    try:
        import fcntl
    except ImportError:
        while not _attempt_bytes(descriptor, alone):
            time.sleep(_PAUSE)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)


def _attempt(descriptor: int, alone: bool) -> bool:
    """Lock what :func:`_opened` returned, without waiting; False if others hold it.

    :class:`OSError` if the file system has no locks. Closing the descriptor ends the lock.
    """
    try:
        import fcntl
    except ImportError:
        return _attempt_bytes(descriptor, alone)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
    except BlockingIOError:
        return False
    return True


def _attempt_bytes(descriptor: int, alone: bool) -> bool:
    msvcrt = importlib.import_module("msvcrt")  # typed for Windows alone
    for position in range(1 if alone else _BYTES):
        os.lseek(descriptor, position, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, _BYTES if alone else 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
        else:
            return True
    return False


def keep(descriptors: Sequence[int], process: int) -> None:
    """Leave what ``descriptors`` hold (see :func:`hold`) held when this process ends, until
    ``process`` has ended, too.

    A shell waits for that in the background, an hour at most. If it cannot be started, nothing is
    kept.
    """
    if not descriptors or not hasattr(os, "posix_spawn"):
        return
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        # Nobody waits for its output
        quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        words = ["sh", "-c", _WAIT, "git-theta-keep", str(process)]
        os.posix_spawn("/bin/sh", words, {"PATH": os.defpath}, file_actions=quiet, setpgroup=0)
    except OSError:
        pass
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def _possibly(descriptor: int) -> bool:
    """Whether nobody else holds the store, as far as the file system can tell."""
    try:
        return _attempt(descriptor, alone=True)
    except OSError:  # a file system without locks
        return True


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Have the store in ``folder``, which must exist, alone.

    :class:`StoreError` when others use it for longer than a few seconds.
    """
    try:
        descriptor = _opened(folder)
    except OSError as error:
        raise StoreError(f"the store {folder} cannot be read: {error.strerror or error}") from None
    try:
        until = time.monotonic() + _PATIENCE
        while not _possibly(descriptor):
            if time.monotonic() > until:
                raise StoreError(
                    "another git command is using the store; try again when it has finished"
                )
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def if_alone(folder: Path) -> Iterator[bool | None]:
    """Whether nobody holds the store in ``folder``; nobody can while this lasts.

    None if the system has no locks to tell.
    """
    try:
        descriptor = _opened(folder)
    except OSError:
        yield None
        return
    alone: bool | None = None
    try:
        with suppress(OSError):  # a file system without locks
            alone = _attempt(descriptor, alone=True)
        yield alone
    finally:
        os.close(descriptor)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Do what is done in turns in ``folder`` while others wait.

    Where the system has no locks, only threads of this process do.
    """
    with _THREADS.setdefault(str(folder), threading.Lock()):
        descriptor = _locked(folder, alone=True)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


_THREADS: dict[str, threading.Lock] = {}
