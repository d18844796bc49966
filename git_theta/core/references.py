"""Which objects many manifests need, when most of them say mostly the same.

The versions of one model share most of their lines, so each distinct line is looked at once: a
thousand versions of three hundred tensors cost little more than one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from git_theta.core.manifest import (
    _MARKED,
    _MARKERS,
    Entry,
    _check_version,
    _parse_entry,
    check_size,
    parse,
)
from git_theta.errors import FormatError, ManifestError

# An update and its objects, behind a space: a tensor's name stands at the start of the line, an
# alias behind "also:".
_REF = rb"[0-9a-f]{64}:[0-9]{1,19}(?:@[0-9]{1,19}:[0-9]{1,19})?"
_LINK = re.compile(
    rb" (?!also:)[a-z][a-z0-9_-]*(?:\([^ ()]*\))?:(" + _REF + rb"(?:\+" + _REF + rb")*)(?![^ \r\n])"
)

_REMEMBERED = 256 << 20  # bytes of lines that are known to be right


class References:
    """Collects what manifests refer to: ``objects`` (id → size) grows with each that is added."""

    def __init__(self) -> None:
        self.objects: dict[str, int] = {}
        self._seen: set[bytes] = set()

    def add(self, text: bytes) -> list[Entry]:
        """The tensors (and the skeleton) on those lines of a manifest that were not seen before.

        :class:`~git_theta.errors.ManifestError` when the text is no manifest, or of a newer
        release. Whatever objects it seems to name are counted all the same, so that nothing is ever
        taken for unneeded.
        """
        found: list[Entry] = []
        number = 1
        try:
            for number, line in self._new_lines(text):  # noqa: B007 - the handler below tells it
                entry = _parse_entry(line.decode("ascii"))
                self._seen.add(line)
                self.objects.update((ref.oid, ref.size) for ref in entry.objects)
                found.append(entry)
        except (FormatError, ManifestError, UnicodeDecodeError) as error:
            self._guess(text)
            if isinstance(error, ManifestError) and str(error).startswith("line "):
                raise
            raise ManifestError(f"line {number}: {error}") from None
        return found

    def _new_lines(self, text: bytes) -> list[tuple[int, bytes]]:
        check_size(text)
        lines = text.split(b"\n")
        _check_version(lines[0].decode("ascii", "replace"))
        blank = lines.index(b"", 1) if b"" in lines[1:] else len(lines)
        if lines[-1] != b"" or blank < 5 or blank >= len(lines) - 1:
            raise ManifestError(f"line {len(lines)}: the manifest is cut short")
        wanted = {lines[4], *lines[blank + 1 : -1]} - self._seen
        if not wanted:
            return []
        numbered = [(5, lines[4]), *enumerate(lines[blank + 1 : -1], start=blank + 2)]
        return [(number, line) for number, line in numbered if line in wanted]

    def _guess(self, text: bytes) -> None:
        for match in _LINK.finditer(text):
            for part in match[1].decode("ascii").split("+"):
                oid, _, size = part.partition("@")[0].partition(":")
                self.objects.setdefault(oid, int(size))


class StrictCheck:
    """Checks manifests one after another, as strictly as ``parse``, in bounded memory: for input
    that nobody has looked at yet.
    """

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
