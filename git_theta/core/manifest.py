"""The text that Git stores in place of a checkpoint: one line per tensor.

Specified in ``docs/manifest-format.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from git_theta.core import dtypes
from git_theta.core.digest import HEX, digest
from git_theta.core.names import escape, unescape
from git_theta.core.tensors import Spec
from git_theta.errors import FormatError, ManifestError, ManifestVersionError

VERSION = 1
MAGIC = b"git-theta manifest "
# Line 2, for people who see the text because Git-Theta is not installed
NOTICE = (
    "# This text stands for a machine-learning model. To get the model:"
    ' pip install "git-theta>=1.0" && git theta install && git theta pull'
)
INLINE_LIMIT = 64
CHAIN_LIMIT = 64
PARTS_LIMIT = 4096
SIZE_LIMIT = 1 << 30
LINES_LIMIT = 8_000_000
HEADERS_LIMIT, HEADER_SIZE_LIMIT = 256, 16 << 20

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_SHAPE = re.compile(rf"([a-z][a-z0-9_]*)\[((?:{_NUMBER}(?:,{_NUMBER})*)?)\]\Z")
_SIZE = r"[1-9][0-9]{0,18}"
_RANGE = rf"[0-9a-f]{{64}}:{_SIZE}(?:@{_NUMBER}:{_SIZE})?"
# Most lines are as plain as this, and a manifest may have a hundred thousand of them
_ONE_RANGE = re.compile(
    rf"([a-z][a-z0-9_-]*)(?:\(([A-Za-z0-9=.,%_-]+)\))?:([0-9a-f]{{64}}):({_SIZE})"
    rf"(?:@({_NUMBER}):({_SIZE}))?\Z"
)
_LINK = re.compile(rf"([a-z][a-z0-9_-]*)(?:\(([A-Za-z0-9=.,%_-]+)\))?:({_RANGE}(?:\+{_RANGE})*)\Z")
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_CONTENT = re.compile(
    rb"^\S+ ([a-z][a-z0-9_]*\[[0-9,]*\]) (?:inline:((?:[0-9a-f]{2})*)|([0-9a-f]{64}) )[^\n]*$",
    re.MULTILINE,
)
_NAMED = re.compile(rb"[:+]([0-9a-f]{64}):([1-9][0-9]{0,18})")


class ObjectRef(NamedTuple):
    """A stored object: its SHA-256 in hex and its size in bytes."""

    oid: str
    size: int

    @property
    def whole(self) -> ObjectRange:
        """All of its bytes."""
        return ObjectRange(self.oid, self.size, 0, self.size)


class ObjectRange(NamedTuple):
    """``length`` bytes from ``offset`` of the object ``oid``, which has ``size`` bytes."""

    oid: str
    size: int
    offset: int
    length: int

    @property
    def object(self) -> ObjectRef:
        """The object that the bytes are of."""
        return ObjectRef(self.oid, self.size)


class Link(NamedTuple):
    """One step of a chain: how it is stored (``update``), a note for the reader, and the ranges of
    objects that hold it.
    """

    update: str
    ranges: tuple[ObjectRange, ...]
    note: str = ""

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """The objects that the ranges are of."""
        return tuple(part.object for part in self.ranges)

    @property
    def size(self) -> int:
        """Stored bytes."""
        return sum(part.length for part in self.ranges)


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
    def ranges(self) -> tuple[ObjectRange, ...]:
        """Every range of an object needed to rebuild it."""
        return tuple(place for link in self.chain for place in link.ranges)

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """Every object that one of its ranges is of."""
        return tuple(place.object for place in self.ranges)

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

    def same_content(self, other: Manifest) -> bool:
        """Whether both rebuild the same bytes."""
        mine, theirs = (self.format, self.size), (other.format, other.size)
        return (
            mine == theirs
            and self.skeleton.digest == other.skeleton.digest
            and len(self.entries) == len(other.entries)
            and all(
                a is b
                or (a.name, a.dtype, a.shape, a.digest) == (b.name, b.dtype, b.shape, b.digest)
                for a, b in zip(self.entries, other.entries, strict=True)
            )
        )

    @cached_property
    def updates(self) -> frozenset[str]:
        """The updates that tensors are stored as."""
        entries = (self.skeleton, *self.entries)
        return frozenset(link.update for entry in entries for link in entry.chain)

    def objects(self) -> dict[str, int]:
        """Every object needed to rebuild the file: id → size."""
        return {
            place.oid: place.size
            for entry in (self.skeleton, *self.entries)
            for link in entry.chain
            for place in link.ranges
        }

    @cached_property
    def text(self) -> bytes:
        """The one text of it."""
        return _dump(self)


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
    return manifest.text


def _dump(manifest: Manifest) -> bytes:
    lines = [
        f"git-theta manifest {VERSION}",
        NOTICE,
        f"format {manifest.format}",
        f"size {manifest.size}",
        _entry(manifest.skeleton, skeleton=True),
    ]
    for key in sorted(manifest.headers):
        lines.append(f"{key} {_json(manifest.headers[key])}")
        if len(lines[-1]) > HEADER_SIZE_LIMIT or len(lines) > 5 + HEADERS_LIMIT:
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
    return f"{link.update}{note}:{'+'.join(map(_range, link.ranges))}"


def _range(part: ObjectRange) -> str:
    oid, size, offset, length = part
    return f"{oid}:{size}" if length == size else f"{oid}:{size}@{offset}:{length}"


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
        number = 2
        _check_notice(lines[1])
        number = 1
        if blank < 5:
            raise ManifestError("the header needs format, size and skeleton")
        number = 3
        format_name = _word(_field(lines[2], "format"))
        number = 4
        size = _number(_field(lines[3], "size"))
        number = 5
        skeleton = _parse_entry("skeleton " + _field(lines[4], "skeleton"))
        if skeleton.dtype != "u8" or len(skeleton.shape) != 1 or skeleton.aliases:
            raise ManifestError("the skeleton must be u8[N]")
        headers: dict[str, object] = {}
        number, previous = 5 + HEADERS_LIMIT, ""
        if blank - 5 > HEADERS_LIMIT:
            raise ManifestError(f"{blank - 5} lines of headers are more than {HEADERS_LIMIT}")
        for number, line in enumerate(lines[5:blank], start=6):  # noqa: B007 - for the error
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
            number = 4
            raise ManifestError(f"the tensors hold {total} bytes, more than the file's {size}")
    except (ManifestError, FormatError) as error:
        reason = _MARKED if lines[number - 1].startswith(_MARKERS) else error
        raise ManifestError(f"line {number}: {reason}") from None
    if blank == len(lines) - 1:
        raise ManifestError(f"line {blank + 1}: no empty line behind the header")
    manifest = Manifest(format_name, size, skeleton, tuple(entries), headers)
    manifest.__dict__["text"] = text  # writing what was read gives the same text again
    return manifest


class Glimpse(NamedTuple):
    """What a manifest says of a file's content, but for the tensors' names: its size, skeleton, and
    for each tensor, in the order of the file, the size in bytes and the digest.
    """

    size: int
    skeleton: Entry
    tensors: list[tuple[int, str]]


def glimpse(text: bytes) -> Glimpse | None:
    """What ``text`` says, in a fraction of the time that :func:`parse` takes; None where that is
    not found so easily, as for most other texts.
    """
    head, _, body = text.partition(b"\n\n")
    lines = head.split(b"\n")
    if not is_manifest(text) or lines[1:2] != [NOTICE.encode()] or len(lines) < 5:
        return None
    found = _CONTENT.findall(body)
    if len(found) != body.count(b"\n"):
        return None
    try:
        _check_version(lines[0].decode("ascii"))
        size = _number(_field(lines[3].decode("ascii"), "size"))
        skeleton = _parse_entry(lines[4].decode("ascii"))
        sizes = {spec: _parse_spec(spec.decode("ascii"))[2] for spec, _, _ in set(found)}
    except (ManifestError, FormatError, UnicodeDecodeError):
        return None
    return Glimpse(
        size,
        skeleton,
        [
            (
                sizes[spec],
                identity.decode("ascii") or digest(bytes.fromhex(inline.decode("ascii"))),
            )
            for spec, inline, identity in found
        ],
    )


def object_refs(text: bytes) -> dict[str, int]:
    """Every object that a manifest's text names: id → size."""
    return {oid.decode("ascii"): int(size) for oid, size in set(_NAMED.findall(text))}


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


