"""Checking many manifests as strictly as :func:`~git_theta.core.manifest.parse` does, in bounded
memory: for input that nobody has looked at yet.

The versions of one model share most of their lines, so each distinct line is parsed once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from git_theta.core.manifest import _MARKED, _MARKERS, Entry, _parse_entry, check_size, parse
from git_theta.errors import FormatError, ManifestError

_REMEMBERED = 256 << 20  # bytes of lines that are known to be right


class StrictCheck:
    """Checks manifests one after another."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}  # of the tensor on each line that was parsed
        self._held = 0

    def entries(self, text: bytes) -> Iterator[Entry]:
        """The skeleton, and the tensors on those lines of a manifest that were not seen before.

        :class:`~git_theta.errors.ManifestError`, at the end or before, exactly if ``parse`` refuses
        the text.
        """
        check_size(text)
        end = text.find(b"\n\n") + 2
        if end == 1 or not text.isascii() or not text.endswith(b"\n"):
            parse(text)  # says what is wrong
        head = parse(text[:end])
        yield head.skeleton
        names, total = set[bytes](), 0
        body = io.BytesIO(text)
        body.seek(end)
        first = text.count(b"\n", 0, end) + 1
        for number, ended in enumerate(body, start=first):
            line = ended[:-1]
            size = self._sizes.get(line)
            if size is None:
                entry = _parsed(line, number)
                size = entry.nbytes
                self._remember(line, size)
                yield entry
            total += size
            for name in _names(line):
                if name in names:
                    shown = name[:60].decode("ascii")
                    raise ManifestError(f"line {number}: a second tensor called {shown!a}")
                names.add(name)
        if total > head.size:
            raise ManifestError(
                f"line 4: the tensors hold {total} bytes, more than the file's {head.size}"
            )

    def _remember(self, line: bytes, size: int) -> None:
        self._held += len(line) + 100  # about what Python needs beside the bytes
        if self._held > _REMEMBERED:
            self._sizes.clear()
            self._held = 0
        self._sizes[line] = size


def _parsed(line: bytes, number: int) -> Entry:
    text = line.decode("ascii")
    try:
        return _parse_entry(text)
    except (ManifestError, FormatError) as error:
        reason = _MARKED if text.startswith(_MARKERS) else error
        raise ManifestError(f"line {number}: {reason}") from None


def _names(line: bytes) -> list[bytes]:
    """The name and the further names on a line, as they are written: there is one way for each."""
    first, *others = line.split(b" also:")
    return [first.partition(b" ")[0], *others]
