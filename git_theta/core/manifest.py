"""The text that Git stores in place of a checkpoint: one line per tensor.

Specified in ``docs/manifest-format.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from git_theta.core import dtypes
from git_theta.core.digest import HEX, digest
from git_theta.core.names import escape, unescape
from git_theta.core.tensors import Spec
from git_theta.errors import FormatError, ManifestError, ManifestVersionError

if TYPE_CHECKING:
    pass

VERSION = 1
MAGIC = b"git-theta manifest "
INLINE_LIMIT = 64
CHAIN_LIMIT = 64
PARTS_LIMIT = 4096
SIZE_LIMIT = 1 << 30
LINES_LIMIT = 8_000_000
HEADERS_LIMIT, HEADER_SIZE_LIMIT = 256, 16 << 20

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_SHAPE = re.compile(rf"([a-z][a-z0-9_]*)\[((?:{_NUMBER}(?:,{_NUMBER})*)?)\]\Z")
_REF = r"[0-9a-f]{64}:[1-9][0-9]{0,18}"
_LINK = re.compile(rf"([a-z][a-z0-9_-]*)(?:\(([A-Za-z0-9=.,%_-]+)\))?:({_REF}(?:\+{_REF})*)\Z")
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")


class ObjectRef(NamedTuple):
    """A stored object: its SHA-256 in hex and its size in bytes."""

    oid: str
    size: int


class Link(NamedTuple):
    """One step of a chain: how it is stored (``update``), a note for the reader, and the object(s)
    that hold it.
    """

    update: str
    objects: tuple[ObjectRef, ...]
    note: str = ""

    @property
    def size(self) -> int:
        """Stored bytes."""
        return sum(ref.size for ref in self.objects)


class Entry(NamedTuple):
    """One tensor: what it is, its digest, and where it is stored.

    ``chain`` runs from the newest update down to one that needs no base. A tensor of at most 64
    bytes has ``inline`` instead.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    chain: tuple[Link, ...] = ()
    inline: bytes | None = None
    aliases: tuple[str, ...] = ()

    @property
    def spec(self) -> Spec:
        """Type and shape."""
        return Spec(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the tensor in the checkpoint, in bytes."""
        return dtypes.nbytes(self.dtype, self.shape)

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """Every object needed to rebuild it."""
        return tuple(ref for link in self.chain for ref in link.objects)

    @classmethod
    def of_inline(
        cls,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        data: bytes,
        aliases: tuple[str, ...] = (),
    ) -> Entry:
        """The entry of a tensor small enough to stand in the manifest itself."""
        return cls(name, dtype, shape, digest(data), (), data, aliases)


@dataclass(frozen=True)
class Manifest:
    """A checkpoint of ``size`` bytes: its format, skeleton and tensors in file order.

    ``headers`` are further facts, as JSON values by key (``merge``: the recipe of a merge). What
    this release does not know is kept.
    """

    format: str
    size: int
    skeleton: Entry
    entries: tuple[Entry, ...]
    headers: Mapping[str, object]

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        """Entries by name, and by alias."""
        table = {alias: entry for entry in self.entries for alias in entry.aliases}
        table.update({entry.name: entry for entry in self.entries})
        return table

    @cached_property
    def by_digest(self) -> dict[tuple[str, str], Entry]:
        """Entries by (digest, dtype): the first one where several are equal."""
        table: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            table.setdefault((entry.digest, entry.dtype), entry)
        return table

    @cached_property
    def identity(self) -> str:
        """Digest of the content alone: equal for two manifests exactly when they rebuild the same
        bytes.
        """
        parts = [self.format, str(self.size), self.skeleton.digest]
        parts += (
            f"{escape(e.name)} {dtypes.describe(e.dtype, e.shape)} {e.digest}" for e in self.entries
        )
        return digest("\n".join(parts).encode("ascii"))

    def objects(self) -> dict[str, int]:
        """Every object needed to rebuild the file: id → size."""
        return {
            ref.oid: ref.size for entry in (self.skeleton, *self.entries) for ref in entry.objects
        }


def is_manifest(head: bytes) -> bool:
    """Whether content that starts with ``head`` (at least 19 bytes) claims to be a manifest."""
    return head.startswith(MAGIC)


def unconverted(text: bytes) -> bytes:
    """``text`` as it was written: where attributes say ``text``, git gives a manifest's lines other
    ends before anybody sees it.
    """
    return (
        text.replace(b"\r\n", b"\n")
        if is_manifest(text) and text.partition(b"\n")[0].endswith(b"\r")
        else text
    )


def dump(manifest: Manifest) -> bytes:
    """The one text of ``manifest``."""
    lines = [
        f"git-theta manifest {VERSION}",
        f"format {manifest.format}",
        f"size {manifest.size}",
        _entry(manifest.skeleton, skeleton=True),
    ]
    for key in sorted(manifest.headers):
        lines.append(f"{key} {_json(manifest.headers[key])}")
        if len(lines[-1]) > HEADER_SIZE_LIMIT or len(lines) > 4 + HEADERS_LIMIT:
            raise ManifestError(
                f"header {key!r} is too large ({len(lines[-1])} bytes), or one too many"
            )
    lines.append("")
    lines.extend(map(_entry, manifest.entries))
    lines.append("")
    return "\n".join(lines).encode("ascii")


def _entry(entry: Entry, skeleton: bool = False) -> str:
    fields = [
        "skeleton" if skeleton else escape(entry.name),
        dtypes.describe(entry.dtype, entry.shape),
    ]
    if entry.inline is not None:
        fields.append(f"inline:{entry.inline.hex()}")
    else:
        fields.append(entry.digest)
        fields.extend(map(_link, entry.chain))
    fields.extend(f"also:{escape(alias)}" for alias in entry.aliases)
    return " ".join(fields)


def _link(link: Link) -> str:
    note = f"({link.note})" if link.note else ""
    return f"{link.update}{note}:" + "+".join(f"{ref.oid}:{ref.size}" for ref in link.objects)


def dump_chain(chain: Iterable[Link]) -> str:
    """A chain as it stands in a tensor's line."""
    return " ".join(map(_link, chain))


def parse_chain(text: str) -> tuple[Link, ...]:
    """The chain that :func:`dump_chain` wrote; :class:`ManifestError` otherwise."""
    return tuple(map(_parse_link, text.split(" ")))


_MARKERS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")
_MARKED = (
    "a conflict marker: git merged the manifest as text; 'git theta resolve', or after a merge of"
    " several branches 'git theta merge A B C -s STRATEGY', merges the model by tensor"
)


def parse(text: bytes) -> Manifest:
    """Read a manifest strictly: :class:`ManifestError` names the line and the reason of the first
    thing that is wrong.

    Accepts exactly what :func:`dump` writes, so that ``dump(parse(text)) == text``.
    """
    check_size(text)
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        _check_version(text.partition(b"\n")[0].decode("ascii", "replace"))
        number = text.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"line {number}: a byte that is not ASCII") from None
    _check_version(lines[0])
    if lines[-1] != "":
        raise ManifestError(f"line {len(lines)}: the manifest ends in the middle of a line")
    try:
        blank = lines.index("")
    except ValueError:  # pragma: no cover - the last line is ""
        raise ManifestError("no empty line behind the header") from None
    number = 0
    try:
        number = 1
        if blank < 4:
            raise ManifestError("the header needs format, size and skeleton")
        number = 2
        format_name = _word(_field(lines[1], "format"))
        number = 3
        size = _number(_field(lines[2], "size"))
        number = 4
        skeleton = _parse_entry("skeleton " + _field(lines[3], "skeleton"))
        if skeleton.dtype != "u8" or len(skeleton.shape) != 1 or skeleton.aliases:
            raise ManifestError("the skeleton must be u8[N]")
        headers: dict[str, object] = {}
        number, previous = 4 + HEADERS_LIMIT, ""
        if blank - 4 > HEADERS_LIMIT:
            raise ManifestError(f"{blank - 4} lines of headers are more than {HEADERS_LIMIT}")
        for number, line in enumerate(lines[4:blank], start=5):  # noqa: B007 - for the error
            previous, value = _header(line, previous)
            headers[previous] = value
        entries, seen, total = [], set[str](), 0
        for number, line in enumerate(lines[blank + 1 : -1], start=blank + 2):  # noqa: B007 - likewise
            entry = _parse_entry(line)
            for name in (entry.name, *entry.aliases):
                if name in seen:
                    raise ManifestError(f"a second tensor called {name[:60]!a}")
                seen.add(name)
            total += entry.nbytes
            entries.append(entry)
        if total > size:
            number = 3
            raise ManifestError(f"the tensors hold {total} bytes, more than the file's {size}")
    except (ManifestError, FormatError) as error:
        reason = _MARKED if lines[number - 1].startswith(_MARKERS) else error
        raise ManifestError(f"line {number}: {reason}") from None
    if blank == len(lines) - 1:
        raise ManifestError(f"line {blank + 1}: no empty line behind the header")
    return Manifest(format_name, size, skeleton, tuple(entries), headers)


