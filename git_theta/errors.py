"""Every error Git-Theta raises on purpose.

All of them descend from :class:`ThetaError`, and each also inherits the built-in exception that
fits, so that a caller of the Python API can catch either. A message says what happened, where, and
what to do next, on one line.
"""

from __future__ import annotations

import sys
from typing import Self


def damaged(error: ImportError) -> str:
    """The line for a module that every installation has, but this one lacks or cannot import."""
    what = f"cannot be imported: {' '.join(str(error).split())[:200]}"
    if isinstance(error, ModuleNotFoundError):
        what = "is missing"
    module = f"module {error.name}" if error.name else "a module"
    return (
        f"this installation of Git-Theta is damaged ({module} {what}): reinstall it for"
        f" {sys.executable}"
    )


class ThetaError(Exception):
    """Root of all errors raised on purpose; its text is one line meant for a user."""


class FormatError(ThetaError, ValueError):
    """A checkpoint is recognised but broken: truncated, overlapping, or lying about its sizes."""


class ManifestError(ThetaError, ValueError):
    """A manifest is malformed; the message names the line and the reason."""


class ManifestVersionError(ManifestError):
    """A manifest was written by a release newer than this one."""


class PayloadError(ThetaError, ValueError):
    """The bytes of an object do not decode to what they promise."""


class _ObjectError(ThetaError):
    """Something is wrong with one object: ``oid``, its id, is empty if no single one is to blame,
    and ``reason`` if the class says it all.
    """

    def __init__(self, message: str, oid: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.oid, self.reason = oid, reason

    def within(self, what: str) -> Self:
        """The same error, with ``what`` needs the object in front."""
        return type(self)(f"{what}: {self}", self.oid, self.reason)


class ObjectMissing(_ObjectError, LookupError):  # noqa: N818 - a fact about the store, as KeyError
    """An object that a manifest needs is not in the store."""


class ObjectDamaged(_ObjectError, ValueError):  # noqa: N818 - as above
    """An object or tensor is here, but its bytes do not have the promised hash."""


class StoreError(ThetaError, OSError):
    """The object store cannot be read or written (disk full, permissions, …)."""


class FileChanged(ThetaError, OSError):  # noqa: N818 - as above
    """A file changed while it was being read."""


class GitError(ThetaError, RuntimeError):
    """A git command failed, or the current directory is not what a command needs."""


class NotCheckedOut(GitError):  # noqa: N818 - as above
    """A commit was made, but the index or the working tree could not follow.

    ``commit`` is its id.
    """

    def __init__(self, message: str, commit: str) -> None:
        super().__init__(message)
        self.commit = commit


class UsageError(ThetaError, ValueError):
    """A command or function was called with arguments that cannot be served."""


class PluginError(ThetaError, LookupError):
    """A plugin is missing, broken, or clashes with another one."""


class MergeError(ThetaError, ValueError):
    """Tensors cannot be merged by the chosen strategy and options."""


class TransferError(ThetaError, OSError):
    """Objects could not be sent to, or brought from, where a remote keeps them."""
