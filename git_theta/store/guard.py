"""Keeping a deletion and the commands that store objects apart.

Who stores objects holds the store for as long as its command runs, together with all others who do;
who deletes needs it alone. Where the system has no such locks, only the age of objects protects
them (see ``workflows/maintenance/prune.py``).
"""

from __future__ import annotations

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


def hold(folder: Path) -> int | None:
    """Hold the store in ``folder`` until the returned descriptor is closed.

    None where that is not possible: then nobody is kept out.

    The lock is on the folder itself, so that nothing is written for it.
    """
    return _locked(folder, alone=False)


def _locked(folder: Path, alone: bool) -> int | None:
    """A descriptor of ``folder`` that is locked, together with others or ``alone``; None where that
    is not possible.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not there, or not readable
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


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


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Have the store in ``folder``, which must exist, alone.

    :class:`StoreError` when others use it for longer than a few seconds.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"the store {folder} cannot be read: {error.strerror or error}") from None
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError(
                        "another git command is using the store; try again when it has finished"
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def if_alone(folder: Path) -> Iterator[bool | None]:
    """Whether nobody holds the store in ``folder``; nobody can while this lasts.

    None if the system has no locks to tell.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield None
        return
    alone: bool | None = None
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                alone = False
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