def check_size(text: bytes) -> None:
    """:class:`ManifestError` if ``text`` is larger than any manifest, or has more lines."""
    if len(text) > SIZE_LIMIT:
        raise ManifestError(f"the manifest is too large ({len(text)} bytes)")
    lines = text.count(b"\n")
    if lines > LINES_LIMIT:
        raise ManifestError(f"the manifest is too large ({lines} lines)")


def _check_version(line: str) -> None:
    words = line.split(" ")
    if len(words) != 3 or not line.startswith(MAGIC.decode()):
        raise ManifestError("line 1: this is not a Git-Theta manifest")
    version = _number(words[2], "line 1: ")
    if version > VERSION:
        raise ManifestVersionError(
            f"line 1: manifest version {version} is newer than this Git-Theta reads ({VERSION}); "
            f"upgrade git-theta to a release that reads version {version}"
        )
    if version != VERSION:
        raise ManifestError(f"line 1: there is no manifest version {version}")


def _field(line: str, key: str) -> str:
    if not line.startswith(key + " "):
        raise ManifestError(f"expected '{key} …'")
    return line[len(key) + 1 :]


def _word(text: str) -> str:
    if not _WORD.match(text) or len(text) > 64:
        raise ManifestError(f"{text[:60]!a} is not a plain word")
    return text


