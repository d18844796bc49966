from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import dtypes, references
from git_theta.core import manifest as manifest_module
from git_theta.core.digest import digest
from git_theta.core.manifest import (
    CHAIN_LIMIT,
    INLINE_LIMIT,
    NOTICE,
    PARTS_LIMIT,
    Entry,
    Link,
    Manifest,
    ObjectRange,
    ObjectRef,
    dump,
    dump_chain,
    is_manifest,
    parse,
    parse_chain,
    rename,
)
from git_theta.core.references import References, StrictCheck
from git_theta.errors import FormatError, ManifestError, ManifestVersionError

HEX64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.text(st.characters(codec=None, categories=None), max_size=12)
REFS = st.builds(ObjectRef, HEX64, st.integers(1, 2**63 - 1))


@st.composite
def ranges(draw: st.DrawFn) -> ObjectRange:
    ref = draw(REFS)
    offset = draw(st.integers(0, ref.size - 1))
    length = draw(st.integers(1, ref.size - offset))
    return draw(st.sampled_from([ref.whole, ObjectRange(*ref, offset, length)]))


LINKS = st.builds(
    Link,
    st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True),
    st.lists(ranges(), min_size=1, max_size=3).map(tuple),
    st.from_regex(r"[A-Za-z0-9=.,%_-]{0,12}", fullmatch=True),
)
CHAINS = st.lists(LINKS, min_size=1, max_size=4).map(tuple)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True), JSON, max_size=3
)


@st.composite
def entries(draw: st.DrawFn, name: str, aliases: tuple[str, ...] = ()) -> Entry:
    dtype = draw(st.sampled_from(dtypes.names()))
    shape = tuple(draw(st.lists(st.integers(0, 300), max_size=3)))
    try:
        size = dtypes.nbytes(dtype, shape)
    except FormatError:
        dtype, size = "u8", dtypes.nbytes("u8", shape)
    if size <= INLINE_LIMIT:
        return Entry.of_inline(
            name, dtype, shape, draw(st.binary(min_size=size, max_size=size)), aliases
        )
    return Entry(name, dtype, shape, draw(HEX64), draw(CHAINS), None, aliases)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    aliases = draw(st.lists(NAMES.map(lambda name: "alias " + name), unique=True, max_size=3))
    names = [name for name in names if name not in aliases]
    found = [
        draw(entries(name, tuple(aliases) if number == 0 else ()))
        for number, name in enumerate(names)
    ]
    skeleton_size = draw(st.integers(0, 200))
    if skeleton_size <= INLINE_LIMIT:
        skeleton = Entry.of_inline(
            "skeleton",
            "u8",
            (skeleton_size,),
            draw(st.binary(min_size=skeleton_size, max_size=skeleton_size)),
        )
    else:
        skeleton = Entry("skeleton", "u8", (skeleton_size,), draw(HEX64), draw(CHAINS))
    size = sum(entry.nbytes for entry in found) + draw(st.integers(0, 2**40))
    format_name = draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True))
    return Manifest(format_name, size, skeleton, tuple(found), draw(HEADERS))


@given(manifests())
def test_parse_is_the_inverse_of_dump(manifest: Manifest) -> None:
    text = dump(manifest)
    assert is_manifest(text)
    assert parse(text) == manifest
    assert dump(parse(text)) == text
    assert all(byte == 10 or 32 <= byte < 127 for byte in text)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["delete", "insert", "replace", "swap lines", "repeat line", "drop line", "cut"]
        ),
        st.integers(0, 10**6),
        st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


@given(manifests(), MUTATIONS)
def test_mutated_text_is_refused_or_written_back_as_it_was(
    manifest: Manifest, mutations: list[tuple[str, int, bytes]]
) -> None:
    text = dump(manifest)
    for kind, place, data in mutations:
        text = mutate(text, kind, place, data)
    check(text)


def check(text: bytes) -> None:
    """Whatever the text is: it is refused with one short line, or written back as it was."""
    try:
        found = parse(text)
    except ManifestError as error:
        reason = str(error)
    else:
        assert dump(found) == text
        return
    assert reason.startswith("line ")
    assert "\n" not in reason
    assert len(reason) < 400


