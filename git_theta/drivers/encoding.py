"""Paths are UTF-8 here, whatever the locale says, as they are for git.

With another encoding of file names Python cannot name a file that git named (``LC_ALL=C`` with
``PYTHONUTF8=0``), or names another one (a Latin-1 locale). It takes that encoding when it starts,
so it is started once more.
"""

from __future__ import annotations

import os
import sys

_OUTPUT = "git-theta-output"  # the option that hands over the encoding of what is written


def ensure_utf8() -> None:
    """Start Python once more, in its UTF-8 mode, if file names have another encoding.

    Standard output and error keep the locale's encoding, and show what it lacks with backslashes.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions and sys.executable:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        words = [sys.executable, "-X", "utf8", "-X", f"{_OUTPUT}={encoding}", *sys.orig_argv[1:]]
        os.execv(sys.executable, words)  # noqa: S606 - the very program that runs
    encoding = sys._xoptions.get(_OUTPUT)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                encoding=encoding if isinstance(encoding, str) else None, errors="backslashreplace"
            )