def _number(text: str, where: str = "") -> int:
    if not re.fullmatch(_NUMBER, text) or int(text) > dtypes.MAX_BYTES:
        raise ManifestError(f"{where}{text[:40]!a} is not a size")
    return int(text)


def _header(line: str, previous: str) -> tuple[str, object]:
    from json import loads  # few manifests have headers, and git waits for each import

    key, _, text = line.partition(" ")
    _word(key)
    if key <= previous:
        raise ManifestError(f"header {key!r} is repeated or out of order")
    if len(line) > HEADER_SIZE_LIMIT:
        raise ManifestError(f"header {key!r} is too large ({len(line)} bytes)")
    try:
        value = loads(text)
        same = _json(value) == text
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ManifestError(f"header {key!r} is not JSON as this release writes it")
    return key, value


def _json(value: object) -> str:
    from json import dumps

    return dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parse_entry(line: str) -> Entry:
    fields = line.split(" ")
    if len(fields) < 3:
        raise ManifestError("a tensor's line needs a name, a type and where it is stored")
    name, (dtype, shape) = unescape(fields[0]), _parse_spec(fields[1])
    rest = fields[2:]
    first_alias = next((i for i, field in enumerate(rest) if field.startswith("also:")), len(rest))
    stored, aliases = (
        rest[:first_alias],
        tuple(unescape(_after(field, "also:")) for field in rest[first_alias:]),
    )
    size = dtypes.nbytes(dtype, shape)
    if stored and stored[0].startswith("inline:"):
        if len(stored) != 1:
            raise ManifestError("an inline tensor has no objects")
        return Entry.of_inline(name, dtype, shape, _parse_inline(stored[0][7:], size), aliases)
    if len(stored) < 2 or not HEX.match(stored[0]):
        raise ManifestError(
            "a digest of 64 hex digits and at least one object must follow the type"
        )
    if size <= INLINE_LIMIT:
        raise ManifestError(f"a tensor of {size} bytes stands inline")
    if len(stored) - 1 > CHAIN_LIMIT:
        raise ManifestError(f"a chain of {len(stored) - 1} updates is longer than {CHAIN_LIMIT}")
    return Entry(name, dtype, shape, stored[0], tuple(map(_parse_link, stored[1:])), None, aliases)


def _after(field: str, prefix: str) -> str:
    if not field.startswith(prefix):
        raise ManifestError(f"expected '{prefix}…', not {field[:40]!a}")
    return field[len(prefix) :]


def _parse_spec(text: str) -> tuple[str, tuple[int, ...]]:
    match = _SHAPE.match(text)
    if not match or text.count(",") > 63:
        raise ManifestError(f"{text[:60]!a} is not a type and shape")
    return match[1], tuple(map(int, match[2].split(","))) if match[2] else ()


def _parse_inline(text: str, size: int) -> bytes:
    if size > INLINE_LIMIT or len(text) != 2 * size or not re.fullmatch("[0-9a-f]*", text):
        raise ManifestError(f"an inline value must be {size} bytes in hex, at most {INLINE_LIMIT}")
    return bytes.fromhex(text)


def _parse_link(field: str) -> Link:
    match = _LINK.match(field)
    if not match or field.count("+") >= PARTS_LIMIT:
        raise ManifestError(f"{field[:60]!a} is not 'update:object:size'")
    refs = []
    for part in match[3].split("+"):
        oid, _, size = part.partition(":")
        refs.append(ObjectRef(oid, _number(size)))
    return Link(match[1], tuple(refs), match[2] or "")


def rename(entry: Entry, name: str, aliases: Iterable[str]) -> Entry:
    """The same stored tensor under another name."""
    return Entry(
        name, entry.dtype, entry.shape, entry.digest, entry.chain, entry.inline, tuple(aliases)
    )


def parse_if_manifest(text: bytes) -> Manifest | None:
    """The manifest in ``text``, None when it is something else or damaged."""
    if not is_manifest(text):
        return None
    try:
        return parse(unconverted(text))
    except ManifestError:
        return None