def mutate(text: bytes, kind: str, place: int, data: bytes) -> bytes:
    lines = text.split(b"\n")
    where, line = place % (len(text) + 1), place % len(lines)
    match kind:
        case "delete":
            return text[:where] + text[where + 1 + len(data) :]
        case "insert":
            return text[:where] + data + text[where:]
        case "replace":
            return text[:where] + data + text[where + len(data) :]
        case "swap lines":
            lines[line], lines[0] = lines[0], lines[line]
        case "repeat line":
            lines.insert(line, lines[line])
        case "drop line":
            del lines[line]
        case "cut":
            return text[:where]
    return b"\n".join(lines)


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic(data: bytes) -> None:
    for text in (
        data,
        b"git-theta manifest 1\n" + data,
        f"git-theta manifest 1\n{NOTICE}\n".encode() + data,
        f"git-theta manifest 1\n{NOTICE}\nformat x\nsize 9\nskeleton u8[0] inline:\n".encode()
        + data,
    ):
        check(text)


ID = "ab" * 32
GOOD = f"""\
git-theta manifest 1
{NOTICE}
format safetensors
size 1000
skeleton u8[100] {ID} dense:{ID}:90
merge {{"strategy":"ties"}}

a f32[4,5] {ID} delta(changed=3):{ID}:7 dense:{ID}:55
b u8[2] inline:0102 also:tied
"""


def test_what_it_looks_like() -> None:
    manifest = parse(GOOD.encode())
    a, b = manifest.entries
    assert (manifest.format, manifest.size, manifest.headers) == (
        "safetensors",
        1000,
        {"merge": {"strategy": "ties"}},
    )
    assert [(link.update, link.note, link.size) for link in a.chain] == [
        ("delta", "changed=3", 7),
        ("dense", "", 55),
    ]
    assert (b.inline, b.digest, b.aliases) == (b"\1\2", digest(b"\1\2"), ("tied",))
    assert manifest.by_name["tied"] is b
    assert manifest.by_digest[ID, "f32"] is a
    assert manifest.objects() == {ID: 55}
    assert (a.nbytes, str(a.spec), a.objects[0]) == (80, "f32[4,5]", ObjectRef(ID, 7))


BROKEN = [
    (1, "this is not a Git-Theta manifest", "git-theta manifest 1\n", "git-theta  manifest 1\n"),
    (1, "'01' is not a size", "manifest 1\n", "manifest 01\n"),
    (1, "there is no manifest version 0", "manifest 1\n", "manifest 0\n"),
    (2, "expected '# This text stands for", NOTICE, NOTICE.lower()),
    (2, "expected '# This text stands for", f"{NOTICE}\n", ""),
    (2, "expected '# This text stands for", NOTICE, f"{NOTICE} "),
    (2, "a conflict marker", NOTICE, f"<<<<<<< ours\n{NOTICE}"),
    (3, "expected 'format", "format ", "Format "),
    (3, "'x y' is not a plain word", "format safetensors", "format x y"),
    (4, "'9223372036854775808' is not a size", "size 1000", f"size {2**63}"),
    (4, "'-1' is not a size", "size 1000", "size -1"),
    (4, "'1e3' is not a size", "size 1000", "size 1e3"),
    (4, "the tensors hold 82 bytes, more than the file's 81", "size 1000", "size 81"),
    (5, "the skeleton must be u8[N]", "skeleton u8[100]", "skeleton f32[100]"),
    (5, "a digest of 64 hex digits", f"u8[100] {ID}", f"u8[100] {ID[:-1]}"),
    (6, "header 'merge' is not JSON", '"ties"', '"ties" '),
    (6, "header 'nan' is not JSON", 'merge {"strategy":"ties"}', "nan NaN"),
    (6, "header 'deep' is not JSON", 'merge {"strategy":"ties"}', "deep " + "[" * 100_000),
    (6, "header 'huge' is not JSON", 'merge {"strategy":"ties"}', "huge " + "9" * 100_000),
    (7, "header 'a' is repeated or out of order", 'merge {"strategy":"ties"}', "b 1\na 2"),
    (7, "header 'merge' is repeated", 'merge {"strategy":"ties"}', "merge 1\nmerge 1"),
    (8, "a tensor's line needs", "a f32[4,5]", "\na f32[4,5]"),
    (
        4,
        "a conflict marker: git merged the manifest as text; 'git theta resolve'",
        "size 1000",
        "<<<<<<< ours\nsize 1000\n=======\nsize 1001",
    ),
    (
        8,
        "a conflict marker: git merged the manifest as text",
        "a f32[4,5]",
        "<<<<<<< ours\na f32[4,5]",
    ),
    (8, "'F32[4,5]' is not a type and shape", "f32[4,5]", "F32[4,5]"),
    (8, "unknown element type 'f33'", "f32[4,5]", "f33[4,5]"),
    (8, "'f32[4,-5]' is not a type", "f32[4,5]", "f32[4,-5]"),
    (8, "'f32[4,05]' is not a type", "f32[4,5]", "f32[4,05]"),
    (8, "overflows 63 bits", "f32[4,5]", f"f32[{2**62},{2**62}]"),
    (8, "a tensor of 64 bytes stands inline", "f32[4,5]", "f32[4,4]"),
    (8, "is not 'update:object:size'", f"dense:{ID}:55", f"dense:{ID}:0"),
    (8, "is not 'update:object:size'", f"dense:{ID}:55", f"dense:{ID[:-1]}:55"),
    (8, "'' is not 'update:object:size'", ":7 ", ":7  "),
    (8, "'inline:00' is not 'update:object:size'", f" dense:{ID}:55", " inline:00"),
    (8, "a tensor's name is not escaped", "a f32", "a\\x41 f32"),
    (9, "a second tensor called 'a'", "b u8", "a u8"),
    (9, "an inline value must be 2 bytes", "inline:0102", "inline:010203"),
    (9, "an inline value must be 2 bytes", "inline:0102", "inline:0A02"),
    (9, "an inline tensor has no objects", "inline:0102 ", f"inline:0102 dense:{ID}:3 "),
    (9, "a second tensor called 'b'", "also:tied", "also:b"),
    (9, "expected 'also:", "also:tied", "also:tied tied"),
    (9, "a byte that is not ASCII", "also:tied", "also:é"),
    (10, "the manifest ends in the middle of a line", "also:tied\n", "also:tied\nc"),
    (10, "a tensor's line needs", "also:tied\n", "also:tied\n\n"),
]


