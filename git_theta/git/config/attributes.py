"""Git's attributes: asking git what they are, and editing the files they are written in.

What a path's attributes are is always git's answer (``git check-attr``), so macros, precedence,
``info/attributes`` and the user's own file count. Files are read here only to edit them, and to say
where something is written. See gitattributes(5).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as percent_quote
from urllib.parse import unquote as percent_unquote

from git_theta.core.names import display
from git_theta.errors import GitError, UsageError
from git_theta.git.command import run
from git_theta.git.repository import Repository

FILE = ".gitattributes"
# As check-attr says it
TRACKING = {"filter": "theta", "diff": "theta", "merge": "theta", "text": "unset"}
WORDS = ("filter=theta", "diff=theta", "merge=theta", "-text")  # as it is written
BASE = "theta-base"
LINE_LIMIT = 2048  # git ignores longer lines
SIZE_LIMIT = 100 << 20  # ... and larger files

_BLANK = " \t\r\n"
_PLAIN = re.compile(r"[^\x00-\x20\"#\x7f][^\x00-\x20\x7f]*\Z")
_MACRO = "[attr]"
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}
_ESCAPED = {code: letter for letter, code in _ESCAPES.items()}


# Patterns


def literal(name: str) -> str:
    """The pattern that matches the file called ``name`` only."""
    escaped = re.sub(r"([*?\[\\])", r"\\\1", name)
    return "\\" + escaped if escaped.startswith("!") else escaped


def written(pattern: str) -> str:
    """``pattern`` as it stands in a file: in C-style quotes where it holds blanks, control
    characters, or starts like something else.
    """
    if _PLAIN.match(pattern):
        return pattern
    codes = (_ESCAPED.get(ord(c)) if ord(c) < 128 else None for c in pattern)
    pairs = zip(pattern, codes, strict=True)
    return (
        '"'
        + "".join(
            f"\\{code}" if code else f"\\{ord(c):03o}" if ord(c) < 32 or ord(c) == 127 else c
            for c, code in pairs
        )
        + '"'
    )


def sample(pattern: str) -> str | None:
    """A path (from the folder of the pattern's file) that ``pattern`` should match; None when none
    could be made up.
    """
    rest, path = pattern.lstrip("/"), ""
    while rest:
        if rest.startswith("**/"):
            rest = rest[3:]
        elif rest[0] == "*":
            rest = rest.lstrip("*")
            path += "theta-probe"
        elif rest[0] == "[":
            match = re.match(r"\[([!^]?)(\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", rest, re.DOTALL)
            if not match or not match[2]:
                return None
            path += _member(match[2], bool(match[1]))
            rest = rest[match.end() :]
        else:
            escape = rest[0] == "\\" and len(rest) > 1
            path += "x" if rest[0] == "?" else rest[1 if escape else 0]
            rest = rest[2 if escape else 1 :]
    return path or None


def _member(members: str, negated: bool) -> str:
    """A character that a bracket expression with ``members`` should match."""
    classes = {"digit": "0", "xdigit": "0", "space": " ", "blank": " ", "upper": "A", "punct": "-"}
    if negated:
        return next(
            (c for c in "xX7-_~" if not any(low <= c <= high for low, high in _ranges(members))),
            "\x7f",
        )
    named = re.match(r"\[:(\w+):\]", members)
    if named:
        return classes.get(named[1], "a")
    return members[1] if members[0] == "\\" and len(members) > 1 else members[0]


def _ranges(members: str) -> list[tuple[str, str]]:
    """The characters and ranges of a bracket expression; named classes, and what they are written
    with, are left to chance.
    """
    found = re.findall(r"\\?(.)-\\?(.)|\\?(.)", members, re.DOTALL)
    return [(low, high) if low else (single, single) for low, high, single in found]


# Files


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what stands in the file (without its end), and, where it gives attributes, its
    pattern and their words.
    """

    raw: str
    pattern: str | None = None
    words: tuple[str, ...] = ()

    @property
    def macro(self) -> str | None:
        """The name of the macro this line defines."""
        return (
            self.pattern.removeprefix(_MACRO).strip(_BLANK)
            if self.pattern and self.pattern.startswith(_MACRO)
            else None
        )

    @property
    def tracks(self) -> bool:
        """Whether the line itself says ``filter=theta``."""
        return "filter=theta" in self.words


def parse_line(raw: str) -> Line:
    """A line of an attributes file, as git reads it."""
    text = raw.removeprefix("\ufeff").lstrip(_BLANK)
    if not text or text.startswith("#") or len(os.fsencode(raw)) >= LINE_LIMIT:
        return Line(raw)
    quoted = _unquote(text) if text.startswith('"') else None
    if quoted is not None:
        pattern, rest = quoted
    else:
        match = re.match(rf"(?:\[attr\][{_BLANK}]*)?[^{_BLANK}]*", text)
        assert match is not None
        pattern, rest = match[0], text[match.end() :]
    return Line(raw, pattern, tuple(rest.split()))


def _unquote(text: str) -> tuple[str, str] | None:
    """The string in C-style quotes that ``text`` starts with, and what follows it; None when git
    would not take it for one.
    """
    data, position = bytearray(), 1
    while position < len(text):
        char = text[position]
        if char == '"':
            return os.fsdecode(bytes(data)), text[position + 1 :]
        if char == "\\":
            octal = re.compile(r"[0-3][0-7]{2}").match(text, position + 1)
            if octal:
                data.append(int(octal[0], 8))
                position = octal.end()
                continue
            code = _ESCAPES.get(text[position + 1 : position + 2])
            if code is None:
                return None
            data.append(code)
            position += 2
            continue
        data += os.fsencode(char)
        position += 1
    return None


@dataclass(frozen=True, slots=True)
class AttributesFile:
    """A file of attributes: its lines, the line end it uses, and whether its last line has one."""

    path: Path
    lines: tuple[Line, ...]
    end: str = "\n"
    ended: bool = True

    def having(self, pattern: str, base: str | None = None) -> AttributesFile:
        """The file with ``pattern`` tracked: by the line that does so already (it gets ``base``),
        or by a new last line, which wins.
        """
        same = [number for number, line in enumerate(self.lines) if line.pattern == pattern]
        last = self.lines[same[-1]] if same else None
        if last is not None and set(WORDS) <= set(last.words):
            return self._replaced(same[-1], _with_base(last, base)) if base is not None else self
        words = (*WORDS, f"{BASE}={percent_quote(base, safe='/')}") if base is not None else WORDS
        return AttributesFile(
            self.path,
            (*self.lines, Line(" ".join((written(pattern), *words)), pattern, words)),
            self.end,
        )

    def lacking(self, pattern: str) -> AttributesFile:
        """The file without what tracks ``pattern``; other attributes on its lines stay."""
        kept = []
        for line in self.lines:
            if line.pattern != pattern or not line.tracks:
                kept.append(line)
                continue
            mine = [word for word in line.words if word in WORDS or word.startswith(BASE + "=")]
            if len(mine) < len(line.words):
                kept.append(parse_line(_without(line.raw, mine)))
        return AttributesFile(
            self.path, tuple(kept), self.end, self.ended or len(kept) < len(self.lines)
        )

    def text(self) -> str:
        """What is to stand in the file."""
        body = self.end.join(line.raw for line in self.lines)
        return body + self.end if self.lines and self.ended else body

    def _replaced(self, number: int, line: Line) -> AttributesFile:
        return AttributesFile(
            self.path, (*self.lines[:number], line, *self.lines[number + 1 :]), self.end, self.ended
        )


def _with_base(line: Line, base: str) -> Line:
    rest = _without(
        line.raw, [word for word in line.words if word.lstrip("-!").partition("=")[0] == BASE]
    )
    return parse_line(f"{rest.rstrip(_BLANK)} {BASE}={percent_quote(base, safe='/')}")


def _without(raw: str, words: Iterable[str]) -> str:
    """``raw`` without the attributes ``words``; the pattern (which may hold the same characters) is
    left alone.
    """
    line = parse_line(raw)
    start = len(raw) - len(raw.lstrip(_BLANK))
    pattern_end = len(raw) - len(_after_pattern(raw[start:]))
    rest = raw[pattern_end:]
    for word in words:
        assert word in line.words
        rest = re.sub(rf"[{_BLANK}]+{re.escape(word)}(?=[{_BLANK}]|\Z)", "", rest, count=1)
    return raw[:pattern_end] + rest


def _after_pattern(text: str) -> str:
    text = text.removeprefix("\ufeff").lstrip(_BLANK)
    quoted = _unquote(text) if text.startswith('"') else None
    # It always matches
    return quoted[1] if quoted else text[len(re.match(rf"[^{_BLANK}]*", text)[0]) :]  # type: ignore[index]  # it always matches


def read(path: Path) -> AttributesFile:
    """The file at ``path``, empty where there is none.

    :class:`GitError` when it is one that git ignores: a symbolic link, or too large.
    """
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise GitError(
                f"{display(str(path))} is a symbolic link, which git does not follow; make it an"
                " ordinary file"
            )
        if status.st_size > SIZE_LIMIT:
            raise GitError(
                f"{display(str(path))} has {status.st_size} bytes, and git ignores attribute files"
                f" of more than {SIZE_LIMIT}"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        return AttributesFile(path, ())
    except OSError as error:
        raise GitError(f"{display(str(path))} cannot be read: {error.strerror}") from None
    return parse_file(data, path)


def parse_file(data: bytes, path: Path) -> AttributesFile:
    """The file that holds ``data``, wherever that was read."""
    end = "\r\n" if data.count(b"\r\n") * 2 > data.count(b"\n") else "\n"
    parts = data.decode("utf-8", "surrogateescape").split(end)
    ended = parts[-1] == ""
    return AttributesFile(path, tuple(map(parse_line, parts[:-1] if ended else parts)), end, ended)


def write(file: AttributesFile) -> None:
    """Put the file in place, whole or not at all, with the permissions it had.

    :class:`GitError` when that is impossible.
    """
    data = file.text().encode("utf-8", "surrogateescape")
    if any(
        len(line.raw.encode("utf-8", "surrogateescape")) >= LINE_LIMIT
        for line in file.lines
        if line.pattern
    ):
        raise UsageError(
            f"git ignores lines of {LINE_LIMIT} bytes and more in attributes files; use a shorter"
            " pattern"
        )
    # Nobody else makes or removes it
    temporary = file.path.with_name(f"{file.path.name}.{os.getpid()}-{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open("xb") as target:
            target.write(data)
        with contextlib.suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(file.path.stat().st_mode))
        temporary.replace(file.path)
    except OSError as error:
        raise GitError(f"{display(str(file.path))} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


# Asking git


def check(
    repository: Repository,
    paths: Iterable[str],
    names: Sequence[str],
    *,
    index: Path | None = None,
    file: Path | None = None,
) -> dict[str, dict[str, str]]:
    """What git says of each path's attributes ``names`` (``--all``: all it has): ``set``,
    ``unset``, ``unspecified`` or a value.

    Paths count from the top of the working tree. With ``index`` the attribute files are read from
    that index, not from the working tree; ``file`` stands in for the user's own attributes file.
    """
    every = list(paths)
    if not every:
        return {}
    arguments = [] if file is None else ["-c", f"core.attributesFile={file.as_posix()}"]
    arguments += ["check-attr", *([] if index is None else ["--cached"]), "--stdin", "-z", *names]
    raw = run(
        arguments,
        cwd=repository.worktree or repository.git_dir,
        stdin=b"".join(os.fsencode(path) + b"\0" for path in every),
        environment=None if index is None else {"GIT_INDEX_FILE": str(index)},
    )
    found: dict[str, dict[str, str]] = {path: {} for path in every}
    fields = raw.split(b"\0")[:-1]
    for path, name, value in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        found[os.fsdecode(path)][name.decode()] = os.fsdecode(value)
    return found


def value(name: str, path: str) -> str:
    """What git says of the attribute ``name`` of ``path``, seen from the current folder."""
    return os.fsdecode(run(["check-attr", "-z", name, "--", path]).split(b"\0")[2])


def matches(
    repository: Repository, patterns: Sequence[tuple[str, str]], paths: Iterable[str]
) -> list[list[str]]:
    """Which of ``paths`` each (folder, pattern) matches, by git's own matching: it is asked with an
    attributes file made for the purpose.

    Folders are paths from the top of the working tree, ``""`` for the top itself.
    """
    probe = "git-theta-rule-"
    found: list[list[str]] = [[] for _ in patterns]
    import tempfile

    with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
        file = Path(folder, "attributes")
        lines = [
            f"{written(_from_top(where, pattern))} {probe}{number}\n"
            for number, (where, pattern) in enumerate(patterns)
        ]
        file.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
        answers = check(repository, paths, ["--all"], file=file)
    for path, values in answers.items():
        for name in values:
            if name.startswith(probe):
                found[int(name.removeprefix(probe))].append(path)
    return found


def _from_top(folder: str, pattern: str) -> str:
    """The pattern that means at the top what ``pattern`` means in ``folder``."""
    if not folder:
        return pattern
    anchored = (
        pattern.lstrip("/")
        if pattern.startswith("/")
        else pattern
        if "/" in pattern
        else f"**/{pattern}"
    )
    return f"/{literal(folder)}/{anchored}"


def is_tracked(values: Mapping[str, str]) -> bool:
    """Whether git would run our filter for a path with these attributes."""
    return values.get("filter") == "theta"


def base_of(repository: Repository, path: str) -> str | None:
    """The checkpoint that new versions of ``path`` are to be stored as differences from, if the
    user named one (see :func:`base_in`).
    """
    return base_in(check(repository, [path], [BASE])[path])


def base_in(values: Mapping[str, str]) -> str | None:
    """The path that a ``theta-base`` attribute names, from the top of the working tree; None
    without one, or if it leads outside.
    """
    text = values.get(BASE, "unspecified")
    if text in ("unspecified", "set", "unset", ""):
        return None
    path = percent_unquote(text, errors="surrogateescape")
    inside = not path.startswith("/") and not {"", ".", ".."}.intersection(path.split("/"))
    return path if inside and "\0" not in path and "\\" not in path else None


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """A line that has files stored by Git-Theta: its file, its number there (from 1), the folder
    its pattern counts from, the pattern.
    """

    file: Path
    number: int
    folder: str
    pattern: str


def rules(repository: Repository, paths: Iterable[str]) -> list[AttributeRule]:
    """Every line that says ``filter=theta``, itself or through a macro; the last that matches a
    path wins.

    ``paths`` are those of the working tree (from its top), among which the attribute files are.
    """
    every = list(_files(repository, paths))
    macros = {line.macro for _, file in every for line in file.lines if line.macro and line.tracks}
    return [
        AttributeRule(file.path, number, folder, line.pattern)
        for folder, file in every
        for number, line in enumerate(file.lines, start=1)
        if line.pattern and not line.macro and (line.tracks or macros.intersection(line.words))
    ]


def settings_of(
    repository: Repository, paths: Iterable[str], path: str, name: str, value: str
) -> list[str]:
    """Where ``name`` is given ``value`` (as check-attr says it) in files that may concern ``path``:
    ``file:line``, the strongest last.
    """
    words = {"set": {name}, "unset": {f"-{name}"}, "unspecified": {f"!{name}"}}.get(
        value, {f"{name}={value}"}
    )
    if name in ("diff", "merge", "text") and value == "unset":
        words.add("binary")
    every = [
        (folder, file)
        for folder, file in _files(repository, paths)
        if not folder or path.startswith(f"{folder}/")
    ]
    words |= {
        line.macro
        for _, file in every
        for line in file.lines
        if line.macro and words.intersection(line.words)
    }
    return [
        f"{display(os.path.relpath(file.path, repository.worktree))}:{number}"
        for _, file in every
        for number, line in enumerate(file.lines, start=1)
        if line.pattern and not line.macro and words.intersection(line.words)
    ]


def _files(repository: Repository, paths: Iterable[str]) -> Iterator[tuple[str, AttributesFile]]:
    """The repository's attribute files with their folders, the weakest first: those of the working
    tree, then ``info/attributes``.
    """
    assert repository.worktree is not None
    names = {path for path in paths if path.rpartition("/")[2] == FILE}
    for name in sorted(names, key=lambda name: (name.count("/"), name)):
        with contextlib.suppress(GitError):
            yield name.rpartition("/")[0], read(repository.worktree / name)
    with contextlib.suppress(GitError):
        yield "", read(repository.common_dir / "info" / "attributes")
