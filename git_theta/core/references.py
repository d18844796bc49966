"""Which objects many manifests need, when most of them say mostly the same.

The versions of one model share most of their lines, so each distinct line is looked at once: a
thousand versions of three hundred tensors cost little more than one.
"""

from __future__ import annotations

import re

from git_theta.core.manifest import Entry, _check_version, _parse_entry, check_size
from git_theta.errors import FormatError, ManifestError

# An update and its objects, behind a space: a tensor's name stands at the start of the line, an
# alias behind "also:".
_REF = rb"[0-9a-f]{64}:[0-9]{1,19}(?:@[0-9]{1,19}:[0-9]{1,19})?"
_LINK = re.compile(
    rb" (?!also:)[a-z][a-z0-9_-]*(?:\([^ ()]*\))?:(" + _REF + rb"(?:\+" + _REF + rb")*)(?![^ \r\n])"
)


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