@pytest.mark.parametrize(("line", "reason", "old", "new"), BROKEN, ids=range(len(BROKEN)))
def test_errors_name_line_and_reason(line: int, reason: str, old: str, new: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ManifestError) as caught:
        parse(GOOD.replace(old, new).encode())
    assert str(caught.value).startswith(f"line {line}: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_newer_version_names_the_release_needed() -> None:
    with pytest.raises(ManifestVersionError, match=r"version 2 is newer.*upgrade git-theta"):
        parse(b"git-theta manifest 2\nanything at all \xff")


def test_limits() -> None:
    link = f" dense:{ID}:55"
    parse(GOOD.replace(link, link * (CHAIN_LIMIT - 1)).encode())
    with pytest.raises(ManifestError, match="chain of 65"):
        parse(GOOD.replace(link, link * CHAIN_LIMIT).encode())
    part = f"+{ID}:1"
    parse(GOOD.replace(link, link + part * (PARTS_LIMIT - 1)).encode())
    with pytest.raises(ManifestError):
        parse(GOOD.replace(link, link + part * PARTS_LIMIT).encode())
    with pytest.raises(ManifestError, match="not a type and shape"):
        parse(GOOD.replace("f32[4,5]", "f32[" + "1," * 64 + "20]").encode())


def seconds(text: str) -> float:
    """Processor time of reading or refusing a text."""
    data, best = text.encode(), 9e9
    for _ in range(3):
        begun = time.process_time()
        with suppress(ManifestError):
            parse(data)
        best = min(best, time.process_time() - begun)
    return best


@pytest.mark.parametrize(
    ("field", "repeated"),
    [
        (f"dense:{ID}:55", f"+{ID}:1"),
        (f"dense:{ID}:55", "a"),
        (f"dense:{ID}:55", "a("),
        (f"dense:{ID}:55", " "),
        (f"dense:{ID}:55", " inline:"),
        ("a f32", "\\"),
        ("a f32", "\\x"),
        ("a f32", "\\u{"),
        ("a f32", "\\e"),
        ("f32[4,5]", "1,"),
        ("f32[4,5]", "f32[1"),
        ("0102", "0"),
        ("also:tied", "also:"),
        ("also:tied", "also:x "),
        ("size 1000", "9"),
        ("merge {", "a"),
        ('merge {"strategy":"ties"}', "a 1\n"),
        ('merge {"strategy":"ties"}', "\n"),
        ('{"strategy":"ties"}', "["),
        ('{"strategy":"ties"}', "9"),
        ("\n\n", "\n"),
    ],
)
def test_hostile_lines_take_linear_time(field: str, repeated: str) -> None:
    few, many = (seconds(GOOD.replace(field, repeated * count)) for count in (5_000, 50_000))
    assert many < 40 * max(few, 0.002)


@given(CHAINS)
def test_chains_alone(chain: tuple[Link, ...]) -> None:
    assert parse_chain(dump_chain(chain)) == chain


def test_identity_is_of_the_content_alone() -> None:
    manifest = parse(GOOD.encode())
    other = parse(
        GOOD.replace(f"delta(changed=3):{ID}:7 ", "")
        .replace('merge {"strategy":"ties"}\n', "")
        .encode()
    )
    assert other.identity == manifest.identity
    renamed = Manifest(
        manifest.format,
        manifest.size,
        manifest.skeleton,
        (rename(manifest.entries[0], "c", ()), *manifest.entries[1:]),
        {},
    )
    assert renamed.identity != manifest.identity
    for old, new in (
        ("f32[4,5]", "f32[5,4]"),
        ("f32[4,5]", "i32[4,5]"),
        ("size 1000", "size 1001"),
        ("inline:0102", "inline:0103"),
    ):
        assert parse(GOOD.replace(old, new).encode()).identity != manifest.identity


def test_twenty_thousand_tensors() -> None:
    lines = "".join(
        f"layer.{number}.weight f32[4,5] {ID} dense:{ID}:55\n" for number in range(20_000)
    )
    start = f"git-theta manifest 1\n{NOTICE}\nformat x\nsize 9000000\nskeleton u8[1] inline:00\n\n"
    text = f"{start}{lines}".encode()
    manifest = parse(text)
    assert len(manifest.entries) == 20_000
    assert dump(manifest) == text


def with_headers(lines: list[str]) -> bytes:
    head, blank, rest = dump(
        Manifest("safetensors", 0, Entry.of_inline("skeleton", "u8", (0,), b""), (), {})
    ).partition(b"\n\n")
    return head + "".join(f"\n{line}" for line in lines).encode() + blank + rest


def test_headers_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    most = with_headers([f"h{number:03} 1" for number in range(manifest_module.HEADERS_LIMIT)])
    assert dump(parse(most)) == most
    with pytest.raises(ManifestError, match="257 lines of headers are more than 256"):
        parse(
            with_headers([f"h{number:03} 1" for number in range(manifest_module.HEADERS_LIMIT + 1)])
        )
    monkeypatch.setattr(manifest_module, "HEADER_SIZE_LIMIT", 100)
    large = with_headers([f'a "{"x" * 96}"'])
    assert dump(parse(large)) == large
    with pytest.raises(ManifestError, match="line 6: header 'a' is too large"):
        parse(with_headers([f'a "{"x" * 97}"']))
    with pytest.raises(ManifestError, match="too large"):
        dump(replace(parse(large), headers={"a": "x" * 97}))
    with pytest.raises(ManifestError, match="one too many"):
        dump(
            replace(
                parse(large),
                headers={f"h{number}": 1 for number in range(manifest_module.HEADERS_LIMIT + 1)},
            )
        )


@pytest.mark.parametrize(
    "read", [parse, lambda text: References().add(text)], ids=["parse", "references"]
)
def test_lines_are_counted_before_they_take_memory(
    read: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = with_headers([])
    monkeypatch.setattr(manifest_module, "LINES_LIMIT", text.count(b"\n"))
    read(text)
    with pytest.raises(ManifestError, match="too large"):
        read(text + b"\n")


# The strict check accepts exactly the texts that parse accepts, and names the same objects


def reason(text: bytes, checker: StrictCheck) -> str | None:
    try:
        list(checker.entries(text))
    except ManifestError as error:
        return str(error)
    return None


def refused(text: bytes) -> str | None:
    try:
        parse(text)
    except ManifestError as error:
        return str(error)
    return None


@given(manifests(), MUTATIONS)
def test_it_refuses_exactly_what_parse_refuses(
    manifest: Manifest, mutations: list[tuple[str, int, bytes]]
) -> None:
    text = dump(manifest)
    checker = StrictCheck()
    assert reason(text, checker) is None
    for kind, place, data in mutations:
        text = mutate(text, kind, place, data)
    assert (reason(text, checker) is None) == (refused(text) is None)
    assert (reason(text, StrictCheck()) is None) == (refused(text) is None)


@pytest.mark.parametrize(("line", "said", "old", "new"), BROKEN, ids=range(len(BROKEN)))
def test_it_gives_the_same_reason(line: int, said: str, old: str, new: str) -> None:
    text = GOOD.replace(old, new).encode()
    checker = StrictCheck()
    list(checker.entries(GOOD.encode()))
    assert reason(text, checker) == refused(text) == reason(text, StrictCheck())


def test_each_line_is_parsed_once() -> None:
    checker = StrictCheck()
    everything = list(checker.entries(GOOD.encode()))
    assert everything == [parse(GOOD.encode()).skeleton, *parse(GOOD.encode()).entries]
    other = GOOD.replace("a f32", "c f32").encode()
    assert [entry.name for entry in checker.entries(other)] == ["skeleton", "c"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_REMEMBERED", 1000)
    checker = StrictCheck()
    for number in range(100):
        list(checker.entries(GOOD.replace("a f32", f"a{number} f32").encode()))
        assert sum(map(len, checker._sizes)) <= 1000
