r"""Tensor names as they stand in a manifest or on a terminal.

Printable ASCII stands for itself, except the backslash and ``"``; all else is escaped: ``\xHH`` for
code points below 256, ``\u{H…}`` above (lone surrogates, which Python's pickles can carry,
included); the empty name is ``\e``. The rule uses no Unicode tables, so it is the same in every
release of Python, and what it prints can neither break a line nor move a cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from git_theta.errors import ManifestError

_PLAIN = re.compile(r"[!#-\[\]-~]+\Z")
_SPECIAL = re.compile(r"[^!#-\[\]-~]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u\{([0-9a-f]{3,6})\})")


def escape(name: str) -> str:
    """``name`` in printable ASCII without white space; :func:`unescape` gives it back."""
    if _PLAIN.match(name):
        return name
    return _SPECIAL.sub(_escape_one, name) or "\\e"


def unescape(text: str) -> str:
    """The name that :func:`escape` wrote as ``text``; :class:`ManifestError` for anything it never
    writes.
    """
    if _PLAIN.match(text):
        return text
    name = "" if text == "\\e" else _ESCAPE.sub(_unescape_one, text)
    if escape(name) != text:
        raise ManifestError(f"a tensor's name is not escaped as it should be: {text[:60]!a}")
    return name


def shell_word(path: str) -> str:
    """``path`` as one word for a person to copy into a shell, in printable ASCII."""
    if re.fullmatch("[ -~]*", path):
        import shlex

        return shlex.quote(path)
    data = path.encode("utf-8", "surrogateescape")
    return (
        "$'"
        + "".join(chr(c) if 32 <= c < 127 and c not in b"\\'" else f"\\{c:03o}" for c in data)
        + "'"
    )


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}"


def _unescape_one(match: re.Match[str]) -> str:
    code = int(match.group(1) or match.group(2), 16)
    return chr(code) if code < 0x110000 else "\0"


def meant(word: str, known: Iterable[str]) -> str:
    """The one of ``known`` names that ``word`` is probably a slip for; empty if none is close."""
    from difflib import get_close_matches  # only when something is wrong

    names = {name.lower(): name for name in known}
    near = get_close_matches(word.lower()[:60], names, 1)
    return names[near[0]] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'ties'?`` to end an error about ``word`` with, or nothing."""
    near = meant(word, known)
    return f"; did you mean '{display(near)}'?" if near else ""


def display(text: str, width: int = 0) -> str:
    """``text`` for a person: escaped, but with its spaces, and cut to ``width`` characters where
    that is positive.
    """
    shown = (
        " ".join(escape(part) if part else "" for part in text.split(" "))
        if text.strip(" ")
        else escape(text)
    )
    return shown if not width or len(shown) <= width else shown[: width - 1] + "~"
