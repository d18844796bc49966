"""Attribute files: patterns survive quoting, edits keep what is not ours, and whatever was added
can be taken out again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import GitError, UsageError
from git_theta.git.config import attributes
from git_theta.git.config.attributes import (
    AttributesFile,
    base_in,
    literal,
    parse_line,
    read,
    sample,
    write,
    written,
)

OURS = "filter=theta diff=theta merge=theta -text"
CHARACTERS = st.sampled_from([*' \t\n\r"\\#!*?[]/.-ax0=é\x01\x7f\u202e'])
PATTERNS = st.text(CHARACTERS, min_size=1, max_size=12).filter(
    lambda text: not text.startswith("[attr]")
)
BASES = st.text(st.sampled_from([*' \t\n%/"\\#é\x01ax.']), min_size=1, max_size=12)
LINES = st.lists(
    st.sampled_from(
        [
            "",
            "# a comment",
            "  # another",
            "*.txt text eol=lf",
            "*.pt filter=lfs diff=lfs merge=lfs -text",
            f"*.pt {OURS}",
            f'  "my models/*.pt"\t{OURS}  extra=1',
            "[attr]model filter=theta",
            "*.bin model",
            '"unclosed *.pt filter=theta',
            f"*.pt   a=b {OURS} theta-base=x.pt c",
        ]
    ),
    max_size=6,
)


def file_of(text: str, end: str = "\n") -> AttributesFile:
    parts = text.split(end)
    ended = parts[-1] == ""
    return AttributesFile(
        Path("x"), tuple(map(parse_line, parts[:-1] if ended else parts)), end, ended
    )


# Patterns


@given(PATTERNS)
def test_a_written_pattern_is_read_back(pattern: str) -> None:
    line = parse_line(f"{written(pattern)} filter=theta")
    assert line.pattern == pattern
    assert line.words == ("filter=theta",)
    assert "\n" not in written(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*.pt", "*.pt"),
        ("my models/*.pt", '"my models/*.pt"'),
        ("#x", '"#x"'),
        ('"x', '"\\"x"'),
        ("a\\b", "a\\b"),
        ("a b\\*", '"a b\\\\*"'),
        ("\x01\n\t", '"\\001\\n\\t"'),
        ("é.pt", "é.pt"),
        (os.fsdecode(b"\xff.pt"), os.fsdecode(b"\xff.pt")),
    ],
)
def test_quotes_stand_only_where_git_needs_them(pattern: str, text: str) -> None:
    assert written(pattern) == text
    assert parse_line(f"{text} x").pattern == pattern


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("model.pt", "model.pt"),
        ("a*b?[c]\\d", "a\\*b\\?\\[c]\\\\d"),
        ("!x", "\\!x"),
        ("#x", "#x"),
        ("a!b", "a!b"),
    ],
)
def test_a_file_name_as_a_pattern(name: str, pattern: str) -> None:
    assert literal(name) == pattern
    assert sample(pattern) == name


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.pt", "theta-probe.pt"),
        ("/models/**/x?.pt", "models/xx.pt"),
        ("models/**", "models/theta-probe"),
        ("**/a", "a"),
        ("[abc]x", "ax"),
        ("[!x]", "X"),
        ("[^a]", "x"),
        ("[^a-z]", "X"),
        ("[!a-zA-Z0-9\\-]", "_"),
        ("[]a]", "]"),
        ("[[:digit:]]-[[:upper:]]", "0-A"),
        ("[\\]a]", "]"),
        ("[open", None),
        ("a\\", "a\\"),
        ("/", None),
    ],
)
def test_a_sample_of_a_pattern(pattern: str, path: str | None) -> None:
    assert sample(pattern) == path


@given(PATTERNS)
def test_making_a_sample_never_fails(pattern: str) -> None:
    sample(pattern)


# Lines


@pytest.mark.parametrize(
    ("raw", "pattern", "words"),
    [
        ("", None, ()),
        ("   ", None, ()),
        (" # filter=theta", None, ()),
        ("\ufeff*.pt a", "*.pt", ("a",)),
        (" *.pt\ta  -b\tc=d \r", "*.pt", ("a", "-b", "c=d")),
        ("*.pt", "*.pt", ()),
        ('"a b" x', "a b", ("x",)),
        ('"\\303\\251" x', "é", ("x",)),
        ('"\\q" x', '"\\q"', ("x",)),
        ('"open x', '"open', ("x",)),
        ('"open\\', '"open\\', ()),
        ("[attr]m  a -b", "[attr]m", ("a", "-b")),
        ("[attr] m a", "[attr] m", ("a",)),
        ("x" * 2100 + " a", None, ()),
    ],
)
def test_a_line_is_read_as_git_reads_it(
    raw: str, pattern: str | None, words: tuple[str, ...]
) -> None:
    line = parse_line(raw)
    assert (line.raw, line.pattern, line.words) == (raw, pattern, words)


def test_a_macro_is_no_pattern() -> None:
    assert parse_line("[attr]m filter=theta").macro == "m"
    assert parse_line("[attr] m filter=theta").macro == "m"
    assert parse_line("m filter=theta").macro is None


# Editing


@given(LINES, st.booleans(), st.sampled_from(["\n", "\r\n"]), PATTERNS, st.none() | BASES)
def test_what_was_added_can_be_taken_out_again(
    lines: list[str], ended: bool, end: str, pattern: str, base: str | None
) -> None:
    text = end.join(lines) + (end if ended and lines else "")
    file = file_of(text, end)
    assert file.text() == text
    if any(line.pattern == pattern for line in file.lines):
        return
    longer = file.having(pattern, base)
    assert longer.having(pattern, base) == longer
    assert [line.raw for line in longer.lines[:-1]] == [line.raw for line in file.lines]
    assert longer.lines[-1] == parse_line(longer.lines[-1].raw)
    assert longer.text().endswith(end)
    assert file_of(longer.text(), end).lacking(pattern).text() in (text, text + end)


@given(LINES, st.sampled_from(["*.pt", "my models/*.pt", "*.bin", "*.txt"]))
def test_taking_out_keeps_every_other_word(lines: list[str], pattern: str) -> None:
    before = file_of("\n".join(lines) + "\n" if lines else "")
    after = before.lacking(pattern)
    assert not any(line.pattern == pattern and line.tracks for line in after.lines)
    kept = [
        tuple(
            word
            for word in line.words
            if word not in attributes.WORDS and not word.startswith("theta-base=")
        )
        if line.pattern == pattern and line.tracks
        else line.words
        for line in before.lines
    ]
    assert [words for words in kept if words] == [line.words for line in after.lines if line.words]
    assert [line.raw for line in before.lines if line.pattern != pattern] == [
        line.raw for line in after.lines if line.pattern != pattern
    ]


def test_a_line_that_tracks_already_is_kept() -> None:
    file = file_of(f"*.pt  x=1 {OURS}\n")
    assert file.having("*.pt") is file


def test_the_same_pattern_overridden_below_gets_a_new_last_line() -> None:
    file = file_of(f"*.pt {OURS}\n*.pt filter=lfs\n")
    assert file.having("*.pt").text() == f"*.pt {OURS}\n*.pt filter=lfs\n*.pt {OURS}\n"


def test_a_base_is_added_replaced_and_removed_with_its_line() -> None:
    file = file_of(f"*.pt x=1 {OURS}\n# end\n")
    once = file.having("*.pt", "my models/base.pt")
    assert once.text() == f"*.pt x=1 {OURS} theta-base=my%20models/base.pt\n# end\n"
    assert once.having("*.pt", "b.pt").text() == f"*.pt x=1 {OURS} theta-base=b.pt\n# end\n"
    assert once.having("*.pt") is once
    assert once.lacking("*.pt").text() == "*.pt x=1\n# end\n"


def test_the_last_line_gets_its_end() -> None:
    assert file_of("a b").having("*.pt").text() == f"a b\n*.pt {OURS}\n"
    assert file_of("a b").lacking("c").text() == "a b"


def test_a_pattern_that_reads_like_attributes_is_left_alone() -> None:
    file = file_of(f'" -text" {OURS} x\n')
    assert file.lacking(" -text").text() == '" -text" x\n'


# Bases


@given(BASES)
def test_a_base_is_read_back(base: str) -> None:
    line = file_of("").having("x", base).lines[0]
    value = line.words[-1].partition("=")[2]
    inside = (
        not base.startswith("/")
        and not {"", ".", ".."}.intersection(base.split("/"))
        and "\\" not in base
    )
    assert base_in({"theta-base": value}) == (base if inside else None)


@pytest.mark.parametrize(
    "value",
    [
        "unspecified",
        "set",
        "unset",
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a%00b",
        "..%5Cx",
        "./x",
    ],
)
def test_a_base_never_leads_outside(value: str) -> None:
    assert base_in({"theta-base": value}) is None


# Files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a b\n",
        b"a b",
        b"a b\r\nc d\r\n",
        b"\xef\xbb\xbf*.pt x\n",
        b"\xff\xfe x\n",
        b"\n\n",
        b"a\r\nb\nc\r\n",
    ],
)
def test_a_file_is_written_as_it_was_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / ".gitattributes"
    path.write_bytes(data)
    write(read(path))
    assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == [".gitattributes"]


def test_a_new_line_ends_as_the_others_do(tmp_path: Path) -> None:
    path = tmp_path / ".gitattributes"
    path.write_bytes(b"a b\r\nc d")
    write(read(path).having("*.pt"))
    assert path.read_bytes() == b"a b\r\nc d\r\n*.pt " + OURS.encode() + b"\r\n"


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / ".gitattributes"
    path.write_bytes(b"a b\n")
    path.chmod(0o640)
    write(read(path).having("*.pt"))
    assert path.stat().st_mode & 0o777 == 0o640


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / ".gitattributes").text() == ""


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    try:
        (tmp_path / ".gitattributes").symlink_to("target")
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(GitError, match="symbolic link"):
        read(tmp_path / ".gitattributes")


def test_a_file_that_git_would_ignore_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".gitattributes"
    path.touch()
    os.truncate(path, attributes.SIZE_LIMIT + 1)
    with pytest.raises(GitError, match="git ignores"):
        read(path)


def test_a_line_that_git_would_ignore_is_refused(tmp_path: Path) -> None:
    file = read(tmp_path / ".gitattributes").having("x" * 2100)
    with pytest.raises(UsageError, match="shorter"):
        write(file)
    assert not (tmp_path / ".gitattributes").exists()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="cannot be written"):
        write(AttributesFile(tmp_path / "absent" / ".gitattributes", ()))
