"""Links out of docs/.

A forge follows them to a file or folder of the project; the site has a page for each of these.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = "project"  # where those pages are
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *(```|~~~)")
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
_LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".sh": "sh",
    ".json": "json",
}


def pages(project: Path, written: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The page for each file or folder that the pages in docs/ (path, text) link to, and for those
    that these link to.
    """
    waiting = [
        target for path, text in written for target in _targets(project, f"docs/{path}", text)
    ]
    waiting += ["CHANGELOG.md", "CONTRIBUTING.md"]
    made: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        place = _place(project, path)
        if place in made:
            continue
        file = project / path
        if file.is_dir() and (file / "README.md").exists():
            path, file = f"{path}/README.md", file / "README.md"
        if file.suffix == ".md":
            text = file.read_text("utf-8")
            made[place] = relinked(project, path, text)
            waiting += _targets(project, path, text)
        elif file.is_dir():
            inside = sorted(
                each
                for each in file.rglob("*.*")
                if "__pycache__" not in each.parts and each.is_file()
            )
            names = [each.relative_to(project).as_posix() for each in inside]
            made[place] = f"{_UNSEARCHED}# {path}\n\n" + "".join(
                f"- [{name}]({_between(place, _place(project, name))})\n" for name in names
            )
            waiting += names
        else:
            code = file.read_text("utf-8").rstrip("\n")
            made[place] = (
                f"{_UNSEARCHED}#"
                f" {path}\n\n````{_LANGUAGES.get(file.suffix, 'text')}\n{code}\n````\n"
            )
    return made


def relinked(project: Path, path: str, text: str) -> str:
    """``text`` of the Markdown file ``path`` of the project, its links leading to pages of the
    site.
    """
    here = _place(project, path)

    def replaced(match: re.Match[str]) -> str:
        target = _target(path, match[1])
        return (
            match[0]
            if not _known(project, target)
            else f"]({_between(here, _place(project, target))}{match[2] or ''})"
        )

    return "".join(line if code else _LINK.sub(replaced, line) for line, code in _lines(text))


def links(text: str) -> Iterator[tuple[str, str]]:
    """The relative links of a Markdown file as (path, anchor), but for those in blocks of code."""
    for line, code in _lines(text):
        for match in _LINK.finditer("" if code else line):
            yield match[1], (match[2] or "")[1:]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is code."""
    fence = False
    for line in text.splitlines(keepends=True):
        border = _FENCE.match(line) is not None
        yield line, fence or border
        fence ^= border


def _targets(project: Path, path: str, text: str) -> list[str]:
    found = [_target(path, link) for link, _ in links(text)]
    return [
        target for target in found if _known(project, target) and not target.startswith("docs/")
    ]


def _target(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _known(project: Path, target: str) -> bool:
    return not target.startswith(("..", "/")) and target != "." and (project / target).exists()


def _place(project: Path, path: str) -> str:
    """Where on the site a file of the project is."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    stem, suffix = posixpath.splitext(path)
    if (project / path).is_dir():
        return f"{FOLDER}/{path}/files.md"
    return f"{FOLDER}/{stem}.md" if suffix == ".md" else f"{FOLDER}/{path}.md"


def _between(page: str, other: str) -> str:
    return posixpath.relpath(other, posixpath.dirname(page) or ".")