def _check_notice(line: str) -> None:
    if line != NOTICE:
        raise ManifestError(f"expected '{NOTICE}'")


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
    name, (dtype, shape, size) = unescape(fields[0]), _parse_spec(fields[1])
    stored, aliases = fields[2:], tuple[str, ...]()
    if " also:" in line:
        first = next(at for at, field in enumerate(stored) if field.startswith("also:"))
        aliases = tuple(unescape(_after(field, "also:")) for field in stored[first:])
        stored = stored[:first]
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


@lru_cache(maxsize=1024)
def _parse_spec(text: str) -> tuple[str, tuple[int, ...], int]:
    """Type, shape, and size in bytes."""
    match = _SHAPE.match(text)
    if not match or text.count(",") > 63:
        raise ManifestError(f"{text[:60]!a} is not a type and shape")
    shape = tuple(map(int, match[2].split(","))) if match[2] else ()
    return match[1], shape, dtypes.nbytes(match[1], shape)


def _parse_inline(text: str, size: int) -> bytes:
    if size > INLINE_LIMIT or len(text) != 2 * size or not re.fullmatch("[0-9a-f]*", text):
        raise ManifestError(f"an inline value must be {size} bytes in hex, at most {INLINE_LIMIT}")
    return bytes.fromhex(text)


def _parse_link(field: str) -> Link:
    match = _ONE_RANGE.match(field)
    if match:
        update, note, oid, number, offset, length = match.groups()
        size = int(number)
        if offset is None and size <= dtypes.MAX_BYTES:
            return Link(update, (ObjectRange(oid, size, 0, size),), note or "")
        if offset is not None and int(offset) + int(length) <= size <= dtypes.MAX_BYTES:
            place = ObjectRange(oid, size, int(offset), int(length))
            if place.length < size:
                return Link(update, (place,), note or "")
    match = _LINK.match(field)
    if not match or field.count("+") >= PARTS_LIMIT:
        raise ManifestError(f"{field[:60]!a} is not 'update:object:size'")
    update, note, ranges = match.groups("")
    return Link(update, tuple(map(_parse_range, ranges.split("+"))), note)


def _parse_range(text: str) -> ObjectRange:
    oid, ref = text[:64], text[65:]
    if "@" not in ref:
        size = _number(ref)
        return ObjectRange(oid, size, 0, size)
    ref, _, place = ref.partition("@")
    offset, _, length = place.partition(":")
    part = ObjectRange(oid, _number(ref), _number(offset), _number(length))
    if part.offset + part.length > part.size:
        raise ManifestError(
            f"bytes {offset} to {part.offset + part.length} lie outside of object {oid}"
            f" ({part.size} bytes)"
        )
    if part.length == part.size:
        raise ManifestError(f"the range of object {oid} is all of it, and must be left out")
    return part


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
